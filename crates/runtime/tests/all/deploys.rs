use crate::node::{Node, sample, small_bundle};
use bytes::Bytes;
use serde_json::json;
use tidemill_problem::Code;

const APP: &str = "import tidemill\napp = tidemill.App('sample')\n";

fn version(n: u32) -> Bytes {
    let source = format!(
        "{APP}@app.function\ndef which():\n    import time\n    time.sleep(0.2)\n    return {n}\n"
    );
    small_bundle(&source, &["which"], |_| {})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redeploy_lets_running_requests_end_on_the_old_version() {
    let node = Node::start().await;
    assert!(
        node.runtime
            .deploy("sample", version(1))
            .await
            .unwrap()
            .changed
    );
    assert!(
        !node
            .runtime
            .deploy("sample", version(1))
            .await
            .unwrap()
            .changed
    );
    let old = node.call("which", json!([]));
    let new = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        node.runtime.deploy("sample", version(2)).await.unwrap();
        node.call("which", json!([])).await
    };
    let (old, new) = tokio::join!(old, new);
    assert_eq!((old, new), (json!(1), json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_deploy_leaves_the_old_version_serving() {
    let node = Node::start().await;
    node.runtime.deploy("sample", version(1)).await.unwrap();
    let cases = [
        (
            small_bundle(&format!("{APP}1/0\n"), &["which"], |_| {}),
            Code::LoadFailed,
        ),
        (small_bundle(APP, &["which"], |_| {}), Code::LoadFailed),
        (
            small_bundle(APP, &["which"], |m| m["runtime"]["python"] = json!("2.7")),
            Code::PythonMismatch,
        ),
        (
            small_bundle(APP, &["which"], |m| m["app"] = json!("other")),
            Code::BadManifest,
        ),
        (
            small_bundle(APP, &["which"], |m| {
                m["flows"] = json!([{"name": "f", "flow": {"version": 1, "output": 0, "steps": [
                    {"id": 0, "call": "whihc", "in": ["input"]}]}}]);
            }),
            Code::BadFlow,
        ),
        (
            small_bundle(APP, &["which"], |m| {
                m["functions"][0]["secrets"] = json!(["NOPE"]);
            }),
            Code::BadManifest,
        ),
        (Bytes::from_static(b"not a zip"), Code::BadManifest),
    ];
    for (archive, code) in cases {
        let problem = node.runtime.deploy("sample", archive).await.unwrap_err();
        assert_eq!(problem.code, code, "{problem}");
        assert_eq!(node.call("which", json!([])).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_and_unfinished_business_survive_a_restart() {
    let node = Node::sample().await;
    node.call("add", json!(["n", 3])).await;
    let node = node.restart().await;
    assert_eq!(node.call("add", json!(["n", 1])).await, json!([3, 4]));
    let (first, second) = tokio::join!(
        node.runtime.deploy("sample", sample()),
        node.runtime.deploy("sample", version(9))
    );
    assert!(first.is_ok() && second.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_app_is_gone_and_its_state_when_asked() {
    let node = Node::sample().await;
    node.call("add", json!(["n", 3])).await;
    node.runtime.remove("sample", false).await.unwrap();
    assert_eq!(node.fails("add", json!(["n"])).await.code, Code::UnknownApp);
    assert_eq!(node.counter("n"), 3);
    node.runtime.deploy("sample", sample()).await.unwrap();
    node.runtime.remove("sample", true).await.unwrap();
    assert_eq!(
        node.runtime.remove("sample", true).await.unwrap_err().code,
        Code::UnknownApp
    );
    assert_eq!(node.counter("n"), json!(null));
    let node = node.restart().await;
    assert!(node.runtime.apps().is_empty());
}
