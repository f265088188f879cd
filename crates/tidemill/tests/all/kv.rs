//! State over HTTP.

use crate::support::Node;
use serde_json::{Value, json};

fn post(node: &Node, path: &str, body: &Value) -> Value {
    let reply = node.ask("POST", path, &body.to_string());
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text());
    reply.json()
}

fn value(node: &Node, key: &str) -> Value {
    let reply = node.ask("GET", &format!("/v1/kv/a/{key}?view=json"), "");
    assert_eq!(reply.status, 200, "{key}: {}", reply.text());
    reply.json()
}

#[test]
fn every_type_is_written_and_read() {
    let node = Node::start();
    let writes = json!([
        {"key": "register", "type": "register", "op": "set", "value": {"a": [1, null]}},
        {"key": "multi", "type": "multi", "op": "set", "value": "x"},
        {"key": "counter", "type": "counter", "op": "add", "value": 5},
        {"key": "counter", "type": "counter", "op": "add", "value": -7},
        {"key": "max", "op": "max.put", "value": 2.5},
        {"key": "min", "op": "min.put", "value": "b"},
        {"key": "flag", "type": "flag", "op": "raise"},
        {"key": "set", "type": "set", "op": "add", "value": "x"},
        {"key": "set", "type": "set", "op": "add", "value": [1]},
        {"key": "set", "type": "set", "op": "remove", "value": "x"},
        {"key": "map", "type": "map", "field": "n", "field_type": "counter", "op": "add", "value": 1},
        {"key": "map", "type": "map", "field": "gone", "op": "register.set", "value": 1},
        {"key": "map", "type": "map", "field": "gone", "op": "remove"},
        {"key": "log", "type": "log", "op": "append", "value": 1, "keep": 2},
        {"key": "log", "type": "log", "op": "append", "value": 2, "keep": 2},
        {"key": "log", "type": "log", "op": "append", "value": 3, "keep": 2},
        {"key": "top", "type": "top", "op": "put", "value": {"score": 1, "id": "x"}, "of": 2},
        {"key": "top", "type": "top", "op": "put", "value": {"score": 3, "id": "y"}, "of": 2},
        {"key": "top", "type": "top", "op": "put", "value": {"score": 2, "id": "z"}, "of": 2},
    ]);
    let written = post(&node, "/v1/kv/a", &writes);
    assert!(
        written["time"]
            .as_str()
            .is_some_and(|time| time.contains('.')),
        "{written}"
    );
    let expected = json!({
        "register": {"a": [1, null]},
        "multi": ["x"],
        "counter": -2,
        "max": 2.5,
        "min": "b",
        "flag": true,
        "set": [[1]],
        "map": {"n": {"type": "counter", "value": 1}},
        "log": [2, 3],
        "top": [{"score": 3, "id": "y"}, {"score": 2, "id": "z"}],
    });
    for (kind, expected) in expected.as_object().expect("an object") {
        let found = value(&node, kind);
        assert_eq!(found["type"], **kind);
        assert_eq!(&found["value"], expected, "{kind}");
        if kind != "register" {
            let plain = node.ask("GET", &format!("/v1/kv/a/{kind}"), "").json();
            assert_eq!(&plain, &found);
        }
    }
}

#[test]
fn a_register_keeps_its_bytes_and_content_type() {
    let node = Node::start();
    let bytes: Vec<u8> = (0..=255).collect();
    let cases: [(&str, &[u8], &str); 4] = [
        ("image/png", &bytes, "image/png"),
        (
            "application/json",
            b" { \"b\": 12345678901234567890123, \"a\": 1 } ",
            "application/json",
        ),
        (
            "text/plain; charset=utf-8",
            "\u{e4}".as_bytes(),
            "text/plain; charset=utf-8",
        ),
        ("application/octet-stream", b"", "application/octet-stream"),
    ];
    for (content_type, body, expected) in cases {
        let headers = [("Content-Type", content_type)];
        let reply = node.ask_with("PUT", "/v1/kv/a/k", &headers, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let reply = node.ask("GET", "/v1/kv/a/k", "");
        assert_eq!(reply.header("content-type"), expected);
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.body, body);
    }
    assert_eq!(
        value(&node, "k")["value"]["content_type"],
        "application/octet-stream"
    );
    let broken = node.ask("PUT", "/v1/kv/a/k", "{\"a\":}");
    let problem = broken.problem("bad-request");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap_or_default()
            .contains("line 1 column 6"),
        "{problem}"
    );
}

