//! Clients of the Redis door that ask for more than there is: what they take of the node's
//! memory is bounded, and others are served meanwhile.
//!
//! `TIDEMILL_CONNECTIONS` is how many idle connections are held at once.

use crate::kills::number;
use crate::processes::{resident_kib, status_kib, within};
use crate::resp::{Raw, address, command};
use crate::support::{Node, run, stderr};
use crate::wire::many_open_files;
use rustix::process::{Resource, getrlimit};
use std::time::Duration;

const CONNECTIONS: u64 = 1_000;
/// Files that the node and the test have open beside their connections, and some.
const FILES_OF_OTHERS: u64 = 200;
const MEBIBYTE: usize = 1 << 20;
const SMALL_KEYS: u64 = 500_000;

fn start(environment: &[(&str, &str)]) -> (Node, String) {
    let arguments = [
        "--insecure",
        "--durability",
        "memory",
        "--redis-listen",
        "127.0.0.1:0",
    ];
    let node = Node::start_with(&arguments, environment);
    let address = address(&node.data);
    (node, address)
}

fn open(address: &str) -> Raw {
    Raw::open(address).expect("connected")
}

/// Checks that the node's memory comes to be no more than so many mebibytes above `before_kib`.
fn shrinks_to(node: &Node, before_kib: u64, mebibytes: u64) {
    let mut now_kib = 0;
    let is_small = within(Duration::from_secs(30), || {
        now_kib = resident_kib(node.pid());
        now_kib < before_kib + mebibytes * 1024
    });
    assert!(is_small, "from {before_kib} KiB to {now_kib} KiB");
}

#[test]
fn what_is_only_announced_takes_no_room() {
    let (node, address) = start(&[]);
    let mut other = open(&address);
    assert_eq!(other.ask(&["PING"]).expect("answered"), "+PONG");
    let before_kib = status_kib(node.pid(), "VmPeak");
    let mut refused = open(&address);
    refused.send(b"*1\r\n$536870912\r\n").expect("sent");
    assert_eq!(
        refused.line().expect("answered"),
        "-ERR Protocol error: invalid bulk length"
    );
    assert!(refused.line().is_err(), "it is closed");
    // As large as allowed, by many, and nothing of it comes.
    let announced: Vec<Raw> = (0..50)
        .map(|_| {
            let mut raw = open(&address);
            raw.send(b"*1048576\r\n$67108864\r\nx").expect("sent");
            raw
        })
        .collect();
    assert_eq!(other.ask(&["SET", "k", "v"]).expect("answered"), "+OK");
    drop(announced);
    let after_kib = status_kib(node.pid(), "VmPeak");
    assert!(
        after_kib < before_kib + 400 * 1024,
        "from {before_kib} KiB to {after_kib} KiB"
    );
}

#[test]
fn a_million_keys_at_once_are_answered_while_others_are_served() {
    let (node, address) = start(&[]);
    let mut all = b"*1000001\r\n$4\r\nMGET\r\n".to_vec();
    for number in 0..1_000_000 {
        all.extend(format!("$7\r\nk{number:06}\r\n").as_bytes());
    }
    let mut wide = open(&address);
    let mut other = open(&address);
    assert_eq!(
        other.ask(&["SET", "k000007", "v"]).expect("answered"),
        "+OK"
    );
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            wide.send(&all).expect("sent");
            let count = wide.line().expect("answered");
            // Each is `$-1` but one, which is `$1` and `v`.
            let length = 5 * 1_000_000 + 2;
            (count, wide.skip(length).expect("the rest"))
        });
        let mut served = 0;
        while !asked.is_finished() {
            assert_eq!(other.ask(&["INCR", "n"]).expect("answered")[..1], *":");
            assert_eq!(node.ask("GET", "/readyz", "").status, 200);
            served += 1;
        }
        let (count, length) = asked.join().expect("answered");
        assert_eq!((count.as_str(), length), ("*1000000", 5_000_002));
        assert!(served > 0);
    });
    let peak_kib = status_kib(node.pid(), "VmHWM");
    assert!(peak_kib < 600 * 1024, "{peak_kib} KiB");
    // One more than a command may have.
    let mut refused = open(&address);
    refused.send(b"*1048577\r\n").expect("sent");
    assert_eq!(
        refused.line().expect("answered"),
        "-ERR Protocol error: invalid multibulk length"
    );
}

#[test]
fn an_answer_larger_than_memory_waits_for_its_reader() {
    let (node, address) = start(&[]);
    let mut slow = open(&address);
    let value = "x".repeat(MEBIBYTE);
    assert_eq!(slow.ask(&["SET", "k", &value]).expect("answered"), "+OK");
    let before_kib = resident_kib(node.pid());
    // Four gibibytes in one answer, of which nothing is read yet.
    let mut words = vec!["k"; 4097];
    words[0] = "MGET";
    slow.send(&command(&words)).expect("sent");
    // And a pipeline of as many, until the node takes no more of it.
    let mut piped = open(&address);
    piped.patience(Duration::from_millis(500));
    let _ = piped.send(&command(&["GET", "k"]).repeat(1 << 20));
    let mut other = open(&address);
    for _ in 0..200 {
        assert_eq!(other.ask(&["PING"]).expect("answered"), "+PONG");
        assert_eq!(other.ask(&["STRLEN", "k"]).expect("answered"), ":1048576");
    }
    let after_kib = resident_kib(node.pid());
    assert!(
        after_kib < before_kib + 256 * 1024,
        "from {before_kib} KiB to {after_kib} KiB"
    );
    assert_eq!(slow.line().expect("answered"), "*4096");
    for _ in 0..100 {
        assert_eq!(slow.line().expect("answered"), "$1048576");
        assert_eq!(slow.line().expect("answered"), value);
    }
    drop((slow, piped));
    shrinks_to(&node, before_kib, 128);
}

