//! Requests that ran lately: lists, one, its result, and cancelling it.

use crate::calls;
use crate::problems::{self, Occurrence, REQUEST, hex_value};
use crate::query;
use crate::routes::Context;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use tidemill_problem::{Code, Problem};
use tidemill_runtime::{Fetched, RequestId, RequestState};

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 10_000;

/// The longest that a client may ask to wait for a result, in seconds.
const WAIT_S_MAX: f64 = 60.0;
/// The pauses between looks while one waits.
const WAIT_PAUSE_MIN: Duration = Duration::from_millis(1);
const WAIT_PAUSE_MAX: Duration = Duration::from_millis(50);

/// JSON as an answer.
pub(crate) fn json_response(value: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(value).map_err(|error| {
        Problem::new(
            Code::Internal,
            format!("the answer cannot be written: {error}"),
        )
    })?;
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// A limit as asked for, within what is sensible.
pub(crate) fn limit(asked: Option<usize>) -> usize {
    asked.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    app: Option<String>,
    state: Option<StateName>,
    limit: Option<usize>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StateName {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl From<StateName> for RequestState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Running => Self::Running,
            StateName::Succeeded => Self::Succeeded,
            StateName::Failed => Self::Failed,
            StateName::Cancelled => Self::Cancelled,
        }
    }
}

/// `GET /v1/requests`
pub(crate) fn list(context: &Context<'_>) -> Result<Response, Problem> {
    let query: ListQuery = query::parse(&context.parts.uri)?;
    let requests = context.state.runtime.requests(
        query.app.as_deref(),
        query.state.map(RequestState::from),
        limit(query.limit),
    );
    json_response(&json!({ "requests": requests }))
}

fn id(context: &Context<'_>) -> Result<RequestId, Problem> {
    let text = context.param("id")?;
    text.parse().map_err(|()| {
        let detail = format!("{text:?} is not a request's id: 32 hexadecimal digits");
        Problem::new(Code::UnknownRequest, detail)
    })
}

fn unknown(id: RequestId) -> Problem {
    let detail = format!("no request {id} is known; the list holds recent ones only");
    Problem::new(Code::UnknownRequest, detail)
}

/// `GET /v1/requests/{id}`
pub(crate) fn show(context: &Context<'_>) -> Result<Response, Problem> {
    let id = id(context)?;
    let summary = context.state.runtime.request(id);
    json_response(&summary.ok_or_else(|| unknown(id))?)
}

/// `GET /v1/requests/{id}/result`
pub(crate) async fn result(context: &Context<'_>) -> Result<Response, Problem> {
    let id = id(context)?;
    let wait = preferred_wait(&context.parts.headers);
    // Running out of time is no failure: then the answer is that it still runs.
    drop(tokio::time::timeout(wait, ended(context, id)).await);
    let fetched = context.state.runtime.fetch(id);
    let mut response = match fetched.ok_or_else(|| unknown(id))? {
        Fetched::Running(summary) => {
            let mut response = json_response(&summary)?;
            *response.status_mut() = StatusCode::ACCEPTED;
            response
        }
        Fetched::Ended(Ok(payload)) => calls::value(payload),
        Fetched::Forgotten => {
            let detail = "the request has ended and its result is not kept: its caller waited \
                          for it, or it is among the older ones";
            return Err(Problem::new(Code::UnknownRequest, detail));
        }
        Fetched::Ended(Err(problem)) => {
            let summary = context.state.runtime.request(id);
            let trace = summary.and_then(|summary| summary.trace.parse().ok());
            let occurrence = Occurrence::of(&context.parts.headers).within(id, trace);
            return Ok(problems::respond(&problem, occurrence));
        }
    };
    response.headers_mut().insert(REQUEST, hex_value(id.0));
    Ok(response)
}

/// Waits until the request has ended, or the node is stopping.
async fn ended(context: &Context<'_>, id: RequestId) {
    let runtime = &context.state.runtime;
    let mut pause = WAIT_PAUSE_MIN;
    let running = || {
        let summary = runtime.request(id);
        summary.is_some_and(|summary| summary.state == RequestState::Running)
    };
    while running() && !*context.state.stopping.borrow() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(WAIT_PAUSE_MAX);
    }
}

/// The time that `Prefer: wait=<seconds>` asks for (RFC 7240, section 4.3), bounded.
fn preferred_wait(headers: &HeaderMap) -> Duration {
    let values = headers.get_all("prefer").iter();
    let seconds = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split([',', ';']))
        .filter_map(|preference| preference.trim().strip_prefix("wait="))
        .find_map(|seconds| seconds.trim().parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0);
    seconds.map_or(Duration::ZERO, |seconds| {
        Duration::from_secs_f64(seconds.min(WAIT_S_MAX))
    })
}

/// `DELETE /v1/requests/{id}`
pub(crate) fn cancel(context: &Context<'_>) -> Result<Response, Problem> {
    let id = id(context)?;
    let cancelled = context
        .state
        .runtime
        .cancel(id)
        .ok_or_else(|| unknown(id))?;
    json_response(&json!({ "id": id.to_string(), "cancelled": cancelled }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_asked_for_in_seconds_and_bounded() {
        let wait = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static(text));
            preferred_wait(&headers)
        };
        assert_eq!(wait("wait=1.5"), Duration::from_millis(1500));
        assert_eq!(wait("respond-async, wait=2"), Duration::from_secs(2));
        assert_eq!(wait("wait=1e9"), Duration::from_secs(60));
        for none in [
            "wait=-1",
            "wait=NaN",
            "wait=soon",
            "await=3",
            "handling=lenient",
        ] {
            assert_eq!(wait(none), Duration::ZERO, "{none}");
        }
    }
}
