use crate::node::Node;
use serde_json::json;
use tidemill_flow::Flow;
use tidemill_problem::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_is_one_request_with_one_commit() {
    let node = Node::sample().await;
    let result = node.call("diamond", json!([1])).await;
    assert_eq!(result, json!([4, 6, ["first", "second", "third"]]));
    let order = node.runtime.state_get("sample", "order").unwrap().unwrap();
    let order = order.1.view(order.0).unwrap().to_json(order.0);
    assert_eq!(order["value"], json!(["first", "second", "third"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_do_not_see_each_other_in_one_hand_off_or_in_two() {
    let node = Node::sample().await;
    let result = node.call("blind", json!([1])).await;
    assert_eq!(result[1], json!(["first"]));
    assert_eq!(result[2], json!(["first", "second"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn costly_branches_get_workers_of_their_own() {
    let node = Node::sample().await;
    let plan = || {
        let app = node.runtime.app("sample").unwrap();
        let slow = app.flows.into_iter().find(|flow| flow.name == "slow");
        slow.unwrap().plan
    };
    let before = plan();
    assert!(before.starts_with("4 steps in 1 hand-off\n"), "{before}");
    // Runs show what the branches cost.
    node.call("slow", json!([-0.9])).await;
    let after = plan();
    // Neither branch may wait for the other, so neither shares a hand-off with what is
    // before or after both.
    assert!(after.starts_with("4 steps in 4 hand-offs\n"), "{after}");
    let answer = node.call("slow", json!([-0.9])).await;
    assert_eq!(answer[0], answer[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_flow_is_called_like_a_function() {
    let node = Node::sample().await;
    let flow = Flow::of("first").then("second").build();
    node.runtime
        .register_flow("sample", "adhoc-1", &flow)
        .unwrap();
    assert_eq!(node.call("adhoc-1", json!([1])).await, 4);
    let wrong = Flow::of("frist").build();
    let problem = node
        .runtime
        .register_flow("sample", "adhoc-2", &wrong)
        .unwrap_err();
    assert_eq!(problem.code, Code::BadFlow);
    assert!(problem.detail.contains("first"), "{}", problem.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_fails_the_flow_and_keeps_nothing() {
    let node = Node::sample().await;
    let flow = Flow::of("first").then("fail").build();
    node.runtime
        .register_flow("sample", "adhoc-3", &flow)
        .unwrap();
    let problem = node.fails("adhoc-3", json!([1])).await;
    assert_eq!(problem.code, Code::FunctionFailed);
    assert!(node.runtime.state_get("sample", "order").unwrap().is_none());
}
