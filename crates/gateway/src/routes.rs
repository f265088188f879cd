//! The one table of what is served, and the way from a request to its handler.
//!
//! Router, guard, counts and the test of `openapi.json` all read [`ROUTES`], so
//! they cannot drift apart.

use crate::problems::{self, Occurrence};
use crate::state::{GatewayState, Shared};
use crate::{
    apps, backup, calls, kv, logs, metrics, node, openapi, requests, store, terms, traces, watch,
    web,
};
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequestParts, RawPathParams, Request, State};
use axum::http::header::ALLOW;
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, any, on};
use std::collections::BTreeMap;
use tidemill_problem::{Code, Problem};

/// What a route does; the name of each is its `operationId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Call,
    ListRequests,
    ShowRequest,
    FetchResult,
    CancelRequest,
    ListKeys,
    WatchKeys,
    CommitKeys,
    GetKey,
    UpdateKey,
    PutKey,
    DeleteKey,
    ListApps,
    Deploy,
    ShowApp,
    RemoveApp,
    RegisterFlow,
    ReadLogs,
    ShowTrace,
    ShowNode,
    ShowStore,
    Backup,
    Live,
    Ready,
    Metrics,
    OpenApi,
    Web,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Route {
    /// The method, in upper case.
    pub(crate) method: &'static str,
    /// The path, in the router's pattern language.
    pub(crate) path: &'static str,
    /// What it does.
    pub(crate) operation: Operation,
    /// Its `operationId` in `openapi.json`.
    pub(crate) id: &'static str,
    /// Served without token and host, to those who watch over the node.
    pub(crate) open: bool,
}

impl Operation {
    /// Whether it is part of its caller's session: it begins where the session is, and its
    /// answer says where the session has come to. Calls see to that themselves.
    const fn is_in_session(self) -> bool {
        matches!(
            self,
            Self::ListKeys
                | Self::CommitKeys
                | Self::GetKey
                | Self::UpdateKey
                | Self::PutKey
                | Self::DeleteKey
                | Self::FetchResult
        )
    }
}

const fn row(
    method: &'static str,
    path: &'static str,
    operation: Operation,
    id: &'static str,
) -> Route {
    Route {
        method,
        path,
        operation,
        id,
        open: matches!(operation, Operation::Live | Operation::Ready),
    }
}

/// Everything that is served.
pub(crate) const ROUTES: &[Route] = &[
    row("POST", "/v1/call/{app}/{function}", Operation::Call, "call"),
    row(
        "GET",
        "/v1/requests",
        Operation::ListRequests,
        "listRequests",
    ),
    row(
        "GET",
        "/v1/requests/{id}",
        Operation::ShowRequest,
        "showRequest",
    ),
    row(
        "GET",
        "/v1/requests/{id}/result",
        Operation::FetchResult,
        "fetchResult",
    ),
    row(
        "DELETE",
        "/v1/requests/{id}",
        Operation::CancelRequest,
        "cancelRequest",
    ),
    row("GET", "/v1/kv/{app}", Operation::ListKeys, "listKeys"),
    row("GET", "/v1/watch/{app}", Operation::WatchKeys, "watchKeys"),
    row("POST", "/v1/kv/{app}", Operation::CommitKeys, "commitKeys"),
    row("GET", "/v1/kv/{app}/{*key}", Operation::GetKey, "getKey"),
    row(
        "POST",
        "/v1/kv/{app}/{*key}",
        Operation::UpdateKey,
        "updateKey",
    ),
    row("PUT", "/v1/kv/{app}/{*key}", Operation::PutKey, "putKey"),
    row(
        "DELETE",
        "/v1/kv/{app}/{*key}",
        Operation::DeleteKey,
        "deleteKey",
    ),
    row("GET", "/v1/apps", Operation::ListApps, "listApps"),
    row("PUT", "/v1/apps/{app}", Operation::Deploy, "deploy"),
    row("GET", "/v1/apps/{app}", Operation::ShowApp, "showApp"),
    row(
        "DELETE",
        "/v1/apps/{app}",
        Operation::RemoveApp,
        "removeApp",
    ),
    row(
        "PUT",
        "/v1/apps/{app}/flows/{name}",
        Operation::RegisterFlow,
        "registerFlow",
    ),
    row("GET", "/v1/logs", Operation::ReadLogs, "readLogs"),
    row("GET", "/v1/traces/{id}", Operation::ShowTrace, "showTrace"),
    row("GET", "/v1/node", Operation::ShowNode, "showNode"),
    row("GET", "/v1/node/store", Operation::ShowStore, "showStore"),
    row("GET", "/v1/store/backup", Operation::Backup, "backup"),
    row("GET", "/livez", Operation::Live, "live"),
    row("GET", "/readyz", Operation::Ready, "ready"),
    row("GET", "/metrics", Operation::Metrics, "metrics"),
    row("GET", "/openapi.json", Operation::OpenApi, "openapi"),
];

/// What apps serve themselves, whatever the method. No part of `openapi.json`.
pub(crate) const WEB: Route = row("ANY", "/http/{app}/{*path}", Operation::Web, "web");

/// A request on its way: what every handler gets.
pub(crate) struct Context<'a> {
    pub(crate) state: &'a Shared,
    pub(crate) parts: RequestParts,
    pub(crate) params: RawPathParams,
}

impl Context<'_> {
    /// The path parameter of this name, percent-decoded.
    ///
    /// # Errors
    /// `internal` if the route has no such parameter.
    pub(crate) fn param(&self, name: &str) -> Result<&str, Problem> {
        let mut params = self.params.iter();
        params
            .find(|(held, _)| *held == name)
            .map(|(_, value)| value)
            .ok_or_else(|| Problem::new(Code::Internal, format!("the route has no {name:?}")))
    }
}

