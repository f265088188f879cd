//! A component of the standard `wasi:http/proxy` world, written for any host: it knows nothing of
//! Tidemill. The platform's tests mount it and call its paths.

mod fetch;
mod store;

use std::io::{Read, Write};

use wasip2::{
    cli::{environment, stderr, stdout},
    exports::http::incoming_handler::Guest,
    http::types::{
        Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse,
        ResponseOutparam,
    },
};

wasip2::http::proxy::export!(Component);

struct Component;

impl Guest for Component {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let answer = answer(&request).unwrap_or_else(|message| Answer::text(500, message));
        answer.send(out);
        // What traps once it has answered has failed all the same.
        if request.path_with_query().as_deref() == Some("/late-trap") {
            std::process::abort();
        }
    }
}

/// What goes back.
struct Answer {
    status: u16,
    content_type: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(status: u16, text: impl Into<String>) -> Answer {
        Answer {
            status,
            content_type: "text/plain".to_owned(),
            body: text.into().into_bytes(),
        }
    }

    /// If the client has gone away there is nobody left to tell.
    fn send(self, out: ResponseOutparam) {
        let headers = Fields::new();
        let _ = headers.set("content-type", &[self.content_type.into_bytes()]);
        let response = OutgoingResponse::new(headers);
        let _ = response.set_status_code(self.status);
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(out, Ok(response));
        if let Ok(mut stream) = body.write() {
            let _ = stream.write_all(&self.body);
            let _ = stream.blocking_flush();
        }
        let _ = OutgoingBody::finish(body, None);
    }
}

fn answer(request: &IncomingRequest) -> Result<Answer, String> {
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    match (request.method(), path) {
        (Method::Get, "/hello") => Ok(Answer::text(200, "hello")),
        (Method::Post, "/echo") => echo(request),
        (Method::Get, "/headers") => Ok(Answer::text(200, headers(request))),
        (Method::Get, "/fetch") => fetch::fetch(query),
        (Method::Get, "/count") => store::count(),
        (Method::Get, "/batch") => store::batch(),
        (Method::Get, "/late-trap") => store::count(),
        (Method::Get, "/trap") => store::count().and_then(|_| std::process::abort()),
        (Method::Get, "/environment") => Ok(Answer::text(200, variables())),
        (Method::Get, "/print") => print(),
        _ => Ok(Answer::text(404, format!("there is no {path}"))),
    }
}

/// The body, with its content type.
fn echo(request: &IncomingRequest) -> Result<Answer, String> {
    let types = request.headers().get("content-type");
    let content_type = match types.into_iter().next() {
        Some(value) => String::from_utf8(value).map_err(|error| error.to_string())?,
        None => "application/octet-stream".to_owned(),
    };
    let body = request.consume().map_err(|()| "the body is gone")?;
    Ok(Answer {
        status: 200,
        content_type,
        body: read(&body)?,
    })
}

/// A line for each header.
fn headers(request: &IncomingRequest) -> String {
    let line =
        |(name, value): (String, Vec<u8>)| format!("{name}: {}\n", String::from_utf8_lossy(&value));
    request.headers().entries().into_iter().map(line).collect()
}

/// A line for each variable of the environment.
fn variables() -> String {
    let variables = environment::get_environment();
    let lines = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"));
    lines.collect()
}

/// Writes a line to standard output and one to standard error.
fn print() -> Result<Answer, String> {
    let lost = |error: std::io::Error| error.to_string();
    writeln!(stdout::get_stdout(), "a line of output").map_err(lost)?;
    writeln!(stderr::get_stderr(), "a line of errors").map_err(lost)?;
    Ok(Answer::text(200, "printed"))
}

fn read(body: &IncomingBody) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut stream = body.stream().map_err(|()| "the body is gone")?;
    stream
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}
