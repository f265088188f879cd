//! Backing up a running node, and what comes of it.

use crate::support::{Node, run, stderr, stdout};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Output;

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn parse(output: &Output) -> Value {
    assert_eq!(code(output), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn store(arguments: &[&str]) -> Output {
    run(&[&["store"], arguments].concat())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// Values of many sizes.
fn value(i: usize) -> String {
    json!("v".repeat(i * 10)).to_string()
}

#[test]
fn a_backup_of_a_running_node_becomes_a_node() {
    let keep = tempfile::tempdir().expect("a directory");
    let node = Node::start();
    for i in 0..300 {
        let reply = node.ask("PUT", &format!("/v1/kv/shop/k{i:03}"), &value(i));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let refused = node.ask_raw("GET", "/v1/store/backup", &[("Host", "localhost")], b"");
    refused.problem("unauthorized");
    let data = node.data.clone();
    let file = keep.path().join("tide.backup");
    let taken = parse(&store(&[
        "backup",
        text(&file),
        "--data",
        text(&data),
        "-o",
        "json",
    ]));
    assert_eq!(taken["keys"], 300);
    assert_eq!(
        taken["bytes"],
        json!(fs::metadata(&file).expect("a file").len())
    );
    assert!(!keep.path().join("tide.backup.partial").exists());
    assert_eq!(parse(&store(&["verify", text(&file), "-o", "json"])), taken);
    let busy = store(&["verify", text(&data)]);
    assert_eq!(code(&busy), Some(3), "{}", stderr(&busy));
    assert!(stderr(&busy).contains("store backup"), "{}", stderr(&busy));
    node.ask("PUT", "/v1/kv/shop/later", "1");

    let again = keep.path().join("again");
    let restored = parse(&store(&[
        "restore",
        text(&file),
        "--dir",
        text(&again),
        "-o",
        "json",
    ]));
    assert_eq!(restored, taken);
    let taken_place = store(&["restore", text(&file), "--dir", text(&again)]);
    assert_eq!(code(&taken_place), Some(2), "{}", stderr(&taken_place));
    assert!(
        stderr(&taken_place).contains("is not empty"),
        "{}",
        stderr(&taken_place)
    );
    let report = parse(&store(&["verify", text(&again), "-o", "json"]));
    assert_eq!(
        (&report["whole"], &report["keys"]),
        (&json!(true), &json!(300))
    );
    let other = Node::start_on(&again, &[], &[]);
    let reply = other.ask("GET", "/v1/kv/shop/k299", "");
    assert_eq!(reply.text(), value(299));
    assert_eq!(other.ask("GET", "/v1/kv/shop/later", "").status, 404);
}

#[test]
fn a_damaged_backup_and_a_damaged_directory_are_told() {
    let keep = tempfile::tempdir().expect("a directory");
    let data = keep.path().join("data");
    let file = keep.path().join("tide.backup");
    let node = Node::start_on(&data, &[], &[]);
    node.ask("PUT", "/v1/kv/shop/a", "1");
    let taken = store(&["backup", text(&file), "--data", text(&data)]);
    assert!(stdout(&taken).contains("1 keys"), "{}", stdout(&taken));
    drop(node);
    let whole = store(&["verify", text(&data)]);
    assert_eq!(code(&whole), Some(0), "{}", stderr(&whole));
    assert!(stdout(&whole).contains("whole"), "{}", stdout(&whole));

    let mut bytes = fs::read(&file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("writes");
    let broken = store(&["verify", text(&file)]);
    assert_eq!(code(&broken), Some(1));
    assert!(
        stderr(&broken).contains("damaged in the block"),
        "{}",
        stderr(&broken)
    );
    let place = keep.path().join("again");
    let broken = store(&["restore", text(&file), "--dir", text(&place)]);
    assert_eq!(code(&broken), Some(1));
    assert!(!place.join("state").exists());

    fs::write(data.join("state/FENCE"), [7; 24]).expect("writes");
    let broken = store(&["verify", text(&data), "-o", "json"]);
    assert_eq!(code(&broken), Some(1));
    let report: Value = serde_json::from_slice(&broken.stdout).expect("JSON");
    assert_eq!(report["damages"][0]["place"], "the file FENCE", "{report}");
    let neither = store(&["verify", text(keep.path())]);
    assert_eq!(code(&neither), Some(2), "{}", stderr(&neither));
}
