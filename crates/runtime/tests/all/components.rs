//! Components: the equals of Python functions, and what hostile ones can not do.

use crate::node::{Node, call, root, small_bundle};
use bytes::Bytes;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;
use tidemill_lattice::{ContentType, Payload};
use tidemill_problem::Code;
use tidemill_runtime::{Call, Level, Output};
use tidemill_telemetry::Stream;

const FUNCTIONS: &[&str] = &[
    "echo", "instance", "sum", "add", "read", "keys", "context", "log", "call", "spawn", "forget",
    "cancel", "enqueue", "step", "self", "types", "fail", "trap", "spin", "grow", "recurse", "big",
];

pub(crate) fn data(name: &str) -> Vec<u8> {
    std::fs::read(root().join("crates/wasm/tests/data").join(name)).unwrap()
}

pub(crate) fn zip(manifest: &Value, files: &[(&str, &[u8])]) -> Bytes {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("tidemill.json", options).unwrap();
    zip.write_all(manifest.to_string().as_bytes()).unwrap();
    for (name, body) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(body).unwrap();
    }
    zip.finish().unwrap().into_inner().into()
}

fn manifest() -> Value {
    let functions: Vec<Value> = FUNCTIONS
        .iter()
        .map(|name| match *name {
            "spin" => json!({"name": "spin", "component": "f.wasm", "timeout_ms": 100}),
            "grow" => json!({"name": "grow", "component": "f.wasm", "memory_bytes": 32 << 20}),
            name => json!({"name": name, "component": "f.wasm"}),
        })
        .collect();
    json!({
        "manifest": 1, "app": "sample", "runtime": {"kind": "wasm"}, "functions": functions,
        "flows": [
            {"name": "both", "flow": {"version": 1, "output": 2, "steps": [
                {"id": 0, "call": "echo", "in": ["input"]},
                {"id": 1, "call": "echo", "in": ["input"]},
                {"id": 2, "call": "sum", "in": [0, 1]}]}},
        ],
    })
}

fn app(change: impl Fn(&mut Value)) -> Bytes {
    let mut manifest = manifest();
    change(&mut manifest);
    zip(&manifest, &[("f.wasm", &data("fixture.wasm"))])
}

