//! Long use leaves nothing behind: memory, open files, processes, files on disk.
//!
//! `TIDEMILL_LEAKS` multiplies how much is done.

use crate::bundle::python;
use crate::processes::{open_files, resident_kib, started_by, within, zombies_of};
use crate::support::{Node, wait_for};
use crate::wire::Wire;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

const APP: &str = r#"
import time
import tidemill
from tidemill import state

# VERSION
app = tidemill.App("small")

@app.function
def add(text):
    print(text)
    state.counter("n").add(1)
    return text

@app.function
def wait():
    time.sleep(600)
"#;

fn bundle(version: u64, more: &str) -> Vec<u8> {
    let source = APP.replace("VERSION", &version.to_string()) + more;
    python(
        "small",
        &source,
        &json!([{"name": "add"}, {"name": "wait"}]),
    )
}

fn calls(node: &Node, count: u64) {
    let clients = 4;
    std::thread::scope(|scope| {
        for client in 0..clients {
            scope.spawn(move || {
                let mut wire = Wire::open(node).expect("connected");
                for number in 0..count / clients {
                    let body = format!("[\"{client} {number}\"]");
                    let reply = wire.ask("POST", "/v1/call/small/add", &body);
                    let reply = reply.expect("answered");
                    assert_eq!(reply.status, 200, "{}", reply.text());
                }
            });
        }
    });
}

fn cancelled(node: &Node, count: u64) {
    let submit = [
        ("Content-Type", "application/json"),
        ("Prefer", "respond-async"),
    ];
    for number in 0..count {
        let reply = node.ask_with("POST", "/v1/call/small/wait", &submit, b"[]");
        let location = reply.header("location").to_owned();
        if number % 2 == 0 {
            // Most of these run by now.
            node.ask("GET", "/livez", "");
        }
        node.ask("DELETE", &location, "");
        let wait = [("Prefer", "wait=30")];
        let result = node.ask_with("GET", &format!("{location}/result"), &wait, b"");
        result.problem("cancelled");
    }
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn nothing_grows_with_use() {
    let scale: u64 =
        std::env::var("TIDEMILL_LEAKS").map_or(1, |text| text.parse().expect("a number"));
    let node = Node::start();
    let pid = node.pid();
    node.deploy("small", &bundle(0, ""));
    calls(&node, 2000);
    cancelled(&node, 20);
    let settled = || started_by(pid).len();
    let (memory, files) = (resident_kib(pid), open_files(pid));
    calls(&node, 2000 * scale);
    cancelled(&node, 200 * scale);
    let after_calls = resident_kib(pid);
    for version in 1..=20 * scale {
        node.deploy("small", &bundle(version, ""));
        assert_eq!(node.call("small", "add", &json!(["x"])).status, 200);
    }
    node.put_app("small", &bundle(0, "raise OSError('no')\n"))
        .problem("load-failed");
    let grown = resident_kib(pid).saturating_sub(memory);
    println!(
        "memory {memory} KiB, {after_calls} KiB after calls, {} KiB after deploys; \
         open files {files}, {}; processes {}",
        resident_kib(pid),
        open_files(pid),
        settled()
    );
    // The template of the version that serves, and what it has forked for one call.
    let few = within(Duration::from_secs(20), || settled() <= 3);
    assert!(few, "{} processes", settled());
    wait_for("no process left to wait for", || {
        (zombies_of(pid) == 0).then_some(())
    });
    let closed = within(Duration::from_secs(10), || open_files(pid) <= files + 4);
    assert!(closed, "{files} files were open, now {}", open_files(pid));
    assert!(grown < 120 << 10, "{grown} KiB more than {memory}");
    let app = node.data.join("apps/small");
    let one = within(Duration::from_secs(10), || below(&app).len() == 1);
    assert!(one, "{:?}", below(&app));
    let shared = crate::processes::run_directories(pid);
    let values: Vec<_> = shared
        .iter()
        .flat_map(|path| below(&path.join("values")))
        .collect();
    assert!(values.is_empty(), "{values:?}");
}

#[test]
fn bundles_that_a_killed_node_left_are_swept() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut node = Node::start_on(&data, &[], &[]);
    node.deploy("small", &bundle(0, ""));
    let apps = data.join("apps");
    let kept = below(&apps.join("small"));
    assert_eq!(kept.len(), 1);
    node.crash();
    for left in ["small/0000.half", "small/0123", "other/4567"] {
        std::fs::create_dir_all(apps.join(left)).expect("made");
    }
    let mut node = Node::start_on(&data, &[], &[]);
    assert_eq!(below(&apps.join("small")), kept);
    assert!(!apps.join("other").exists());
    assert_eq!(node.call("small", "add", &json!(["x"])).status, 200);
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0), "{}", node.log());
    assert_eq!(below(&apps.join("small")), kept, "the next start needs it");
}
