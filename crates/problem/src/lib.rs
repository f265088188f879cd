//! What a caller is told when something fails: few public kinds, each with a
//! stable code, an HTTP status and a page in `docs/errors`.
//!
//! Every room has its own precise errors; at its edge they become one of these,
//! sorted by what the caller should do next. This room knows nobody else, does no
//! I/O and holds no text that depends on a caller.

use bytes::Bytes;
use serde::Serialize;
use std::fmt;

/// A public kind of failure. Codes are stable: clients match on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The request cannot be understood: malformed JSON, a missing field.
    BadRequest,
    /// The name of a key is empty, too long or holds a forbidden character.
    BadKey,
    /// A value does not fit the operation, such as text added to a counter.
    BadValue,
    /// The key holds another lattice type.
    WrongType,
    /// A body, value or result is larger than the node takes.
    PayloadTooLarge,
    /// The bearer token is missing or wrong.
    Unauthorized,
    /// The Host header names a host that this node does not serve.
    ForbiddenHost,
    /// No such app.
    UnknownApp,
    /// No such function in the app.
    UnknownFunction,
    /// No such request, or it has left the list of recent ones.
    UnknownRequest,
    /// The idempotency key was used with other arguments.
    RequestMismatch,
    /// The request is running for somebody else.
    RequestInFlight,
    /// The request has been, too long ago for its result to be kept.
    RequestExpired,
    /// The key holds nothing.
    UnknownKey,
    /// No such trace, or it has left the ring of recent ones.
    UnknownTrace,
    /// No such page.
    UnknownPath,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The manifest or the bundle is wrong.
    BadManifest,
    /// A flow is wrong.
    BadFlow,
    /// The app was made with another minor version of Python.
    PythonMismatch,
    /// The requirements could not be installed.
    EnvironmentFailed,
    /// The app could not be loaded.
    LoadFailed,
    /// The function raised an exception.
    FunctionFailed,
    /// The function exceeded its time limit.
    TimedOut,
    /// The request was cancelled.
    Cancelled,
    /// The worker process ended while it ran the function.
    WorkerCrashed,
    /// The worker exceeded the function's memory limit.
    OutOfMemory,
    /// Too much is waiting already.
    Overloaded,
    /// Calls are nested too deeply.
    CallTooDeep,
    /// The request's snapshot is older than the node keeps.
    SnapshotExpired,
    /// The session token is not one of this node's.
    BadSessionToken,
    /// What the session had seen was lost.
    StateLost,
    /// There is no room on the disk.
    StorageFull,
    /// The disk failed.
    StorageFailed,
    /// The node is stopping.
    ShuttingDown,
    /// A defect of the platform.
    Internal,
}

