//! Problems as HTTP answers (RFC 9457).

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidemill_problem::{Code, Problem};
use tidemill_runtime::RequestId;
use tidemill_telemetry::TraceId;

/// The header with a request's identity.
pub(crate) const REQUEST: HeaderName = HeaderName::from_static("tidemill-request");
/// The header with a trace's identity.
pub(crate) const TRACE: HeaderName = HeaderName::from_static("tidemill-trace");
const CLIENT: HeaderName = HeaderName::from_static("tidemill-client");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Seconds after which to try again when a problem does not say.
const RETRY_AFTER_DEFAULT_S: u64 = 1;

/// Where a problem occurred, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Occurrence {
    /// The request.
    pub(crate) request: Option<RequestId>,
    /// Its trace.
    pub(crate) trace: Option<TraceId>,
    /// Whether the client can read pickles.
    pub(crate) pickles: bool,
}

impl Occurrence {
    /// Nothing known but what the request's headers say of the client.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let client = headers.get(CLIENT);
        Self {
            pickles: client.is_some_and(|value| value.as_bytes() == b"python"),
            ..Self::default()
        }
    }

    /// The same, in this request.
    pub(crate) fn within(self, request: RequestId, trace: Option<TraceId>) -> Self {
        Self {
            request: Some(request),
            trace,
            ..self
        }
    }
}

/// The problem document.
pub(crate) fn document(problem: &Problem, occurrence: Occurrence) -> Value {
    let mut document = problem.to_json();
    if let Some(request) = occurrence.request {
        document["request"] = json!(request.to_string());
        document["instance"] = json!(format!("/v1/requests/{request}"));
    }
    if let Some(trace) = occurrence.trace {
        document["trace"] = json!(trace.to_string());
    }
    let exception = problem.exception.as_deref();
    if let Some(pickle) = exception.and_then(|exception| exception.pickle.as_ref())
        && occurrence.pickles
    {
        document["exception"]["pickle"] = json!(STANDARD.encode(pickle));
    }
    document
}

/// What of a problem somebody without the token is told: its code, and a detail only where it says
/// what the caller did wrong. How the app is made and what went wrong in it stay in its logs.
pub(crate) fn for_anybody(problem: &Problem) -> Problem {
    let is_callers = problem.code.status() < 500 && problem.exception.is_none();
    let detail = if is_callers {
        problem.detail.clone()
    } else if problem.code.status() == 503 {
        "the app cannot answer just now; try again a little later".to_owned()
    } else {
        "the app failed to answer; its author finds the reason in its logs, under this request"
            .to_owned()
    };
    let mut plain = Problem::new(problem.code, detail);
    plain.retry_after_ms = problem.retry_after_ms;
    plain
}

/// The problem as an answer.
pub(crate) fn respond(problem: &Problem, occurrence: Occurrence) -> Response {
    let body = document(problem, occurrence).to_string();
    let mut response = Response::new(Body::from(body));
    // Every status in the table of codes is one that HTTP can carry; a test holds this.
    *response.status_mut() =
        StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    if problem.code == Code::Unauthorized {
        let scheme = HeaderValue::from_static("Bearer realm=\"tidemill\"");
        headers.insert(WWW_AUTHENTICATE, scheme);
    }
    if problem.code.status() == 503 || problem.code == Code::RequestInFlight {
        let seconds = problem
            .retry_after_ms
            .map_or(RETRY_AFTER_DEFAULT_S, |ms| ms.div_ceil(1000));
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(request) = occurrence.request {
        headers.insert(REQUEST, hex_value(request.0));
    }
    if let Some(trace) = occurrence.trace {
        headers.insert(TRACE, hex_value(trace.0));
    }
    response
}

/// A 128-bit identity as a header's value.
pub(crate) fn hex_value(id: u128) -> HeaderValue {
    let mut text = [0; 32];
    let digits = hex::encode_to_slice(id.to_be_bytes(), &mut text).ok();
    digits
        .and_then(|()| HeaderValue::from_bytes(&text).ok())
        .unwrap_or_else(|| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use tidemill_problem::Exception;

    #[test]
    fn every_code_becomes_its_status() {
        for &code in Code::ALL {
            let response = respond(&Problem::new(code, "here"), Occurrence::default());
            assert_eq!(response.status().as_u16(), code.status(), "{code}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let asks_for_token = response.headers().contains_key(WWW_AUTHENTICATE);
            assert_eq!(asks_for_token, code.status() == 401, "{code}");
            let says_when = response.headers().contains_key(RETRY_AFTER);
            let may_pass = code.status() == 503 || code == Code::RequestInFlight;
            assert_eq!(says_when, may_pass, "{code}");
        }
    }

    #[test]
    fn retry_after_is_in_whole_seconds_rounded_up() {
        let mut problem = Problem::new(Code::Overloaded, "busy");
        problem.retry_after_ms = Some(1200);
        let response = respond(&problem, Occurrence::default());
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn a_document_says_where_and_shows_the_pickle_to_python_only() {
        let mut problem = Problem::new(Code::FunctionFailed, "it raised");
        problem.exception = Some(Box::new(Exception {
            kind: "ValueError".into(),
            message: "no".into(),
            traceback: "Traceback".into(),
            pickle: Some(Bytes::from_static(b"\x80\x05")),
        }));
        let plain = Occurrence::default().within(RequestId(42), Some(TraceId(7)));
        let shown = document(&problem, plain);
        assert_eq!(shown["request"], "0000000000000000000000000000002a");
        assert_eq!(shown["instance"], format!("/v1/requests/{}", RequestId(42)));
        assert_eq!(shown["trace"], "00000000000000000000000000000007");
        assert_eq!(shown["exception"].get("pickle"), None);
        let mut headers = HeaderMap::new();
        headers.insert(CLIENT, HeaderValue::from_static("python"));
        let python = document(&problem, Occurrence::of(&headers));
        assert_eq!(python["exception"]["pickle"], "gAU=");
    }

    #[test]
    fn identities_are_32_digits() {
        assert_eq!(hex_value(0x2a), format!("{:032x}", 0x2a));
        assert_eq!(hex_value(u128::MAX), format!("{:032x}", u128::MAX));
    }
}
