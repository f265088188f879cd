//! Traces: the spans of a trace, or of one request.

use crate::requests::json_response;
use crate::routes::Context;
use axum::response::Response;
use serde_json::json;
use tidemill_problem::{Code, Problem};
use tidemill_runtime::RequestId;
use tidemill_telemetry::TraceId;

/// `GET /v1/traces/{id}`
pub(crate) fn show(context: &Context<'_>) -> Result<Response, Problem> {
    let text = context.param("id")?;
    let spans = &context.state.telemetry.spans;
    let mut found = match text.parse::<TraceId>() {
        Ok(trace) => spans.of_trace(trace),
        Err(_) => Vec::new(),
    };
    if found.is_empty()
        && let Ok(request) = text.parse::<RequestId>()
    {
        found = spans.of_request(request.0);
    }
    let Some(first) = found.first() else {
        let detail = format!(
            "no span of {text:?} is held: give the id of a trace or a request, 32 hexadecimal \
             digits, of a recent call"
        );
        return Err(Problem::new(Code::UnknownTrace, detail));
    };
    json_response(&json!({ "trace": first.trace, "spans": found }))
}
