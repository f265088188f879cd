//! What the node shows of its store's inside, and `tidemill top`.

use crate::support::{Node, stderr, wait_for};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Writes one key often and reads it as often.
fn use_hot_key(node: &Node) {
    let add = json!({"type": "counter", "op": "add", "value": 1});
    // So many at once, since a hot key is found in a sample of the operations.
    let keys: Vec<Value> = (0..200)
        .map(|number| {
            json!({"key": format!("k{number}"), "type": "counter", "op": "add", "value": 1})
        })
        .collect();
    node.ask("POST", "/v1/kv/shop", &Value::from(keys).to_string());
    for _ in 0..150 {
        node.ask("POST", "/v1/kv/shop/hot", &add.to_string());
        node.ask("GET", "/v1/kv/shop/hot", "");
    }
}

fn sum(shards: &Value, member: &str) -> u64 {
    let shards = shards.as_array().expect("shards");
    shards
        .iter()
        .map(|shard| shard[member].as_u64().expect("a number"))
        .sum()
}

#[test]
fn the_store_shows_its_inside() {
    let node = Node::start_with(&["--durability", "memory"], &[]);
    use_hot_key(&node);
    let shown = wait_for("the hot key", || {
        let shown = node.ask("GET", "/v1/node/store", "").json();
        let hottest = shown["hot"][0]["key"] == "hot";
        hottest.then_some(shown)
    });
    let hot = &shown["hot"][0];
    assert_eq!(
        (&hot["tenant"], &hot["app"]),
        (&json!("default"), &json!("shop"))
    );
    assert!(hot["per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    let shards = &shown["shards"];
    assert_eq!(sum(shards, "writes"), 350);
    assert!(sum(shards, "reads") >= 150, "{shown}");
    assert_eq!(sum(shards, "keys"), 201);
    assert_eq!(sum(shards, "queue_depth"), 0);
    assert!(sum(shards, "memory_bytes") > 0, "{shown}");
    assert_eq!(shown["memory"]["keys"], 201);
    assert_eq!(shown["log"]["commits"], 151);
    assert_eq!(shown["log"]["read_only"], false);
    assert!(
        shown["disk"]["bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 0)
    );
    // All but the filling commit wrote one key, which one shard has.
    let shard = hot["shard"].as_u64().expect("a shard") as usize;
    let latency = &shards[shard]["write_latency_us"];
    assert!(
        latency["p99"].as_u64() >= latency["p50"].as_u64(),
        "{latency}"
    );
    assert!(
        latency["max"].as_u64().is_some_and(|max| max > 0),
        "{latency}"
    );
    let metrics = node.ask("GET", "/metrics", "").text();
    for line in [
        "tidemill_store_shard_writes_total{shard=\"0\"}",
        "tidemill_store_shard_write_seconds_bucket{le=\"+Inf\",shard=\"0\"}",
        "tidemill_store_tier_bytes{tier=\"disk\"}",
        "tidemill_store_engine_flushes_total",
    ] {
        assert!(metrics.contains(line), "{line}\nis not in\n{metrics}");
    }
}

#[test]
fn top_shows_one_frame() {
    let node = Node::start_with(&["--durability", "memory"], &[]);
    use_hot_key(&node);
    wait_for("the hot key", || {
        let text = node.cli_ok(&["top", "--once", "--interval", "0.1"]);
        assert!(!text.contains('\x1b'), "{text}");
        for part in ["requests", "SHARD", "memory", "disk", "log"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut lines = text.lines().skip_while(|line| !line.contains("HOT KEY"));
        let hottest = lines.nth(1)?;
        let words: Vec<&str> = hottest.split_whitespace().collect();
        (words[3..] == ["shop", "hot"]).then_some(())
    });
    let json = node.cli_ok(&["top", "--once", "--interval", "0.1", "-o", "json"]);
    let frame: Value = serde_json::from_str(&json).expect("one document");
    assert_eq!(frame["version"], env!("CARGO_PKG_VERSION"));
    let interval_ms = frame["interval_ms"].as_u64();
    assert!(interval_ms.is_some_and(|ms| ms >= 90), "{frame}");
    assert!(
        frame["answers_per_second"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0),
        "the first sample's two answers are in between: {frame}"
    );
    assert_eq!(frame["hot"][0]["key"], "hot");
    let refused = node.cli(&["top", "--interval", "0"]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
}

#[test]
fn top_goes_on_until_its_reader_goes() {
    let node = Node::start();
    let mut child = node
        .cli_command(&["top", "--interval", "0.05", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut uptimes = (0..3).map(|_| {
        let line = lines.next().expect("a frame").expect("readable");
        let frame: Value = serde_json::from_str(&line).expect("a frame a line");
        frame["uptime_ms"].as_u64().expect("a number")
    });
    assert!(uptimes.by_ref().is_sorted());
    drop(uptimes);
    drop(lines);
    let output = child.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
