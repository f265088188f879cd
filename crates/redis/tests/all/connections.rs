//! What a connection keeps to: order, limits, who may come in, how it ends.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use tidemill_redis::{Limits, Options};
use tidemill_store::{Disk, Step};

use crate::support::{Client, Served, encode};

#[test]
fn a_pipeline_is_answered_in_order_and_reads_see_earlier_writes() {
    let served = Served::start();
    let mut client = served.client();
    let mut sent = Vec::new();
    let mut answers = Vec::new();
    for n in 0..500 {
        let text = n.to_string();
        let next = (n + 1).to_string();
        sent.extend(encode(&["SET", "k", &text]));
        sent.extend(encode(&["INCR", "k"]));
        sent.extend(encode(&["ECHO", &text]));
        sent.extend(encode(&["GET", "k"]));
        sent.extend(encode(&["MSET", "k", "x", "l", &text]));
        sent.extend(encode(&["DEL", "k", "l"]));
        sent.extend(encode(&["NOPE"]));
        answers.extend([
            "+OK".to_owned(),
            format!(":{next}"),
            format!("\"{text}\""),
            format!("\"{next}\""),
            "+OK".to_owned(),
            ":2".to_owned(),
            "-ERR unknown command 'NOPE', with args beginning with: ".to_owned(),
        ]);
    }
    client.send(&sent);
    for answer in answers {
        assert_eq!(client.read(), answer);
    }
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let options = Options {
        output_bytes_max: 64 * 1024,
        ..Options::default()
    };
    let served = Served::with(options);
    let mut client = served.client();
    let value = "x".repeat(1 << 20);
    assert_eq!(client.ask(&["SET", "k", &value]), "+OK");
    let reading = client.stream.try_clone().expect("a copy");
    reading
        .set_write_timeout(Some(std::time::Duration::from_millis(500)))
        .expect("set");
    // 64 answers of a mebibyte are more than sockets hold, so the door must stop taking commands
    // long before it has read all of these.
    let get = encode(&["GET", "k"]);
    let many = get.repeat(4 << 20);
    let mut writer = &reading;
    let written = std::io::Write::write_all(&mut writer, &many);
    assert!(written.is_err(), "the door took everything");
    let mut info = served.client();
    let count = info.ask(&["INFO", "stats"]);
    let commands: u64 = count
        .split("total_commands_processed:")
        .nth(1)
        .and_then(|rest| rest.split('\\').next())
        .and_then(|number| number.parse().ok())
        .expect("a number");
    assert!(commands < 64, "{commands} were run");
    assert_eq!(client.read(), format!("\"{value}\""));
}

