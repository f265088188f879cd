//! Session tokens over HTTP.

use crate::support::Node;

const KEY: &str = "/v1/kv/a/k";

fn token(node: &Node, method: &str, path: &str, body: &str, before: &str) -> String {
    let headers = [
        ("Content-Type", "application/json"),
        ("Tidemill-Session", before),
    ];
    let count = if before.is_empty() { 1 } else { 2 };
    let reply = node.ask_with(method, path, &headers[..count], body.as_bytes());
    assert!(reply.status < 300, "{method} {path}: {}", reply.text());
    reply.header("tidemill-session").to_owned()
}

#[test]
fn each_answer_of_state_names_a_later_state() {
    let node = Node::start();
    let mut last = String::new();
    for (method, path, body) in [
        ("PUT", KEY, "1"),
        ("GET", KEY, ""),
        ("GET", "/v1/kv/a", ""),
        (
            "POST",
            "/v1/kv/a",
            r#"[{"key":"c","op":"counter.add","value":1}]"#,
        ),
        ("POST", "/v1/kv/a/c", r#"{"op":"counter.add","value":1}"#),
        ("DELETE", KEY, ""),
    ] {
        let next = token(&node, method, path, body, &last);
        assert!(
            next.len() <= 100 && next >= last,
            "{method} {path}: {next} after {last}"
        );
        last = next;
    }
    let gone = node.ask_with("GET", KEY, &[("Tidemill-Session", &last)], b"");
    gone.problem("unknown-key");
    assert!(gone.header("tidemill-session") >= last.as_str());
    assert_eq!(
        node.ask("GET", "/v1/apps", "").header("tidemill-session"),
        ""
    );
}

#[test]
fn a_token_of_somebody_else_is_refused() {
    let node = Node::start();
    let mine = token(&node, "PUT", KEY, "1", "");
    let theirs = token(&Node::start(), "PUT", KEY, "1", "");
    for bad in [theirs.as_str(), "x", &mine[1..], &mine.replace('1', "2")] {
        for (method, path) in [("GET", KEY), ("PUT", KEY), ("POST", "/v1/call/none/f")] {
            let reply = node.ask_with(method, path, &[("Tidemill-Session", bad)], b"[]");
            reply.problem("bad-session-token");
        }
    }
}

#[test]
fn a_session_goes_on_after_a_restart_and_ends_where_its_writes_were_lost() {
    let data = tempfile::tempdir().expect("a directory");
    let mut node = Node::start_on(data.path(), &[], &[]);
    let durable = token(&node, "PUT", KEY, "1", "");
    node.signal("KILL");
    node.wait();
    let mut node = Node::start_on(data.path(), &[], &[]);
    let durable = token(&node, "GET", KEY, "", &durable);
    // Of level `eventual` and durability `memory`: answered before the log has it.
    let terms = [
        ("Tidemill-Level", "eventual"),
        ("Tidemill-Durability", "memory"),
        ("Tidemill-Session", durable.as_str()),
    ];
    let reply = node.ask_with("PUT", "/v1/kv/a/other", &terms, b"2");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let unsafe_one = reply.header("tidemill-session").to_owned();
    node.signal("KILL");
    node.wait();
    let node = Node::start_on(data.path(), &[], &[]);
    let lost = node.ask_with("GET", KEY, &[("Tidemill-Session", &unsafe_one)], b"");
    lost.problem("state-lost");
    let anew = token(&node, "GET", KEY, "", "");
    assert!(
        anew > unsafe_one,
        "the new session's tokens come after the lost ones"
    );
}
