//! What guests call: the interfaces of `wit/` and some of others, each answered by the call's
//! platform.

mod calls;
pub(crate) mod convert;
pub(crate) mod keyvalue;
mod outgoing;
mod standard;
mod state;

pub(crate) use keyvalue::Cursors;
pub(crate) use outgoing::Hooks;

use crate::bindings::tidemill::platform::types;
use tidemill_problem::Problem;

/// A host function's answer: to the guest, unless the guest is to be stopped.
type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

impl types::Host for crate::data::Data {}

impl From<Problem> for types::Error {
    fn from(problem: Problem) -> Self {
        Self {
            code: problem.code.as_str().to_owned(),
            message: problem.detail,
        }
    }
}
