//! The Redis door by programs that others wrote: the client library `redis`, redis-cli and
//! redis-benchmark where they are installed, and ioredis where Node is and the network may be
//! used (`TIDEMILL_NPM=1`).

use crate::resp::{address, client};
use crate::support::Node;
use ::redis::{Commands, Connection, Value, cmd, pipe};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

/// The script that speaks by ioredis.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ioredis_client.mjs");
const IOREDIS: &str = "ioredis@5.8.2";

fn start(arguments: &[&str]) -> (Node, String) {
    let all = [&["--redis-listen", "127.0.0.1:0"], arguments].concat();
    let node = Node::start_with(&all, &[]);
    let address = address(&node.data);
    (node, address)
}

fn check(connection: &mut Connection, is_new: bool) -> ::redis::RedisResult<()> {
    connection.set::<_, _, ()>("a", "1")?;
    assert_eq!(connection.get::<_, i64>("a")?, 1);
    assert_eq!(connection.get::<_, Option<String>>("nothing")?, None);
    let binary: Vec<u8> = (0..=255).collect();
    connection.set::<_, _, ()>("a", &binary)?;
    assert_eq!(connection.get::<_, Vec<u8>>("a")?, binary);
    assert!(connection.set_nx::<_, _, bool>("b", 1)?);
    assert!(!connection.set_nx::<_, _, bool>("b", 2)?);
    assert_eq!(connection.incr::<_, _, i64>("b", 41)?, 42);
    connection.mset::<_, _, ()>(&[("c", "x"), ("d", "y")])?;
    let many: Vec<Option<String>> = connection.mget(&["c", "d", "nothing"])?;
    assert_eq!(many, [Some("x".to_owned()), Some("y".to_owned()), None]);
    assert!(connection.expire::<_, bool>("c", 100)?);
    assert!((1..=100).contains(&connection.ttl::<_, i64>("c")?));
    assert_eq!(connection.del::<_, usize>(&["c", "d", "nothing"])?, 2);
    connection.hset_multiple::<_, _, _, ()>("h", &[("f", "1"), ("g", "2")])?;
    let fields: BTreeMap<String, i64> = connection.hgetall("h")?;
    assert_eq!(fields, BTreeMap::from([("f".into(), 1), ("g".into(), 2)]));
    assert_eq!(connection.sadd::<_, _, usize>("s", &["m", "n"])?, 2);
    let members: BTreeSet<String> = connection.smembers("s")?;
    assert_eq!(members, BTreeSet::from(["m".into(), "n".into()]));
    let keys: BTreeSet<String> = connection.scan()?.collect::<Result<_, _>>()?;
    let expected = ["a", "b", "h", "s"].map(str::to_owned);
    assert_eq!(keys, BTreeSet::from(expected));
    let shape: Value = cmd("HGETALL").arg("h").query(connection)?;
    assert_eq!(matches!(shape, Value::Map(_)), is_new, "{shape:?}");
    let wrong = connection.incr::<_, _, i64>("h", 1).expect_err("a hash");
    assert_eq!(wrong.code(), Some("WRONGTYPE"), "{wrong}");
    Ok(())
}

#[test]
fn the_rust_client_finds_what_it_expects() {
    let (node, _) = start(&[]);
    for (protocol, is_new) in [("resp2", false), ("resp3", true)] {
        let mut connection = client(&node, protocol);
        check(&mut connection, is_new).expect("as Redis would");
        let mut pipeline = pipe();
        for number in 0..500 {
            pipeline.set("p", number).ignore().get("p");
        }
        let seen: Vec<i64> = pipeline.query(&mut connection).expect("answered");
        assert_eq!(seen, (0..500).collect::<Vec<i64>>());
        let mut whole = pipe();
        whole.atomic().set("t", 1).ignore().incr("t", 4).get("t");
        let seen: (i64, i64) = whole.query(&mut connection).expect("committed");
        assert_eq!(seen, (5, 5));
        let refused = cmd("WATCH").arg("t").query::<()>(&mut connection);
        let refused = refused.expect_err("nothing is watched").to_string();
        assert!(refused.contains("WATCH is not there"), "{refused}");
        let mut fresh = client(&node, protocol);
        let keys: Vec<String> = fresh.keys("*").expect("answered");
        assert_eq!(fresh.del::<_, usize>(&keys).expect("deleted"), keys.len());
    }
}

