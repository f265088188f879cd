//! Calls: from headers and body to the runtime's call, and from its answer back.
//!
//! The future of a call lives in the connection: when the client goes, it is
//! dropped, and with it the request.

use crate::body;
use crate::problems::{self, Occurrence, REQUEST, TRACE, hex_value};
use crate::routes::Context;
use crate::terms;
use crate::views::write_payload;
use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;
use tidemill_lattice::{ContentType, Payload};
use tidemill_problem::{Code, Problem};
use tidemill_runtime::{Answer, Call, Caller, Output, RequestId, SessionSeen, StreamEvent};
use tidemill_telemetry::TraceContext;
use tokio::sync::mpsc;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const TIMEOUT: HeaderName = HeaderName::from_static("tidemill-timeout");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The tenant of everything that comes through this door.
const TENANT: &str = "default";
/// Who holds the node's token.
pub(crate) const SUBJECT: &str = "token";

/// The longest `Idempotency-Key`, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// The longest `Tidemill-Timeout`: a year, which no call outlives.
const TIMEOUT_S_MAX: f64 = 31_536_000.0;

/// How often a silent stream says that it is alive, so that a client that has
/// gone is noticed.
const STREAM_PULSE: Duration = Duration::from_secs(15);

/// `POST /v1/call/{app}/{function}`
pub(crate) async fn call(context: &Context<'_>, body: Body) -> Result<Response, Problem> {
    let body = body::read(body, context.state.options.body_bytes_max).await?;
    let headers = &context.parts.headers;
    let (app, function) = (context.param("app")?, context.param("function")?);
    let call = asked(headers, SUBJECT, app, function, input(headers, body)?)?;
    if wants_no_wait(headers) {
        let id = context.state.runtime.submit(call)?;
        return Ok(accepted(id.0));
    }
    let occurrence = Occurrence::of(headers);
    let answer = context.state.runtime.call(call).await;
    Ok(respond(answer, occurrence))
}

/// The call of a function, with what headers say about calls.
///
/// # Errors
/// `bad-request` for a header that says nothing that can be understood.
pub(crate) fn asked(
    headers: &HeaderMap,
    subject: &str,
    app: &str,
    function: &str,
    input: Payload,
) -> Result<Call, Problem> {
    Ok(Call {
        app: app.to_owned(),
        function: function.to_owned(),
        input,
        key: idempotency_key(headers)?,
        trace: trace(headers),
        caller: Caller {
            tenant: TENANT.to_owned(),
            subject: subject.to_owned(),
        },
        timeout: timeout(headers)?,
        asked: terms::asked(headers)?,
    })
}

fn accepted(id: u128) -> Response {
    let body = json!({ "request": format!("{id:032x}"), "state": "running" });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REQUEST, hex_value(id));
    headers.insert(
        PREFERENCE_APPLIED,
        HeaderValue::from_static("respond-async"),
    );
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/requests/{id:032x}")) {
        headers.insert(LOCATION, location);
    }
    response
}

fn respond(answer: Answer, occurrence: Occurrence) -> Response {
    let occurrence = occurrence.within(answer.request, Some(answer.trace.trace));
    let (result, marks) = Marks::of(answer);
    let mut response = match result {
        Ok(Output::Value(payload)) => value(payload),
        Ok(Output::Stream(events)) => event_stream(events, occurrence),
        Err(problem) => problems::respond(&problem, occurrence),
    };
    mark(&mut response, &marks);
    response
}

/// What an answer is of.
pub(crate) struct Marks {
    request: RequestId,
    trace: TraceContext,
    is_repeated: bool,
    session: Option<SessionSeen>,
}

impl Marks {
    /// Takes an answer apart.
    pub(crate) fn of(answer: Answer) -> (Result<Output, Problem>, Self) {
        let marks = Self {
            request: answer.request,
            trace: answer.trace,
            is_repeated: answer.is_repeated,
            session: answer.session,
        };
        (answer.result, marks)
    }
}

