//! State from outside: each request here is one commit, or one read at one
//! snapshot.

use crate::body;
use crate::calls;
use crate::ops;
use crate::query;
use crate::requests::{json_response, limit};
use crate::routes::Context;
use crate::terms;
use crate::views::write_view;
use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::Response;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tidemill_lattice::{ContentType, Op, Payload, Value};
use tidemill_problem::{Code, Problem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/kv/{app}`
pub(crate) fn list(context: &Context<'_>) -> Result<Response, Problem> {
    let query: ListQuery = query::parse(&context.parts.uri)?;
    let app = context.param("app")?;
    let runtime = &context.state.runtime;
    let page = runtime.state_list(
        app,
        &query.prefix,
        query.after.as_deref(),
        limit(query.limit),
    )?;
    let keys: Vec<_> = page
        .keys
        .iter()
        .map(|(key, kind)| json!({ "key": key, "type": kind.as_str() }))
        .collect();
    json_response(&json!({ "keys": keys, "next": page.next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetQuery {
    view: Option<View>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum View {
    Json,
}

/// `GET /v1/kv/{app}/{key}`
pub(crate) fn get(context: &Context<'_>) -> Result<Response, Problem> {
    let query: GetQuery = query::parse(&context.parts.uri)?;
    let (app, key) = (context.param("app")?, context.param("key")?);
    let found = context.state.runtime.state_get(app, key)?;
    let view = found
        .as_ref()
        .and_then(|(at, cell)| cell.view(*at).map(|value| (*at, value)));
    let Some((at, value)) = view else {
        let detail = format!("the key {key:?} of {app} holds nothing: write it first");
        return Err(Problem::new(Code::UnknownKey, detail));
    };
    if let Value::Register(register) = value
        && query.view.is_none()
    {
        let mut response = calls::value(register.get().clone());
        // The content type is the writer's word; a browser must not guess another.
        let nosniff = HeaderValue::from_static("nosniff");
        response
            .headers_mut()
            .insert(X_CONTENT_TYPE_OPTIONS, nosniff);
        return Ok(response);
    }
    let mut out = Vec::new();
    write_view(&mut out, value, at);
    let mut response = Response::new(Body::from(out));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// `POST /v1/kv/{app}/{key}`
pub(crate) async fn update(context: &Context<'_>, body: Body) -> Result<Response, Problem> {
    let body = read_body(context, body).await?;
    let writes = ops::on_key(&body, context.param("key")?)?;
    write(context, writes).await
}

/// `POST /v1/kv/{app}`
pub(crate) async fn commit(context: &Context<'_>, body: Body) -> Result<Response, Problem> {
    let body = read_body(context, body).await?;
    write(context, ops::on_keys(&body)?).await
}

/// `PUT /v1/kv/{app}/{key}`
pub(crate) async fn put(context: &Context<'_>, body: Body) -> Result<Response, Problem> {
    let content_type = body::content_type(&context.parts.headers)?;
    let body = read_body(context, body).await?;
    if content_type == ContentType::Json {
        check_json(&body)?;
    }
    let value = Payload::new(content_type, body);
    let key = context.param("key")?.to_owned();
    write(context, vec![(key, Op::RegisterSet(value))]).await
}

/// `DELETE /v1/kv/{app}/{key}`
pub(crate) async fn delete(context: &Context<'_>) -> Result<Response, Problem> {
    let key = context.param("key")?.to_owned();
    write(context, vec![(key, Op::Delete)]).await
}

async fn read_body(context: &Context<'_>, body: Body) -> Result<Bytes, Problem> {
    body::read(body, context.state.options.body_bytes_max).await
}

fn check_json(body: &[u8]) -> Result<(), Problem> {
    if std::str::from_utf8(body).is_err() {
        return Err(Problem::new(
            Code::BadRequest,
            "the body is JSON, but not UTF-8",
        ));
    }
    body::check_depth(body)?;
    body::json::<IgnoredAny>(body).map(|_| ())
}

async fn write(context: &Context<'_>, writes: Vec<(String, Op)>) -> Result<Response, Problem> {
    let app = context.param("app")?;
    let asked = terms::asked(&context.parts.headers)?;
    let runtime = &context.state.runtime;
    let time = runtime.state_commit(app, writes, &asked).await?;
    json_response(&json!({ "time": time.to_string() }))
}
