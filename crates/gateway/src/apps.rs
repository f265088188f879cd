//! Apps: lists, one, deploy, removal, and flows registered from outside.

use crate::body;
use crate::query;
use crate::requests::json_response;
use crate::routes::Context;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use tidemill_flow::Flow;
use tidemill_problem::{Code, Problem};

/// `GET /v1/apps`
pub(crate) fn list(context: &Context<'_>) -> Result<Response, Problem> {
    json_response(&json!({ "apps": context.state.runtime.apps() }))
}

/// `GET /v1/apps/{app}`
pub(crate) fn show(context: &Context<'_>) -> Result<Response, Problem> {
    json_response(&context.state.runtime.app(context.param("app")?)?)
}

/// `PUT /v1/apps/{app}`
pub(crate) async fn deploy(context: &Context<'_>, body: Body) -> Result<Response, Problem> {
    let content_type = body::content_type(&context.parts.headers)?;
    if content_type.as_str() != "application/zip" {
        let detail = format!(
            "a deploy is a zip archive with Content-Type application/zip, not {}",
            content_type.as_str()
        );
        return Err(Problem::new(Code::BadRequest, detail));
    }
    let archive = body::read(body, context.state.options.archive_bytes_max).await?;
    let app = context.param("app")?;
    json_response(&context.state.runtime.deploy(app, archive).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    state: Option<StateFate>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum StateFate {
    Keep,
    Delete,
}

/// `DELETE /v1/apps/{app}`
pub(crate) async fn remove(context: &Context<'_>) -> Result<Response, Problem> {
    let query: RemoveQuery = query::parse(&context.parts.uri)?;
    let delete_state = query.state == Some(StateFate::Delete);
    let app = context.param("app")?;
    context.state.runtime.remove(app, delete_state).await?;
    Ok(no_content())
}

/// `PUT /v1/apps/{app}/flows/{name}`
pub(crate) async fn register_flow(context: &Context<'_>, body: Body) -> Result<Response, Problem> {
    let body = body::read(body, context.state.options.body_bytes_max).await?;
    let flow: Flow = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body is not a flow: {error}");
        Problem::new(Code::BadFlow, detail)
    })?;
    let (app, name) = (context.param("app")?, context.param("name")?);
    context.state.runtime.register_flow(app, name, &flow)?;
    Ok(no_content())
}

fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
