//! Starting and stopping a node, and its settings.

use crate::support::{Node, run, stderr, stdout, wait_for};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_node_says_where_it_listens_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut node = Node::start_on(&data, &[], &[]);
    let text = fs::read_to_string(data.join("node.json")).expect("node.json");
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(shown["http"], *node.address);
    assert_eq!(shown["redis"], Value::Null);
    assert_eq!(shown["pid"], node.pid());
    assert_eq!(
        fs::read_to_string(data.with_extension("ready")).expect("ready"),
        text
    );
    let token = fs::metadata(data.join("token")).expect("a token");
    assert_eq!(token.permissions().mode() & 0o777, 0o600);
    let directory_mode = fs::metadata(&data).expect("there").permissions().mode();
    assert_eq!(directory_mode & 0o777, 0o700);
    assert!(
        node.log().contains(&format!("http://{}", node.address)),
        "{}",
        node.log()
    );
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0), "{}", node.log());
    assert!(!data.join("node.json").exists());
    assert!(!data.with_extension("ready").exists());
    assert!(data.join("token").exists());
}

#[test]
fn an_interrupt_stops_a_node_too() {
    let mut node = Node::start();
    node.signal("INT");
    assert_eq!(node.wait(), Some(0), "{}", node.log());
}

#[test]
fn followers_do_not_hold_up_the_end() {
    let mut node = Node::start();
    let mut follower = node.cli_command(&["logs", "-f"]).spawn().expect("started");
    wait_for("the follower", || {
        let metrics = node.ask("GET", "/metrics", "").text();
        metrics.contains("operation=\"readLogs\"").then_some(())
    });
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0), "{}", node.log());
    let status = wait_for("the follower's end", || {
        follower.try_wait().expect("a child")
    });
    assert_eq!(status.code(), Some(0));
    assert!(!node.log().contains("cut off"), "{}", node.log());
}

#[test]
fn a_directory_has_one_node() {
    let node = Node::start();
    let data = node.data.to_string_lossy().into_owned();
    let second = run(&["up", "--data", &data, "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(3), "{}", stderr(&second));
    let errors = stderr(&second);
    assert!(errors.contains("is in use"), "{errors}");
    assert!(errors.contains(&node.pid().to_string()), "{errors}");
    assert!(errors.contains(&node.address), "{errors}");
    assert_eq!(node.ask("GET", "/readyz", "").status, 200);
    assert!(node.data.join("node.json").exists());
}

#[test]
fn an_address_has_one_node() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_string_lossy().into_owned();
    let output = run(&["up", "--data", &data, "--listen", &address]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("--listen"), "{}", stderr(&output));
}

#[test]
fn what_would_open_the_node_or_is_not_there_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_string_lossy().into_owned();
    let refused = |arguments: &[&str], expected: &str| {
        let all = [&["up", "--data", &data], arguments].concat();
        let output = run(&all);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        let errors = stderr(&output);
        assert!(errors.contains(expected), "{errors}");
    };
    refused(&["--insecure", "--listen", "0.0.0.0:0"], "other machines");
    refused(
        &["--insecure", "--redis-listen", "0.0.0.0:0"],
        "other machines",
    );
    refused(&["--redis-listen", "nonsense"], "HOST:PORT");
    refused(&["--listen", "nonsense"], "HOST:PORT");
    refused(&["--durability", "some"], "durable");
    refused(&["--config", "/nothing/here.toml"], "no settings file");
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
}

#[test]
fn settings_come_in_layers() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_string_lossy().into_owned();
    let file = directory.path().join("tidemill.toml");
    fs::write(&file, "[http]\nlisten = \"127.0.0.1:1\"\nhosts = [\"a\"]\n").expect("written");
    let dump = |arguments: &[&str], variable: Option<&str>| {
        let mut command = crate::support::program();
        command
            .args(["up", "--dump-config", "--data", &data])
            .args(arguments);
        if let Some(value) = variable {
            command.env("TIDEMILL_HTTP_LISTEN", value);
        }
        let output = command.output().expect("run");
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let of_file = dump(&[], None);
    assert!(
        of_file.contains("listen = \"127.0.0.1:1\"  # "),
        "{of_file}"
    );
    assert!(of_file.contains(&*file.to_string_lossy()), "{of_file}");
    let of_variable = dump(&[], Some("127.0.0.1:2"));
    assert!(
        of_variable.contains("listen = \"127.0.0.1:2\"  # environment"),
        "{of_variable}"
    );
    let of_flag = dump(&["--listen", "127.0.0.1:3"], Some("127.0.0.1:2"));
    assert!(
        of_flag.contains("listen = \"127.0.0.1:3\"  # flag --listen"),
        "{of_flag}"
    );
    assert!(of_flag.contains("hosts = [\"a\"]"), "{of_flag}");
    let other = directory.path().join("other.toml");
    fs::write(&other, &of_flag).expect("written");
    let again = dump(&["--config", &other.to_string_lossy()], None);
    assert!(again.contains("listen = \"127.0.0.1:3\""), "{again}");
    fs::write(&file, "[http]\nlissten = 1\n").expect("written");
    let output = run(&["up", "--data", &data]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("did you mean listen"),
        "{}",
        stderr(&output)
    );
}
