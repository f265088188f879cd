//! Clients that send badly, stop in the middle, or ask for too much.

use std::net::Shutdown;

use tidemill_redis::Options;

use crate::support::{Client, Served, encode};

fn with_password() -> Served {
    Served::with(Options {
        password: Some("secret".to_owned()),
        ..Options::default()
    })
}

/// Waits until so many clients are connected, the asking one included.
fn until_connected(client: &mut Client, count: usize) {
    let line = format!("connected_clients:{count}\\r\\n");
    let is_so = (0..100_000).any(|_| {
        let info = client.ask(&["INFO", "clients"]);
        info.contains(&line)
    });
    assert!(is_so, "never {line}");
}

#[test]
fn a_pipeline_may_come_byte_by_byte() {
    let served = Served::start();
    let mut client = served.client();
    client.stream.set_nodelay(true).expect("set");
    let mut sent = encode(&[&b"SET"[..], b"k", b"\r\n$3\r\n\0*1\r\n"]);
    sent.extend(b"set quoted \"a\\r\\n b\"\r\nGET quoted\n\r\n");
    sent.extend(encode(&["GET", "k"]));
    sent.extend(b"*0\r\n*-1\r\n");
    sent.extend(encode(&["STRLEN", ""]));
    sent.extend(encode(&["ECHO", ""]));
    for byte in sent {
        client.send(&[byte]);
    }
    for answer in [
        "+OK",
        "+OK",
        "\"a\\r\\n b\"",
        "\"\\r\\n$3\\r\\n\\x00*1\\r\\n\"",
    ] {
        assert_eq!(client.read(), answer);
    }
    assert!(client.read().starts_with("-ERR "), "the empty key");
    assert_eq!(client.read(), "\"\"");
}

#[test]
fn half_a_command_does_nothing_and_holds_up_nobody() {
    let served = Served::start();
    let mut other = served.client();
    let whole = encode(&["SET", "half", "value"]);
    let mut silent: Vec<Client> = (1..whole.len())
        .map(|length| {
            let mut client = served.client();
            client.send(&whole[..length]);
            client
        })
        .collect();
    until_connected(&mut other, whole.len());
    assert_eq!(other.ask(&["SET", "k", "v"]), "+OK");
    assert_eq!(other.ask(&["EXISTS", "half"]), ":0");
    // One goes on where it stopped, one says that it sends no more, the others just go.
    let mut late = silent.swap_remove(10);
    late.send(&whole[11..]);
    assert_eq!(late.read(), "+OK");
    let mut finished = silent.swap_remove(20);
    finished.stream.shutdown(Shutdown::Write).expect("shut");
    assert!(finished.is_closed());
    drop(silent);
    until_connected(&mut other, 2);
    assert_eq!(other.ask(&["GET", "half"]), "\"value\"");
}

#[test]
fn what_is_answered_is_sent_before_a_client_that_finished_is_let_go() {
    let served = Served::start();
    let mut client = served.client();
    let mut sent = encode(&["INCR", "n"]).repeat(200);
    sent.extend(b"*2\r\n$3\r\nGET\r\n");
    client.send(&sent);
    client.stream.shutdown(Shutdown::Write).expect("shut");
    for number in 1..=200 {
        assert_eq!(client.read(), format!(":{number}"));
    }
    assert!(client.is_closed());
}

#[test]
fn nothing_nests() {
    let served = Served::start();
    for depth in [1, 2, 10_000] {
        let mut client = served.client();
        client.send(b"*1\r\n".repeat(depth + 1).as_slice());
        assert_eq!(
            client.read(),
            "-ERR Protocol error: expected '$', got '*'",
            "{depth}"
        );
        assert!(client.is_closed());
    }
    for mark in ["+OK", ":1", "_", "#t", "%1", "~1", ">1", "(1", ",1.5", "=5"] {
        let mut client = served.client();
        client.send(format!("*1\r\n{mark}\r\n").as_bytes());
        let answer = client.read();
        let expected = format!("expected '$', got '{}'", &mark[..1]);
        assert!(answer.ends_with(&expected), "{mark}: {answer}");
    }
}

