//! Why a command was refused, in Redis's own words where it has any: clients match on them.

use tidemill_lattice::{KeyError, OpError};

use crate::Reply;

/// What a command answers instead of a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR hash value is not an integer")]
    HashNotInteger,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR invalid expire time in '{0}' command")]
    ExpireTime(&'static str),
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    #[error("ERR unknown subcommand '{0}'. Try {1} HELP.")]
    Subcommand(String, &'static str),
    #[error("ERR invalid cursor")]
    Cursor,
    #[error("ERR Invalid stream ID specified as stream command argument")]
    StreamId,
    #[error("ERR {0}")]
    Other(String),
    #[error("ERR {0}")]
    Key(#[from] KeyError),
    #[error("{0}")]
    Store(String),
}

impl Fault {
    pub(crate) fn other(text: impl Into<String>) -> Fault {
        Fault::Other(text.into())
    }
}

impl From<OpError> for Fault {
    fn from(error: OpError) -> Fault {
        match error {
            OpError::WrongKind { .. } => Fault::WrongType,
            other => Fault::Other(other.to_string()),
        }
    }
}

/// A store that takes no writes says so with the code that clients know for it.
impl From<tidemill_store::Error> for Fault {
    fn from(error: tidemill_store::Error) -> Fault {
        use tidemill_store::Error;
        let code = match error {
            Error::Full { .. } | Error::Io { .. } | Error::ReadOnly { .. } => "MISCONF",
            _ => "ERR",
        };
        Fault::Store(format!("{code} {error}"))
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Reply {
        Reply::Error(fault.to_string())
    }
}

/// A command's answer, or why there is none.
pub(crate) type Outcome = Result<Reply, Fault>;
