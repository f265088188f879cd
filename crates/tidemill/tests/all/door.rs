//! The door as a whole: what is documented, what is not, metrics.

use crate::support::Node;
use serde_json::Value;

#[test]
fn everything_documented_is_served() {
    let node = Node::start();
    let document = node.ask("GET", "/openapi.json", "").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    let mut operations = 0;
    for (path, item) in paths {
        let real: String = path
            .split('/')
            .map(|part| {
                if part.starts_with('{') {
                    "/x1".to_owned()
                } else {
                    format!("/{part}")
                }
            })
            .collect::<String>()
            .replacen("//", "/", 1);
        for method in item.as_object().expect("a path item").keys() {
            if method == "parameters" {
                continue;
            }
            operations += 1;
            let reply = node.ask(&method.to_uppercase(), &real, "");
            assert_ne!(reply.status, 405, "{method} {real}");
            if reply.status == 404 {
                assert_ne!(reply.json()["code"], "unknown-path", "{method} {real}");
            }
            assert_ne!(reply.status / 100, 5, "{method} {real}: {}", reply.text());
        }
    }
    assert!(operations > 20, "{operations}");
}

#[test]
fn unknown_paths_and_wrong_methods_are_problems() {
    let node = Node::start();
    for path in ["/", "/v1", "/v2/apps", "/v1/kv/", "/v1/apps/a/b/c/d"] {
        node.ask("GET", path, "").problem("unknown-path");
    }
    let reply = node.ask("PATCH", "/v1/apps/a", "");
    reply.problem("method-not-allowed");
    let mut allowed: Vec<_> = reply.header("allow").split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PUT"]);
}

#[test]
fn unknown_names_are_problems_of_their_kind() {
    let node = Node::start();
    let id = "0123456789abcdef0123456789abcdef";
    node.ask("POST", "/v1/call/nothing/f", "[]")
        .problem("unknown-app");
    node.ask("GET", "/v1/apps/nothing", "")
        .problem("unknown-app");
    node.ask("DELETE", "/v1/apps/nothing", "")
        .problem("unknown-app");
    node.ask("GET", &format!("/v1/requests/{id}"), "")
        .problem("unknown-request");
    node.ask("GET", &format!("/v1/requests/{id}/result"), "")
        .problem("unknown-request");
    node.ask("DELETE", "/v1/requests/short", "")
        .problem("unknown-request");
    node.ask("GET", &format!("/v1/traces/{id}"), "")
        .problem("unknown-trace");
    node.ask("GET", "/v1/kv/a/nothing", "")
        .problem("unknown-key");
}

#[test]
fn what_cannot_be_understood_says_where() {
    let node = Node::start();
    let problem = node
        .ask("POST", "/v1/call/a/f", "[1,\n 2,,3]")
        .problem("bad-request");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("line 2 column 4"), "{detail}");
    let problem = node
        .ask("GET", "/v1/logs?limt=3", "")
        .problem("bad-request");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap_or_default()
            .contains("limt"),
        "{problem}"
    );
    node.ask("GET", "/v1/requests?state=done", "")
        .problem("bad-request");
    node.ask("PUT", "/v1/apps/a", "{}").problem("bad-request");
    let zip = [("Content-Type", "application/zip")];
    node.ask_with("PUT", "/v1/apps/a", &zip, b"no zip")
        .problem("bad-manifest");
    let level = [("Tidemill-Level", "strong")];
    node.ask_with("POST", "/v1/call/a/f", &level, b"")
        .problem("bad-request");
}

#[test]
fn bodies_are_bounded() {
    let environment = [
        ("TIDEMILL_HTTP_BODY_BYTES_MAX", "1000"),
        ("TIDEMILL_HTTP_ARCHIVE_BYTES_MAX", "2000"),
    ];
    let node = Node::start_with(&[], &environment);
    let at_limit = "x".repeat(998);
    assert_eq!(
        node.ask("PUT", "/v1/kv/a/k", &format!("\"{at_limit}\""))
            .status,
        200
    );
    let large = "x".repeat(1 << 20);
    let problem = node
        .ask("PUT", "/v1/kv/a/k", &large)
        .problem("payload-too-large");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("1000 bytes"), "{detail}");
    node.ask("POST", "/v1/call/a/f", &large)
        .problem("payload-too-large");
    let zip = [("Content-Type", "application/zip")];
    let reply = node.ask_with("PUT", "/v1/apps/a", &zip, large.as_bytes());
    let problem = reply.problem("payload-too-large");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap_or_default()
            .contains("2000 bytes"),
        "{problem}"
    );
}

#[test]
fn metrics_count_what_was_asked() {
    let node = Node::start();
    node.ask("PUT", "/v1/kv/a/k", "1");
    node.ask("GET", "/v1/kv/a/k", "");
    node.ask("GET", "/v1/kv/a/nothing", "");
    let reply = node.ask("GET", "/metrics", "");
    assert!(
        reply
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    let text = reply.text();
    for line in [
        "tidemill_http_answers_total{operation=\"putKey\",status=\"2xx\"} 1",
        "tidemill_http_answers_total{operation=\"getKey\",status=\"2xx\"} 1",
        "tidemill_http_answers_total{operation=\"getKey\",status=\"4xx\"} 1",
        "tidemill_store_commits_total 1",
        "tidemill_apps 0",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn the_node_tells_about_itself() {
    let node = Node::start();
    let told = node.ask("GET", "/v1/node", "").json();
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        told["data_directory"],
        Value::from(node.data.to_string_lossy())
    );
    assert_eq!(told["settings"]["http"]["listen"], "127.0.0.1:0");
    assert!(!told.to_string().contains(&node.token));
}
