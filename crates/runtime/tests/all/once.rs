//! A request takes effect once, whoever asks again, and when; an attempt that dies leaves
//! nothing.

use crate::node::{Node, call};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemill_lattice::{Clock, Payload};
use tidemill_problem::{Code, Problem};
use tidemill_runtime::{Answer, Call, Fetched, Output, RequestState, StreamEvent};
use tidemill_store::Durability;
use tidemill_telemetry::SpanKind;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn keyed(key: &str, function: &str, args: &Value) -> Call {
    Call {
        key: Some(key.to_owned()),
        ..call(function, Payload::json(args))
    }
}

/// A key as client libraries make them, so many milliseconds from now.
fn born(node: &Node, ahead_ms: u64) -> String {
    let birth_ms = node.clock.now_micros() / 1000 + ahead_ms;
    format!("tm1-{birth_ms:012x}-{:032x}", 7)
}

fn value(answer: Answer) -> Result<Value, Problem> {
    match answer.result? {
        Output::Value(payload) => Ok(serde_json::from_slice(&payload.body).unwrap()),
        Output::Stream(_) => panic!("a stream"),
    }
}

async fn items(answer: Answer) -> Result<Vec<Value>, Problem> {
    let Output::Stream(mut events) = answer.result? else {
        panic!("a value")
    };
    let mut items = Vec::new();
    loop {
        match events.recv().await.expect("an end") {
            StreamEvent::Item(item) => items.push(serde_json::from_slice(&item.body).unwrap()),
            StreamEvent::Committed { .. } => return Ok(items),
            StreamEvent::Failed(problem) => return Err(problem),
        }
    }
}

/// A file that a function writes to, and whose `.go` it waits for.
struct Mark(PathBuf);

