//! Functions that behave badly, and callers that do: others go on meanwhile.

use crate::bundle::{meanwhile, python};
use crate::processes::{resident_kib, within};
use crate::support::{Node, sleep, wait_for};
use crate::wire::{Wire, many_open_files};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const APP: &str = r#"
import os, signal, sys, time
import tidemill
from tidemill import state

VERSION = 0
app = tidemill.App("wild")

@app.function
def fine(*args):
    return "fine"

@app.function
def version():
    time.sleep(0.002)
    return VERSION

@app.function
def recurse(n):
    state.counter("depth").add(1)
    return recurse.remote(n + 1)

@app.function
def chatter():
    line = "x" * 32_000 + "\n"
    for _ in range((1 << 30) // len(line)):
        sys.stdout.write(line)
    return "said"

@app.function(memory="64MB")
def hog():
    held = []
    while True:
        held.append(bytearray(1 << 20))

@app.function
def forks():
    child = os.fork()
    if child == 0:
        time.sleep(600)
    return child

@app.function
def stubborn(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

@app.function
def flood(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    while True:
        yield "x" * 60_000
"#;

fn bundle(version: usize) -> Vec<u8> {
    let functions = json!([
        {"name": "fine"}, {"name": "version"}, {"name": "recurse"}, {"name": "chatter"},
        {"name": "hog", "memory_bytes": 64 << 20}, {"name": "forks"}, {"name": "stubborn"},
        {"name": "flood", "kind": "generator"},
    ]);
    let source = APP.replace("VERSION = 0", &format!("VERSION = {version}"));
    python("wild", &source, &functions)
}

fn wild(environment: &[(&str, &str)]) -> Node {
    let node = Node::start_with(&[], environment);
    node.deploy("wild", &bundle(0));
    node
}

/// The process id that a function has written there.
fn pid_in(path: &Path) -> String {
    wait_for("the function", || {
        std::fs::read_to_string(path)
            .ok()
            .filter(|text| !text.is_empty())
    })
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn ends(pid: &str) {
    let ended = within(Duration::from_secs(10), || !is_alive(pid));
    assert!(ended, "process {pid} is still there");
}

#[test]
fn functions_without_an_end_cost_their_own_requests() {
    let node = wild(&[]);
    let path = node.data.with_file_name("pid");
    meanwhile(&node, "wild", "fine", &json!([]), || {
        node.call("wild", "recurse", &json!([0]))
            .problem("call-too-deep");
        node.call("wild", "hog", &json!([]))
            .problem("out-of-memory");
        let child = node.call("wild", "forks", &json!([])).json().to_string();
        ends(&child);
        let body = json!([path]).to_string();
        let submit = [
            ("Content-Type", "application/json"),
            ("Prefer", "respond-async"),
        ];
        let reply = node.ask_with("POST", "/v1/call/wild/stubborn", &submit, body.as_bytes());
        let location = reply.header("location").to_owned();
        let pid = pid_in(&path);
        assert_eq!(node.ask("DELETE", &location, "").json()["cancelled"], true);
        node.ask("GET", &format!("{location}/result"), "")
            .problem("cancelled");
        ends(&pid);
        assert_eq!(node.ask("DELETE", &location, "").json()["cancelled"], false);
    });
    node.ask("GET", "/v1/kv/wild/depth", "")
        .problem("unknown-key");
}

#[test]
fn a_gigabyte_of_output_passes_through() {
    let node = wild(&[]);
    let before = resident_kib(node.pid());
    meanwhile(&node, "wild", "fine", &json!([]), || {
        assert_eq!(node.call("wild", "chatter", &json!([])).json(), "said");
    });
    let grown = resident_kib(node.pid()).saturating_sub(before);
    assert!(grown < 200 << 10, "{grown} KiB more");
}

#[test]
fn a_caller_that_goes_frees_the_worker() {
    let node = wild(&[("TIDEMILL_RUNTIME_WORKERS_MAX", "1")]);
    let path = node.data.with_file_name("pid");
    for function in ["stubborn", "flood"] {
        drop(std::fs::remove_file(&path));
        let mut wire = Wire::open(&node).expect("connected");
        let call = format!("/v1/call/wild/{function}");
        let request = wire.request("POST", &call, &json!([path]).to_string());
        wire.send(request.as_bytes()).expect("sent");
        let pid = pid_in(&path);
        if function == "flood" {
            // Reads a little and stops: the function waits, and the node holds little.
            assert!(wire.read_some(1000) > 0);
            let before = resident_kib(node.pid());
            sleep(Duration::from_millis(500));
            let grown = resident_kib(node.pid()).saturating_sub(before);
            assert!(grown < 50 << 10, "{grown} KiB more");
            assert!(is_alive(&pid));
        }
        drop(wire);
        let reply = node.call("wild", "fine", &json!([]));
        assert_eq!(reply.json(), "fine");
        let running = || {
            let listed = node.ask("GET", "/v1/requests?state=running", "").json();
            listed["requests"].as_array().map_or(0, Vec::len)
        };
        assert_eq!(running(), 0);
    }
}

#[test]
fn a_thousand_calls_may_wait() {
    many_open_files();
    let node = wild(&[]);
    let mut wires: Vec<Wire> = (0..1000)
        .map(|_| Wire::open(&node).expect("connected"))
        .collect();
    for wire in &mut wires {
        let request = wire.request("POST", "/v1/call/wild/version", "[]");
        wire.send(request.as_bytes()).expect("sent");
    }
    for wire in &mut wires {
        let reply = wire.answer().expect("answered");
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(node.call("wild", "fine", &json!([])).json(), "fine");
}

#[test]
fn calls_go_on_while_versions_change() {
    let node = wild(&[]);
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut wire = Wire::open(&node).expect("connected");
                while !stop.load(Ordering::Relaxed) {
                    let reply = wire.ask("POST", "/v1/call/wild/version", "[]");
                    let reply = reply.expect("answered");
                    if reply.status != 200 {
                        stop.store(true, Ordering::Relaxed);
                        panic!("{}", reply.text());
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for version in 1..=4 {
            node.deploy("wild", &bundle(version));
            assert_eq!(node.call("wild", "version", &json!([])).json(), version);
        }
        // Two at once: both are taken, one after the other, and the last one serves.
        let node = &node;
        let deploy = |version| move || node.put_app("wild", &bundle(version)).json();
        let deploys = [5, 6].map(|version| scope.spawn(deploy(version)));
        let answers: Vec<Value> = deploys
            .into_iter()
            .map(|deploy| deploy.join().expect("deployed"))
            .collect();
        let serving = node.ask("GET", "/v1/apps/wild", "").json()["version"].clone();
        let last = answers
            .iter()
            .position(|answer| answer["version"] == serving);
        let last = last.unwrap_or_else(|| panic!("{serving} is none of {answers:?}"));
        assert_eq!(node.call("wild", "version", &json!([])).json(), 5 + last);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(calls.load(Ordering::Relaxed) > 50);
}
