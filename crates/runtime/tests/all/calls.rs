use crate::node::{Node, call};
use bytes::Bytes;
use serde_json::{Value, json};
use std::time::Duration;
use tidemill_lattice::{ContentType, Payload};
use tidemill_problem::Code;
use tidemill_runtime::{Fetched, Output, RequestState, StreamEvent};
use tidemill_store::Durability;

#[tokio::test(flavor = "multi_thread")]
async fn arguments_and_results_travel_as_documented() {
    let node = Node::sample().await;
    assert_eq!(
        node.call("echo", json!([{"a": [1, 2.5, null, "é"]}])).await["a"][3],
        "é"
    );
    let both = json!({"args": [1, 2], "kwargs": {"k": "v"}});
    assert_eq!(node.call("echo", both.clone()).await, both);
    assert_eq!(node.call("size", json!(["abc"])).await, json!(["str", 3]));
    let raw = Payload::bytes(Bytes::from_static(b"\0\xff"));
    let Output::Value(back) = node.answer("echo", raw.clone()).await.result.unwrap() else {
        panic!("a stream")
    };
    assert_eq!(back, raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_go_both_ways_through_shared_memory() {
    let node = Node::sample().await;
    let large = Payload::bytes(vec![7; 3 << 20]);
    let Output::Value(sized) = node.answer("size", large).await.result.unwrap() else {
        panic!("a stream")
    };
    let sized: Value = serde_json::from_slice(&sized.body).unwrap();
    assert_eq!(sized[1], 3 << 20);
    let answer = node.answer("big", Payload::json(&json!([2 << 20]))).await;
    let Output::Value(big) = answer.result.unwrap() else {
        panic!("a stream")
    };
    assert_eq!(big.content_type, ContentType::OctetStream);
    assert_eq!(big.body, vec![b'x'; 2 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_comes_back_with_its_traceback() {
    let node = Node::sample().await;
    let problem = node.fails("fail", json!(["bad thing"])).await;
    assert_eq!(problem.code, Code::FunctionFailed);
    let exception = problem.exception.unwrap();
    assert_eq!(
        (&*exception.kind, &*exception.message),
        ("ValueError", "bad thing")
    );
    assert!(
        exception.traceback.contains("sample.py"),
        "{}",
        exception.traceback
    );
    assert!(exception.pickle.is_some());
    assert_eq!(node.counter("failed"), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_get_near_ones() {
    let node = Node::sample().await;
    let problem = node.fails("ecoh", json!([])).await;
    assert_eq!(problem.code, Code::UnknownFunction);
    assert!(
        problem.suggestions.contains(&"echo".to_owned()),
        "{:?}",
        problem.suggestions
    );
    let mut other = call("echo", Payload::null());
    other.app = "smaple".into();
    let problem = node.runtime.call(other).await.result.unwrap_err();
    assert_eq!(problem.code, Code::UnknownApp);
    assert_eq!(problem.suggestions, ["sample"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_captured_per_request() {
    let node = Node::sample().await;
    node.call("speak", json!(["hello there"])).await;
    let logged = node.logged();
    assert_eq!(
        logged.iter().filter(|line| *line == "hello there").count(),
        2,
        "{logged:?}"
    );
    assert!(
        logged.contains(&"logged hello there".to_owned()),
        "{logged:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn children_belong_to_their_request() {
    let node = Node::sample().await;
    let result = node.call("call_children", json!([3])).await;
    assert_eq!(result["one"], json!([1, 2]));
    assert_eq!(result["sum"], 2 + 1 + 2);
    // Each spawned child saw what was written before the fork, and not its siblings.
    for (i, seen) in result["rest"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            seen[1].as_u64().unwrap() - seen[0].as_u64().unwrap(),
            i as u64
        );
    }
    assert_eq!(node.counter("children"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_child_leaves_nothing_and_can_be_caught() {
    let node = Node::sample().await;
    assert_eq!(
        node.call("catches", json!([])).await,
        json!(["after the write", 1])
    );
    assert_eq!(node.counter("caught"), 1);
    let problem = node.fails("forgets", json!([])).await;
    assert_eq!(problem.code, Code::FunctionFailed);
    assert_eq!(node.counter("forgotten"), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn map_keeps_the_order() {
    let node = Node::sample().await;
    let expected: Vec<u32> = (0..100).collect();
    assert_eq!(node.call("maps", json!([100])).await, json!(expected));
    assert_eq!(
        node.call("asynchronous", json!([10])).await,
        json!((0..10).collect::<Vec<_>>())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generator_streams_and_commits_at_its_end() {
    let node = Node::sample().await;
    let answer = node.answer("count_to", Payload::json(&json!([5]))).await;
    let Output::Stream(mut events) = answer.result.unwrap() else {
        panic!("a value")
    };
    let mut items = Vec::new();
    loop {
        match events.recv().await.unwrap() {
            StreamEvent::Item(item) => {
                items.push(serde_json::from_slice::<u32>(&item.body).unwrap());
            }
            StreamEvent::Committed { session } => {
                assert!(session.is_some());
                break;
            }
            StreamEvent::Failed(problem) => panic!("{problem}"),
        }
    }
    assert_eq!(items, [0, 1, 2, 3, 4]);
    assert_eq!(node.counter("counted"), 5);
    let answer = node
        .answer("count_then_fail", Payload::json(&json!([2])))
        .await;
    let Output::Stream(mut events) = answer.result.unwrap() else {
        panic!("a value")
    };
    let mut last = None;
    while let Some(event) = events.recv().await {
        last = Some(event);
    }
    assert!(
        matches!(last, Some(StreamEvent::Failed(problem)) if problem.code == Code::FunctionFailed)
    );
    assert_eq!(node.counter("uncounted"), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_leaves_cancels_a_stream() {
    let node = Node::sample().await;
    let answer = node
        .answer("count_to", Payload::json(&json!([100_000_000])))
        .await;
    let Output::Stream(mut events) = answer.result.unwrap() else {
        panic!("a value")
    };
    assert!(matches!(events.recv().await, Some(StreamEvent::Item(_))));
    drop(events);
    node.eventually("the cancellation", |node| {
        node.runtime.request(answer.request).unwrap().state == RequestState::Cancelled
    })
    .await;
    assert_eq!(node.counter("counted"), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitted_request_can_be_polled_and_cancelled() {
    let node = Node::sample().await;
    let id = node
        .runtime
        .submit(call("echo", Payload::json(&json!([42]))))
        .unwrap();
    node.eventually("the result", |node| {
        matches!(node.runtime.fetch(id), Some(Fetched::Ended(_)))
    })
    .await;
    let Some(Fetched::Ended(Ok(result))) = node.runtime.fetch(id) else {
        panic!("no result")
    };
    assert_eq!(result.body, "42");
    let id = node
        .runtime
        .submit(call("sleep", Payload::json(&json!([60]))))
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.runtime.cancel(id), Some(true));
    node.eventually("the cancellation", |node| {
        node.runtime.request(id).unwrap().state == RequestState::Cancelled
    })
    .await;
    assert_eq!(node.call("echo", json!([1])).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enqueued_call_runs_once_its_sender_has_committed() {
    let node = Node::sample().await;
    assert_eq!(node.call("later", json!(["due"])).await, 0);
    node.eventually("the enqueued call", |node| node.counter("due") == 5)
        .await;
    node.fails("later_then_fail", json!(["never"])).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(node.counter("never"), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_sent_though_its_caller_has_gone() {
    let node = Node::sample().await;
    node.call("send", json!([])).await;
    // Some go while their request commits, which waits for the disk.
    for round in 0..300 {
        let mut call = call("send", Payload::json(&json!([])));
        call.asked.durability = Some(Durability::Durable);
        let patience = Duration::from_micros(20 * round);
        let _ = tokio::time::timeout(patience, node.runtime.call(call)).await;
    }
    node.eventually("as much was received as sent", |node| {
        node.counter("received") == node.counter("sent")
    })
    .await;
    assert!(node.counter("sent").as_i64() > Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_has_the_spans_of_its_request() {
    let node = Node::sample().await;
    let answer = node.answer("add", Payload::json(&json!(["traced"]))).await;
    let spans = node.telemetry.spans.of_trace(answer.trace.trace);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    for expected in ["add", "handoff", "state", "commit"] {
        assert!(names.contains(&expected), "{expected} is not in {names:?}");
    }
    let mut ids: Vec<u64> = spans.iter().map(|span| span.id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), spans.len(), "two spans have the same id");
    let meter = node.telemetry.meters.of_request(answer.request.0).unwrap();
    assert!(
        meter.state_reads >= 1 && meter.state_writes == 1,
        "{meter:?}"
    );
}
