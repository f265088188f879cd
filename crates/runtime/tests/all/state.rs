use crate::node::Node;
use serde_json::{Value, json};
use tidemill_lattice::{Op, Payload};
use tidemill_problem::Code;
use tidemill_runtime::Asked;

#[tokio::test(flavor = "multi_thread")]
async fn every_type_reads_its_own_writes_and_the_commit() {
    let node = Node::sample().await;
    let expected = json!({
        "r": {"a": [1, null]}, "m": ["x"], "c": -3, "hi": 7, "lo": 2.5, "f": true,
        "s": ["a", "b"], "mp": {"n": 4, "who": "me"}, "l": ["two"],
        "t": [[9, "high"], [5, "mid"]],
        "keys": ["c", "f", "hi", "l", "lo", "m", "mp", "r", "s", "t"],
    });
    assert_eq!(node.call("every_type", json!([])).await, expected);
    assert_eq!(node.call("read_every_type", json!([])).await, expected);
    let node = node.restart().await;
    assert_eq!(node.call("read_every_type", json!([])).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_request_keeps_nothing() {
    let node = Node::sample().await;
    assert_eq!(node.call("add", json!(["n"])).await, json!([0, 1]));
    node.fails("add_then_fail", json!(["n"])).await;
    assert_eq!(node.call("add", json!(["n"])).await, json!([1, 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_another_type_fails_the_request_even_when_caught() {
    let node = Node::sample().await;
    let problem = node.fails("wrong_type", json!(["k"])).await;
    assert_eq!(problem.code, Code::WrongType);
    assert!(
        problem.detail.contains("counter") && problem.detail.contains("register"),
        "{}",
        problem.detail
    );
    assert!(problem.detail.contains("sample.py"), "{}", problem.detail);
    assert_eq!(node.counter("k"), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_from_outside_are_one_commit_or_none() {
    let node = Node::sample().await;
    let writes = vec![
        ("a".to_owned(), Op::CounterAdd(2)),
        ("b".to_owned(), Op::RegisterSet(Payload::json(&json!("x")))),
    ];
    node.runtime
        .state_commit("sample", writes, &Asked::default())
        .await
        .unwrap();
    assert_eq!(node.counter("a"), 2);
    let bad = vec![
        ("a".to_owned(), Op::CounterAdd(2)),
        ("b".to_owned(), Op::CounterAdd(1)),
    ];
    let problem = node
        .runtime
        .state_commit("sample", bad, &Asked::default())
        .await
        .unwrap_err();
    assert_eq!(problem.code, Code::WrongType);
    assert_eq!(node.counter("a"), 2);
    let huge = "k".repeat(10_000);
    let problem = node
        .runtime
        .state_commit("sample", vec![(huge, Op::CounterAdd(1))], &Asked::default())
        .await
        .unwrap_err();
    assert_eq!(problem.code, Code::BadKey);
    let page = node.runtime.state_list("sample", "", None, 1).unwrap();
    assert_eq!((page.keys.len(), page.keys[0].0.as_str()), (1, "a"));
    let page = node
        .runtime
        .state_list("sample", "", page.next.as_deref(), 10)
        .unwrap();
    assert_eq!(page.keys.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_adds_lose_nothing() {
    let node = Node::sample().await;
    let calls: Vec<_> = (0..40)
        .map(|_| node.call("add", json!(["shared"])))
        .collect();
    futures_util::future::join_all(calls).await;
    assert_eq!(node.counter("shared"), 40);
}
