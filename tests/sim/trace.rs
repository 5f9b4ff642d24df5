//! What happened last, a line for each event; only kept when a run is repeated to be looked at.

use std::cell::RefCell;
use std::collections::VecDeque;

use skep::base::time::Time;
use skep::logic::raft::io::Body;

/// Lines that are kept: the last ones.
const LINES_MAX: usize = 20_000;

thread_local! {
    static LINES: RefCell<Option<VecDeque<String>>> = const { RefCell::new(None) };
}

/// Whether this thread's run is traced.
pub(crate) fn is_on() -> bool {
    LINES.with_borrow(Option::is_some)
}

pub(crate) fn start() {
    LINES.set(Some(VecDeque::new()));
}

/// The lines, oldest first.
pub(crate) fn stop() -> Vec<String> {
    LINES.take().map(Vec::from).unwrap_or_default()
}

pub(crate) fn line(at: Time, text: &str) {
    LINES.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(format!("{:>12.6} {text}", at.0 as f64 / 1e6));
        }
    });
}

/// What is said all the time and tells little: left out, unless `TRACE_ALL` is set.
pub(crate) fn is_quiet(body: &Body) -> bool {
    matches!(body, Body::Heartbeat { .. } | Body::HeartbeatReply { .. })
        && std::env::var_os("TRACE_ALL").is_none()
}

/// Notes a line when the run is traced; costs nothing otherwise.
macro_rules! trace {
    ($at:expr, $($text:tt)*) => {
        if $crate::trace::is_on() {
            $crate::trace::line($at, &format!($($text)*));
        }
    };
}
pub(crate) use trace;