impl Mark {
    fn new(node: &Node, name: &str) -> Self {
        Self(node.directory.path().join(name))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn read(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }

    async fn written(&self, node: &Node, text: &str) {
        node.eventually(text, |_| self.read() == text).await;
    }

    fn go(&self) {
        std::fs::write(format!("{}.go", self.path()), b"").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_answered_and_not_run() {
    let node = Node::sample().await;
    let first = node.runtime.call(keyed("k", "add", &json!(["n", 5]))).await;
    assert!(!first.is_repeated);
    let (id, trace) = (first.request, first.trace.trace);
    assert_eq!(value(first).unwrap(), json!([0, 5]));
    let again = node.runtime.call(keyed("k", "add", &json!(["n", 5]))).await;
    assert!(again.is_repeated);
    assert_eq!((again.request, again.trace.trace), (id, trace));
    assert_eq!(value(again).unwrap(), json!([0, 5]));
    assert_eq!(node.counter("n"), 5);
    // Another function is another request; other arguments are a mistake.
    let other = node.runtime.call(keyed("k", "echo", &json!([1]))).await;
    assert_eq!(value(other).unwrap(), 1);
    let other = node.runtime.call(keyed("k", "add", &json!(["n", 6]))).await;
    assert!(!other.is_repeated);
    assert_eq!(value(other).unwrap_err().code, Code::RequestMismatch);
    // Space between the tokens of JSON does not matter.
    let spaced = Call {
        input: Payload::new(tidemill_lattice::ContentType::Json, "[ \"n\", 5 ]"),
        ..keyed("k", "add", &json!([]))
    };
    assert_eq!(
        value(node.runtime.call(spaced).await).unwrap(),
        json!([0, 5])
    );
    assert_eq!(node.counter("n"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_for_more_is_answered_once_that_is_so() {
    let node = Node::sample().await;
    let syncs = || node.runtime.gauges().store.syncs;
    let asked = |durability| {
        let mut call = keyed("k", "add", &json!(["n", 1]));
        call.asked.durability = Some(durability);
        node.runtime.call(call)
    };
    let before = syncs();
    assert!(!asked(Durability::Memory).await.is_repeated);
    assert!(asked(Durability::Memory).await.is_repeated);
    assert_eq!(syncs(), before);
    for _ in 0..2 {
        assert!(asked(Durability::Durable).await.is_repeated);
        assert_eq!(syncs(), before + 1);
    }
    assert_eq!(node.counter("n"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_records_what_only_reads_and_no_key_records_nothing() {
    let node = Node::sample().await;
    let commits = || node.runtime.gauges().store.commits;
    let before = commits();
    let plain = node
        .answer("read_every_type", Payload::json(&json!([])))
        .await;
    assert_eq!(
        commits(),
        before,
        "a request that wrote nothing is not logged"
    );
    let kept = node
        .runtime
        .call(keyed("k", "read_every_type", &json!([])))
        .await;
    assert_eq!(commits(), before + 1);
    let kept_value = value(kept).unwrap();
    node.call("every_type", json!([])).await;
    let again = node
        .runtime
        .call(keyed("k", "read_every_type", &json!([])))
        .await;
    assert!(again.is_repeated);
    assert_eq!(value(again).unwrap(), kept_value);
    // A client library's key is of one call, whose answer nobody has if it is asked again.
    let before = commits();
    let unkept = keyed(&born(&node, 0), "read_every_type", &json!([]));
    assert!(!node.runtime.call(unkept.clone()).await.is_repeated);
    assert!(!node.runtime.call(unkept).await.is_repeated);
    assert_eq!(commits(), before);
    let unwaited = keyed(&born(&node, 1), "read_every_type", &json!([]));
    let id = node.runtime.submit(unwaited).unwrap();
    node.eventually("the result", |node| {
        matches!(node.runtime.fetch(id), Some(Fetched::Ended(Ok(_))))
    })
    .await;
    assert_eq!(commits(), before);
    let node = node.restart().await;
    assert!(node.runtime.request(plain.request).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_at_the_same_moment_joins_the_first() {
    let node = Arc::new(Node::sample().await);
    let mark = Mark::new(&node, "mark");
    let args = json!(["n", mark.path()]);
    let ask = || {
        let (node, call) = (Arc::clone(&node), keyed("k", "held", &args));
        tokio::spawn(async move { node.runtime.call(call).await })
    };
    let first = ask();
    mark.written(&node, "x").await;
    let others: Vec<_> = (0..4).map(|_| ask()).collect();
    // One whose time is over before the first ends is told to ask again.
    let hasty = Call {
        timeout: Some(Duration::from_millis(50)),
        ..keyed("k", "held", &args)
    };
    let problem = value(node.runtime.call(hasty).await).unwrap_err();
    assert_eq!(problem.code, Code::RequestInFlight);
    assert!(problem.retry_after_ms.is_some());
    let different = keyed("k", "held", &json!(["m", mark.path()]));
    let problem = value(node.runtime.call(different).await).unwrap_err();
    assert_eq!(problem.code, Code::RequestMismatch);
    mark.go();
    let first = first.await.unwrap();
    assert!(!first.is_repeated);
    for other in others {
        let other = other.await.unwrap();
        assert!(other.is_repeated);
        assert_eq!(other.request, first.request);
        assert_eq!(value(other).unwrap(), 0);
    }
    assert_eq!(value(first).unwrap(), 0);
    assert_eq!(node.counter("n"), 1);
    assert_eq!(mark.read(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_while_anybody_waits_for_it() {
    let node = Arc::new(Node::sample().await);
    let mark = Mark::new(&node, "mark");
    let ask = || {
        let call = keyed("k", "held", &json!(["n", mark.path()]));
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.runtime.call(call).await })
    };
    let first = ask();
    mark.written(&node, "x").await;
    let second = ask();
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // The last one to go takes the run with him, and nothing is left of it.
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    node.eventually("the cancellation", |node| {
        let listed = node.runtime.requests(None, None, 10);
        let held: Vec<_> = listed.iter().filter(|r| r.function == "held").collect();
        held.len() == 1 && held[0].state == RequestState::Cancelled
    })
    .await;
    assert_eq!(node.counter("n"), Value::Null);
    let first = ask();
    mark.written(&node, "xx").await;
    let second = ask();
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    mark.go();
    let second = second.await.unwrap();
    assert!(second.is_repeated);
    assert_eq!(value(second).unwrap(), 0);
    assert_eq!(node.counter("n"), 1);
    assert_eq!(mark.read(), "xx");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_nothing_so_the_same_key_may_run_again() {
    let node = Node::sample().await;
    let mark = Mark::new(&node, "mark");
    for round in 1..=2 {
        let call = keyed("k", "noted_failure", &json!(["n", mark.path()]));
        let answer = node.runtime.call(call).await;
        assert!(!answer.is_repeated);
        let id = answer.request;
        assert_eq!(value(answer).unwrap_err().code, Code::FunctionFailed);
        assert_eq!(mark.read(), "x".repeat(round));
        let ended = node.runtime.fetch(id);
        assert!(matches!(ended, Some(Fetched::Ended(Err(_)))), "{ended:?}");
    }
    assert_eq!(node.counter("n"), Value::Null);
    let slow = || Call {
        timeout: Some(Duration::from_millis(100)),
        ..keyed("slow", "held", &json!(["n", mark.path()]))
    };
    let problem = value(node.runtime.call(slow()).await).unwrap_err();
    assert_eq!(problem.code, Code::TimedOut);
    mark.go();
    let Call { timeout: _, .. } = slow();
    let patient = Call {
        timeout: None,
        ..slow()
    };
    assert_eq!(value(node.runtime.call(patient).await).unwrap(), 0);
    assert_eq!(node.counter("n"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_was_answered() {
    let node = Node::sample().await;
    let first = node.runtime.call(keyed("k", "add", &json!(["n", 5]))).await;
    let id = first.request;
    value(first).unwrap();
    let unwaited = node
        .runtime
        .submit(keyed("a", "add", &json!(["n", 7])))
        .unwrap();
    node.eventually("the commit", |node| node.counter("n") == 12)
        .await;
    assert_eq!(
        node.runtime.submit(keyed("a", "add", &json!(["n", 7]))),
        Ok(unwaited)
    );
    let node = node.restart().await;
    let again = node.runtime.call(keyed("k", "add", &json!(["n", 5]))).await;
    assert!(again.is_repeated);
    assert_eq!((again.request, value(again).unwrap()), (id, json!([0, 5])));
    assert_eq!(
        node.runtime.submit(keyed("a", "add", &json!(["n", 7]))),
        Ok(unwaited)
    );
    let mismatch = node.runtime.submit(keyed("a", "add", &json!(["n", 8])));
    assert_eq!(mismatch.unwrap_err().code, Code::RequestMismatch);
    assert_eq!(node.counter("n"), 12);
    let Some(Fetched::Ended(Ok(result))) = node.runtime.fetch(unwaited) else {
        panic!("no result")
    };
    assert_eq!(result.body, "[5,12]");
    let shown = node.runtime.request(unwaited).expect("is recorded");
    assert_eq!((&*shown.app, &*shown.function), ("sample", "add"));
    assert_eq!(
        (shown.state, shown.key.as_deref()),
        (RequestState::Succeeded, Some("a"))
    );
    // What was asked without waiting is answered to one who waits, even if the app is gone.
    node.runtime.remove("sample", false).await.unwrap();
    let waited = node.runtime.call(keyed("a", "add", &json!(["n", 7]))).await;
    assert_eq!(value(waited).unwrap(), json!([5, 12]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_comes_too_late_is_refused() {
    let node = Node::sample().await;
    let (opaque, made) = ("k".to_owned(), born(&node, 0));
    let ask = async |key: &str| value(node.runtime.call(keyed(key, "add", &json!(["n"]))).await);
    assert_eq!(ask(&opaque).await.unwrap(), json!([0, 1]));
    assert_eq!(ask(&made).await.unwrap(), json!([1, 2]));
    let future = born(&node, 25 * 3_600_000);
    assert_eq!(ask(&future).await.unwrap_err().code, Code::BadRequest);
    node.clock.move_on(DAY - Duration::from_secs(60));
    assert_eq!(ask(&opaque).await.unwrap(), json!([0, 1]));
    assert_eq!(ask(&made).await.unwrap(), json!([1, 2]));
    node.clock.move_on(Duration::from_secs(120));
    for _ in 0..2 {
        assert_eq!(ask(&opaque).await.unwrap_err().code, Code::RequestExpired);
        assert_eq!(ask(&made).await.unwrap_err().code, Code::RequestExpired);
    }
    assert_eq!(node.counter("n"), 2);
    node.clock.move_on(7 * DAY);
    // The bound that is written down: after it an opaque key is new.
    assert_eq!(ask(&opaque).await.unwrap(), json!([2, 3]));
    assert_eq!(ask(&made).await.unwrap_err().code, Code::RequestExpired);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_go_to_the_first_and_are_kept_for_the_others() {
    let node = Node::sample().await;
    let mark = Mark::new(&node, "mark");
    let ask = || keyed("k", "held_items", &json!(["n", 3, mark.path()]));
    let first = node.runtime.call(ask()).await;
    mark.written(&node, "x").await;
    let problem = items(node.runtime.call(ask()).await).await.unwrap_err();
    assert_eq!(problem.code, Code::RequestInFlight);
    mark.go();
    assert_eq!(items(first).await.unwrap(), [0, 1, 2]);
    let again = node.runtime.call(ask()).await;
    assert!(again.is_repeated);
    assert_eq!(items(again).await.unwrap(), [0, 1, 2]);
    let node = node.restart().await;
    let again = node.runtime.call(ask()).await;
    let id = again.request;
    assert_eq!(items(again).await.unwrap(), [0, 1, 2]);
    let Some(Fetched::Ended(Ok(list))) = node.runtime.fetch(id) else {
        panic!("no result")
    };
    assert_eq!(list.body, "[0,1,2]");
    assert_eq!(node.counter("n"), 3);
    // More than is kept: the effect is there once all the same.
    let large = || keyed("l", "large_items", &json!(["big", 12]));
    let Output::Stream(mut events) = node.runtime.call(large()).await.result.unwrap() else {
        panic!("a value")
    };
    while let Some(event) = events.recv().await {
        assert!(!matches!(event, StreamEvent::Failed(_)), "{event:?}");
    }
    assert_eq!(node.counter("big"), 1);
    let problem = node.runtime.call(large()).await.result.unwrap_err();
    assert_eq!(problem.code, Code::RequestExpired);
    assert_eq!(node.counter("big"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_runs_the_whole_request_again_on_a_new_snapshot() {
    let node = Arc::new(Node::sample().await);
    let mark = Mark::new(&node, "mark");
    let ask = keyed("k", "falls_in_child", &json!([3, "n", mark.path()]));
    let running = {
        let (node, ask) = (Arc::clone(&node), ask.clone());
        tokio::spawn(async move { node.runtime.call(ask).await })
    };
    node.eventually("the first attempt", |_| mark.read().starts_with("1 "))
        .await;
    node.call("add", json!(["n", 100])).await;
    mark.go();
    let answer = running.await.unwrap();
    let (id, trace) = (answer.request, answer.trace.trace);
    assert_eq!(value(answer).unwrap(), 3);
    // Each attempt counted from what it found: nothing is left of the others.
    let noted = mark.read();
    let expected = format!("1 {id} 1\n2 {id} 101\n3 {id} 101\n");
    assert_eq!(noted, expected);
    assert_eq!(node.counter("n"), 111);
    let spans = node.telemetry.spans.of_trace(trace);
    let attempts: Vec<_> = spans
        .iter()
        .filter(|span| span.kind == SpanKind::Attempt)
        .map(|span| (&*span.name, span.error))
        .collect();
    let crashed = Some("worker-crashed");
    let shown = [
        ("attempt 1", crashed),
        ("attempt 2", crashed),
        ("attempt 3", None),
    ];
    assert_eq!(attempts, shown);
    assert!(node.runtime.call(ask).await.is_repeated);
    assert_eq!(node.counter("n"), 111);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_has_the_number_of_one_before() {
    let node = Node::sample().await;
    let mark = Mark::new(&node, "mark");
    // Its own failure, a death, its own failure, and then a value.
    let last = node.call("fails_and_falls", json!([mark.path()])).await;
    assert_eq!(mark.read(), "1 2 3 4 ");
    assert_eq!(last, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_attempt_a_death_is_an_error_and_the_key_is_free() {
    let node = Node::sample().await;
    let mark = Mark::new(&node, "mark");
    mark.go();
    for round in 1..=2 {
        let problem = value(
            node.runtime
                .call(keyed("k", "falls_until", &json!([9, "n"])))
                .await,
        );
        assert_eq!(
            problem.unwrap_err().code,
            Code::WorkerCrashed,
            "round {round}"
        );
    }
    assert_eq!(node.counter("n"), Value::Null);
    // A caller within the request may catch the last one.
    let caught = keyed("c", "falls_in_child", &json!([9, "n", mark.path()]));
    let answer = node.runtime.call(caught).await;
    assert_eq!(value(answer).unwrap(), "worker-crashed");
    assert_eq!(mark.read().lines().count(), 3);
    assert_eq!(node.counter("n"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_step_is_not_done_again() {
    let node = Node::sample().await;
    let mark = Mark::new(&node, "mark");
    // The attempts of one request, without any key.
    let answer = node
        .answer("pays", Payload::json(&json!(["n", mark.path(), 1])))
        .await;
    let id = answer.request;
    assert_eq!(value(answer).unwrap(), json!([1, 2, 2]));
    assert_eq!(mark.read(), "1 2 l ");
    assert_eq!(node.counter("n"), 3);
    // It ran a step, so it keeps a record.
    let node = node.restart().await;
    let Some(Fetched::Ended(Ok(kept))) = node.runtime.fetch(id) else {
        panic!("no record")
    };
    assert_eq!(kept.body, "[1,2,2]");
    // Another request pays anew.
    node.call("pays", json!(["n", mark.path(), 0])).await;
    assert_eq!(mark.read(), "1 2 l 1 2 l ");
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_hold_for_a_new_call_with_the_same_key() {
    let node = Node::sample().await;
    let mark = Mark::new(&node, "mark");
    // Without a key they are of one request only.
    node.fails("pays_async", json!([mark.path(), true])).await;
    node.fails("pays_async", json!([mark.path(), true])).await;
    assert_eq!(mark.read(), "f 1 f 1 ");
    let fails = keyed("k", "pays_async", &json!([mark.path(), true]));
    for _ in 0..2 {
        let problem = value(node.runtime.call(fails.clone()).await).unwrap_err();
        assert_eq!(problem.code, Code::FunctionFailed);
        assert_eq!(mark.read(), "f 1 f 1 f 1 ");
    }
    let node = node.restart().await;
    let problem = value(node.runtime.call(fails.clone()).await).unwrap_err();
    assert_eq!(problem.code, Code::FunctionFailed);
    assert_eq!(mark.read(), "f 1 f 1 f 1 ");
    node.clock.move_on(DAY);
    assert!(value(node.runtime.call(fails).await).is_err());
    assert_eq!(mark.read(), "f 1 f 1 f 1 f 1 ");
    let succeeds = keyed("s", "pays_async", &json!([mark.path(), false]));
    assert_eq!(
        value(node.runtime.call(succeeds).await).unwrap(),
        json!([100_000, 1])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_calls_within_a_request_are_told_apart() {
    let node = Node::sample().await;
    let mark = Mark::new(&node, "mark");
    let paid = node.call("pays_in_children", json!([mark.path()])).await;
    assert_eq!(paid, json!([3, 4, 5]));
    let mut done: Vec<String> = mark.read().split(' ').map(str::to_owned).collect();
    done.sort();
    assert_eq!(done, ["", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_in_a_step_is_not_recorded() {
    let node = Node::sample().await;
    let mark = Mark::new(&node, "mark");
    assert_eq!(node.call("step_fails", json!([mark.path()])).await, 2);
    assert_eq!(mark.read(), "xx");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_may_not_do_what_a_retry_would_miss() {
    let node = Node::sample().await;
    let said = node.call("wrong_steps", json!([])).await;
    let expected = [
        "state is written inside of step 'w'",
        "a function is called inside of step 'c'",
        "step 't' begins inside of step 's'",
        "1 to 255 bytes",
        "which can not be recorded",
        "payload-too-large",
    ];
    for (said, expected) in said.as_array().unwrap().iter().zip(expected) {
        let said = said.as_str().unwrap();
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    assert_eq!(said[6], Value::Null);
    assert_eq!(node.counter("n"), Value::Null);
}
