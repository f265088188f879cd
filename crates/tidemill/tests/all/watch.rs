//! Watching keys over HTTP and by the command line.

use crate::support::Node;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

/// The lines of `kv watch`, while it runs.
struct Watching {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watching {
    fn start(node: &Node, what: &str) -> Self {
        let mut command = node.cli_command(&["kv", "watch", "shop", what, "-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("its output");
        let lines = BufReader::new(stdout).lines();
        let mut watching = Self { child, lines };
        assert_eq!(watching.next()["event"], "begins");
        watching
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("a line").expect("reads");
        serde_json::from_str(&line).expect("JSON")
    }

    fn change(&mut self) -> (String, Value) {
        let event = self.next();
        assert_eq!(event["event"], "change", "{event}");
        let key = event["key"].as_str().expect("a key").to_owned();
        let value = if event["type"].is_null() {
            Value::Null
        } else {
            event["value"].clone()
        };
        (key, value)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn changes_are_printed_as_they_are_committed() {
    let node = Node::start();
    node.cli_ok(&["kv", "set", "shop", "cart/1", "0"]);
    let mut watching = Watching::start(&node, "cart/*");
    let mut one = Watching::start(&node, "cart/2");
    node.ask("PUT", "/v1/kv/shop/cart%2F1", "{\n\"n\": 1.50 }");
    node.cli_ok(&["kv", "set", "shop", "other", "1"]);
    node.cli_ok(&["kv", "set", "shop", "cart/2", "2"]);
    node.cli_ok(&["kv", "rm", "shop", "cart/1"]);
    node.cli_ok(&["kv", "add", "shop", "cart/n", "3"]);
    let mut told: Vec<_> = (0..4).map(|_| watching.change()).collect();
    // The first value may be gone by the time it is told.
    told[0].1 = Value::Null;
    let expected = [
        ("cart/1", Value::Null),
        ("cart/2", 2.into()),
        ("cart/1", Value::Null),
        ("cart/n", 3.into()),
    ];
    assert_eq!(told, expected.map(|(key, value)| (key.to_owned(), value)));
    assert_eq!(one.change(), ("cart/2".to_owned(), 2.into()));
}

#[test]
fn a_watch_names_what_it_watches() {
    let node = Node::start();
    for query in ["", "?key=a&prefix=b", "?after=1"] {
        node.ask("GET", &format!("/v1/watch/shop{query}"), "")
            .problem("bad-request");
    }
    node.ask("GET", "/v1/watch/shop?key=", "")
        .problem("bad-key");
}
