//! Guests that take more than there is: places, handles, tables, results.

use crate::components::{data, zip};
use crate::node::{Node, call};
use bytes::Bytes;
use serde_json::{Value, json};
use tidemill_lattice::Payload;
use tidemill_problem::Code;
use tidemill_runtime::{Output, RequestId};

/// An app of these functions, each in an instance of its own of this component.
fn app(component: &str, functions: &[&str]) -> Bytes {
    let functions: Vec<Value> = functions
        .iter()
        .map(|name| json!({"name": name, "component": "f.wasm", "timeout_ms": 20_000}))
        .collect();
    let manifest = json!({"manifest": 1, "app": "sample", "runtime": {"kind": "wasm"},
        "functions": functions});
    zip(&manifest, &[("f.wasm", &data(component))])
}

async fn node_with(component: &str, functions: &[&str]) -> Node {
    let node = Node::start().await;
    let app = app(component, functions);
    node.runtime.deploy("sample", app).await.unwrap();
    node
}

fn id_of(text: &str) -> RequestId {
    RequestId(u128::from_str_radix(text, 16).unwrap())
}

fn active(node: &Node) -> usize {
    let gauges = node.runtime.gauges();
    gauges.instances.iter().map(|(_, all)| all.active).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_places_are_taken_a_caller_is_told_so_and_the_next_is_served() {
    let node = Node::start_with(|limits| limits.instances = 2).await;
    let app = app("fixture.wasm", &["spin", "echo", "call"]);
    node.runtime.deploy("sample", app).await.unwrap();
    let spinning: Vec<_> = (0..2)
        .map(|_| {
            let runtime = node.runtime.clone();
            tokio::spawn(async move { runtime.call(call("spin", Payload::null())).await })
        })
        .collect();
    node.eventually("both", |node| active(node) == 2).await;
    let problem = node.fails("echo", json!(1)).await;
    assert_eq!(problem.code, Code::Overloaded);
    assert!(problem.detail.contains("places"), "{}", problem.detail);
    assert!(problem.retry_after_ms.is_some());
    let running = node.runtime.requests(None, None, 10);
    let one = running.iter().find(|one| &*one.function == "spin").unwrap();
    assert_eq!(node.runtime.cancel(id_of(&one.id)), Some(true));
    node.eventually("a free place", |node| active(node) == 1)
        .await;
    assert_eq!(node.call("echo", json!(1)).await, json!(1));
    // A caller's own place is taken while it waits: the one it calls needs another.
    let problem = node.fails("call", json!([["echo", 1]])).await;
    assert_eq!(problem.code, Code::Overloaded);
    for one in node.runtime.requests(None, None, 10) {
        let _ = node.runtime.cancel(id_of(&one.id));
    }
    for one in spinning {
        let problem = one.await.unwrap().result.unwrap_err();
        assert_eq!(problem.code, Code::Cancelled);
    }
    assert_eq!(node.call("call", json!([["echo", 1]])).await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_rest_make_room_for_those_of_others() {
    let node = Node::start_with(|limits| limits.instances = 1).await;
    let manifest = json!({"manifest": 1, "app": "sample", "runtime": {"kind": "wasm"},
        "functions": [{"name": "echo", "component": "f.wasm"},
            {"name": "echo-2", "component": "f.wasm", "memory_bytes": 32 << 20}]});
    let app = zip(&manifest, &[("f.wasm", &data("fixture.wasm"))]);
    node.runtime.deploy("sample", app).await.unwrap();
    for n in 0..3 {
        assert_eq!(node.call("echo", json!(n)).await, json!(n));
        assert_eq!(node.call("echo-2", json!(n)).await, json!(n));
    }
    assert_eq!(node.runtime.app("sample").unwrap().instances, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_takes_long_holds_up_no_other() {
    let node = Node::start().await;
    let slow = {
        let manifest = json!({"manifest": 1, "app": "slow", "runtime": {"kind": "wasm"},
            "functions": [{"name": "f", "component": "f.wasm"}]});
        let bundle = zip(&manifest, &[("f.wasm", &data("endless.wasm"))]);
        let runtime = node.runtime.clone();
        tokio::spawn(async move { runtime.deploy("slow", bundle).await })
    };
    node.eventually("an instance that does not start", |node| {
        node.directory.path().join("runtime/apps/slow").is_dir()
    })
    .await;
    let app = app("echo.wasm", &["echo"]);
    node.runtime.deploy("sample", app).await.unwrap();
    assert_eq!(node.call("echo", json!([5])).await, json!(5));
    assert!(!slow.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_without_end_are_refused_and_the_next_call_is_served() {
    let node = node_with("standard.wasm", &["hoard", "hoard-calls", "get"]).await;
    for function in ["hoard", "hoard-calls"] {
        let problem = node.fails(function, json!("")).await;
        assert_eq!(problem.code, Code::FunctionFailed, "{}", problem.detail);
        let told = problem.detail.contains("handle limit") || problem.detail.contains("table");
        assert!(told, "{}", problem.detail);
        assert_eq!(node.call("get", json!("default a")).await, json!("none"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_of_an_earlier_request_or_of_nobody_gives_nothing() {
    let node = node_with(
        "standard.wasm",
        &["keep", "kept", "forge", "confuse", "get"],
    )
    .await;
    assert_eq!(node.call("keep", json!("")).await, json!("kept"));
    let told = node.call("kept", json!("")).await;
    let told = told.as_str().unwrap();
    assert!(told.starts_with("error: bad-request"), "{told}");
    assert!(told.contains("earlier request"), "{told}");
    for (function, input) in [("forge", "4242"), ("forge", "0"), ("confuse", "")] {
        let problem = node.fails(function, json!(input)).await;
        assert_eq!(problem.code, Code::FunctionFailed);
        assert!(problem.detail.contains("handle"), "{}", problem.detail);
    }
    assert_eq!(node.call("get", json!("default a")).await, json!("none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_of_its_own_and_tables_are_bounded() {
    let node = node_with("resources.wasm", &["f"]).await;
    let problem = node.fails("f", json!("resources")).await;
    assert!(
        problem.detail.contains("handle limit"),
        "{}",
        problem.detail
    );
    let answer = node.answer("f", Payload::bytes(Vec::new())).await;
    let problem = answer.result.unwrap_err();
    // The table was refused, and the guest gave up.
    assert!(problem.detail.contains("unreachable"), "{}", problem.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_refused_by_the_first_bound_that_it_meets() {
    let node = node_with("fixture.wasm", &["big"]).await;
    let cases = [
        // More than a value may have.
        ((8 << 20) + 1, Code::PayloadTooLarge, "the result of big"),
        // More than a guest may hand over: nothing of it is copied.
        (100 << 20, Code::PayloadTooLarge, "at once"),
        // More than its memory.
        (1 << 30, Code::OutOfMemory, "512 MiB"),
    ];
    for (bytes, code, expected) in cases {
        let problem = node.fails("big", json!(bytes)).await;
        assert_eq!(problem.code, code, "{}", problem.detail);
        assert!(problem.detail.contains(expected), "{}", problem.detail);
    }
    let answer = node.answer("big", Payload::json(&json!(8 << 20))).await;
    let whole =
        matches!(answer.result.unwrap(), Output::Value(value) if value.body.len() == 8 << 20);
    assert!(whole);
}
