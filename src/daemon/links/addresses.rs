//! Tells the brain when addresses of this machine come or go.

use std::sync::Arc;
use std::time::Duration;

use async_io::Timer;

use super::{Heard, Shared};
use crate::host::netlink::AddressEvents;

/// Changes come together.
const SETTLE: Duration = Duration::from_secs(1);

/// Watches as long as the thread runs.
pub(super) async fn watch(shared: Arc<Shared>) {
    let events = match AddressEvents::open() {
        Ok(events) => events,
        Err(err) => return log::warn!("changes of this machine's addresses are not seen: {err}"),
    };
    loop {
        if let Err(err) = events.changed().await {
            return log::warn!("changes of this machine's addresses are not seen any more: {err}");
        }
        Timer::after(SETTLE).await;
        shared.tell(Heard::Addresses).await;
    }
}
