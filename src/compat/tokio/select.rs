//! `select!` over three futures, as chitchat writes it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// Which of three futures was ready first, and with what.
#[derive(Debug)]
pub enum First<A, B, C> {
    /// The first one.
    A(A),
    /// The second one.
    B(B),
    /// The third one.
    C(C),
}

/// Waits for the first of three futures. All are dropped when this returns. Which one is asked
/// first is drawn each time, so that none can starve the others.
pub async fn first<A, B, C>(
    a: impl Future<Output = A>,
    b: impl Future<Output = B>,
    c: impl Future<Output = C>,
) -> First<A, B, C> {
    let (mut a, mut b, mut c) = (pin!(a), pin!(b), pin!(c));
    poll_fn(|cx| {
        let start = fastrand::u8(0..3);
        for turn in 0..3 {
            let ready = match (start + turn) % 3 {
                0 => a.as_mut().poll(cx).map(First::A),
                1 => b.as_mut().poll(cx).map(First::B),
                _ => c.as_mut().poll(cx).map(First::C),
            };
            if ready.is_ready() {
                return ready;
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits for the first of three branches and runs its handler, after all three futures are dropped:
/// the handler may use what they borrowed. The patterns must match always.
#[macro_export]
macro_rules! select {
    (
        $pa:pat = $a:expr => $on_a:expr,
        $pb:pat = $b:expr => $on_b:expr,
        $pc:pat = $c:expr => $on_c:expr $(,)?
    ) => {{
        let first = $crate::select::first($a, $b, $c).await;
        match first {
            $crate::select::First::A($pa) => $on_a,
            $crate::select::First::B($pb) => $on_b,
            $crate::select::First::C($pc) => $on_c,
        }
    }};
}
