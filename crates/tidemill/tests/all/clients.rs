//! Clients that send what they should not, or send it badly, or not at all.

use crate::bundle::python;
use crate::support::{Node, Reply};
use crate::wire::{Wire, many_open_files};
use serde_json::{Value, json};
use std::time::Duration;

const ECHO: &str = r#"
import tidemill
app = tidemill.App("plain")

@app.function
def echo(value):
    return value
"#;

fn with_echo() -> Node {
    let node = Node::start();
    node.deploy("plain", &python("plain", ECHO, &json!([{"name": "echo"}])));
    node
}

/// Sends bytes on a connection of their own and reads one answer.
fn raw(node: &Node, bytes: &[u8]) -> Reply {
    let mut wire = Wire::open(node).expect("connected");
    wire.send(bytes).expect("sent");
    wire.answer().expect("answered")
}

fn detail(problem: &Value) -> &str {
    problem["detail"].as_str().unwrap_or_default()
}

#[test]
fn a_body_in_chunks_is_bounded_too() {
    let node = Node::start_with(&[], &[("TIDEMILL_HTTP_BODY_BYTES_MAX", "100000")]);
    let mut request = format!(
        "PUT /v1/kv/a/k HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
        node.token
    )
    .into_bytes();
    for _ in 0..200 {
        request.extend_from_slice(b"400\r\n");
        request.extend_from_slice(&[b'x'; 1024]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let problem = raw(&node, &request).problem("payload-too-large");
    assert!(detail(&problem).contains("100000 bytes"), "{problem}");
    node.ask("GET", "/v1/kv/a/k", "").problem("unknown-key");
}

#[test]
fn json_that_is_broken_or_bottomless_is_told_so() {
    let node = with_echo();
    let call = |body: &str| node.ask("POST", "/v1/call/plain/echo", body);
    let problem = call("[1,\n  x]").problem("bad-request");
    assert!(detail(&problem).contains("line 2 column 3"), "{problem}");
    let json = [("Content-Type", "application/json")];
    let bad = b"[\"\xc3\x28\"]";
    let reply = node.ask_with("POST", "/v1/call/plain/echo", &json, bad);
    assert!(detail(&reply.problem("bad-request")).contains("UTF-8"));
    node.ask_with("PUT", "/v1/kv/a/k", &json, bad)
        .problem("bad-request");
    node.ask_with("POST", "/v1/kv/a/k", &json, bad)
        .problem("bad-request");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    call(&format!("[{deep}]")).problem("bad-request");
    call(&deep).problem("bad-request");
    node.ask("PUT", "/v1/kv/a/k", &deep).problem("bad-request");
    let op = format!("{{\"op\": \"set.add\", \"value\": {deep}}}");
    node.ask("POST", "/v1/kv/a/k", &op).problem("bad-request");
    let fits = format!("{}{}", "[".repeat(100), "]".repeat(100));
    assert_eq!(call(&format!("[{fits}]")).status, 200);
    assert_eq!(node.ask("PUT", "/v1/kv/a/k", &fits).status, 200);
}

#[test]
fn what_is_no_type_and_no_key_is_refused() {
    let node = Node::start();
    let post = |path: &str, body: Value| node.ask("POST", path, &body.to_string());
    let unknown = post(
        "/v1/kv/a/k",
        json!({"type": "blob", "op": "set", "value": 1}),
    );
    let problem = unknown.problem("bad-request");
    assert!(detail(&problem).contains("blob"), "{problem}");
    let empty = json!([{"key": "", "op": "flag.raise"}]);
    post("/v1/kv/a", empty).problem("bad-key");
    let long = json!([{"key": "k".repeat(10_240), "op": "flag.raise"}]);
    post("/v1/kv/a", long).problem("bad-key");
    node.ask("PUT", "/v1/kv/a/", "1").problem("unknown-path");
    let media = [("Content-Type", "no media type")];
    node.ask_with("PUT", "/v1/kv/a/k", &media, b"1")
        .problem("bad-request");
    assert_eq!(node.ask("GET", "/v1/kv/a", "").json()["keys"], json!([]));
}

#[test]
fn the_token_counts_in_its_scheme_only() {
    let node = Node::start();
    let token = node.token.clone();
    let wrong = [
        format!("Basic {token}"),
        format!("Token {token}"),
        token.clone(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {token} {token}"),
        format!("Bearer {token}x"),
        format!("Bearer {}", &token[1..]),
    ];
    for authorization in &wrong {
        let headers = [("Host", "localhost"), ("Authorization", authorization)];
        let reply = node.ask_raw("GET", "/v1/apps", &headers, b"");
        reply.problem("unauthorized");
    }
    let path = format!("/v1/apps?access_token={token}");
    let reply = node.ask_raw("GET", &path, &[("Host", "localhost")], b"");
    reply.problem("unauthorized");
}

#[test]
fn requests_may_come_ahead_of_answers() {
    let node = with_echo();
    let mut wire = Wire::open(&node).expect("connected");
    let all: String = (0..20)
        .map(|number| wire.request("POST", "/v1/call/plain/echo", &format!("[{number}]")))
        .collect();
    wire.send(all.as_bytes()).expect("sent");
    for number in 0..20 {
        assert_eq!(wire.answer().expect("answered").json(), number);
    }
}

#[test]
fn what_is_no_http_is_answered_briefly() {
    let node = Node::start();
    let authorization = format!("Authorization: Bearer {}\r\n", node.token);
    let head = |first: &str, more: &str| {
        format!("{first} HTTP/1.1\r\nHost: localhost\r\n{authorization}{more}\r\n")
    };
    let reply = raw(&node, head("BREW /v1/apps", "").as_bytes());
    reply.problem("method-not-allowed");
    let huge = format!("X-Large: {}\r\n", "x".repeat(1 << 20));
    let mut wire = Wire::open(&node).expect("connected");
    // The node may close before it has read all of it.
    drop(wire.send(head("GET /v1/apps", &huge).as_bytes()));
    if let Ok(reply) = wire.answer() {
        assert_eq!(reply.status, 431);
    }
    let many: String = (0..1000).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(
        raw(&node, head("GET /v1/apps", &many).as_bytes()).status,
        431
    );
    for nonsense in [
        "\u{1}\u{2}\u{3}\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        assert_eq!(raw(&node, nonsense.as_bytes()).status, 400, "{nonsense:?}");
    }
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    let smuggled = format!(
        "{}0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n",
        head("PUT /v1/kv/a/k", both)
    );
    let mut wire = Wire::open(&node).expect("connected");
    wire.send(smuggled.as_bytes()).expect("sent");
    let first = wire.answer().expect("answered").status;
    assert!(matches!(first, 200 | 400), "{first}");
    let signed = head("PUT /v1/kv/a/k", "Content-Length: +5\r\n") + "12345";
    assert_eq!(raw(&node, signed.as_bytes()).status, 400);
    assert_eq!(node.ask("GET", "/readyz", "").status, 200);
}

#[test]
fn many_idle_and_half_sent_connections_keep_nobody_out() {
    many_open_files();
    // A node that starts under the usual limit.
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let node = Node::start_under("ulimit -S -n 256", &data, &[]);
    let open = || Wire::open(&node).expect("connected");
    let mut idle: Vec<Wire> = (0..1000).map(|_| open()).collect();
    let half: Vec<Wire> = (0..200)
        .map(|number| {
            let mut wire = open();
            let request = wire.request("PUT", "/v1/kv/a/k", "12345678");
            let end = request.len() * (number % 9 + 1) / 10;
            wire.send(&request.as_bytes()[..end]).expect("sent");
            wire
        })
        .collect();
    for number in 0..20 {
        let body = number.to_string();
        assert_eq!(node.ask("PUT", "/v1/kv/a/n", &body).status, 200);
        assert_eq!(node.ask("GET", "/v1/kv/a/n", "").json(), number);
    }
    for wire in &mut idle {
        wire.patience(Duration::from_secs(30));
        assert_eq!(wire.ask("GET", "/livez", "").expect("answered").status, 200);
    }
    drop(half);
    node.ask("GET", "/v1/kv/a/k", "").problem("unknown-key");
}