#[test]
fn a_large_command_does_not_keep_its_room() {
    let (node, address) = start(&[]);
    let before_kib = resident_kib(node.pid());
    let value = "x".repeat(16 * MEBIBYTE);
    let mut all: Vec<Raw> = (0..32).map(|_| open(&address)).collect();
    for raw in &mut all {
        let length = format!("${}", value.len());
        assert_eq!(raw.ask(&["ECHO", &value]).expect("answered"), length);
        let rest = value.len() as u64 + 2;
        assert_eq!(raw.skip(rest).expect("the rest"), rest);
    }
    // All are still there: half a gibibyte, if each kept what it had.
    shrinks_to(&node, before_kib, 64);
    for raw in &mut all {
        assert_eq!(raw.ask(&["PING"]).expect("answered"), "+PONG");
    }
    shrinks_to(&node, before_kib, 64);
}

#[test]
fn small_keys_take_little_at_rest() {
    let soon = ("TIDEMILL_STORE_CHECKPOINT_MS", "1000");
    let (node, address) = start(&[soon]);
    let mut raw = open(&address);
    let before_kib = resident_kib(node.pid());
    for batch in 0..SMALL_KEYS / 1000 {
        let names = (0..1000).map(|number| format!("key:{:012}", batch * 1000 + number));
        let sets = names.flat_map(|name| command(&["SET", &name, "0123456789abcdef"]));
        raw.send(&sets.collect::<Vec<u8>>()).expect("sent");
        for _ in 0..1000 {
            assert_eq!(raw.line().expect("answered"), "+OK");
        }
    }
    // A key of 16 bytes with a value of 16, and what the engine keeps for all of them.
    shrinks_to(&node, before_kib, SMALL_KEYS * 180 / MEBIBYTE as u64);
    assert_eq!(
        raw.ask(&["DBSIZE"]).expect("answered"),
        format!(":{SMALL_KEYS}")
    );
}

#[test]
fn many_idle_connections_take_little_and_keep_nobody_out() {
    many_open_files();
    let wanted = number("TIDEMILL_CONNECTIONS", || CONNECTIONS);
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let count = wanted.min(limit.saturating_sub(FILES_OF_OTHERS));
    if count < wanted {
        eprintln!("{wanted} connections are more than {limit} open files allow: {count} are made");
    }
    let most = (count + 2).to_string();
    let (node, address) = start(&[("TIDEMILL_REDIS_CONNECTIONS_MAX", &most)]);
    let mut other = open(&address);
    assert_eq!(other.ask(&["PING"]).expect("answered"), "+PONG");
    let before_kib = resident_kib(node.pid());
    let mut idle: Vec<Raw> = (0..count).map(|_| open(&address)).collect();
    // Half of them have said something, and some stop in the middle of a command.
    for raw in idle.iter_mut().step_by(2) {
        assert_eq!(raw.ask(&["PING"]).expect("answered"), "+PONG");
        raw.send(b"*2\r\n$3\r\nGET\r\n$1").expect("sent");
    }
    let connected = |raw: &mut Raw| {
        let header = raw.ask(&["INFO", "clients"]).expect("answered");
        let length: u64 = header[1..].parse().expect("a length");
        let lines: Vec<_> = (0..6).map(|_| raw.line().expect("answered")).collect();
        assert_eq!(
            lines.iter().map(|line| line.len() as u64 + 2).sum::<u64>(),
            length + 2
        );
        lines[1].clone()
    };
    let expected = format!("connected_clients:{}", count + 1);
    let mut last = String::new();
    let all_there = within(Duration::from_secs(60), || {
        last = connected(&mut other);
        last == expected
    });
    assert!(all_there, "{last}");
    let used_kib = resident_kib(node.pid()).saturating_sub(before_kib);
    assert!(used_kib < 64 * count, "{used_kib} KiB for {count}");
    println!("{count} idle connections take {used_kib} KiB");
    // One place is left, and then none.
    let mut last = open(&address);
    assert_eq!(last.ask(&["INCR", "n"]).expect("answered"), ":1");
    let mut refused = open(&address);
    assert_eq!(
        refused.line().expect("answered"),
        "-ERR max number of clients reached"
    );
    for raw in idle.iter_mut().skip(1).step_by(2).take(100) {
        assert_eq!(raw.ask(&["INCR", "n"]).expect("answered")[..1], *":");
    }
    drop(idle);
    let expected = "connected_clients:2";
    assert!(within(Duration::from_secs(60), || connected(&mut other)
        == expected));
}

/// In forms that hold for the superuser as well, whom no permission stops.
#[test]
fn a_data_directory_that_can_not_be_written_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "not a directory").expect("written");
    let below = file.join("below");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("nowhere/else"), &link).expect("linked");
    for data in [file.as_path(), &below, &link, "/proc/tidemill".as_ref()] {
        let data = data.to_string_lossy();
        let output = run(&["up", "--listen", "127.0.0.1:0", "--data", &data]);
        let told = stderr(&output);
        assert!(!output.status.success(), "{data}: {told}");
        assert_ne!(output.status.code(), None, "{data}: it crashed: {told}");
        assert!(told.contains(&*data), "{data}: {told}");
        assert!(!told.contains("panicked"), "{told}");
        println!("{told}");
    }
    assert_eq!(
        std::fs::read(&file).expect("still there"),
        b"not a directory"
    );
}
