//! `wasi:logging` onto the platform's log, and `wasi:config` onto the variables that the
//! function was granted.

use super::calls::bounded;
use crate::bindings::standard::wasi::{config, logging};
use crate::data::Data;
use crate::platform::LogLevel;

impl logging::logging::Host for Data {
    /// A context, such as the name of a logger, goes in front of the message.
    fn log(
        &mut self,
        level: logging::logging::Level,
        context: String,
        message: String,
    ) -> wasmtime::Result<()> {
        use logging::logging::Level;
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error | Level::Critical => LogLevel::Error,
        };
        let message = if context.is_empty() {
            message
        } else {
            format!("{}: {message}", bounded(context))
        };
        self.platform()?.log(level, bounded(message));
        Ok(())
    }
}

impl config::store::Host for Data {
    fn get(
        &mut self,
        key: String,
    ) -> wasmtime::Result<Result<Option<String>, config::store::Error>> {
        let mut variables = self.grants().env.iter();
        let found = variables.find(|(name, _)| *name == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::store::Error>> {
        Ok(Ok(self.grants().env.clone()))
    }
}
