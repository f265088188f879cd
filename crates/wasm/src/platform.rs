//! What a guest may ask of the platform while it handles a call.

use crate::output::Lines;
use futures_util::future::BoxFuture;
use std::any::Any;
use std::sync::Arc;
use tidemill_lattice::{Cell, Kind, Op, Payload, Time};
use tidemill_problem::Problem;

/// The request that a call is part of.
#[derive(Clone, Debug)]
pub struct Context {
    /// 32 hexadecimal digits.
    pub id: String,
    /// From 1.
    pub attempt: u32,
    /// The app's name.
    pub app: String,
    /// The function's name.
    pub function: String,
    /// What promises it has.
    pub level: Level,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// Who called.
    pub caller: Caller,
    /// A W3C traceparent.
    pub trace: String,
}

/// Who called.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant.
    pub tenant: String,
    /// The subject within it.
    pub subject: String,
}

/// The consistency level of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One snapshot, one commit.
    Causal,
    /// Each operation for itself.
    Eventual,
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Steps of a computation.
    Trace,
    /// For whoever looks for a mistake.
    Debug,
    /// What happened.
    Info,
    /// What may go wrong.
    Warn,
    /// What went wrong.
    Error,
}

/// A page of keys: names and types, in order, and the name to go on after.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Names and types.
    pub keys: Vec<(String, Kind)>,
    /// The name to go on after, when there may be more.
    pub next: Option<String>,
}

/// A step that is done once in a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// It was done, and gave this.
    Recorded(Payload),
    /// It is to be done; its number among those of its name.
    Fresh(u32),
}

/// What a call of another function gave.
pub type Called = Result<Payload, Problem>;

/// Answers a guest while it handles one call. Errors are shown to the guest, which may go on.
pub trait Platform: Any + Send {
    /// The request.
    fn context(&self) -> Context;

    /// Milliseconds until the function is stopped.
    fn remaining_ms(&self) -> u64;

    /// Takes a line of the log.
    fn log(&mut self, level: LogLevel, message: String);

    /// Where what the guest prints goes.
    fn lines(&self) -> Arc<dyn Lines>;

    /// The time at which values are seen.
    fn time(&self) -> Time;

    /// What a key of the app holds; with `kind`, refused if it holds another type.
    ///
    /// # Errors
    /// `bad-key`, `wrong-type`, `snapshot-expired`, `storage-failed`.
    fn read(&mut self, key: &str, kind: Option<Kind>) -> Result<Option<Arc<Cell>>, Problem>;

    /// Keys with a prefix, after a name.
    ///
    /// # Errors
    /// As for [`Platform::read`].
    fn keys(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Keys, Problem>;

    /// Writes. What does not fit changes nothing.
    ///
    /// # Errors
    /// As for [`Platform::read`], `bad-value`, `payload-too-large`.
    fn write(&mut self, key: &str, op: &Op) -> Result<(), Problem>;

    /// What to wait for until the writes so far are applied; nothing where they are buffered.
    fn settled(&mut self) -> Option<BoxFuture<'static, Result<(), Problem>>>;

    /// Calls a function, `name` or `app/name`, and waits for it.
    fn call<'a>(&'a mut self, name: &'a str, input: Payload) -> BoxFuture<'a, Called>;

    /// Begins a call, and gives its number.
    fn spawn(&mut self, name: &str, input: Payload) -> u32;

    /// Waits for a call that was begun. Its result is given once.
    fn wait(&mut self, call: u32) -> BoxFuture<'_, Called>;

    /// Cancels a call that was begun.
    fn cancel(&mut self, call: u32);

    /// Begins a request once this one has committed.
    ///
    /// # Errors
    /// `bad-request` for a name that is none.
    fn enqueue(&mut self, name: &str, input: Payload) -> Result<(), Problem>;

    /// Begins a recorded step.
    fn recall<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Result<Step, Problem>>;

    /// Records what a step gave, and gives what stands.
    fn record<'a>(
        &'a mut self,
        name: &'a str,
        number: u32,
        value: Payload,
    ) -> BoxFuture<'a, Result<Payload, Problem>>;
}