/// Says in headers which request an answer is of.
pub(crate) fn mark(response: &mut Response, answer: &Marks) {
    let token = answer.session.as_ref().map(SessionSeen::token);
    terms::mark(response, token.as_deref());
    let headers = response.headers_mut();
    headers.insert(REQUEST, hex_value(answer.request.0));
    headers.insert(TRACE, hex_value(answer.trace.trace.0));
    if answer.is_repeated {
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
}

/// A payload as an answer: its bytes, with its content type.
pub(crate) fn value(payload: Payload) -> Response {
    let content_type = match &payload.content_type {
        ContentType::Json => HeaderValue::from_static("application/json"),
        ContentType::OctetStream => HeaderValue::from_static("application/octet-stream"),
        other => HeaderValue::from_str(other.as_str())
            .unwrap_or(HeaderValue::from_static("application/octet-stream")),
    };
    let mut response = Response::new(Body::from(payload.body));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The arguments of a call as the body holds them.
fn input(headers: &HeaderMap, body: Bytes) -> Result<Payload, Problem> {
    if body.is_empty() {
        return Ok(Payload {
            content_type: ContentType::Json,
            body: Bytes::from_static(b"[]"),
        });
    }
    let content_type = body::content_type(headers)?;
    if content_type == ContentType::Json {
        check_arguments(&body)?;
    }
    Ok(Payload { content_type, body })
}

/// Checks that a body is JSON of the shape of arguments, without building it: the
/// worker does that.
fn check_arguments(body: &[u8]) -> Result<(), Problem> {
    // Skipping a string does not look at its encoding, so that is done first.
    let text = std::str::from_utf8(body).map_err(|error| {
        let detail = format!("the body is not UTF-8 from byte {} on", error.valid_up_to());
        Problem::new(Code::BadRequest, detail)
    })?;
    body::check_depth(body)?;
    serde_json::from_str::<Arguments>(text)
        .map(|Arguments| ())
        .map_err(|error| body::json_problem("the body", &error))
}

/// `{"args": […], "kwargs": {…}}` or `[…]`.
struct Arguments;

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ArgumentsVisitor)
    }
}

struct ArgumentsVisitor;

impl<'de> Visitor<'de> for ArgumentsVisitor {
    type Value = Arguments;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of arguments, or an object with `args` and `kwargs`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Arguments, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Arguments)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Arguments, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "lowercase")]
        enum Field {
            Args,
            Kwargs,
        }
        while let Some(field) = map.next_key()? {
            match field {
                Field::Args => map.next_value::<List>().map(|List| ())?,
                Field::Kwargs => map.next_value::<Object>().map(|Object| ())?,
            }
        }
        Ok(Arguments)
    }
}

macro_rules! shape {
    ($name:ident, $deserialize:ident, $expected:literal, $visit:item) => {
        struct $name;

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Shape;
                impl<'de> Visitor<'de> for Shape {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    $visit
                }
                d.$deserialize(Shape)
            }
        }
    };
}

shape!(
    List,
    deserialize_seq,
    "an array of positional arguments",
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(List)
    }
);

shape!(
    Object,
    deserialize_map,
    "an object of named arguments",
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Object)
    }
);

fn wants_no_wait(headers: &HeaderMap) -> bool {
    // RFC 7240: a list of preferences, each with parameters; unknown ones are ignored.
    let values = headers.get_all(PREFER);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|preference| preference.split(';').next())
        .any(|name| name.trim().eq_ignore_ascii_case("respond-async"))
}

/// The key (draft-ietf-httpapi-idempotency-key-header-07): a structured string, RFC 8941, whose
/// quotes may be left out.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let bad = |detail: String| Problem::new(Code::BadRequest, detail);
    let mut given = headers.get_all(&IDEMPOTENCY_KEY).iter();
    if given.next().is_some() && given.next().is_some() {
        return Err(bad("the header `Idempotency-Key` is there twice".to_owned()));
    }
    let Some(text) = body::header(headers, &IDEMPOTENCY_KEY)? else {
        return Ok(None);
    };
    let text = text.trim();
    let key = match text.strip_prefix('"') {
        Some(rest) => unquote(rest).ok_or_else(|| {
            bad("the header `Idempotency-Key` begins with a quote and is no string".to_owned())
        })?,
        None => text.to_owned(),
    };
    let is_printable = key.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !is_printable {
        return Err(bad(format!(
            "the header `Idempotency-Key` holds 1 to {KEY_BYTES_MAX} printable ASCII characters"
        )));
    }
    Ok(Some(key))
}

