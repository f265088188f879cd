//! Who may come in.

use crate::support::Node;

#[test]
fn nobody_comes_in_without_the_token() {
    let node = Node::start();
    let host = ("Host", "localhost");
    let paths = [
        "/v1/apps",
        "/v1/kv/a/k",
        "/metrics",
        "/openapi.json",
        "/v1/node",
        "/nothing",
    ];
    for path in paths {
        for headers in [vec![host], vec![host, ("Authorization", "Bearer wrong")]] {
            let reply = node.ask_raw("GET", path, &headers, b"");
            assert_eq!(reply.status, 401, "{path}");
            reply.problem("unauthorized");
            assert!(
                reply.header("www-authenticate").starts_with("Bearer"),
                "{path}"
            );
        }
    }
    assert_eq!(node.ask("GET", "/v1/apps", "").status, 200);
}

#[test]
fn other_hosts_are_not_served() {
    let node = Node::start_with(&[], &[("TIDEMILL_HTTP_HOSTS", "[\"mill.example\"]")]);
    let bearer = format!("Bearer {}", node.token);
    let with_host = |host| {
        let headers = [("Host", host), ("Authorization", bearer.as_str())];
        node.ask_raw("GET", "/v1/apps", &headers, b"")
    };
    for host in ["localhost", "127.0.0.1:1", "[::1]:7070", "mill.example"] {
        assert_eq!(with_host(host).status, 200, "{host}");
    }
    for host in ["evil.example", "192.0.2.7", "localhost.evil.example"] {
        with_host(host).problem("forbidden-host");
    }
    let bare = node.ask_raw("GET", "/v1/apps", &[("Authorization", &bearer)], b"");
    bare.problem("forbidden-host");
}

#[test]
fn health_asks_for_nothing() {
    let node = Node::start();
    for path in ["/livez", "/readyz"] {
        let reply = node.ask_raw("GET", path, &[("Host", "evil.example")], b"");
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "ok\n"),
            "{path}"
        );
    }
}

#[test]
fn no_page_of_another_origin_may_read_answers() {
    let node = Node::start();
    let origin = ("Origin", "https://evil.example");
    let reply = node.ask_with("GET", "/v1/apps", &[origin], b"");
    assert!(
        !reply
            .headers
            .keys()
            .any(|name| name.starts_with("access-control"))
    );
    let preflight = [origin, ("Access-Control-Request-Method", "PUT")];
    let reply = node.ask_with("OPTIONS", "/v1/apps/a", &preflight, b"");
    reply.problem("method-not-allowed");
    assert!(
        !reply
            .headers
            .keys()
            .any(|name| name.starts_with("access-control"))
    );
}

#[test]
fn an_insecure_node_asks_for_no_token_but_checks_the_host() {
    let node = Node::start_with(&["--insecure"], &[]);
    let reply = node.ask_raw("GET", "/v1/apps", &[("Host", "localhost")], b"");
    assert_eq!(reply.status, 200);
    let reply = node.ask_raw("GET", "/v1/apps", &[("Host", "evil.example")], b"");
    reply.problem("forbidden-host");
}
