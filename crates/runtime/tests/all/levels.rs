//! What the level `eventual` gives up, and what it keeps.

use crate::node::{Node, call};
use serde_json::{Value, json};
use tidemill_lattice::{Op, Payload};
use tidemill_problem::{Code, Problem};
use tidemill_runtime::{Asked, Level, Output};

fn eventual() -> Asked {
    Asked {
        level: Some(Level::Eventual),
        ..Asked::default()
    }
}

async fn eventually(node: &Node, function: &str, args: Value) -> Result<Value, Problem> {
    let mut call = call(function, Payload::json(&args));
    call.asked = eventual();
    match node.runtime.call(call).await.result? {
        Output::Value(payload) => Ok(serde_json::from_slice(&payload.body).unwrap()),
        Output::Stream(_) => panic!("{function} streams"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_reads_its_own_writes_without_a_snapshot() {
    let node = Node::sample().await;
    let found = eventually(&node, "every_type", json!([])).await.unwrap();
    assert_eq!(
        (&found["c"], &found["t"][0]),
        (&json!(-3), &json!([9, "high"]))
    );
    assert_eq!(found["keys"].as_array().unwrap().len(), 10);
    assert_eq!(node.call("read_every_type", json!([])).await, found);
    let node = node.restart().await;
    assert_eq!(node.call("read_every_type", json!([])).await, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writes_of_a_failed_request_stay() {
    let node = Node::sample().await;
    let problem = eventually(&node, "add_then_fail", json!(["n"])).await;
    assert_eq!(problem.unwrap_err().code, Code::FunctionFailed);
    assert_eq!(node.counter("n"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outermost_level_holds_for_the_calls_below() {
    let node = Node::sample().await;
    let whole = node.call("catches", json!([])).await;
    assert_eq!(
        whole,
        json!(["after the write", 1]),
        "the child left nothing"
    );
    assert_eq!(node.counter("caught"), 1);
    let single = eventually(&node, "catches", json!([])).await.unwrap();
    assert_eq!(single, json!(["after the write", 3]));
    assert_eq!(node.counter("caught"), 3, "the child's write stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_another_type_fails_the_request_and_leaves_the_others() {
    let node = Node::sample().await;
    let problem = eventually(&node, "wrong_type", json!(["k"])).await;
    assert_eq!(problem.unwrap_err().code, Code::WrongType);
    assert_eq!(node.counter("k"), 1);
    let writes = vec![
        ("a".to_owned(), Op::CounterAdd(2)),
        ("k".to_owned(), Op::FlagRaise),
        ("b".to_owned(), Op::CounterAdd(3)),
    ];
    let asked = eventual();
    let outcome = node.runtime.state_commit("sample", writes, &asked);
    assert_eq!(outcome.await.unwrap_err().code, Code::WrongType);
    assert_eq!((node.counter("a"), node.counter("b")), (json!(2), json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_request_without_a_commit_is_delivered() {
    let node = Node::sample().await;
    eventually(&node, "later", json!(["n"])).await.unwrap();
    node.eventually("the enqueued write", |node| node.counter("n") == 5)
        .await;
}