/// The router of everything in the table; the rest is answered by problems.
pub fn router(state: GatewayState) -> Router {
    let mut paths: BTreeMap<&'static str, Vec<&'static Route>> = BTreeMap::new();
    for route in ROUTES {
        paths.entry(route.path).or_default().push(route);
    }
    let mut router = Router::new();
    for (path, routes) in paths {
        router = router.route(path, methods(&routes));
    }
    let web = |State(state): State<GatewayState>, request: Request| async move {
        let response = web::serve(&state.0, request).await;
        state.0.counts.count(&WEB, response.status());
        response
    };
    router
        .route("/http/{app}", any(web))
        .route("/http/{app}/{*path}", any(web))
        .route("/http/{app}/", any(web))
        .fallback(any(unknown_path))
        // Bodies are bounded where they are read, each by its own limit.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
}

fn methods(routes: &[&'static Route]) -> MethodRouter<GatewayState> {
    let mut allowed: Vec<&str> = routes.iter().map(|route| route.method).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    let mut methods = MethodRouter::new();
    for &route in routes {
        let serve = move |State(state): State<GatewayState>, request: Request| async move {
            dispatch(&state.0, route, request).await
        };
        methods = methods.merge(on(filter(route.method), serve));
    }
    methods.fallback(
        move |State(state): State<GatewayState>, request: Request| async move {
            wrong_method(&state.0, &request, &allowed)
        },
    )
}

fn filter(method: &str) -> MethodFilter {
    match method {
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        "DELETE" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}

async fn dispatch(state: &Shared, route: &'static Route, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let occurrence = Occurrence::of(&parts.headers);
    let admitted = if route.open {
        Ok(())
    } else {
        state.access.check(&parts.uri, &parts.headers)
    };
    let is_in_session = admitted.is_ok() && route.operation.is_in_session();
    let outcome = match admitted {
        Ok(()) => match RawPathParams::from_request_parts(&mut parts, &()).await {
            Ok(params) => {
                let context = Context {
                    state,
                    parts,
                    params,
                };
                handle(route.operation, &context, body).await
            }
            Err(rejection) => Err(Problem::new(
                Code::BadRequest,
                format!("the path is wrong: {}", rejection.body_text()),
            )),
        },
        Err(problem) => Err(problem),
    };
    let mut response = outcome.unwrap_or_else(|problem| problems::respond(&problem, occurrence));
    if is_in_session {
        terms::mark(&mut response, Some(&state.runtime.token()));
    }
    state.counts.count(route, response.status());
    response
}

async fn handle(
    operation: Operation,
    context: &Context<'_>,
    body: Body,
) -> Result<Response, Problem> {
    if operation.is_in_session() {
        terms::catch_up(&context.state.runtime, &context.parts.headers).await?;
    }
    match operation {
        Operation::Call => calls::call(context, body).await,
        Operation::ListRequests => requests::list(context),
        Operation::ShowRequest => requests::show(context),
        Operation::FetchResult => requests::result(context).await,
        Operation::CancelRequest => requests::cancel(context),
        Operation::ListKeys => kv::list(context),
        Operation::WatchKeys => watch::stream(context),
        Operation::CommitKeys => kv::commit(context, body).await,
        Operation::GetKey => kv::get(context),
        Operation::UpdateKey => kv::update(context, body).await,
        Operation::PutKey => kv::put(context, body).await,
        Operation::DeleteKey => kv::delete(context).await,
        Operation::ListApps => apps::list(context),
        Operation::Deploy => apps::deploy(context, body).await,
        Operation::ShowApp => apps::show(context),
        Operation::RemoveApp => apps::remove(context).await,
        Operation::RegisterFlow => apps::register_flow(context, body).await,
        Operation::ReadLogs => logs::read(context),
        Operation::ShowTrace => traces::show(context),
        Operation::ShowNode => node::show(context),
        Operation::ShowStore => store::show(context),
        Operation::Backup => backup::stream(context),
        Operation::Live => Ok(node::live()),
        Operation::Ready => node::ready(context),
        Operation::Metrics => metrics::show(context),
        Operation::OpenApi => Ok(openapi::show()),
        Operation::Web => Err(Problem::new(
            Code::Internal,
            "an app's own page came by the wrong way; please report this",
        )),
    }
}

/// A request that reaches no handler passes the guard like any other, so that
/// nobody without a token learns what there is.
fn refuse(state: &Shared, request: &Request, problem: Problem) -> Response {
    let occurrence = Occurrence::of(request.headers());
    let admitted = state.access.check(request.uri(), request.headers());
    let problem = admitted.err().unwrap_or(problem);
    problems::respond(&problem, occurrence)
}

async fn unknown_path(State(state): State<GatewayState>, request: Request) -> Response {
    let detail = format!(
        "nothing is served at {}: GET /openapi.json lists what there is",
        request.uri().path()
    );
    refuse(&state.0, &request, Problem::new(Code::UnknownPath, detail))
}

fn wrong_method(state: &Shared, request: &Request, allowed: &str) -> Response {
    let method: &Method = request.method();
    let detail = format!(
        "{method} is not served at {}: use {allowed}",
        request.uri().path()
    );
    let problem = Problem::new(Code::MethodNotAllowed, detail);
    let mut response = refuse(state, request, problem);
    if response.status() == 405
        && let Ok(value) = HeaderValue::from_str(allowed)
    {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}
