//! Why a conversation with a worker ended early, and what its caller is told.

use crate::protocol::{ErrorHeader, Payloads, ProtocolError, Shared};
use crate::worker::{ConnectionError, Death};
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Exception, Problem};

/// Why a conversation ended early.
pub(super) enum Trouble {
    /// The worker's socket.
    Connection(ConnectionError),
    /// The worker said that a step failed; it is free again.
    Failed(Problem),
    /// The node stops the run.
    Stopped(Problem),
}

impl From<ConnectionError> for Trouble {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<ProtocolError> for Trouble {
    fn from(error: ProtocolError) -> Self {
        Self::Connection(error.into())
    }
}

pub(super) fn nonsense(what: impl Into<String>) -> Trouble {
    ProtocolError::Nonsense(what.into()).into()
}

pub(super) fn died(name: &str, memory_bytes: u64, death: &Death) -> Problem {
    let how = match death {
        Death::OutOfMemory => {
            return Problem::new(
                Code::OutOfMemory,
                format!(
                    "{name} used more than its {} MiB of memory; give it more with memory=",
                    memory_bytes >> 20
                ),
            );
        }
        Death::Exited(Some(exited)) => match (exited.signal, exited.status) {
            (Some(signal), _) => format!("was ended by signal {signal}"),
            (None, Some(status)) => format!("exited with status {status}"),
            (None, None) => "ended".to_owned(),
        },
        Death::Exited(None) => "ended".to_owned(),
    };
    Problem::new(
        Code::WorkerCrashed,
        format!("the worker that ran {name} {how}"),
    )
}

pub(super) fn problem_from(error: ErrorHeader, payloads: &[Payload]) -> Problem {
    let code = Code::parse(&error.code).unwrap_or(Code::FunctionFailed);
    let mut problem = Problem::new(code, error.message.clone());
    if let Some(kind) = error.kind {
        problem.detail = format!("{kind}: {}", error.message);
        problem.exception = Some(Box::new(Exception {
            kind,
            message: error.message,
            traceback: error.traceback.unwrap_or_default(),
            pickle: error
                .p
                .and_then(|index| payloads.get(index))
                .map(|p| p.body.clone()),
        }));
    }
    problem
}

pub(super) fn error_header(
    problem: &Problem,
    payloads: &mut Payloads,
    shared: &dyn Shared,
) -> ErrorHeader {
    let exception = problem.exception.as_deref();
    let pickle = exception
        .and_then(|exception| exception.pickle.as_ref())
        .map(|pickle| Payload {
            content_type: tidemill_lattice::ContentType::Pickle5,
            body: pickle.clone(),
        });
    ErrorHeader {
        code: problem.code.as_str().to_owned(),
        message: exception.map_or_else(|| problem.detail.clone(), |e| e.message.clone()),
        kind: exception.map(|exception| exception.kind.clone()),
        traceback: exception.map(|exception| exception.traceback.clone()),
        p: pickle.map(|pickle| payloads.push(&pickle, shared)),
    }
}