/// The rest of a string behind its first quote (RFC 8941, section 4.2.5).
fn unquote(rest: &str) -> Option<String> {
    let mut key = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(key),
            '\\' => match chars.next()? {
                escaped @ ('"' | '\\') => key.push(escaped),
                _ => return None,
            },
            plain => key.push(plain),
        }
    }
}

/// The trace to join. A malformed header starts a new trace, as the
/// recommendation asks, instead of failing the call.
fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    TraceContext::parse(text)
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(text) = body::header(headers, &TIMEOUT)? else {
        return Ok(None);
    };
    let seconds = text.trim().parse::<f64>().ok();
    match seconds.filter(|seconds| *seconds > 0.0 && *seconds <= TIMEOUT_S_MAX) {
        Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        None => Err(Problem::new(
            Code::BadRequest,
            format!(
                "the header `Tidemill-Timeout` holds seconds above zero, such as 1.5; not {text:?}"
            ),
        )),
    }
}

/// A generator's events as server-sent events.
fn event_stream(events: mpsc::Receiver<StreamEvent>, occurrence: Occurrence) -> Response {
    let chunks = stream::unfold(Some(events), move |events| async move {
        let mut events = events?;
        let chunk = match tokio::time::timeout(STREAM_PULSE, events.recv()).await {
            Err(_) => Bytes::from_static(b": alive\n\n"),
            Ok(None) => {
                let detail = "the stream ended without saying how";
                let lost = StreamEvent::Failed(Problem::new(Code::Internal, detail));
                return Some((Ok(event(&lost, occurrence)), None));
            }
            Ok(Some(next)) => {
                let chunk = event(&next, occurrence);
                if !matches!(next, StreamEvent::Item(_)) {
                    return Some((Ok(chunk), None));
                }
                chunk
            }
        };
        Some((Ok::<_, Infallible>(chunk), Some(events)))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// One server-sent event.
fn event(event: &StreamEvent, occurrence: Occurrence) -> Bytes {
    let mut out = Vec::new();
    match event {
        StreamEvent::Item(payload) => {
            let mut item = Vec::with_capacity(payload.body.len());
            write_payload(&mut item, payload);
            write_event(&mut out, "item", &item);
        }
        StreamEvent::Committed { session } => {
            let data = match session {
                Some(token) => json!({ "session": token }),
                None => json!({}),
            };
            write_event(&mut out, "committed", data.to_string().as_bytes());
        }
        StreamEvent::Failed(problem) => {
            let document = problems::document(problem, occurrence).to_string();
            write_event(&mut out, "failed", document.as_bytes());
        }
    }
    Bytes::from(out)
}

/// Writes an event; a line end within the data begins another `data:` line.
fn write_event(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    out.reserve(data.len() + name.len() + 20);
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"\ndata: ");
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let value = HeaderValue::from_str(value).expect("a header value");
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    fn input_of(content_type: &str, body: &'static str) -> Result<Payload, Problem> {
        input(
            &headers(&[("content-type", content_type)]),
            Bytes::from_static(body.as_bytes()),
        )
    }

    #[test]
    fn arguments_are_an_array_an_object_or_one_value_of_another_type() {
        let none = input(&HeaderMap::new(), Bytes::new()).expect("an empty body is a call");
        assert_eq!(&none.body[..], b"[]");
        for good in [
            "[]",
            " [1, {\"a\": [2]}] ",
            "{}",
            "{\"args\": [1]}",
            "{\"kwargs\": {\"a\": 1}, \"args\": []}",
        ] {
            let payload = input_of("application/json", good).expect(good);
            assert_eq!(payload.body, good);
            assert_eq!(payload.content_type, ContentType::Json);
        }
        let text = input_of("text/plain", "[not json").expect("any text");
        assert_eq!(text.content_type.as_str(), "text/plain");
        let octets = input(&HeaderMap::new(), Bytes::from_static(b"\xff")).expect("octets");
        assert_eq!(octets.content_type, ContentType::OctetStream);
    }

    #[test]
    fn json_that_is_no_arguments_is_refused_with_its_place() {
        let cases = [
            ("[1,\n2", "line 2"),
            ("7", "an array of arguments"),
            ("{\"arguments\": []}", "unknown field"),
            ("{\"args\": 7}", "an array of positional arguments"),
            ("{\"kwargs\": []}", "an object of named arguments"),
            ("[1] [2]", "trailing characters"),
        ];
        for (body, expected) in cases {
            let problem = input_of("application/json", body).expect_err(body);
            assert_eq!(problem.code, Code::BadRequest);
            assert!(problem.detail.contains(expected), "{}", problem.detail);
        }
        let bytes = Bytes::from_static(b"[\"\xff\"]");
        let json = headers(&[("content-type", "application/json")]);
        let problem = input(&json, bytes).expect_err("not UTF-8");
        assert!(problem.detail.contains("byte 2"), "{}", problem.detail);
    }

    #[test]
    fn preferences_are_a_list() {
        for yes in ["respond-async", "wait=5, Respond-Async; x=1"] {
            assert!(wants_no_wait(&headers(&[("prefer", yes)])), "{yes}");
        }
        for no in ["wait=5", "respond-asynchronously", ""] {
            assert!(!wants_no_wait(&headers(&[("prefer", no)])), "{no}");
        }
        assert!(wants_no_wait(&headers(&[
            ("prefer", "a"),
            ("prefer", "respond-async")
        ])));
    }

    #[test]
    fn headers_are_read_or_refused() {
        let key = |text: &str| idempotency_key(&headers(&[("idempotency-key", text)]));
        assert_eq!(key("\"a-1\"").expect("valid").as_deref(), Some("a-1"));
        assert_eq!(key("a-1").expect("valid").as_deref(), Some("a-1"));
        assert!(key("\"\"").is_err());
        assert!(key(&"k".repeat(255)).is_ok());
        assert!(key(&"k".repeat(256)).is_err());
        let quoted = key(r#""a \"b\" \\ c~""#).expect("valid");
        assert_eq!(quoted.as_deref(), Some(r#"a "b" \ c~"#));
        for bad in [
            "", "\"", "\"a", "\"a\"b", "\"a\\b\"", "\"a\\", "a\tb", "\u{e9}",
        ] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        let twice = headers(&[("idempotency-key", "a"), ("idempotency-key", "b")]);
        assert!(idempotency_key(&twice).is_err());
        let time = |text| timeout(&headers(&[("tidemill-timeout", text)]));
        assert_eq!(
            time("1.5").expect("valid"),
            Some(Duration::from_millis(1500))
        );
        for bad in ["0", "-1", "NaN", "inf", "soon", "1e30"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert_eq!(trace(&headers(&[("traceparent", "nonsense")])), None);
    }

    #[test]
    fn events_are_written_line_by_line() {
        let none = Occurrence::default();
        let item = |content_type: &str, body: &'static [u8]| {
            StreamEvent::Item(Payload {
                content_type: ContentType::parse(content_type).expect("a type"),
                body: Bytes::from_static(body),
            })
        };
        let json = event(&item("application/json", b"{\n\"a\":1}"), none);
        assert_eq!(&json[..], b"event: item\ndata: {\ndata: \"a\":1}\n\n");
        let bytes = event(&item("image/png", b"\x01"), none);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("\"base64\":\"AQ==\""), "{text}");
        let alike = event(
            &item(
                "application/json",
                br#"{"content_type":"x","base64":"AA=="}"#,
            ),
            none,
        );
        let text = String::from_utf8_lossy(&alike);
        assert!(
            text.contains("\"content_type\":\"application/json\""),
            "{text}"
        );
        assert_eq!(
            &event(&StreamEvent::Committed { session: None }, none)[..],
            b"event: committed\ndata: {}\n\n"
        );
        let session = Some("1a".to_owned());
        assert_eq!(
            &event(&StreamEvent::Committed { session }, none)[..],
            b"event: committed\ndata: {\"session\":\"1a\"}\n\n"
        );
        let failed = event(
            &StreamEvent::Failed(Problem::new(Code::TimedOut, "late")),
            none,
        );
        let text = String::from_utf8_lossy(&failed);
        assert!(text.starts_with("event: failed\ndata: {"), "{text}");
        assert!(text.contains("\"code\":\"timed-out\""), "{text}");
    }
}