/// The program's name, if it can be started.
fn installed(name: &'static str) -> Option<&'static str> {
    let output = Command::new(name).arg("--version").output();
    if output.is_ok_and(|output| output.status.success()) {
        return Some(name);
    }
    eprintln!("{name} is not installed: its part of this test is left out");
    None
}

/// Runs a program of Redis against a door, and gives what it printed.
fn run(name: &str, address: &str, token: &str, arguments: &[&str], input: &str) -> String {
    let (host, port) = address.split_once(':').expect("a port");
    let mut child = Command::new(name)
        .args(["-h", host, "-p", port, "-a", token])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("sent");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn redis_cli_finds_what_it_expects() {
    let Some(name) = installed("redis-cli") else {
        return;
    };
    let (node, address) = start(&[]);
    let ask = |arguments: &[&str], input: &str| run(name, &address, &node.token, arguments, input);
    for protocol in [&[][..], &["-3"]] {
        let ask = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            ask(&[protocol, &words].concat(), "")
        };
        assert_eq!(ask("SET greeting hello"), "OK\n");
        assert_eq!(ask("GET greeting"), "hello\n");
        assert_eq!(ask("INCRBY n 42"), "42\n");
        assert_eq!(ask("HSET h f v g w"), "2\n");
        assert_eq!(
            ask("HGETALL h").split_whitespace().collect::<Vec<_>>(),
            ["f", "v", "g", "w"]
        );
        assert!(ask("GET h").starts_with("WRONGTYPE "));
        assert!(ask("LPUSH l x").starts_with("ERR unknown command 'LPUSH'"));
        let keys: BTreeSet<String> = ask("--scan").lines().map(str::to_owned).collect();
        assert_eq!(keys, ["greeting", "h", "n"].map(str::to_owned).into());
        assert_eq!(ask("DEL greeting h n"), "3\n");
    }
    let transaction = "SET t 1\nMULTI\nINCR t\nGET t\nEXEC\nMULTI\nDISCARD\nDEL t\n";
    let told = ask(&[], transaction);
    assert_eq!(told, "OK\nOK\nQUEUED\nQUEUED\n2\n2\nOK\nOK\n1\n");
    // A script, and a mass insertion by the protocol.
    assert_eq!(ask(&[], "SET a 'it is'\nGET a\nDEL a\n"), "OK\nit is\n1\n");
    let many = "*3\r\n$4\r\nSADD\r\n$1\r\ns\r\n$1\r\nm\r\n".repeat(1000);
    let told = ask(&["--pipe"], &many);
    assert!(told.contains("errors: 0, replies: 1000"), "{told}");
    assert_eq!(ask(&["--raw", "SCARD", "s"], ""), "1\n");
    let big = ask(&["--bigkeys"], "");
    assert!(big.contains("Sampled 1 keys in the keyspace!"), "{big}");
}

#[test]
fn redis_benchmark_runs_to_its_end() {
    let Some(name) = installed("redis-benchmark") else {
        return;
    };
    let (node, address) = start(&["--durability", "memory"]);
    for (tests, pipelined) in [
        ("ping,set,get,incr,sadd,hset,mset", "1"),
        ("set,get,incr", "16"),
    ] {
        let arguments = [
            "-n", "500", "-c", "10", "-P", pipelined, "-r", "100", "--csv", "-t", tests,
        ];
        let told = run(name, &address, &node.token, &arguments, "");
        let rates: Vec<&str> = told.lines().skip(1).collect();
        // `ping` is measured inline and in bulk.
        let expected = tests.split(',').count() + usize::from(tests.contains("ping"));
        assert_eq!(rates.len(), expected, "{told}");
        assert!(!told.contains("ERR"), "{told}");
    }
    let mut connection = client(&node, "resp2");
    let keys: Vec<String> = connection.keys("*").expect("answered");
    assert!(!keys.is_empty());
}

/// Fetches ioredis into a directory of its own, which the shorter tests do not wait for.
#[test]
fn ioredis_finds_what_it_expects() {
    if std::env::var_os("TIDEMILL_NPM").is_none_or(|value| value != "1") {
        eprintln!("TIDEMILL_NPM is not 1: ioredis is not fetched, and not asked");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let fetched = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            IOREDIS,
        ])
        .current_dir(&directory)
        .output()
        .expect("npm is there: TIDEMILL_NPM says so");
    assert!(
        fetched.status.success(),
        "{}",
        String::from_utf8_lossy(&fetched.stderr)
    );
    let script = directory.path().join("client.mjs");
    std::fs::copy(SCRIPT, &script).expect("copied beside its library");
    let (node, address) = start(&[]);
    let output = Command::new("node")
        .arg(script)
        .args([&address, &node.token])
        .output()
        .expect("node is there: TIDEMILL_NPM says so");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok");
}
