//! Lines beside the answer; `tidemill logs` shows them with their request.
//!
//! ```no_run
//! # let count = 3;
//! tidemill_guest::log::info(format!("{count} orders are open"));
//! ```

use crate::bindings::tidemill::platform::log;
pub use crate::bindings::tidemill::platform::log::Level;

/// Writes one line; what is above 32 KiB of it is cut.
pub fn write(level: Level, message: impl AsRef<str>) {
    log::write(level, message.as_ref());
}

/// What only its author wants to know, step by step.
pub fn trace(message: impl AsRef<str>) {
    write(Level::Trace, message);
}

/// What helps to find a fault.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message);
}

/// What is worth knowing when all is well.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message);
}

/// What somebody should look at.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message);
}

/// What went wrong.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message);
}
