//! The node about itself, and whether it lives and serves.

use crate::requests::json_response;
use crate::routes::Context;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde_json::{Value as Json, json};
use tidemill_problem::{Code, Problem};

/// `GET /v1/node`
pub(crate) fn show(context: &Context<'_>) -> Result<Response, Problem> {
    let node = &context.state.node;
    let now_us = context.state.clock.now_micros();
    json_response(&json!({
        "version": node.version,
        "uptime_ms": now_us.saturating_sub(node.started_us) / 1000,
        "data_directory": node.data_directory,
        "settings": node.settings,
        "requests": requests(context),
        "answers": context.state.counts.answers(),
    }))
}

/// What functions and flows were asked for, by requests.
fn requests(context: &Context<'_>) -> Json {
    let gauges = context.state.runtime.gauges();
    let waiting: usize = gauges.pools.iter().map(|(_, pool)| pool.waiting).sum();
    let totals = context.state.telemetry.meters.totals();
    let ended: u64 = totals.iter().map(|(_, _, totals)| totals.calls).sum();
    let failed: u64 = totals.iter().map(|(_, _, totals)| totals.errors).sum();
    json!({
        "running": gauges.requests_running,
        "waiting": gauges.admission.waiting + waiting,
        "ended": ended,
        "failed": failed,
    })
}

/// `GET /livez`: the process answers.
pub(crate) fn live() -> Response {
    text("ok\n")
}

/// `GET /readyz`: the node takes calls.
pub(crate) fn ready(context: &Context<'_>) -> Result<Response, Problem> {
    if *context.state.stopping.borrow() {
        let detail = "the node is stopping: call another one, or wait until it is back";
        return Err(Problem::new(Code::ShuttingDown, detail));
    }
    Ok(text("ok\n"))
}

fn text(body: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