#[test]
fn a_key_of_another_type_is_refused_and_nothing_is_written() {
    let node = Node::start();
    post(
        &node,
        "/v1/kv/a/k",
        &json!({"op": "counter.add", "value": 1}),
    );
    let reply = node.ask("POST", "/v1/kv/a/k", r#"{"op":"set.add","value":1}"#);
    let problem = reply.problem("wrong-type");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("counter") && detail.contains("set"),
        "{detail}"
    );
    let both = json!([
        {"key": "other", "op": "counter.add", "value": 1},
        {"key": "k", "op": "set.add", "value": 1},
    ]);
    node.ask("POST", "/v1/kv/a", &both.to_string())
        .problem("wrong-type");
    node.ask("GET", "/v1/kv/a/other", "").problem("unknown-key");
    assert_eq!(value(&node, "k")["value"], 1);
    let reply = node.ask("POST", "/v1/kv/a/k", r#"{"op":"counter.add","value":"1"}"#);
    reply.problem("bad-value");
}

#[test]
fn keys_are_any_text_within_a_bound() {
    let node = Node::start();
    let keys = [
        ("a/b//c", "a/b//c"),
        ("%2Fstart", "/start"),
        ("with%20space%20%C3%A4%25", "with space \u{e4}%"),
        ("q%3Fa%23b", "q?a#b"),
    ];
    for (path, key) in keys {
        assert_eq!(
            node.ask("PUT", &format!("/v1/kv/a/{path}"), "1").status,
            200,
            "{key}"
        );
        assert_eq!(value(&node, path)["value"], 1);
        let deleted = json!([{"key": key, "op": "delete"}]);
        post(&node, "/v1/kv/a", &deleted);
        node.ask("GET", &format!("/v1/kv/a/{path}"), "")
            .problem("unknown-key");
    }
    let long = "k".repeat(10_240);
    node.ask("PUT", &format!("/v1/kv/a/{long}"), "1")
        .problem("bad-key");
    node.ask("GET", &format!("/v1/kv/a/{long}"), "")
        .problem("bad-key");
    node.ask("PUT", "/v1/kv/1%20no/k", "1").problem("bad-key");
    let not_utf8 = node.ask("GET", "/v1/kv/a/%FF", "");
    not_utf8.problem("bad-request");
}

#[test]
fn keys_are_listed_page_by_page() {
    let node = Node::start();
    for index in 0..5 {
        let op = json!({"op": "counter.add", "value": 1});
        post(&node, &format!("/v1/kv/a/n%2F{index}"), &op);
    }
    post(&node, "/v1/kv/a/other", &json!({"op": "flag.raise"}));
    post(&node, "/v1/kv/b/n%2F9", &json!({"op": "flag.raise"}));
    let mut after = String::new();
    let mut found = Vec::new();
    loop {
        let page = node
            .ask("GET", &format!("/v1/kv/a?prefix=n/&limit=2{after}"), "")
            .json();
        let keys = page["keys"].as_array().expect("keys");
        assert!(keys.len() <= 2);
        for key in keys {
            assert_eq!(key["type"], "counter");
            found.push(key["key"].as_str().unwrap_or_default().to_owned());
        }
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!(found, ["n/0", "n/1", "n/2", "n/3", "n/4"]);
    let all = node.ask("GET", "/v1/kv/a", "").json();
    assert_eq!(all["keys"].as_array().map(Vec::len), Some(6));
}

#[test]
fn a_key_expires_and_may_be_deleted() {
    let node = Node::start();
    post(
        &node,
        "/v1/kv/a/k",
        &json!([
            {"op": "counter.add", "value": 1},
            {"op": "expire", "value": 1},
        ]),
    );
    node.ask("GET", "/v1/kv/a/k", "").problem("unknown-key");
    post(&node, "/v1/kv/a/k", &json!({"op": "set.add", "value": 1}));
    assert_eq!(value(&node, "k")["type"], "set");
    assert_eq!(node.ask("DELETE", "/v1/kv/a/k", "").status, 200);
    node.ask("GET", "/v1/kv/a/k", "").problem("unknown-key");
    assert_eq!(node.ask("DELETE", "/v1/kv/a/k", "").status, 200);
}

#[test]
fn what_was_answered_outlives_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut node = Node::start_on(&data, &[], &[]);
    for _ in 0..10 {
        post(
            &node,
            "/v1/kv/a/k",
            &json!({"op": "counter.add", "value": 1}),
        );
    }
    let token = node.token.clone();
    node.signal("KILL");
    assert_eq!(node.wait(), None);
    let node = Node::start_on(&data, &[], &[]);
    assert_eq!(node.token, token);
    assert_eq!(value(&node, "k")["value"], 10);
}