#[test]
fn inline_commands_are_quoted_as_in_redis() {
    let served = Served::start();
    let open = "-ERR Protocol error: unbalanced quotes in request";
    for (line, answer) in [
        ("ECHO \"a b\"", "\"a b\""),
        ("ECHO 'a b'", "\"a b\""),
        ("ECHO a\"b c\"", "\"ab c\""),
        ("ECHO a'b c'", "\"ab c\""),
        ("ECHO \"\"", "\"\""),
        ("ECHO ''", "\"\""),
        ("\"ECHO\" x", "\"x\""),
        ("ECHO \"\\x41\\x4\\n\\q\\\\\"", "\"Ax4\\nq\\\\\""),
        ("ECHO 'a\\'b\\n'", "\"a\\'b\\\\n\""),
        ("ECHO a\\nb", "\"a\\\\nb\""),
        ("  ECHO \t x  ", "\"x\""),
        ("ECHO \u{b}x", "\"x\""),
        ("ECHO x\u{b}y", "\"x\\x0by\""),
        ("ECHO \"x\"\u{b}", "\"x\""),
        ("ECHO x\u{c}y", "\"x\\x0cy\""),
        ("ECHO \"a", open),
        ("ECHO 'a", open),
        ("ECHO \"a\"b", open),
        ("ECHO 'a'b", open),
        ("ECHO \"a\"'b'", open),
        ("ECHO \"a\\", open),
        ("ECHO 'a\\'", open),
        ("ECHO a\"", open),
    ] {
        let mut client = served.client();
        client.send(format!("{line}\r\n").as_bytes());
        assert_eq!(client.read(), answer, "{line:?}");
        if answer == open {
            assert!(client.is_closed(), "{line:?}");
        } else {
            assert_eq!(client.ask(&["PING"]), "+PONG", "{line:?}");
        }
    }
}

#[test]
fn every_odd_way_to_give_a_password_is_refused() {
    let served = with_password();
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
    let long = "x".repeat(16 * 1024);
    let words: [(&[&[u8]], &str); 9] = [
        (&[b"AUTH", b""], wrong),
        (&[b"AUTH", b"secret\0"], wrong),
        (&[b"AUTH", b"\xff\xfe"], wrong),
        (&[b"AUTH", b"default", b""], wrong),
        (&[b"AUTH", b"\xff", b"secret"], wrong),
        (&[b"AUTH", long.as_bytes()], wrong),
        (&[b"AUTH", b"default", b"secret", b"x"], "-ERR syntax error"),
        (
            &[b"AUTH"],
            "-ERR wrong number of arguments for 'auth' command",
        ),
        (
            &[b"HELLO", b"3", b"AUTH", b"default"],
            "-ERR Syntax error in HELLO option 'AUTH'",
        ),
    ];
    for (words, answer) in words {
        let mut client = served.client();
        assert_eq!(client.ask(words), answer);
        let next = client.ask(&["GET", "a"]);
        assert_eq!(next, "-NOAUTH Authentication required.", "{words:?}");
        assert_eq!(client.ask(&["AUTH", "secret"]), "+OK");
    }
    // What comes behind a refused AUTH in the same piece is refused as well.
    let mut client = served.client();
    client.send(b"AUTH wrong\r\nSET a 1\r\nAUTH secret\r\nEXISTS a\r\n");
    let answers: Vec<String> = (0..4).map(|_| client.read()).collect();
    let refused = "-NOAUTH Authentication required.";
    assert_eq!(answers, [wrong, refused, "+OK", ":0"]);
}

#[test]
fn the_wrong_type_is_told_and_nothing_is_changed() {
    let served = with_password();
    served.play(
        "HSET h f 1 => -NOAUTH Authentication required.
         AUTH secret => +OK
         HSET h f 1 => :1
         SADD s m => :1
         SET t text => +OK
         XADD x * f v",
    );
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value";
    let mut client = served.client();
    assert_eq!(client.ask(&["AUTH", "secret"]), "+OK");
    for command in [
        "GET h",
        "INCR h",
        "APPEND s x",
        "GETSET s x",
        "STRLEN x",
        "GETDEL h",
        "GETEX s",
        "SET s x GET",
        "HGET t f",
        "HSET s f 1",
        "HINCRBY t f 1",
        "HDEL x f",
        "HGETALL s",
        "HSCAN t 0",
        "SADD h m",
        "SREM t m",
        "SCARD h",
        "SISMEMBER x m",
        "SUNION s h",
        "SINTER t s",
        "SSCAN h 0",
        "XADD h * f v",
        "XLEN s",
        "XRANGE t - +",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(client.ask(&words), wrong, "{command}");
    }
    assert_eq!(client.ask(&["MGET", "h", "t", "s"]), "[nil \"text\" nil]");
    assert_eq!(client.ask(&["HGETALL", "h"]), "[\"f\" \"1\"]");
    assert_eq!(client.ask(&["SMEMBERS", "s"]), "[\"m\"]");
    assert_eq!(client.ask(&["XLEN", "x"]), ":1");
}

#[test]
fn a_place_that_was_given_up_is_given_to_the_next() {
    let served = Served::with(Options {
        connections_max: 3,
        ..Options::default()
    });
    let mut first = served.client();
    until_connected(&mut first, 1);
    for _ in 0..20 {
        let mut rest = [served.client(), served.client()];
        for client in &mut rest {
            assert_eq!(client.ask(&["PING"]), "+PONG");
        }
        let mut late = served.client();
        assert_eq!(late.read(), "-ERR max number of clients reached");
        assert!(late.is_closed());
        drop(rest);
        until_connected(&mut first, 1);
    }
    let stats = first.ask(&["INFO", "stats"]);
    assert!(stats.contains("rejected_connections:20\\r"), "{stats}");
}
