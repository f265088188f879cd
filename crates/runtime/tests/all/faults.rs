use crate::node::{Node, call};
use serde_json::{Value, json};
use std::time::Duration;
use tidemill_lattice::Payload;
use tidemill_problem::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_function_past_its_timeout_costs_that_request_only() {
    let node = Node::sample().await;
    let others = async {
        for i in 0..20 {
            assert_eq!(node.call("echo", json!([i])).await, i);
        }
    };
    let (endless, stubborn, ()) = tokio::join!(
        node.fails("endless", json!([])),
        node.fails("stubborn", json!([])),
        others
    );
    assert_eq!(
        (endless.code, stubborn.code),
        (Code::TimedOut, Code::TimedOut)
    );
    assert_eq!(node.counter("endless"), Value::Null);
    assert_eq!(node.call("echo", json!([1])).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_time_ends_a_call() {
    let node = Node::sample().await;
    let mut sleep = call("sleep", Payload::json(&json!([60])));
    sleep.timeout = Some(Duration::from_millis(200));
    let problem = node.runtime.call(sleep).await.result.unwrap_err();
    assert_eq!(problem.code, Code::TimedOut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_replaced_and_its_run_repeated() {
    let node = Node::sample().await;
    let problem = node.fails("die", json!([])).await;
    assert_eq!(problem.code, Code::WorkerCrashed);
    assert!(problem.detail.contains("status 3"), "{}", problem.detail);
    let problem = node.fails("shot", json!([])).await;
    assert!(problem.detail.contains("signal 9"), "{}", problem.detail);
    assert_eq!(node.call("dies_once", json!(["d"])).await, 2);
    assert_eq!(node.counter("d"), 1);
    assert_eq!(node.call("fails_twice", json!([])).await, 3);
    assert_eq!(node.counter("tries"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_past_its_memory_is_ended() {
    let node = Node::sample().await;
    let problem = node.fails("hog", json!([])).await;
    assert_eq!(problem.code, Code::OutOfMemory, "{problem}");
    assert!(
        problem.detail.contains("96 MiB") || problem.detail.contains("91 MiB"),
        "{problem}"
    );
    assert_eq!(node.call("echo", json!([1])).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn recursion_without_end_is_refused() {
    let node = Node::sample().await;
    let problem = node.fails("recurse", json!([0])).await;
    assert_eq!(problem.code, Code::CallTooDeep, "{problem}");
    assert_eq!(node.call("echo", json!([1])).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_output_is_bounded() {
    let node = Node::sample().await;
    assert_eq!(node.call("chatter", json!([])).await, "done");
    let bytes: usize = node.logged().iter().map(String::len).sum();
    assert!(bytes < 4 << 20, "{bytes} bytes kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_left_behind_go_with_their_worker() {
    let node = Node::sample().await;
    let pid = node.call("forks", json!([])).await;
    assert!(pid.is_u64(), "the child's answer came back: {pid}");
    node.eventually("the end of the worker", |_| {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    })
    .await;
    assert_ne!(node.call("pid", json!([])).await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_too_large_is_refused() {
    let node = Node::sample().await;
    let problem = node.fails("big", json!([9 << 20])).await;
    assert_eq!(problem.code, Code::PayloadTooLarge);
    let large = Payload::bytes(vec![0; (8 << 20) + 1]);
    let problem = node.answer("size", large).await.result.unwrap_err();
    assert_eq!(problem.code, Code::PayloadTooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_function_runs_one_at_a_time() {
    let node = Node::sample().await;
    let calls: Vec<_> = (0..4).map(|_| node.call("alone", json!([]))).collect();
    let mut spans: Vec<(f64, f64)> = futures_util::future::join_all(calls)
        .await
        .iter()
        .map(|span| (span[0].as_f64().unwrap(), span[1].as_f64().unwrap()))
        .collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    for pair in spans.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{spans:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_wait_their_turn() {
    let node = Node::sample().await;
    let calls: Vec<_> = (0..1000).map(|i| node.call("echo", json!([i]))).collect();
    let results = futures_util::future::join_all(calls).await;
    assert!(results.iter().enumerate().all(|(i, result)| *result == i));
}
