//! Components from the command line to the HTTP door.

use crate::support::{Node, run, stderr};
use std::path::{Path, PathBuf};

pub(crate) fn component(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wasm/tests/data");
    data.join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

#[test]
fn a_component_is_deployed_called_and_served_again_after_a_restart() {
    let mut node = Node::start();
    let file = component("fixture.wasm");
    node.cli_ok(&["deploy", text(&file), "--name", "shop.add"]);
    assert_eq!(node.cli_ok(&["call", "shop.add", "visits"]).trim(), "1");
    assert_eq!(node.cli_ok(&["call", "shop.add", "visits"]).trim(), "2");
    let shown = node.ask("GET", "/v1/apps/shop", "").json();
    assert_eq!(
        (&shown["workers"], &shown["instances"]),
        (&0.into(), &1.into())
    );
    let metrics = node.ask("GET", "/metrics", "").text();
    assert!(
        metrics.contains("tidemill_instances{app=\"shop\",state=\"idle\"} 1"),
        "{metrics}"
    );
    node.signal("KILL");
    node.wait();
    let again = Node::start_on(&node.data, &[], &[]);
    assert_eq!(again.cli_ok(&["call", "shop.add", "visits"]).trim(), "3");
}

#[test]
fn an_apps_own_http_asks_for_the_token_unless_it_is_public() {
    let node = Node::start();
    let file = component("http.wasm");
    node.cli_ok(&["deploy", text(&file), "--name", "site.web", "--http"]);
    let reply = node.ask("GET", "/http/site/hello", "");
    assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    assert_eq!(reply.header("tidemill-request").len(), 32);
    let headers = node.ask("GET", "/http/site/headers", "").text();
    let headers = headers.to_ascii_lowercase();
    assert!(
        headers.contains("x-forwarded-prefix: /http/site"),
        "{headers}"
    );
    assert!(!headers.contains(&node.token), "{headers}");
    assert!(headers.contains("traceparent: 00-"), "{headers}");
    let bearer = format!("Bearer {}", node.token);
    let counted: Vec<String> = [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "none",
    ]
    .iter()
    .map(|trace| {
        let headers = [
            ("Host", "localhost"),
            ("Authorization", bearer.as_str()),
            ("Idempotency-Key", "once"),
            ("traceparent", trace),
            ("tidemill-timeout", if *trace == "none" { "9" } else { "8" }),
        ];
        node.ask_raw("GET", "/http/site/count", &headers, b"")
            .text()
    })
    .collect();
    assert_eq!(counted, ["visits 1, before []"; 2]);
    let host = [("Host", "localhost")];
    let refused = node.ask_raw("GET", "/http/site/hello", &host, b"");
    refused.problem("unauthorized");
    node.ask_raw("GET", "/http/nobody/", &host, b"")
        .problem("unauthorized");
    node.ask("GET", "/http/nobody/", "").problem("unknown-app");
    let head = node.ask("HEAD", "/http/site/hello", "");
    assert!(head.body.is_empty());

    let directory = tempfile::tempdir().expect("a directory");
    std::fs::copy(&file, directory.path().join("web.wasm")).expect("copied");
    let app = directory.path().join("tidemill.toml");
    let lines = "app = \"open\"\n[functions.web]\ncomponent = \"web.wasm\"\nkind = \"http\"\npublic = true\n";
    std::fs::write(&app, lines).expect("written");
    node.cli_ok(&["deploy", text(&app)]);
    let reply = node.ask_raw("GET", "/http/open/hello", &host, b"");
    assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    // Who is let in without a token does not choose what state promises; who has one does.
    let asking = [("Host", "localhost"), ("Tidemill-Level", "none")];
    let reply = node.ask_raw("GET", "/http/open/hello", &asking, b"");
    assert_eq!(reply.status, 200);
    let known = [asking[0], asking[1], ("Authorization", bearer.as_str())];
    node.ask_raw("GET", "/http/site/hello", &known, b"")
        .problem("bad-request");
    // Nor are they told how the app is made and what went wrong in it; who has the token is.
    let reply = node.ask_raw("GET", "/http/open/trap", &host, b"");
    let told = reply.problem("function-failed");
    assert_eq!(reply.status, 500);
    assert_eq!(told.get("exception"), None, "{told}");
    let detail = told["detail"].as_str().expect("a sentence");
    assert!(!detail.contains("trap"), "{detail}");
    assert_eq!(told["request"].as_str().map(str::len), Some(32));
    let known = [host[0], ("Authorization", bearer.as_str())];
    for app in ["open", "site"] {
        let reply = node.ask_raw("GET", &format!("/http/{app}/trap"), &known, b"");
        let told = reply.problem("function-failed");
        let traceback = told["exception"]["traceback"].as_str();
        assert!(
            traceback.is_some_and(|text| text.contains("wasm")),
            "{told}"
        );
    }
    let elsewhere = [("Host", "evil.example")];
    node.ask_raw("GET", "/http/open/hello", &elsewhere, b"")
        .problem("forbidden-host");
    // Nothing else is open for that.
    node.ask_raw("POST", "/v1/call/open/web", &host, b"")
        .problem("unauthorized");
}

#[test]
fn what_is_no_component_is_refused_before_and_by_the_node() {
    let node = Node::start();
    let refused = node.cli(&["deploy", text(&component("imports-unknown.wasm"))]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("acme:radio/tuner"),
        "{}",
        stderr(&refused)
    );
    let python = run(&["deploy", text(Path::new(file!())), "--http"]);
    assert_eq!(python.status.code(), Some(2));
}