#[test]
fn nobody_comes_in_without_the_password() {
    let options = Options {
        password: Some("secret".to_owned()),
        ..Options::default()
    };
    let served = Served::with(options);
    served.play(
        "GET a => -NOAUTH Authentication required.
         PING => -NOAUTH Authentication required.
         AUTH wrong => -WRONGPASS invalid username-password pair or user is disabled.
         AUTH other secret => -WRONGPASS invalid username-password pair or user is disabled.
         HELLO 3 AUTH default wrong => -WRONGPASS invalid username-password pair or user is disabled.
         SET a 1 => -NOAUTH Authentication required.
         AUTH secret => +OK
         SET a 1 => +OK
         RESET => +RESET
         GET a => -NOAUTH Authentication required.
         AUTH default secret => +OK
         GET a => \"1\"",
    );
    let mut client = served.client();
    assert!(
        client
            .ask(&["HELLO", "3"])
            .starts_with("-NOAUTH HELLO must")
    );
    let hello = client.ask(&["HELLO", "3", "AUTH", "default", "secret", "SETNAME", "me"]);
    assert!(hello.starts_with("{\"server\"=\"redis\""), "{hello}");
    assert_eq!(client.ask(&["CLIENT", "GETNAME"]), "\"me\"");
    // Strangers may not send much.
    let mut stranger = served.client();
    stranger.send(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n");
    assert_eq!(stranger.read(), "-ERR Protocol error: invalid bulk length");
    assert!(stranger.is_closed());
}

#[test]
fn what_comes_with_the_password_may_be_as_large_as_after_it() {
    let options = Options {
        password: Some("secret".to_owned()),
        ..Options::default()
    };
    let served = Served::with(options);
    let value = "x".repeat(20_000);
    let mut client = served.client();
    let all = [
        encode(&["AUTH", "secret"]),
        encode(&["SET", "a", &value]),
        encode(&["STRLEN", "a"]),
    ];
    client.send(&all.concat());
    for answer in ["+OK", "+OK", ":20000"] {
        assert_eq!(client.read(), answer);
    }
}

#[test]
fn what_comes_before_an_error_is_answered_and_what_comes_after_is_not() {
    let served = Served::start();
    let mut client = served.client();
    let mut all: Vec<u8> = (0..40)
        .flat_map(|n| encode(&["SET", "a", &n.to_string()]))
        .collect();
    all.extend(b"*1\r\n+no\r\n");
    all.extend(encode(&["SET", "a", "after"]));
    client.send(&all);
    for _ in 0..40 {
        assert_eq!(client.read(), "+OK");
    }
    assert_eq!(client.read(), "-ERR Protocol error: expected '$', got '+'");
    assert!(client.is_closed());
    let mut leaving = served.client();
    let words: [&[&str]; 4] = [&["GET", "a"], &["NOPE"], &["QUIT"], &["SET", "a", "late"]];
    leaving.send(&words.map(encode).concat());
    assert_eq!(leaving.read(), "\"39\"");
    assert!(leaving.read().starts_with("-ERR unknown command 'NOPE'"));
    assert_eq!(leaving.read(), "+OK");
    assert!(leaving.is_closed());
    served.play("GET a => \"39\"");
}

#[test]
fn the_new_protocol_has_maps_sets_and_one_null() {
    let served = Served::start();
    let mut client = served.client();
    client.ask(&["HSET", "h", "a", "1"]);
    client.ask(&["SADD", "s", "a"]);
    assert!(client.ask(&["HELLO", "4"]).starts_with("-NOPROTO"));
    assert!(client.ask(&["HELLO", "3"]).contains("\"proto\"=:3"));
    assert_eq!(client.ask(&["HGETALL", "h"]), "{\"a\"=\"1\"}");
    assert_eq!(client.ask(&["SMEMBERS", "s"]), "(\"a\")");
    client.send(&encode(&["GET", "nothing"]));
    let mut null = [0; 3];
    std::io::Read::read_exact(&mut client.stream, &mut null).expect("an answer");
    assert_eq!(&null, b"_\r\n");
    assert!(client.ask(&["HELLO", "2"]).contains("\"proto\" :2"));
    assert_eq!(client.ask(&["HGETALL", "h"]), "[\"a\" \"1\"]");
}

#[test]
fn what_is_not_there_says_so() {
    let served = Served::start();
    let mut client = served.client();
    for command in ["WATCH a", "SUBSCRIBE a", "BLPOP a 0", "EVAL x 0"] {
        let words: Vec<&str> = command.split(' ').collect();
        let answer = client.ask(&words);
        let start = format!("-ERR {} is not there: ", words[0]);
        assert!(answer.starts_with(&start), "{answer}");
    }
    served.play(
        "SELECT 0 => +OK
         SELECT 1 => -ERR DB index is out of range
         CLIENT NOPE => -ERR unknown subcommand 'NOPE'. Try CLIENT HELP.
         CLIENT SETNAME => -ERR wrong number of arguments for 'client|setname' command
         CONFIG GET save => [\"save\" \"\"]
         CONFIG GET append* => [\"appendfsync\" \"always\" \"appendonly\" \"yes\"]
         COMMAND DOCS => []
         COMMAND INFO get nope multi => [[\"get\" :2 [+readonly +fast] :1 :1 :1 [] [] [] []] nil [\"multi\" :1 [+readonly +fast] :0 :0 :0 [] [] [] []]]
         AUTH x => -ERR AUTH <password> called without any password configured for the default \
         user. Are you sure your configuration is correct?
         PING => +PONG
         PING a => \"a\"
         TIME => [\"1700000000\" \"0\"]",
    );
    let count = client.ask(&["COMMAND", "COUNT"]);
    assert!(count.starts_with(':') && count.len() == 3, "{count}");
    let list = client.ask(&["CLIENT", "LIST"]);
    assert!(
        list.contains("cmd=client") && list.contains("resp=2"),
        "{list}"
    );
    let info = client.ask(&["INFO", "keyspace"]);
    assert_eq!(info, "\"# Keyspace\\r\\n\"");
}

#[test]
fn info_tells_what_a_restart_would_replay() {
    let served = Served::start();
    let mut client = served.client();
    let field = |info: &str, name: &str| {
        let rest = info.split_once(&format!("\\n{name}:"));
        let value = rest.and_then(|(_, rest)| rest.split_once('\\'));
        value.map(|(value, _)| value.to_owned())
    };
    let before = client.ask(&["INFO", "persistence"]);
    assert!(before.starts_with("\"# Persistence\\r\\n"), "{before}");
    let nothing = Some("0".to_owned());
    assert_eq!(field(&before, "rdb_changes_since_last_save"), nothing);
    assert_eq!(field(&before, "aof_current_size"), nothing);
    assert_eq!(client.ask(&["SET", "a", "1"]), "+OK");
    assert_eq!(client.ask(&["SET", "b", "1"]), "+OK");
    let after = client.ask(&["INFO"]);
    let dirty = field(&after, "rdb_changes_since_last_save");
    assert_eq!(dirty, Some("2".to_owned()), "{after}");
    assert_eq!(
        field(&after, "aof_last_write_status"),
        Some("ok".to_owned())
    );
    assert_ne!(field(&after, "aof_current_size"), nothing, "{after}");
}

#[test]
fn broken_and_hostile_input_ends_the_connection() {
    let limits = Limits {
        bulk_bytes_max: 1000,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let served = Served::with(options);
    for (input, answer) in [
        ("*x\r\n", "invalid multibulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*1\r\n:1\r\n", "expected '$', got ':'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$1001\r\n", "invalid bulk length"),
        ("PING \"a\r\n", "unbalanced quotes in request"),
    ] {
        let mut client = served.client();
        client.send(b"PING\r\n");
        client.send(input.as_bytes());
        assert_eq!(client.read(), "+PONG");
        assert_eq!(client.read(), format!("-ERR Protocol error: {answer}"));
        assert!(client.is_closed());
    }
    let mut browser = served.client();
    browser.send(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET a 1\r\n");
    assert!(browser.is_closed());
    let mut client = served.client();
    assert_eq!(client.ask(&["EXISTS", "a"]), ":0");
    client.send(b"QUIT\r\n");
    assert_eq!(client.read(), "+OK");
    assert!(client.is_closed());
}

#[test]
fn connections_are_bounded_and_end_with_the_door() {
    let options = Options {
        connections_max: 1,
        ..Options::default()
    };
    let served = Served::with(options);
    let mut first = served.client();
    assert_eq!(first.ask(&["PING"]), "+PONG");
    let mut second = Client::connect(served.address);
    assert_eq!(second.read(), "-ERR max number of clients reached");
    served.stop();
    assert!(first.is_closed());
}

/// A disk that writes a group of the log only when it is let.
#[derive(Debug, Default)]
struct SlowDisk {
    /// Groups that have come, and how many are let through.
    groups: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl SlowDisk {
    fn change(&self, change: impl FnOnce(&mut (usize, usize))) {
        change(&mut self.groups.lock().expect("not poisoned"));
        self.changed.notify_all();
    }

    fn wait_while(&self, mut is_so: impl FnMut(&(usize, usize)) -> bool) {
        let groups = self.groups.lock().expect("not poisoned");
        let waited = self.changed.wait_while(groups, |groups| is_so(groups));
        drop(waited.expect("not poisoned"));
    }
}

impl Disk for SlowDisk {
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn step(&self, step: Step) -> io::Result<()> {
        if step == Step::AfterAppend {
            let mut number = 0;
            self.change(|(come, _)| {
                *come += 1;
                number = *come;
            });
            self.wait_while(|(_, let_through)| *let_through < number);
        }
        Ok(())
    }
}

#[test]
fn whoever_a_sync_has_served_does_not_wait_for_the_next() {
    let disk = Arc::new(SlowDisk::default());
    let served = Served::on(Arc::clone(&disk) as Arc<dyn Disk>);
    let [mut first, mut second] = [0, 1].map(|_| served.client());
    first.send(&encode(&["SET", "a", "1"]));
    disk.wait_while(|(come, _)| *come < 1);
    second.send(&encode(&["SET", "b", "2"]));
    while served.store.stats().commits < 2 {
        std::thread::yield_now();
    }
    disk.change(|(_, let_through)| *let_through = 1);
    assert_eq!(first.read(), "+OK");
    disk.wait_while(|(come, _)| *come < 2);
    disk.change(|(_, let_through)| *let_through = usize::MAX);
    assert_eq!(second.read(), "+OK");
}
