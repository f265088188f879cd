//! A component of the standard `wasi:http/proxy` world: its requests, its `wasi:keyvalue` store,
//! what it may reach, and what is refused when it is deployed.

use crate::components::{data, zip};
use crate::node::{Node, call};
use bytes::Bytes;
use serde_json::{Value, json};
use tidemill_problem::Code;
use tidemill_runtime::{Call, Exchange, Head, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn web(hosts: &Value) -> Bytes {
    let manifest = json!({
        "manifest": 1, "app": "sample", "runtime": {"kind": "wasm"},
        "functions": [{"name": "web", "kind": "http", "component": "http.wasm", "hosts": hosts,
            "env": {"GREETING": "hello there"}}],
    });
    zip(&manifest, &[("http.wasm", &data("http.wasm"))])
}

async fn node() -> Node {
    let node = Node::start().await;
    node.runtime
        .deploy("sample", web(&json!([])))
        .await
        .unwrap();
    node
}

fn request(method: &str, path: &str, body: &str) -> Call {
    let input = Exchange {
        head: Head {
            method: Some(method.to_owned()),
            uri: Some(format!("http://mill{path}")),
            status: None,
            headers: vec![
                ("content-type".to_owned(), "text/plain".to_owned()),
                ("x-own".to_owned(), "1".to_owned()),
            ],
        },
        body: body.to_owned().into(),
    };
    call("web", input.to_payload())
}

async fn answered(node: &Node, call: Call) -> (Option<u16>, String) {
    let Output::Value(value) = node.runtime.call(call).await.result.unwrap() else {
        panic!("a stream")
    };
    let response = Exchange::from_payload(&value).unwrap();
    let body = String::from_utf8(response.body.to_vec()).unwrap();
    (response.head.status, body)
}

async fn get(node: &Node, path: &str) -> (Option<u16>, String) {
    answered(node, request("GET", path, "")).await
}

fn ok(body: &str) -> (Option<u16>, String) {
    (Some(200), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_component_answers_requests() {
    let node = node().await;
    assert_eq!(get(&node, "/hello").await, ok("hello"));
    let echoed = answered(&node, request("POST", "/echo", "a body")).await;
    assert_eq!(echoed, ok("a body"));
    let (_, headers) = get(&node, "/headers").await;
    assert!(headers.contains("x-own: 1\n"), "{headers}");
    assert_eq!(get(&node, "/nowhere").await.0, Some(404));
    let (_, variables) = get(&node, "/environment").await;
    assert!(variables.contains("GREETING=hello there\n"), "{variables}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standard_store_is_the_apps_own_keys() {
    let node = node().await;
    assert_eq!(get(&node, "/count").await, ok("visits 1, before []"));
    assert_eq!(get(&node, "/count").await, ok("visits 2, before [1]"));
    assert_eq!(node.counter("visits"), json!(2));
    assert_eq!(
        get(&node, "/batch").await,
        ok("a=1 none b=2\nnone none b=2")
    );
    assert!(node.runtime.state_get("sample", "noted").unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_an_error_and_the_component_says_so() {
    let node = Node::start().await;
    let both = json!({
        "manifest": 1, "app": "sample", "runtime": {"kind": "wasm"},
        "functions": [{"name": "web", "kind": "http", "component": "http.wasm"},
            {"name": "add", "component": "f.wasm"}],
    });
    let files: [(&str, &[u8]); 2] = [
        ("http.wasm", &data("http.wasm")),
        ("f.wasm", &data("fixture.wasm")),
    ];
    node.runtime
        .deploy("sample", zip(&both, &files))
        .await
        .unwrap();
    node.call("add", json!("noted")).await;
    let (status, message) = get(&node, "/count").await;
    assert_eq!(status, Some(500));
    assert!(message.contains("wrong-type"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_answers_an_http_request_once() {
    let node = node().await;
    let keyed = || Call {
        key: Some("once".into()),
        ..request("GET", "/count", "")
    };
    let first = answered(&node, keyed()).await;
    assert_eq!(answered(&node, keyed()).await, first);
    assert_eq!(node.counter("visits"), json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_traps_keeps_nothing_whether_it_has_answered_or_not() {
    let node = node().await;
    for path in ["/trap", "/late-trap"] {
        let answer = node.runtime.call(request("GET", path, "")).await;
        let problem = answer.result.unwrap_err();
        assert_eq!(problem.code, Code::FunctionFailed, "{path}");
        assert!(problem.detail.contains("trapped"), "{}", problem.detail);
        assert_eq!(node.counter("visits"), Value::Null, "{path}");
    }
    assert_eq!(get(&node, "/count").await, ok("visits 1, before []"));
}

/// A server that answers each connection with a short text, and its address.
async fn server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = Vec::new();
            let mut buffer = [0; 1024];
            while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(bytes) => seen.extend_from_slice(&buffer[..bytes]),
                }
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nthere";
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_reaches_granted_hosts_only() {
    let node = Node::start().await;
    let (granted, other) = (server().await, server().await);
    node.runtime
        .deploy("sample", web(&json!([granted])))
        .await
        .unwrap();
    let fetch = |address: &str| format!("/fetch?url=http%3A%2F%2F{address}%2Fx");
    assert_eq!(get(&node, &fetch(&granted)).await, ok("200\nthere"));
    let (status, message) = get(&node, &fetch(&other)).await;
    assert_eq!(status, Some(502));
    assert!(message.contains("HttpRequestDenied"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_with_its_reason() {
    let node = Node::start().await;
    let cases = [
        ("imports-unknown.wasm", "function", "acme:radio/tuner"),
        ("http.wasm", "function", "http"),
        ("fixture.wasm", "http", "http"),
    ];
    for (file, kind, expected) in cases {
        let manifest = json!({"manifest": 1, "app": "sample", "runtime": {"kind": "wasm"},
            "functions": [{"name": "f", "kind": kind, "component": "f.wasm"}]});
        let bundle = zip(&manifest, &[("f.wasm", &data(file))]);
        let problem = node.runtime.deploy("sample", bundle).await.unwrap_err();
        assert_eq!(problem.code, Code::LoadFailed, "{file}");
        assert!(problem.detail.contains(expected), "{}", problem.detail);
    }
}