impl Code {
    /// Every code, in the order of this page.
    pub const ALL: &[Self] = &[
        Self::BadRequest,
        Self::BadKey,
        Self::BadValue,
        Self::WrongType,
        Self::PayloadTooLarge,
        Self::Unauthorized,
        Self::ForbiddenHost,
        Self::UnknownApp,
        Self::UnknownFunction,
        Self::UnknownRequest,
        Self::RequestMismatch,
        Self::RequestInFlight,
        Self::RequestExpired,
        Self::UnknownKey,
        Self::UnknownTrace,
        Self::UnknownPath,
        Self::MethodNotAllowed,
        Self::BadManifest,
        Self::BadFlow,
        Self::PythonMismatch,
        Self::EnvironmentFailed,
        Self::LoadFailed,
        Self::FunctionFailed,
        Self::TimedOut,
        Self::Cancelled,
        Self::WorkerCrashed,
        Self::OutOfMemory,
        Self::Overloaded,
        Self::CallTooDeep,
        Self::SnapshotExpired,
        Self::BadSessionToken,
        Self::StateLost,
        Self::StorageFull,
        Self::StorageFailed,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// Code, HTTP status and title: the one table the other accessors read.
    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", 400, "The request cannot be understood"),
            Self::BadKey => ("bad-key", 400, "The key is not a valid name"),
            Self::BadValue => ("bad-value", 400, "The value does not fit the operation"),
            Self::WrongType => ("wrong-type", 409, "The key holds another type"),
            Self::PayloadTooLarge => ("payload-too-large", 413, "The payload is too large"),
            Self::Unauthorized => ("unauthorized", 401, "The token is missing or wrong"),
            Self::ForbiddenHost => ("forbidden-host", 421, "This host is not served here"),
            Self::UnknownApp => ("unknown-app", 404, "There is no such app"),
            Self::UnknownFunction => ("unknown-function", 404, "There is no such function"),
            Self::UnknownRequest => ("unknown-request", 404, "There is no such request"),
            Self::RequestMismatch => (
                "request-mismatch",
                422,
                "The key was used with other arguments",
            ),
            Self::RequestInFlight => ("request-in-flight", 409, "The request is running"),
            Self::RequestExpired => ("request-expired", 410, "The request was too long ago"),
            Self::UnknownKey => ("unknown-key", 404, "The key holds nothing"),
            Self::UnknownTrace => ("unknown-trace", 404, "There is no such trace"),
            Self::UnknownPath => ("unknown-path", 404, "There is no such page"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "The method is not allowed here"),
            Self::BadManifest => ("bad-manifest", 400, "The app's manifest is wrong"),
            Self::BadFlow => ("bad-flow", 400, "The flow is wrong"),
            Self::PythonMismatch => ("python-mismatch", 409, "The Python versions differ"),
            Self::EnvironmentFailed => (
                "environment-failed",
                422,
                "The requirements could not be installed",
            ),
            Self::LoadFailed => ("load-failed", 422, "The app could not be loaded"),
            Self::FunctionFailed => ("function-failed", 500, "The function raised an exception"),
            Self::TimedOut => ("timed-out", 504, "The function exceeded its time limit"),
            Self::Cancelled => ("cancelled", 499, "The request was cancelled"),
            Self::WorkerCrashed => ("worker-crashed", 502, "The worker process ended"),
            Self::OutOfMemory => ("out-of-memory", 502, "The worker exceeded its memory limit"),
            Self::Overloaded => ("overloaded", 503, "Too many calls are waiting"),
            Self::CallTooDeep => ("call-too-deep", 508, "Calls are nested too deeply"),
            Self::SnapshotExpired => (
                "snapshot-expired",
                409,
                "The request's snapshot has expired",
            ),
            Self::BadSessionToken => (
                "bad-session-token",
                400,
                "The session token is not one of this node's",
            ),
            Self::StateLost => ("state-lost", 410, "What the session had seen was lost"),
            Self::StorageFull => ("storage-full", 507, "There is no room on the disk"),
            Self::StorageFailed => ("storage-failed", 503, "The disk failed"),
            Self::ShuttingDown => ("shutting-down", 503, "The node is stopping"),
            Self::Internal => ("internal", 500, "A defect of the platform"),
        }
    }

    /// The stable name, such as `wrong-type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// One line for people, the same for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    /// The code of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A function's own exception, as far as a node can tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The exception's type, such as `ValueError`.
    pub kind: String,
    /// Its message.
    pub message: String,
    /// The traceback as text, from the worker.
    pub traceback: String,
    /// The pickled exception, for Python clients; the node never opens it.
    pub pickle: Option<Bytes>,
}

/// One failure as a caller sees it (RFC 9457's problem details, without HTTP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The public kind.
    pub code: Code,
    /// What happened here, and what to do next.
    pub detail: String,
    /// The function's exception, with `function-failed`.
    pub exception: Option<Box<Exception>>,
    /// Names near to an unknown one.
    pub suggestions: Vec<String>,
    /// When to try again, with `overloaded`.
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem of this kind, with what happened and what to do next.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            exception: None,
            suggestions: Vec::new(),
            retry_after_ms: None,
        }
    }

    /// The same, with names near to the unknown one.
    #[must_use]
    pub fn suggest(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.suggestions.extend(names);
        self
    }

    /// The members of the problem document that every door shows.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let document = Document {
            kind: format!("https://tidemill.dev/errors/{}", self.code),
            title: self.code.title(),
            status: self.code.status(),
            code: self.code.as_str(),
            detail: &self.detail,
            exception: self
                .exception
                .as_deref()
                .map(|exception| ExceptionDocument {
                    kind: &exception.kind,
                    message: &exception.message,
                    traceback: &exception.traceback,
                }),
            suggestions: &self.suggestions,
            retry_after_ms: self.retry_after_ms,
        };
        serde_json::to_value(document).unwrap_or_default()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<ExceptionDocument<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    suggestions: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct ExceptionDocument<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    message: &'a str,
    traceback: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn codes_are_distinct_and_parse_back() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for &code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(code));
        }
        assert_eq!(Code::parse("no-such-code"), None);
    }

    #[test]
    fn every_code_has_its_page() {
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        for code in Code::ALL {
            let page = pages.join(format!("{code}.md"));
            let text = std::fs::read_to_string(&page).unwrap_or_default();
            assert!(
                text.starts_with(&format!("# {code}\n")),
                "{} is missing or does not begin with its code",
                page.display()
            );
        }
    }

    #[test]
    fn a_problem_document_shows_what_there_is() {
        let mut problem = Problem::new(Code::FunctionFailed, "it failed");
        problem.exception = Some(Box::new(Exception {
            kind: "ValueError".into(),
            message: "no".into(),
            traceback: "Traceback".into(),
            pickle: Some(Bytes::from_static(b"secret")),
        }));
        let json = problem.to_json();
        assert_eq!(json["code"], "function-failed");
        assert_eq!(json["status"], 500);
        assert_eq!(json["exception"]["type"], "ValueError");
        assert!(json.get("suggestions").is_none());
        assert!(!json.to_string().contains("secret"));
    }
}
