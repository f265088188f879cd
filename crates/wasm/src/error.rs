//! Why components, instances and calls fail.

use thiserror::Error;
use tidemill_problem::{Code, Exception, Problem};

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// This machine cannot run it.
    #[error("the WebAssembly engine cannot run here: {0}")]
    Unsupported(String),
    /// Its thread could not be started.
    #[error("the thread of the WebAssembly engine could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why bytes are no component that can run here.
#[derive(Debug, Error)]
pub enum ComponentError {
    /// More bytes than are taken.
    #[error(
        "it has {bytes} bytes, more than {limit_bytes}; build it smaller (opt-level \"s\", strip)"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is taken.
        limit_bytes: usize,
    },
    /// A core module.
    #[error(
        "it is a core module, not a component; build it for wasm32-wasip2, or make a component of it with `wasm-tools component new`"
    )]
    CoreModule,
    /// Not WebAssembly, or damaged.
    #[error("it cannot be compiled: {0}")]
    Invalid(String),
    /// It imports what is not offered here.
    #[error("it needs what is not offered here: {0}")]
    Imports(String),
    /// It exports neither world's function.
    #[error("it exports neither `handle: func(input: payload) -> result<payload, error>` of tidemill:platform/function nor wasi:http/incoming-handler; it exports {}", shown(.0))]
    World(Vec<String>),
    /// Its file cannot be read.
    #[error("it cannot be read from {path}: {error}")]
    Unreadable {
        /// Where it is looked for.
        path: std::path::PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
}

fn shown(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

/// Why a call ended without a result. What the guest had asked for until then is void.
#[derive(Debug)]
pub enum Failure {
    /// The function gave an error: a name and a text. Its instance is sound.
    Returned {
        /// One of the platform's codes, or a name of the function's own.
        code: String,
        /// For people.
        message: String,
    },
    /// It trapped; the instance is gone.
    Trapped {
        /// What went wrong.
        reason: String,
        /// Where, as far as the component tells.
        backtrace: String,
    },
    /// It asked for more memory than it may have; the instance is gone.
    OutOfMemory {
        /// What it may have.
        limit_bytes: u64,
    },
    /// It handed over more at once than is taken; the instance is gone.
    TooMuch {
        /// The most that is taken, in bytes.
        limit_bytes: u64,
    },
    /// All places for instances are taken.
    Full,
    /// What it gave is not what a function of its world gives.
    Nonsense(String),
}

impl Failure {
    /// What to tell the caller of the function of this name.
    #[must_use]
    pub fn into_problem(self, function: &str) -> Problem {
        match self {
            Self::Returned { code, message } => returned(&code, message),
            Self::Trapped { reason, backtrace } => raised(
                "trap",
                format!("{function} trapped: {reason}"),
                reason,
                backtrace,
            ),
            Self::OutOfMemory { limit_bytes } => Problem::new(
                Code::OutOfMemory,
                format!(
                    "{function} used more than its {} MiB of memory; give it more with memory",
                    limit_bytes >> 20
                ),
            ),
            Self::TooMuch { limit_bytes } => Problem::new(
                Code::PayloadTooLarge,
                format!(
                    "{function} handed over more than {limit_bytes} bytes at once; give or write \
                     less at a time"
                ),
            ),
            Self::Full => {
                let mut problem = Problem::new(
                    Code::Overloaded,
                    "all places for WebAssembly instances are taken; try again a little later",
                );
                problem.retry_after_ms = Some(1000);
                problem
            }
            Self::Nonsense(what) => {
                Problem::new(Code::FunctionFailed, format!("{function}: {what}"))
            }
        }
    }
}

fn returned(code: &str, message: String) -> Problem {
    match Code::parse(code) {
        Some(Code::FunctionFailed) | None => {
            raised(code, format!("{code}: {message}"), message, String::new())
        }
        Some(code) => Problem::new(code, message),
    }
}

fn raised(kind: &str, detail: String, message: String, traceback: String) -> Problem {
    let mut problem = Problem::new(Code::FunctionFailed, detail);
    problem.exception = Some(Box::new(Exception {
        kind: kind.to_owned(),
        message,
        traceback,
        pickle: None,
    }));
    problem
}
