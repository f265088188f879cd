//! Workers that are programs of their own: one that does as documented, and some that
//! do not.

use crate::bundle::{meanwhile, program};
use crate::processes::{resident_kib, started_by, within, zombies_of};
use crate::support::{Node, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

const WORKER: &str = include_str!("../fixtures/worker.py");
const HOSTILE: &str = include_str!("../fixtures/hostile.py");

/// What each function of the hostile worker must come to.
const ABUSES: &[(&str, &str)] = &[
    ("too_long", "payload-too-large"),
    ("too_short", "worker-crashed"),
    ("header_beyond", "worker-crashed"),
    ("unknown_kind", "worker-crashed"),
    ("nodes_own_kind", "worker-crashed"),
    ("no_json", "worker-crashed"),
    ("no_text", "worker-crashed"),
    ("deep", "worker-crashed"),
    ("nothing", "worker-crashed"),
    ("strange_step", "worker-crashed"),
    ("begins_out_of_turn", "worker-crashed"),
    ("strange_wait", "worker-crashed"),
    ("strange_output", "worker-crashed"),
    ("no_output", "worker-crashed"),
    ("short_payload", "worker-crashed"),
    ("many_payloads", "worker-crashed"),
    ("outside", "worker-crashed"),
    ("outside_by_prefix", "worker-crashed"),
    ("missing", "worker-crashed"),
    ("pipe", "worker-crashed"),
    ("holes", "payload-too-large"),
    ("leaves", "worker-crashed"),
    ("silent", "timed-out"),
    ("reply_flood", "timed-out"),
    ("log_flood", "timed-out"),
    ("write_flood", "timed-out"),
];

fn hostile(arguments: &[&str]) -> Vec<u8> {
    let abuses = ABUSES.iter().map(|(name, _)| (*name, 1000));
    // These are to end by themselves, on a busy machine as well.
    let more = [("fine", 60_000), ("long_log", 60_000)];
    let functions: Vec<Value> = abuses
        .chain(more)
        .map(|(name, timeout_ms)| json!({"name": name, "timeout_ms": timeout_ms}))
        .collect();
    program("hostile", HOSTILE, arguments, &json!(functions))
}

fn calm() -> Vec<u8> {
    let functions = json!([{"name": "visit"}, {"name": "length"}]);
    program("calm", WORKER, &[], &functions)
}

#[test]
fn a_worker_may_be_written_in_anything() {
    let node = Node::start();
    node.deploy("calm", &calm());
    for visits in 1..=3 {
        let reply = node.call("calm", "visit", &json!(["Ada"]));
        assert_eq!(reply.json(), json!({"name": "Ada", "visits": visits}));
    }
    let counter = node.ask("GET", "/v1/kv/calm/visits%2FAda", "").json();
    assert_eq!(counter["value"], 3);
    let large = "x".repeat(1 << 20);
    let reply = node.call("calm", "length", &json!([large]));
    assert_eq!(reply.json(), 1 << 20, "through shared memory");
    let problem = node
        .call("calm", "length", &json!([7]))
        .problem("function-failed");
    assert_eq!(problem["exception"]["type"], "TypeError");
    // A write that does not fit fails the request, and the worker goes on.
    let raise = json!({"op": "flag.raise"}).to_string();
    node.ask("POST", "/v1/kv/calm/visits%2FBob", &raise);
    node.call("calm", "visit", &json!(["Bob"]))
        .problem("wrong-type");
    assert_eq!(
        node.call("calm", "visit", &json!(["Ada"])).json()["visits"],
        4
    );
}

/// A worker that never pauses does not keep anybody from being heard.
fn cancelled_in_a_flood(node: &Node) {
    let functions = json!([{"name": "write_flood", "timeout_ms": 60_000}]);
    node.deploy("flooding", &program("flooding", HOSTILE, &[], &functions));
    let submit = [
        ("Content-Type", "application/json"),
        ("Prefer", "respond-async"),
    ];
    let reply = node.ask_with("POST", "/v1/call/flooding/write_flood", &submit, b"[]");
    let location = reply.header("location").to_owned();
    crate::support::sleep(Duration::from_millis(300));
    assert_eq!(node.ask("DELETE", &location, "").json()["cancelled"], true);
    let wait = [("Prefer", "wait=20")];
    let result = node.ask_with("GET", &format!("{location}/result"), &wait, b"");
    result.problem("cancelled");
}

#[test]
fn a_worker_that_breaks_the_protocol_costs_its_own_request() {
    let node = Node::start();
    node.deploy("calm", &calm());
    node.deploy("hostile", &hostile(&[]));
    let before = resident_kib(node.pid());
    meanwhile(&node, "calm", "visit", &json!(["Ada"]), || {
        for (name, code) in ABUSES {
            let reply = node.call("hostile", name, &json!([]));
            assert!(reply.status >= 400, "{name}: {}", reply.text());
            assert_eq!(reply.json()["code"], *code, "{name}: {}", reply.text());
            reply.problem(code);
            assert_eq!(node.call("hostile", "fine", &json!([])).json(), 1, "{name}");
        }
        assert_eq!(node.call("hostile", "long_log", &json!([])).json(), 1);
        cancelled_in_a_flood(&node);
    });
    node.ask("GET", "/v1/kv/hostile/flood", "")
        .problem("unknown-key");
    let grown = resident_kib(node.pid()).saturating_sub(before);
    assert!(grown < 400 << 10, "{grown} KiB more");
    wait_for("no process left to wait for", || {
        (zombies_of(node.pid()) == 0).then_some(())
    });
}

#[test]
fn a_worker_that_lies_about_itself_ends_alone() {
    let node = Node::start();
    node.deploy("hostile", &hostile(&["impostor"]));
    // The node signals the process that is to stop: not the one that was named.
    let reply = node.call("hostile", "silent", &json!([]));
    reply.problem("timed-out");
    assert_eq!(node.call("hostile", "fine", &json!([])).json(), 1);
    for (argument, told) in [
        ("garbage", "connect"),
        ("version", "connect"),
        ("token", "connect"),
        ("refuses", "not today"),
    ] {
        let problem = node
            .put_app("hostile", &hostile(&[argument]))
            .problem("load-failed");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(told), "{argument}: {detail}");
        assert_eq!(
            node.call("hostile", "fine", &json!([])).json(),
            1,
            "{argument}"
        );
    }
    assert_eq!(node.ask("DELETE", "/v1/apps/hostile", "").status / 100, 2);
    let mut left = Vec::new();
    let gone = within(Duration::from_secs(10), || {
        left = started_by(node.pid());
        left.is_empty()
    });
    assert!(gone, "still there: {left:?}");
}
