//! The interfaces of others from a guest: `wasi:keyvalue`, `wasi:config`, `wasi:logging`.

use crate::components::{data, zip};
use crate::node::Node;
use serde_json::{Value, json};
use tidemill_lattice::{Op, Payload};
use tidemill_runtime::Asked;
use tidemill_telemetry::Stream;

const FUNCTIONS: &[&str] = &[
    "set",
    "get",
    "increment",
    "fill",
    "list",
    "open-long",
    "config",
    "log",
];

async fn node() -> Node {
    let node = Node::start().await;
    let mut functions: Vec<Value> = FUNCTIONS
        .iter()
        .map(|name| json!({"name": name, "component": "f.wasm", "env": {"GREETING": "hello", "B": ""}}))
        .collect();
    functions.push(json!({"name": "list-fresh", "component": "f.wasm", "fresh": true}));
    let manifest = json!({"manifest": 1, "app": "sample", "runtime": {"kind": "wasm"},
        "functions": functions});
    let app = zip(&manifest, &[("f.wasm", &data("standard.wasm"))]);
    node.runtime.deploy("sample", app).await.unwrap();
    node
}

async fn said(node: &Node, function: &str, words: &str) -> String {
    let said = node.call(function, json!(words)).await;
    said.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_prefix_of_the_apps_keys() {
    let node = node().await;
    assert_eq!(said(&node, "set", "inbox a one").await, "set");
    assert_eq!(said(&node, "get", "inbox a").await, "one");
    assert_eq!(said(&node, "get", "outbox a").await, "none");
    assert_eq!(said(&node, "get", "default a").await, "none");
    // The bucket of everything has the others' keys under their names.
    assert_eq!(said(&node, "get", "default inbox/a").await, "one");
    assert_eq!(said(&node, "get", " inbox/a").await, "one");
    assert!(
        node.runtime
            .state_get("sample", "inbox/a")
            .unwrap()
            .is_some()
    );
    assert_eq!(said(&node, "increment", "inbox n 5").await, "5");
    assert_eq!(said(&node, "increment", "inbox n 2").await, "7");
    assert_eq!(node.counter("inbox/n"), json!(7));
    assert_eq!(said(&node, "get", "inbox n").await, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_cannot_do_is_an_error_with_its_reason() {
    let node = node().await;
    let element = Op::SetAdd(Payload::json(&json!("x")));
    let writes = vec![("box/set".to_owned(), element)];
    let asked = Asked::default();
    let commit = node.runtime.state_commit("sample", writes, &asked);
    commit.await.unwrap();
    said(&node, "increment", "box n 1").await;
    let most = u64::MAX.to_string();
    let raise = format!("box n {most}");
    let cases = [
        ("get", "box set", "wrong-type"),
        ("set", "box n text", "wrong-type"),
        ("increment", "box set 1", "wrong-type"),
        ("increment", raise.as_str(), "increment by at most"),
        ("set", "default  x", "bad-key"),
        ("open-long", "1025", "no such store"),
        ("list", "box 7", "cursor"),
    ];
    for (function, words, expected) in cases {
        let told = said(&node, function, words).await;
        assert!(told.starts_with("error: "), "{function} {words}: {told}");
        assert!(told.contains(expected), "{function} {words}: {told}");
    }
    assert_eq!(said(&node, "open-long", "1024").await, "opened");
    assert_eq!(node.counter("box/n"), json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_page_by_page() {
    let node = node().await;
    said(&node, "fill", "many 2500").await;
    said(&node, "set", "manyother a x").await;
    assert_eq!(said(&node, "list", "many").await, "1000 k00000 k00999 1000");
    assert_eq!(
        said(&node, "list", "many 1000").await,
        "1000 k01000 k01999 2000"
    );
    assert_eq!(
        said(&node, "list", "many 2000").await,
        "500 k02000 k02499 end"
    );
    assert_eq!(said(&node, "list", "manyother").await, "1 a a end");
    // A cursor is of its bucket, and of the instance that gave it.
    for (function, words) in [("list", "manyother 1000"), ("list-fresh", "many 1000")] {
        let told = said(&node, function, words).await;
        assert!(told.contains("begin anew"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_the_granted_variables() {
    let node = node().await;
    assert_eq!(said(&node, "config", "GREETING").await, "hello of 2");
    assert_eq!(said(&node, "config", "B").await, " of 2");
    assert_eq!(said(&node, "config", "HOME").await, "none of 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_log_have_their_level_and_context() {
    let node = node().await;
    assert_eq!(said(&node, "log", "").await, "logged");
    let lines = node.telemetry.logs.query(&Default::default());
    let lines: Vec<(&str, &str)> = lines
        .iter()
        .filter(|line| line.stream == Stream::Log && &*line.function == "log")
        .map(|line| (line.level.as_deref().unwrap(), line.text.as_str()))
        .collect();
    assert_eq!(
        lines,
        [
            ("DEBUG", "radio: trace"),
            ("DEBUG", "radio: debug"),
            ("INFO", "radio: info"),
            ("WARNING", "radio: warn"),
            ("ERROR", "radio: error"),
            ("ERROR", "critical"),
        ]
    );
}
