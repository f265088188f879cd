//! The Redis door of a whole node: with its token, beside its HTTP door, and by a client that
//! others wrote.

use crate::support::Node;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The script that speaks by redis-py, and the interpreter of the checkout's environment.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/redis_client.py");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python");

fn with_redis(arguments: &[&str], environment: &[(&str, &str)]) -> (Node, String) {
    let mut all = vec!["--redis-listen", "127.0.0.1:0"];
    all.extend(arguments);
    let node = Node::start_with(&all, environment);
    let text = std::fs::read(node.data.with_extension("ready")).expect("ready");
    let ready: Value = serde_json::from_slice(&text).expect("written whole");
    let address = ready["redis"].as_str().expect("an address").to_owned();
    (node, address)
}

/// Sends inline commands on one connection, `QUIT` last, and gives all that was answered.
fn ask(address: &str, lines: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the door listens");
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("set");
    stream.write_all(lines.as_bytes()).expect("sent");
    stream.write_all(b"\r\nQUIT\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

#[test]
fn the_token_opens_the_door_and_keys_are_those_of_the_app() {
    let (node, address) = with_redis(&[], &[]);
    assert_eq!(
        ask(&address, "GET a"),
        "-NOAUTH Authentication required.\r\n+OK\r\n"
    );
    let lines = format!("AUTH {}\r\nSET a hello\r\nINCR n", node.token);
    assert_eq!(ask(&address, &lines), "+OK\r\n+OK\r\n:1\r\n+OK\r\n");
    let reply = node.ask("GET", "/v1/kv/redis/a", "");
    assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    let counter = node.ask("GET", "/v1/kv/redis/n", "").json();
    assert_eq!(counter, json!({"type": "counter", "value": 1}));
    let add = json!({"type": "counter", "op": "add", "value": 41});
    node.ask("POST", "/v1/kv/redis/n", &add.to_string());
    let lines = format!("AUTH {}\r\nGET n", node.token);
    assert_eq!(ask(&address, &lines), "+OK\r\n$2\r\n42\r\n+OK\r\n");
    assert!(node.log().contains(&address), "{}", node.log());
}

#[test]
fn settings_reach_the_door() {
    let environment = [
        ("TIDEMILL_REDIS_APP", "shop"),
        ("TIDEMILL_REDIS_BULK_BYTES_MAX", "10"),
    ];
    let (node, address) = with_redis(&["--insecure", "--durability", "memory"], &environment);
    assert_eq!(ask(&address, "SET a 1"), "+OK\r\n+OK\r\n");
    assert_eq!(node.ask("GET", "/v1/kv/shop/a", "").text(), "1");
    assert_eq!(
        ask(&address, "*2\r\n$3\r\nGET\r\n$11\r\n"),
        "-ERR Protocol error: invalid bulk length\r\n"
    );
    assert!(ask(&address, "CONFIG GET appendfsync").contains("no\r\n"));
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let arguments = ["--insecure", "--redis-listen", "127.0.0.1:0"];
    let address = || {
        let text = std::fs::read(data.with_extension("ready")).expect("ready");
        let ready: Value = serde_json::from_slice(&text).expect("written whole");
        ready["redis"].as_str().expect("an address").to_owned()
    };
    let mut node = Node::start_on(&data, &arguments, &[]);
    let lines = "SET a 1\r\nINCR a\r\nHSET h f v\r\nSADD s x y";
    ask(&address(), lines);
    node.signal("KILL");
    node.wait();
    drop(node);
    let mut node = Node::start_on(&data, &arguments, &[]);
    let answer = ask(&address(), "GET a\r\nHGET h f\r\nSCARD s");
    assert_eq!(answer, "$1\r\n2\r\n$1\r\nv\r\n:2\r\n+OK\r\n");
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
}

/// Needs the environment that `scripts/bootstrap.py test` makes, as `scripts/test` does.
#[test]
fn redis_py_finds_what_it_expects() {
    let installed = Path::new(PYTHON).is_file() && {
        let mut probe = Command::new(PYTHON);
        let probe = probe.args(["-Ic", "import redis"]).output();
        probe.is_ok_and(|output| output.status.success())
    };
    assert!(
        installed,
        "redis-py is missing: run scripts/bootstrap.py run test"
    );
    let (node, address) = with_redis(&[], &[]);
    let output = Command::new(PYTHON)
        .args([SCRIPT, &address, &node.token])
        .env_remove("PYTHONPATH")
        .output()
        .expect("the interpreter runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}