async fn components() -> Node {
    let node = Node::start().await;
    node.runtime.deploy("sample", app(|_| {})).await.unwrap();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_called_and_keeps_state() {
    let node = components().await;
    assert_eq!(
        node.call("echo", json!([{"a": [1, 2]}])).await,
        json!({"a": [1, 2]})
    );
    assert_eq!(node.call("add", json!("visits")).await, json!(1));
    assert_eq!(
        node.call("add", json!({"args": ["visits"], "kwargs": {}}))
            .await,
        json!(2)
    );
    assert_eq!(node.call("read", json!("visits")).await, json!(2));
    assert_eq!(node.counter("visits"), json!(2));
    assert_eq!(node.call("types", json!(null)).await, json!("ok"));
    let listed = node.call("keys", json!("vis")).await;
    assert_eq!(listed, json!([["visits", "counter"]]));
    let bytes = node.answer("echo", Payload::bytes(vec![0_u8, 255])).await;
    let Output::Value(bytes) = bytes.result.unwrap() else {
        panic!("a stream")
    };
    assert_eq!(bytes, Payload::bytes(vec![0_u8, 255]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_learns_its_request_and_its_lines_are_kept() {
    let node = components().await;
    let asked = Call {
        key: Some("k1".into()),
        ..call("context", Payload::null())
    };
    let answer = node.runtime.call(asked).await;
    let Output::Value(context) = answer.result.unwrap() else {
        panic!("a stream")
    };
    let context: Value = serde_json::from_slice(&context.body).unwrap();
    assert_eq!(context["id"], json!(answer.request.to_string()));
    assert_eq!(
        (&context["attempt"], &context["app"]),
        (&json!(1), &json!("sample"))
    );
    assert_eq!(
        (&context["level"], &context["key"]),
        (&json!("causal"), &json!("k1"))
    );
    assert_eq!(context["subject"], json!("test"));
    assert!(context["remaining_ms"].as_u64().unwrap() <= 60_000);
    node.call("log", json!(null)).await;
    let lines = node.telemetry.logs.query(&Default::default());
    let lines: Vec<_> = lines
        .iter()
        .filter(|line| line.stream == Stream::Log)
        .collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[3].text, "a line of warn");
    assert_eq!(lines[3].level.as_deref(), Some("WARNING"));
    assert_eq!(&*lines[3].function, "log");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_join_their_callers_writes() {
    let node = components().await;
    assert_eq!(node.call("call", json!([["add", "a"]])).await, json!(1));
    assert_eq!(
        node.call("call", json!([["sample/add", "a"]])).await,
        json!(2)
    );
    let all = node.call("spawn", json!([["add", "a", "b", "a"]])).await;
    // Siblings do not see each other.
    assert_eq!(all, json!([3, 1, 3]));
    assert_eq!((node.counter("a"), node.counter("b")), (json!(4), json!(1)));
    node.call("forget", json!([["add", "c"]])).await;
    assert_eq!(node.counter("c"), json!(1));
    let problem = node.fails("forget", json!([["fail", null]])).await;
    assert_eq!(problem.exception.unwrap().kind, "out-of-stock");
    assert_eq!(
        node.call("cancel", json!([["spin", null]])).await,
        json!("cancelled")
    );
    node.call("enqueue", json!([["add", "d"]])).await;
    node.eventually("the message", |node| node.counter("d") == json!(1))
        .await;
    assert_eq!(node.call("self", json!(20)).await, json!(20));
    let problem = node.fails("self", json!(1000)).await;
    assert_eq!(problem.code, Code::CallTooDeep);
    let problem = node.fails("call", json!([["nobody", 1]])).await;
    assert_eq!(problem.code, Code::UnknownFunction);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_nothing_and_says_why() {
    let node = components().await;
    let problem = node.fails("fail", json!(null)).await;
    assert_eq!(problem.code, Code::FunctionFailed);
    let exception = problem.exception.unwrap();
    assert_eq!(exception.kind, "out-of-stock");
    assert!(exception.message.contains("none left"));
    let problem = node.fails("trap", json!(null)).await;
    assert_eq!(problem.code, Code::FunctionFailed);
    assert!(problem.detail.contains("trapped"), "{}", problem.detail);
    assert!(!problem.exception.unwrap().traceback.is_empty());
    let problem = node.fails("recurse", json!(null)).await;
    assert!(problem.detail.contains("stack"), "{}", problem.detail);
    let problem = node.fails("grow", json!(null)).await;
    assert_eq!(problem.code, Code::OutOfMemory);
    assert!(problem.detail.contains("32 MiB"), "{}", problem.detail);
    let problem = node.fails("big", json!(20 << 20)).await;
    assert_eq!(problem.code, Code::PayloadTooLarge);
    let big = node
        .answer("big", Payload::json(&json!(1 << 20)))
        .await
        .result
        .unwrap();
    assert!(matches!(big, Output::Value(value) if value.body.len() == 1 << 20));
    assert_eq!(
        (node.counter("fail"), node.counter("trap")),
        (Value::Null, Value::Null)
    );
    assert_eq!(node.call("add", json!("after")).await, json!(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_never_end_are_stopped_and_hold_nobody_up() {
    let node = components().await;
    let spinning: Vec<_> = (0..4)
        .map(|_| {
            let runtime = node.runtime.clone();
            tokio::spawn(async move { runtime.call(call("spin", Payload::null())).await })
        })
        .collect();
    // More of them than threads, and a call gets through.
    assert_eq!(node.call("echo", json!(1)).await, json!(1));
    for one in spinning {
        assert_eq!(one.await.unwrap().result.unwrap_err().code, Code::TimedOut);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_serves_in_turn_and_a_fresh_one_once() {
    let node = Node::start().await;
    let fresh = app(|manifest| {
        manifest["functions"][4] =
            json!({"name": "instance-fresh", "component": "f.wasm", "fresh": true});
    });
    node.runtime.deploy("sample", fresh).await.unwrap();
    assert_eq!(node.call("instance", json!(null)).await, json!(1));
    assert_eq!(node.call("instance", json!(null)).await, json!(2));
    assert_eq!(node.call("instance-fresh", json!(null)).await, json!(1));
    assert_eq!(
        node.fails("trap", json!(null)).await.code,
        Code::FunctionFailed
    );
    // What trapped is gone; what was given back before serves on or a new one does.
    assert_eq!(node.runtime.app("sample").unwrap().instances, 1);
    node.clock.move_on(Duration::from_secs(3600));
    node.eventually("the end of those that rest", |node| {
        node.runtime.app("sample").unwrap().instances == 0
    })
    .await;
    assert_eq!(node.call("instance", json!(null)).await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_run_through_components() {
    let node = components().await;
    assert_eq!(node.call("both", json!(4)).await, json!(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_runs_a_component_once_and_steps_are_recorded() {
    let node = components().await;
    let keyed = |function: &str, args: Value| Call {
        key: Some("once".into()),
        ..call(function, Payload::json(&args))
    };
    let first = node.runtime.call(keyed("add", json!("k"))).await;
    let again = node.runtime.call(keyed("add", json!("k"))).await;
    assert!(again.is_repeated && !first.is_repeated);
    assert_eq!(node.counter("k"), json!(1));
    assert_eq!(node.call("step", json!("pay")).await, json!("fresh"));
    assert_eq!(node.call("step", json!("pay")).await, json!("fresh"));
    assert_eq!(node.counter("step/pay"), json!(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_level_eventual_each_write_stands() {
    let node = components().await;
    let eventual = |function: &str, args: Value| {
        let mut call = call(function, Payload::json(&args));
        call.asked.level = Some(Level::Eventual);
        call
    };
    let added = node.runtime.call(eventual("add", json!("e"))).await;
    let Output::Value(value) = added.result.unwrap() else {
        panic!("a stream")
    };
    assert_eq!(&value.body[..], b"1");
    let failed = node.runtime.call(eventual("fail", json!(null))).await;
    assert_eq!(failed.result.unwrap_err().code, Code::FunctionFailed);
    assert_eq!(node.counter("fail"), json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_may_mix_python_and_components() {
    let node = Node::start().await;
    let source = "import tidemill\napp = tidemill.App('sample')\n\
                  @app.function\ndef double(n): return 2 * n\n\
                  @app.function\ndef bump(key):\n    tidemill.state.counter(key).add(7)\n    return key\n";
    let python = small_bundle(source, &["double", "bump"], |manifest| {
        let functions = manifest["functions"].as_array_mut().unwrap();
        for name in ["call", "echo", "read"] {
            functions.push(json!({"name": name, "component": "f.wasm"}));
        }
        manifest["flows"] = json!([{"name": "mixed", "flow": {"version": 1, "output": 2, "steps": [
            {"id": 0, "call": "double", "in": ["input"]},
            {"id": 1, "call": "echo", "in": [0]},
            {"id": 2, "call": "double", "in": [1]}]}},
            {"name": "seen", "flow": {"version": 1, "output": 2, "steps": [
            {"id": 0, "call": "bump", "in": ["input"]},
            {"id": 1, "call": "echo", "in": [0]},
            {"id": 2, "call": "read", "in": [1]}]}}]);
    });
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(python.to_vec())).unwrap();
    let read = |archive: &mut zip::ZipArchive<_>, name: &str| {
        std::io::read_to_string(archive.by_name(name).unwrap()).unwrap()
    };
    let manifest: Value = serde_json::from_str(&read(&mut archive, "tidemill.json")).unwrap();
    let main = read(&mut archive, "main.py");
    let files: [(&str, &[u8]); 2] = [
        ("main.py", main.as_bytes()),
        ("f.wasm", &data("fixture.wasm")),
    ];
    node.runtime
        .deploy("sample", zip(&manifest, &files))
        .await
        .unwrap();
    assert_eq!(node.call("double", json!(4)).await, json!(8));
    assert_eq!(node.call("call", json!([["double", 5]])).await, json!(10));
    assert_eq!(node.call("mixed", json!([3])).await, json!(12));
    assert_eq!(node.call("seen", json!(["k"])).await, json!(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_when_it_is_deployed() {
    let node = components().await;
    let with = |file: &[u8]| {
        let manifest = json!({"manifest": 1, "app": "sample", "runtime": {"kind": "wasm"},
            "functions": [{"name": "f", "component": "f.wasm"}]});
        zip(&manifest, &[("f.wasm", file)])
    };
    let fixture = data("fixture.wasm");
    let cases: [(&[u8], &str); 4] = [
        (b"", "cannot be compiled"),
        (b"\0asm\x01\0\0\0", "core module"),
        (&fixture[..fixture.len() / 2], "cannot be compiled"),
        (b"(component)", "cannot be compiled"),
    ];
    for (file, expected) in cases {
        let problem = node.runtime.deploy("sample", with(file)).await.unwrap_err();
        assert_eq!(problem.code, Code::LoadFailed);
        assert!(problem.detail.contains(expected), "{}", problem.detail);
    }
    let missing = json!({"manifest": 1, "app": "sample", "runtime": {"kind": "wasm"},
        "functions": [{"name": "f", "component": "g.wasm"}]});
    let problem = node
        .runtime
        .deploy("sample", zip(&missing, &[]))
        .await
        .unwrap_err();
    assert!(problem.detail.contains("g.wasm"), "{}", problem.detail);
    // What served before serves on.
    assert_eq!(node.call("echo", json!(1)).await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_versions_change() {
    let node = components().await;
    let calling = {
        let runtime = node.runtime.clone();
        tokio::spawn(async move {
            for n in 0..400 {
                let answer = runtime.call(call("echo", Payload::json(&json!(n)))).await;
                answer.result.unwrap();
            }
        })
    };
    for n in 0..5 {
        let next = app(|manifest| manifest["functions"][1]["doc"] = json!(format!("{n}")));
        assert!(node.runtime.deploy("sample", next).await.unwrap().changed);
    }
    calling.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_compiled_code_from_its_cache_and_trusts_no_other() {
    let node = components().await;
    let compiled = node.directory.path().join("runtime/compiled");
    let files = || -> Vec<_> {
        let entries = std::fs::read_dir(&compiled).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    assert_eq!(files().len(), 1);
    let good = std::fs::read(&files()[0]).unwrap();
    let node = node.restart().await;
    assert_eq!(node.call("echo", json!(1)).await, json!(1));
    // Damage, a foreign file, a link: compiled anew, never loaded.
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&files()[0], &bad).unwrap();
    let node = node.restart().await;
    assert_eq!(node.call("echo", json!(2)).await, json!(2));
    assert_ne!(std::fs::read(&files()[0]).unwrap(), bad);
    let (path, elsewhere) = (files()[0].clone(), node.directory.path().join("elsewhere"));
    std::fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let node = node.restart().await;
    assert_eq!(node.call("echo", json!(3)).await, json!(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_content_type_of_a_result_is_kept() {
    let node = components().await;
    let text = Payload::new(ContentType::parse("text/plain").unwrap(), "hi");
    let Output::Value(back) = node.answer("echo", text.clone()).await.result.unwrap() else {
        panic!("a stream")
    };
    assert_eq!(back, text);
}
