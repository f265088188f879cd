//! The command line against a node.

use crate::support::{Node, run, stderr, stdout};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::Stdio;

#[test]
fn state_is_written_and_read() {
    let node = Node::start();
    assert_eq!(node.cli_ok(&["kv", "set", "a", "k", "{\"x\": 1}"]), "");
    assert_eq!(node.cli_ok(&["kv", "get", "a", "k"]), "{\"x\": 1}\n");
    node.cli_ok(&["kv", "set", "a", "t", "--text", "plain text"]);
    assert_eq!(node.cli_ok(&["kv", "get", "a", "t"]), "plain text\n");
    node.cli_ok(&["kv", "add", "a", "visits/today", "5"]);
    node.cli_ok(&["kv", "add", "a", "visits/today", "-2"]);
    node.cli_ok(&["kv", "add", "a", "visits/today"]);
    let json: Value =
        serde_json::from_str(&node.cli_ok(&["kv", "get", "a", "visits/today", "-o", "json"]))
            .expect("JSON");
    assert_eq!(json, serde_json::json!({"type": "counter", "value": 4}));
    let table = node.cli_ok(&["kv", "ls", "a"]);
    let rows: Vec<Vec<_>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let expected: [&[&str]; 4] = [
        &["KEY", "TYPE"],
        &["k", "register"],
        &["t", "register"],
        &["visits/today", "counter"],
    ];
    assert_eq!(rows, expected);
    let page: Value =
        serde_json::from_str(&node.cli_ok(&["-o", "json", "kv", "ls", "a", "vis"])).expect("JSON");
    assert_eq!(page["keys"][0]["key"], "visits/today");
    node.cli_ok(&["kv", "rm", "a", "k", "t"]);
    assert_eq!(node.cli(&["kv", "get", "a", "k"]).status.code(), Some(1));
}

#[test]
fn bytes_go_through_files_and_pipes() {
    let node = Node::start();
    let path = node.data.join("bytes");
    let bytes: Vec<u8> = (0..=255).collect();
    std::fs::write(&path, &bytes).expect("written");
    let path = path.to_string_lossy().into_owned();
    node.cli_ok(&[
        "kv",
        "set",
        "a",
        "b",
        "--file",
        &path,
        "--content-type",
        "image/png",
    ]);
    assert_eq!(node.cli(&["kv", "get", "a", "b"]).stdout, bytes);
    let reply = node.ask("GET", "/v1/kv/a/b", "");
    assert_eq!(reply.header("content-type"), "image/png");
}

#[test]
fn problems_are_told_with_near_names_and_exit_codes() {
    let node = Node::start();
    node.cli_ok(&["kv", "add", "a", "visits"]);
    let output = node.cli(&["kv", "get", "a", "visit"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = stderr(&output);
    assert!(errors.contains("unknown-key"), "{errors}");
    assert!(errors.contains("did you mean: visits?"), "{errors}");
    assert_eq!(stdout(&output), "");
    let output = node.cli(&["kv", "set", "a", "visits", "{not json", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let problem: Value = serde_json::from_str(&stderr(&output)).expect("JSON on standard error");
    assert_eq!(problem["code"], "bad-request");
    let output = node.cli(&["call", "nothing.f"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("unknown-app"),
        "{}",
        stderr(&output)
    );
    assert_eq!(node.cli(&["call", "nothing"]).status.code(), Some(2));
    assert_eq!(node.cli(&["kv", "gett"]).status.code(), Some(2));
    assert_eq!(
        node.cli(&["kv", "ls", "a", "--token", "wrong"])
            .status
            .code(),
        Some(5)
    );
    assert_eq!(node.cli(&["deploy", "/nothing.py"]).status.code(), Some(2));
}

#[test]
fn without_a_node_the_way_to_one_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", free.local_addr().expect("bound"));
    drop(free);
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_string_lossy().into_owned();
    let output = run(&["fn", "ls", "--url", &url, "--data", &data]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("tidemill up"),
        "{}",
        stderr(&output)
    );
    let output = run(&["fn", "ls", "--url", "https://example.com", "--data", &data]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let output = run(&["version", "--url", &url, "--data", &data, "-o", "json"]);
    let versions: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(versions["tidemill"], env!("CARGO_PKG_VERSION"));
    assert_eq!(versions["node"], Value::Null);
}

#[test]
fn address_and_token_come_from_the_environment_too() {
    let node = Node::start();
    let empty = tempfile::tempdir().expect("a directory");
    let mut command = crate::support::program();
    command
        .args(["version", "-o", "json"])
        .env("TIDEMILL_URL", &node.address)
        .env("TIDEMILL_TOKEN", &node.token)
        .env("TIDEMILL_DATA", empty.path());
    let output = command.output().expect("run");
    let versions: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(
        versions["node"],
        env!("CARGO_PKG_VERSION"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_reader_that_goes_ends_the_command_quietly() {
    let node = Node::start();
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(node.ask("PUT", "/v1/kv/a/k", &large).status, 200);
    let mut child = node
        .cli_command(&["kv", "get", "a", "k"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut reader = BufReader::with_capacity(16, child.stdout.take().expect("a pipe"));
    assert!(!reader.fill_buf().expect("readable").is_empty());
    drop(reader);
    let output = child.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}
