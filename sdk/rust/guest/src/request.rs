//! The request that is running.

use std::time::Duration;

use crate::bindings::tidemill::platform::request;
pub use crate::bindings::tidemill::platform::request::{Context, Level};

/// Who asks, for what, and in which attempt; the same all through a call.
pub fn current() -> Context {
    request::current()
}

/// How long until the function is stopped.
pub fn remaining() -> Duration {
    Duration::from_millis(request::remaining_ms())
}
