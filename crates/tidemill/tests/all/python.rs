//! A Python app on a node: deploy, call, watch.

use crate::support::{Node, stderr, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

const APP: &str = r#"
import time
import tidemill
from tidemill import state

app = tidemill.App("demo")

@app.function
def greet(name, mark="!"):
    """Greets somebody."""
    print("greeting", name)
    state.counter("greetings").add(1)
    return f"Hello {name}{mark}"

@app.function
def fail(text):
    state.counter("failures").add(1)
    raise ValueError(text)

@app.function
def count(n):
    for i in range(n):
        yield i

@app.function
def slow(seconds):
    time.sleep(seconds)
    return "done"

@app.function
def raw(data):
    return data
"#;

fn write_app(node: &Node, text: &str) -> PathBuf {
    let directory = node.data.with_file_name("app");
    fs::create_dir_all(&directory).expect("created");
    let path = directory.join("demo.py");
    fs::write(&path, text).expect("written");
    path
}

fn deployed() -> Node {
    let node = Node::start();
    let path = write_app(&node, APP);
    let text = node.cli_ok(&["deploy", &path.to_string_lossy()]);
    assert!(text.starts_with("deployed demo "), "{text}");
    assert!(text.contains("demo.greet"), "{text}");
    node
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_function_is_called_over_http_and_by_command() {
    let node = deployed();
    let reply = node.ask("POST", "/v1/call/demo/greet", "[\"Ada\"]");
    assert_eq!(reply.status, 200, "{}\n{}", reply.text(), node.log());
    assert_eq!(reply.json(), "Hello Ada!");
    assert_eq!(reply.header("tidemill-request").len(), 32);
    assert_eq!(reply.header("tidemill-trace").len(), 32);
    let body = json!({"args": ["Bob"], "kwargs": {"mark": "?"}}).to_string();
    assert_eq!(
        node.ask("POST", "/v1/call/demo/greet", &body).json(),
        "Hello Bob?"
    );
    for arguments in [
        &["call", "demo.greet", "--arg", "Eve"][..],
        &["call", "demo", "greet", "\"Eve\""],
        &[
            "call",
            "demo/greet",
            "--json",
            "{\"kwargs\": {\"name\": \"Eve\"}}",
        ],
    ] {
        assert_eq!(node.cli_ok(arguments), "\"Hello Eve!\"\n", "{arguments:?}");
    }
    assert_eq!(
        node.cli_ok(&["kv", "get", "demo", "greetings", "-o", "json"]),
        "{\"type\":\"counter\",\"value\":5}\n"
    );
    let octets = [("Content-Type", "application/octet-stream")];
    let reply = node.ask_with("POST", "/v1/call/demo/raw", &octets, b"\x00\xff");
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.body, b"\x00\xff");
}

#[test]
fn an_exception_is_told_and_leaves_nothing() {
    let node = deployed();
    let reply = node.ask("POST", "/v1/call/demo/fail", "[\"no such thing\"]");
    let problem = reply.problem("function-failed");
    assert_eq!(problem["exception"]["type"], "ValueError");
    assert!(
        problem["exception"]["traceback"]
            .as_str()
            .unwrap_or_default()
            .contains("demo.py")
    );
    assert_eq!(problem["exception"]["pickle"], Value::Null);
    assert_eq!(problem["request"], reply.header("tidemill-request"));
    assert_eq!(
        problem["instance"],
        format!("/v1/requests/{}", reply.header("tidemill-request"))
    );
    let headers = [
        ("Content-Type", "application/json"),
        ("Tidemill-Client", "python"),
    ];
    let reply = node.ask_with("POST", "/v1/call/demo/fail", &headers, b"[\"x\"]");
    assert!(
        reply.json()["exception"]["pickle"].is_string(),
        "{}",
        reply.text()
    );
    node.ask("GET", "/v1/kv/demo/failures", "")
        .problem("unknown-key");
    let output = node.cli(&["call", "demo.fail", "--arg", "no such thing"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = stderr(&output);
    assert!(errors.contains("function-failed"), "{errors}");
    assert!(errors.contains("Traceback"), "{errors}");
    assert!(errors.contains("ValueError: no such thing"), "{errors}");
    let output = node.cli(&["call", "demo.gret"]);
    assert!(
        stderr(&output).contains("did you mean: greet"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_generator_streams() {
    let node = deployed();
    let reply = node.ask("POST", "/v1/call/demo/count", "[3]");
    assert_eq!(
        reply.header("content-type"),
        "text/event-stream",
        "{}",
        reply.text()
    );
    let expected = "event: item\ndata: 0\n\nevent: item\ndata: 1\n\nevent: item\ndata: 2\n\n\
                    event: committed\ndata: {\"session\":\"";
    assert!(reply.text().starts_with(expected), "{}", reply.text());
    assert_eq!(
        node.cli_ok(&["call", "demo.count", "--arg", "3"]),
        "0\n1\n2\n"
    );
    let failed = node.cli(&["call", "demo.count", "--arg", "text"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("TypeError"), "{}", stderr(&failed));
}

#[test]
fn a_call_that_is_not_waited_for_is_fetched_later() {
    let node = deployed();
    let id = node.cli_ok(&["call", "demo.slow", "--arg", "0.3", "--async"]);
    let id = id.trim();
    let reply = node.ask("GET", &format!("/v1/requests/{id}/result"), "");
    assert_eq!(reply.status, 202, "{}", reply.text());
    let wait = [("Prefer", "wait=30")];
    let reply = node.ask_with("GET", &format!("/v1/requests/{id}/result"), &wait, b"");
    assert_eq!((reply.status, reply.text().as_str()), (200, "\"done\""));
    assert_eq!(node.cli_ok(&["request", "result", id]), "\"done\"\n");
    let shown = json_of(&node.cli_ok(&["request", "show", id, "-o", "json"]));
    assert_eq!(shown["state"], "succeeded", "{shown}");
    assert_eq!(shown["function"], "slow");
    let headers = [
        ("Content-Type", "application/json"),
        ("Prefer", "respond-async"),
    ];
    let reply = node.ask_with("POST", "/v1/call/demo/slow", &headers, b"[30]");
    assert_eq!(reply.status, 202);
    let location = reply.header("location").to_owned();
    assert_eq!(
        location,
        format!("/v1/requests/{}", reply.header("tidemill-request"))
    );
    let cancelled = node.ask("DELETE", &location, "").json();
    assert_eq!(cancelled["cancelled"], true);
    let state = wait_for("the end of the request", || {
        let state = node.ask("GET", &location, "").json()["state"].clone();
        (state != "running").then_some(state)
    });
    assert_eq!(state, "cancelled");
    let listed = node.cli_ok(&["request", "ls", "--app", "demo"]);
    assert!(
        listed.contains("demo.slow") && listed.contains("succeeded"),
        "{listed}"
    );
}

#[test]
fn a_caller_may_give_up_or_go() {
    let node = deployed();
    let headers = [
        ("Content-Type", "application/json"),
        ("Tidemill-Timeout", "0.2"),
    ];
    let reply = node.ask_with("POST", "/v1/call/demo/slow", &headers, b"[30]");
    reply.problem("timed-out");
    let output = node.cli(&["call", "demo.slow", "--arg", "30", "--timeout", "0.2"]);
    assert!(stderr(&output).contains("timed-out"), "{}", stderr(&output));
    let mut child = node
        .cli_command(&["call", "demo.slow", "--arg", "31"])
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let requests = |state: &str| {
        let path = format!("/v1/requests?state={state}");
        node.ask("GET", &path, "").json()["requests"]
            .as_array()
            .map_or(0, Vec::len)
    };
    wait_for("the request", || (requests("running") == 1).then_some(()));
    let before = requests("cancelled");
    child.kill().expect("killed");
    child.wait().expect("ended");
    wait_for("its cancellation", || {
        (requests("cancelled") > before).then_some(())
    });
    assert_eq!(requests("running"), 0);
}

#[test]
fn what_happened_can_be_looked_at() {
    let node = deployed();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("Content-Type", "application/json"), ("traceparent", trace)];
    let reply = node.ask_with("POST", "/v1/call/demo/greet", &headers, b"[\"Ada\"]");
    assert_eq!(
        reply.header("tidemill-trace"),
        "0af7651916cd43dd8448eb211c80319c"
    );
    let request = reply.header("tidemill-request").to_owned();
    let log = wait_for("the log line", || {
        let text = node.cli_ok(&["logs", "--request", &request, "-o", "json"]);
        (!text.is_empty()).then_some(text)
    });
    let line = json_of(log.lines().next().unwrap_or_default());
    assert_eq!(
        (&line["text"], &line["app"], &line["function"]),
        (&json!("greeting Ada"), &json!("demo"), &json!("greet"))
    );
    assert!(
        node.cli_ok(&["logs", "--app", "demo"])
            .contains("demo.greet stdout: greeting Ada")
    );
    assert_eq!(node.cli_ok(&["logs", "--app", "other"]), "");
    for id in [request.as_str(), "0af7651916cd43dd8448eb211c80319c"] {
        let tree = node.cli_ok(&["trace", id]);
        assert!(
            tree.starts_with("trace 0af7651916cd43dd8448eb211c80319c\n"),
            "{tree}"
        );
        assert!(tree.contains("greet"), "{tree}");
    }
    let functions = node.cli_ok(&["fn", "ls"]);
    let row = functions
        .lines()
        .find(|line| line.contains(" greet "))
        .unwrap_or_default();
    assert!(
        row.contains("function") && row.contains("Greets somebody."),
        "{functions}"
    );
    let described = json_of(&node.cli_ok(&["fn", "describe", "demo.greet", "-o", "json"]));
    assert_eq!(described["name"], "greet");
    let unknown = node.cli(&["fn", "describe", "demo.gret"]);
    assert!(
        stderr(&unknown).contains("did you mean: greet"),
        "{}",
        stderr(&unknown)
    );
    let metrics = node.ask("GET", "/metrics", "").text();
    let counted = "tidemill_requests_total{app=\"demo\",function=\"greet\",outcome=\"ok\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(
        node.ask("GET", &format!("/v1/requests/{request}"), "")
            .json()["meter"]["outcome"],
        "ok"
    );
}

#[test]
fn a_flow_is_registered_from_outside() {
    let node = deployed();
    let flow = json!({"version": 1, "output": 1, "steps": [
        {"id": 0, "call": "greet", "in": ["input"]},
        {"id": 1, "call": "greet", "in": [0]},
    ]});
    let reply = node.ask("PUT", "/v1/apps/demo/flows/twice", &flow.to_string());
    assert_eq!(reply.status, 204, "{}", reply.text());
    let reply = node.ask("POST", "/v1/call/demo/twice", "[\"Ada\"]");
    assert_eq!(reply.json(), "Hello Hello Ada!!");
    node.ask("PUT", "/v1/apps/demo/flows/bad", "{}")
        .problem("bad-flow");
    node.ask("PUT", "/v1/apps/nothing/flows/twice", &flow.to_string())
        .problem("unknown-app");
}

#[test]
fn an_app_outlives_its_node_and_can_be_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut node = Node::start_on(&data, &[], &[]);
    let path = write_app(&node, APP);
    let path = path.to_string_lossy().into_owned();
    node.cli_ok(&["deploy", &path]);
    node.cli_ok(&["call", "demo.greet", "--arg", "Ada"]);
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0), "{}", node.log());
    let node = Node::start_on(&data, &[], &[]);
    assert_eq!(
        node.cli_ok(&["call", "demo.greet", "--arg", "Bob"]),
        "\"Hello Bob!\"\n"
    );
    let again = node.cli_ok(&["deploy", &path]);
    assert!(again.starts_with("unchanged demo "), "{again}");
    node.cli_ok(&["fn", "rm", "demo"]);
    assert_eq!(
        node.cli(&["call", "demo.greet", "--arg", "x"])
            .status
            .code(),
        Some(1)
    );
    let kept = node.cli_ok(&["kv", "get", "demo", "greetings", "-o", "json"]);
    assert_eq!(kept, "{\"type\":\"counter\",\"value\":2}\n");
    node.cli_ok(&["deploy", &path]);
    node.cli_ok(&["fn", "rm", "demo", "--delete-state"]);
    node.ask("GET", "/v1/kv/demo/greetings", "")
        .problem("unknown-key");
}

#[test]
fn a_file_that_cannot_be_loaded_says_why() {
    let node = Node::start();
    let path = write_app(
        &node,
        "import tidemill\napp = tidemill.App('demo')\nraise OSError('odd')\n",
    );
    let output = node.cli(&["deploy", &path.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("OSError: odd"),
        "{}",
        stderr(&output)
    );
    let output = node.cli(&[
        "deploy",
        &path.to_string_lossy(),
        "--python",
        "/nothing/python",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("/nothing/python"),
        "{}",
        stderr(&output)
    );
}

/// A child that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn dev_deploys_each_change_and_keeps_serving_when_one_is_bad() {
    let node = Node::start();
    let path = write_app(&node, APP);
    let log = node.data.with_file_name("dev.log");
    let errors = fs::File::create(&log).expect("a log");
    let mut child = node
        .cli_command(&["dev", &path.to_string_lossy()])
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .expect("started");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let _child = Killed(child);
    let said = |text: &str| {
        wait_for(text, || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            log.contains(text).then_some(())
        });
    };
    let greet = || node.ask("POST", "/v1/call/demo/greet", "[\"Ada\"]").text();
    said("deployed demo");
    assert_eq!(greet(), "\"Hello Ada!\"");
    fs::write(&path, "def broken(:\n").expect("written");
    said("SyntaxError");
    assert_eq!(greet(), "\"Hello Ada!\"");
    fs::write(&path, APP.replace("Hello", "Welcome")).expect("written");
    wait_for("the new version", || {
        (greet() == "\"Welcome Ada!\"").then_some(())
    });
    let line = output.lines().next().expect("a line").expect("readable");
    assert!(line.ends_with("demo.greet stdout: greeting Ada"), "{line}");
}
