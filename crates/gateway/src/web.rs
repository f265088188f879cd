//! Apps' own HTTP: requests under `/http/{app}/` go to the app's function of the kind `http` as
//! they are, and its response goes back.

use crate::body;
use crate::calls::{self, Marks};
use crate::problems::{self, Occurrence};
use crate::state::Shared;
use crate::terms;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{self, AUTHORIZATION, HOST, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use tidemill_problem::{Code, Problem};
use tidemill_runtime::{Exchange, Head, Output};

/// Where the app's paths begin, for what it links to.
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Headers of a connection, not of a message (RFC 9110, section 7.6.1), and the length, which
/// the door finds out.
const OF_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// Headers that are the node's to read and that differ from one retry to the next: with one key
/// the same message is asked for.
fn is_nodes_own(name: &str) -> bool {
    name.starts_with("tidemill-") || matches!(name, "traceparent" | "tracestate")
}

/// Who calls a public function without the node's token.
const ANYBODY: &str = "anybody";

/// Anything under `/http/{app}/`.
pub(crate) async fn serve(state: &Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let occurrence = Occurrence::of(&parts.headers);
    match answer(state, parts, body, occurrence).await {
        Ok(response) => response,
        Err(problem) => problems::respond(&problem, occurrence),
    }
}

async fn answer(
    state: &Shared,
    mut parts: Parts,
    body: Body,
    occurrence: Occurrence,
) -> Result<Response, Problem> {
    let (app, rest) = split(parts.uri.path())?;
    let (app, rest) = (app.to_owned(), rest.to_owned());
    let found = state.runtime.web(&app);
    let is_public = found.as_ref().is_ok_and(|web| web.is_public);
    let checked = if is_public {
        state.access.check_public(&parts.uri, &parts.headers)
    } else {
        state.access.check(&parts.uri, &parts.headers)
    };
    checked?;
    let web = found?;
    let is_known = state.access.check(&parts.uri, &parts.headers).is_ok();
    let subject = if is_public {
        // What state promises is for the app to say, not for whoever comes by.
        terms::drop_asked(&mut parts.headers);
        ANYBODY
    } else {
        // The node's token is nothing for an app to see.
        parts.headers.remove(AUTHORIZATION);
        calls::SUBJECT
    };
    let body = body::read(body, state.options.body_bytes_max).await?;
    let input = Exchange {
        head: head(&mut parts, &app, &rest),
        body,
    };
    let call = calls::asked(
        &parts.headers,
        subject,
        &app,
        &web.function,
        input.to_payload(),
    )?;
    let answer = state.runtime.call(call).await;
    let occurrence = occurrence.within(answer.request, Some(answer.trace.trace));
    let (result, marks) = Marks::of(answer);
    let mut response = match result.and_then(response) {
        Ok(response) => response,
        Err(problem) if is_known => problems::respond(&problem, occurrence),
        Err(problem) => problems::respond(&problems::for_anybody(&problem), occurrence),
    };
    calls::mark(&mut response, &marks);
    Ok(response)
}

/// The app of a path, and the path within it.
fn split(path: &str) -> Result<(&str, &str), Problem> {
    let unknown = || Problem::new(Code::UnknownPath, "an app's paths begin with /http/APP/");
    let path = path.strip_prefix("/http/").ok_or_else(unknown)?;
    Ok(match path.find('/') {
        Some(at) => path.split_at(at),
        None => (path, "/"),
    })
}

fn head(parts: &mut Parts, app: &str, rest: &str) -> Head {
    for name in OF_CONNECTION {
        parts.headers.remove(name);
    }
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = parts
        .uri
        .authority()
        .map_or(host.unwrap_or("localhost"), |one| one.as_str());
    let query = parts.uri.query().map(|query| format!("?{query}"));
    let uri = format!("http://{host}{rest}{}", query.unwrap_or_default());
    if let Ok(prefix) = format!("/http/{app}").parse() {
        parts.headers.insert(FORWARDED_PREFIX, prefix);
    }
    Head {
        method: Some(parts.method.as_str().to_owned()),
        uri: Some(uri),
        status: None,
        headers: Exchange::headers(&parts.headers)
            .into_iter()
            .filter(|(name, _)| !is_nodes_own(name))
            .collect(),
    }
}

fn response(output: Output) -> Result<Response, Problem> {
    let nonsense = |detail: String| Problem::new(Code::FunctionFailed, detail);
    let Output::Value(payload) = output else {
        return Err(nonsense("an HTTP function gave a stream".to_owned()));
    };
    let exchange = Exchange::from_payload(&payload);
    let exchange = exchange.map_err(|_| nonsense("the function gave no HTTP response".into()))?;
    let mut headers = Exchange::header_map(&exchange.head)
        .map_err(|error| nonsense(format!("the function's response: {error}")))?;
    for name in OF_CONNECTION {
        headers.remove(name);
    }
    let status = exchange.head.status.map(StatusCode::from_u16);
    let status = status
        .and_then(Result::ok)
        .filter(|status| !status.is_informational());
    let status =
        status.ok_or_else(|| nonsense("the function's response has no status".to_owned()))?;
    Ok(built(status, headers, Body::from(exchange.body)))
}

fn built(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_an_app_and_a_path_within_it() {
        for (path, expected) in [
            ("/http/a", ("a", "/")),
            ("/http/a/", ("a", "/")),
            ("/http/a/b//c", ("a", "/b//c")),
            ("/http/a/%2F", ("a", "/%2F")),
        ] {
            assert_eq!(split(path).expect("a path"), expected);
        }
    }

    #[test]
    fn a_request_goes_on_without_what_is_the_connections() {
        let request = Request::builder()
            .uri("/http/a/b?c=d")
            .header(HOST, "mill:7070")
            .header("connection", "keep-alive")
            .header("tidemill-session", "differs")
            .header("traceparent", "differs")
            .header("x-own", "1");
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        let head = head(&mut parts, "a", "/b");
        assert_eq!(head.uri.as_deref(), Some("http://mill:7070/b?c=d"));
        let names: Vec<&str> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["host", "x-own", "x-forwarded-prefix"]);
    }
}
