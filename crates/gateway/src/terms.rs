//! What a caller asks of state, as headers say it. Pure.

use crate::body;
use axum::http::header::HeaderName;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use tidemill_problem::{Code, Problem};
use tidemill_runtime::{Asked, Level, Runtime};
use tidemill_store::Durability;

const LEVEL: HeaderName = HeaderName::from_static("tidemill-level");
/// What the caller's session has seen, and has seen by now.
pub(crate) const SESSION: HeaderName = HeaderName::from_static("tidemill-session");
const DURABILITY: HeaderName = HeaderName::from_static("tidemill-durability");

/// Everything that the headers ask of state.
///
/// # Errors
/// `bad-request` for a word that is none of those that a header takes.
pub(crate) fn asked(headers: &HeaderMap) -> Result<Asked, Problem> {
    Ok(Asked {
        level: level(headers)?,
        durability: durability(headers)?,
        session: body::header(headers, &SESSION)?.map(str::to_owned),
    })
}

/// Removes what the headers ask of state, but for the session, which asks for no less.
pub(crate) fn drop_asked(headers: &mut HeaderMap) {
    headers.remove(LEVEL);
    headers.remove(DURABILITY);
}

/// Waits until the node has what the caller's session has seen.
///
/// # Errors
/// `bad-session-token`, `state-lost`, `timed-out`.
pub(crate) async fn catch_up(runtime: &Runtime, headers: &HeaderMap) -> Result<(), Problem> {
    match body::header(headers, &SESSION)? {
        Some(token) => runtime.catch_up(token).await,
        None => Ok(()),
    }
}

/// Adds a session's token to an answer.
pub(crate) fn mark(response: &mut Response, token: Option<&str>) {
    if let Some(value) = token.and_then(|token| HeaderValue::from_str(token).ok()) {
        response.headers_mut().insert(SESSION, value);
    }
}

fn level(headers: &HeaderMap) -> Result<Option<Level>, Problem> {
    match body::header(headers, &LEVEL)? {
        None => Ok(None),
        Some("causal") => Ok(Some(Level::Causal)),
        Some("eventual") => Ok(Some(Level::Eventual)),
        Some(other) => Err(Problem::new(
            Code::BadRequest,
            format!("the header `Tidemill-Level` is `causal` or `eventual`, not {other:?}"),
        )),
    }
}

fn durability(headers: &HeaderMap) -> Result<Option<Durability>, Problem> {
    match body::header(headers, &DURABILITY)? {
        None => Ok(None),
        Some("memory") => Ok(Some(Durability::Memory)),
        Some("durable") => Ok(Some(Durability::Durable)),
        Some(other) => Err(Problem::new(
            Code::BadRequest,
            format!("the header `Tidemill-Durability` is `durable` or `memory`, not {other:?}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, text: &str) -> HeaderMap {
        let value = HeaderValue::from_str(text).expect("a header value");
        HeaderMap::from_iter([(name, value)])
    }

    #[test]
    fn the_level_is_one_of_two_words() {
        let asked = |text| level(&headers(LEVEL, text));
        assert_eq!(level(&HeaderMap::new()).expect("valid"), None);
        assert_eq!(asked("causal").expect("valid"), Some(Level::Causal));
        assert_eq!(asked("eventual").expect("valid"), Some(Level::Eventual));
        let refused = asked("strict").expect_err("no level");
        assert_eq!(refused.code, Code::BadRequest);
    }

    #[test]
    fn the_durability_is_one_of_two_words() {
        let asked = |text| durability(&headers(DURABILITY, text));
        assert_eq!(durability(&HeaderMap::new()).expect("valid"), None);
        assert_eq!(asked("memory").expect("valid"), Some(Durability::Memory));
        assert_eq!(asked("durable").expect("valid"), Some(Durability::Durable));
        let refused = asked("Durable").expect_err("no durability");
        assert_eq!(refused.code, Code::BadRequest);
    }
}
