//! What commands mean.

use tidemill_lattice::{Cell, Dot, Key, Op, Ordinal, Payload, Time, Writer};
use tidemill_store::{Commit, Durability, PROVISIONAL};

use crate::support::Served;

#[test]
fn strings() {
    Served::start().play(
        r#"
        GET a => nil
        SET a 1 => +OK
        GET a => "1"
        SET a 2 NX => nil
        SET a 2 XX => +OK
        SET b 2 XX => nil
        SET a 3 NX GET => "2"
        SET a 3 GET => "2"
        SET b 1 NX GET => nil
        GETSET a 4 => "3"
        GETDEL a => "4"
        GETDEL a => nil
        SETNX a 5 => :1
        SETNX a 6 => :0
        MSET a 1 b 2 a 3 => +OK
        MGET a b c => ["3" "2" nil]
        MSET a 1 b => -ERR wrong number of arguments for 'mset' command
        STRLEN a => :1
        STRLEN c => :0
        APPEND a 45 => :3
        APPEND c xy => :2
        GET a => "345"
        SET a => -ERR wrong number of arguments for 'set' command
        SET a 1 NX XX => -ERR syntax error
        SET a 1 EX => -ERR syntax error
        SET a 1 EX x => -ERR value is not an integer or out of range
        SET a 1 EX 0 => -ERR invalid expire time in 'set' command
        SET a 1 EX 9223372036854775807 => -ERR invalid expire time in 'set' command
        SET a 1 EX 10 KEEPTTL => -ERR syntax error
        SETEX a -1 x => -ERR invalid expire time in 'setex' command
        "#,
    );
}

#[test]
fn counting() {
    Served::start().play(
        r#"
        INCR n => :1
        INCRBY n 41 => :42
        DECR n => :41
        DECRBY n 1 => :40
        GET n => "40"
        TYPE n => +string
        APPEND n 1 => :3
        INCR n => :402
        SET n 10 => +OK
        INCRBY n -3 => :7
        EXPIRE n 100 => :1
        SET n 5 KEEPTTL => +OK
        INCR n => :6
        TTL n => :100
        SET n abc => +OK
        INCR n => -ERR value is not an integer or out of range
        INCRBY n x => -ERR value is not an integer or out of range
        SET n 9223372036854775807 => +OK
        INCR n => -ERR increment or decrement would overflow
        GET n => "9223372036854775807"
        INCRBY m 9223372036854775807 => :9223372036854775807
        INCR m => -ERR increment or decrement would overflow
        DECRBY m -9223372036854775808 => -ERR decrement would overflow
        "#,
    );
}

#[test]
fn keys_and_their_ends() {
    Served::start().play(
        r#"
        SET a 1
        SET b 1
        EXISTS a b a c => :3
        TYPE a => +string
        TYPE c => +none
        TTL a => :-1
        TTL c => :-2
        EXPIRE c 10 => :0
        EXPIRE a 10 => :1
        TTL a => :10
        PTTL a => :10000
        PASS 9999
        GET a => "1"
        PTTL a => :1
        PASS 1
        GET a => nil
        TTL a => :-2
        EXISTS a => :0
        SET a 1 NX => +OK
        TTL a => :-1
        PEXPIRE a 1500 => :1
        PTTL a => :1500
        TTL a => :2
        PERSIST a => :1
        PERSIST a => :0
        EXPIRE a 10 XX => :0
        EXPIRE a 10 GT => :0
        EXPIRE a 10 NX => :1
        EXPIRE a 20 NX => :0
        EXPIRE a 5 GT => :0
        EXPIRE a 20 LT => :0
        EXPIRE a 20 GT => :1
        EXPIRE a 5 LT => :1
        EXPIRE a 5 NX GT => -ERR NX and XX, GT or LT options at the same time are not compatible
        EXPIRE a x => -ERR value is not an integer or out of range
        EXPIREAT a 1 => :1
        EXISTS a => :0
        SET a 1 PX 100 => +OK
        GETEX a PERSIST => "1"
        TTL a => :-1
        GETEX a EX 7 => "1"
        TTL a => :7
        GETEX a => "1"
        TTL a => :7
        SET a 2 => +OK
        TTL a => :-1
        SET a 2 PXAT 1700000020000 => +OK
        PASS 20000
        GET a => nil
        DEL a b c => :1
        DEL b => :0
        SET b 1
        UNLINK b => :1
        DBSIZE => :0
        "#,
    );
}

#[test]
fn hashes() {
    Served::start().play(
        r#"
        HSET h a 1 b 2 a 3 => :2
        HSET h a 4 c 5 => :1
        HGET h a => "4"
        HGET h x => nil
        HGET x x => nil
        HMGET h a x b => ["4" nil "2"]
        HGETALL h => ["a" "4" "b" "2" "c" "5"]
        HKEYS h => ["a" "b" "c"]
        HVALS h => ["4" "2" "5"]
        HLEN h => :3
        HEXISTS h a => :1
        HEXISTS h x => :0
        HINCRBY h a 6 => :10
        HINCRBY h a -1 => :9
        HINCRBY h n 3 => :3
        HSET h a x => :0
        HGET h a => "x"
        HINCRBY h a 1 => -ERR hash value is not an integer
        HSET h a 9223372036854775807 => :0
        HINCRBY h a 1 => -ERR increment or decrement would overflow
        HINCRBY h a x => -ERR value is not an integer or out of range
        HSET h a => -ERR wrong number of arguments for 'hset' command
        HDEL h a a x => :1
        HDEL h b c n => :3
        EXISTS h => :0
        TYPE h => +none
        HGETALL h => []
        SET h 1 NX => +OK
        DEL h => :1
        HMSET h a 1 => +OK
        HSCAN h 0 => ["0" ["a" "1"]]
        "#,
    );
}

#[test]
fn sets() {
    Served::start().play(
        r#"
        SADD s a b a => :2
        SADD s b c => :1
        SMEMBERS s => ["a" "b" "c"]
        SISMEMBER s a => :1
        SISMEMBER s x => :0
        SCARD s => :3
        SREM s a x => :1
        SADD t c d => :2
        SUNION s t x => ["b" "c" "d"]
        SINTER s t => ["c"]
        SINTER s x => []
        SREM s b c => :2
        EXISTS s => :0
        SCARD s => :0
        HSET s a 1 => :1
        "#,
    );
}

#[test]
fn streams() {
    let served = Served::start();
    let mut client = served.client();
    let ids: Vec<String> = (0..4)
        .map(|n| {
            served.pass_ms(n);
            let id = client.ask(&["XADD", "x", "*", "n", &n.to_string()]);
            id.trim_matches('"').to_owned()
        })
        .collect();
    assert!(ids[0].starts_with("1700000000000-"), "{ids:?}");
    let shown = |which: &[usize]| {
        let all: Vec<String> = which
            .iter()
            .map(|n| format!("[\"{}\" [\"n\" \"{n}\"]]", ids[*n]))
            .collect();
        format!("[{}]", all.join(" "))
    };
    let mut range = |words: &[&str]| client.ask(words);
    assert_eq!(range(&["XRANGE", "x", "-", "+"]), shown(&[0, 1, 2, 3]));
    assert_eq!(
        range(&["XREVRANGE", "x", "+", "-", "COUNT", "2"]),
        shown(&[3, 2])
    );
    assert_eq!(range(&["XRANGE", "x", &ids[1], &ids[2]]), shown(&[1, 2]));
    let after = format!("({}", ids[1]);
    assert_eq!(range(&["XRANGE", "x", &after, "+"]), shown(&[2, 3]));
    assert_eq!(
        range(&["XRANGE", "x", "1700000000001", "1700000000003"]),
        shown(&[1, 2])
    );
    assert_eq!(range(&["XRANGE", "nothing", "-", "+"]), "[]");
    let bytes: [&[u8]; 5] = [b"XADD", b"y", b"*", b"\xff\x00", b""];
    client.ask(&bytes);
    let got = client.ask(&["XRANGE", "y", "-", "+"]);
    assert!(got.ends_with(r#" ["\xff\x00" ""]]]"#), "{got}");
    served.play(
        r#"
        XLEN x => :4
        XADD x MAXLEN ~ 2 * a b
        XLEN x => :2
        XADD x 1-1 a b => -ERR an entry's id is its commit's time: give * as the ID
        XADD x * a => -ERR wrong number of arguments for 'xadd' command
        XADD x * a b c => -ERR wrong number of arguments for 'xadd' command
        XADD none NOMKSTREAM * a b => nil
        XRANGE x a + => -ERR Invalid stream ID specified as stream command argument
        TYPE x => +stream
        "#,
    );
}

#[test]
fn a_value_of_another_type_is_refused_by_every_command() {
    let served = Served::start();
    served.play("SET string 1\nHSET hash a 1\nSADD set a\nXADD stream * a 1\n");
    let commands: [(&str, &[&str]); 4] = [
        (
            "string",
            &[
                "GET K",
                "STRLEN K",
                "INCR K",
                "DECRBY K 1",
                "APPEND K a",
                "GETSET K 1",
                "GETDEL K",
                "GETEX K",
                "SET K 1 GET",
                "SET K 1 NX GET",
            ],
        ),
        (
            "hash",
            &[
                "HSET K a 1",
                "HGET K a",
                "HMGET K a",
                "HGETALL K",
                "HDEL K a",
                "HLEN K",
                "HEXISTS K a",
                "HKEYS K",
                "HVALS K",
                "HINCRBY K a 1",
                "HSCAN K 0",
            ],
        ),
        (
            "set",
            &[
                "SADD K a",
                "SREM K a",
                "SMEMBERS K",
                "SISMEMBER K a",
                "SCARD K",
                "SSCAN K 0",
                "SUNION K",
                "SINTER set K",
            ],
        ),
        (
            "stream",
            &["XADD K * a 1", "XRANGE K - +", "XREVRANGE K + -", "XLEN K"],
        ),
    ];
    let mut client = served.client();
    for (held, _) in &commands {
        for (meant, lines) in &commands {
            for line in *lines {
                let words = line.split(' ');
                let words: Vec<&str> = words
                    .map(|word| if word == "K" { *held } else { word })
                    .collect();
                if meant != held {
                    let wrong =
                        "-WRONGTYPE Operation against a key holding the wrong kind of value";
                    assert_eq!(client.ask(&words), wrong, "{line}");
                }
            }
        }
        assert_eq!(client.ask(&["TYPE", held]), format!("+{held}"));
        assert_eq!(client.ask(&["EXISTS", held]), ":1");
    }
    for (held, _) in &commands {
        assert_eq!(
            client.ask(&["MGET", held]).contains("nil"),
            *held != "string"
        );
        assert_eq!(client.ask(&["SET", held, "new"]), "+OK");
        assert_eq!(client.ask(&["GET", held]), "\"new\"");
    }
}

#[test]
fn scans_give_each_key_once_whatever_is_written() {
    let served = Served::start();
    let mut client = served.client();
    for n in 0..50 {
        client.ask(&["SET", &format!("k{n:02}"), "1"]);
    }
    client.ask(&["SADD", "s", "1"]);
    let mut found = Vec::new();
    let mut cursor = "0".to_owned();
    for round in 0.. {
        let answer = client.ask(&["SCAN", &cursor, "MATCH", "k*", "COUNT", "7"]);
        let words: Vec<&str> = answer.split('"').skip(1).step_by(2).collect();
        cursor = words[0].to_owned();
        found.extend(words[1..].iter().map(|word| (*word).to_owned()));
        if cursor == "0" {
            break;
        }
        // Neither what comes nor what goes moves the rest.
        client.ask(&["SET", &format!("a{round}"), "1"]);
        client.ask(&["DEL", found.last().expect("found")]);
    }
    let all: Vec<String> = (0..50).map(|n| format!("k{n:02}")).collect();
    assert_eq!(found, all);
    served.play(
        r#"
        SCAN 0 MATCH s* => ["0" ["s"]]
        SCAN 0 TYPE set COUNT 1000 => ["0" ["s"]]
        KEYS k0[1-2] => ["k01" "k02"]
        SCAN 77777 => -ERR the cursor 77777 is not known any more; begin the scan again with 0
        SCAN x => -ERR invalid cursor
        SCAN 0 COUNT 0 => -ERR syntax error
        SCAN 0 COUNT x => -ERR value is not an integer or out of range
        SADD m a b c d
        HSET h a 1 b 2 c 3
        "#,
    );
    for (command, all) in [("SSCAN m", "a b c d"), ("HSCAN h", "a 1 b 2 c 3")] {
        let (name, key) = command.split_once(' ').expect("two words");
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let answer = client.ask(&[name, key, &cursor, "COUNT", "2"]);
            let words: Vec<&str> = answer.split('"').skip(1).step_by(2).collect();
            cursor = words[0].to_owned();
            found.extend(words[1..].iter().map(|word| (*word).to_owned()));
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(found.join(" "), all);
    }
}

/// Commits operations as a function would.
fn write(served: &Served, name: &str, ops: &[Op]) {
    let key = Key::new("default", "redis", name).expect("a key");
    let mut sequence = 0;
    let mut dots = || {
        sequence += 1;
        Dot::new(PROVISIONAL, Writer(0), sequence)
    };
    let mut delta = Cell::empty();
    for op in ops {
        let more = Cell::delta(Some(&delta), op, Time::ZERO, &mut dots).expect("fits");
        delta.merge(&more);
    }
    let snapshot = served.store.snapshot();
    let commit = Commit {
        request: 1,
        snapshot: snapshot.time(),
        deltas: vec![(key, delta)],
        durability: Durability::Memory,
        messages: Vec::new(),
        consumes: None,
        record: None,
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = move |outcome| sender.send(outcome).expect("waited for");
    served.store.commit(commit, Box::new(done));
    receiver.recv().expect("answered").expect("committed");
}

#[test]
fn values_of_functions_are_shown() {
    let served = Served::start();
    let json = |value| Payload::json(&value);
    let (one, text) = (serde_json::json!(1), serde_json::json!({"a": "b"}));
    write(&served, "register", &[Op::RegisterSet(json(text))]);
    write(&served, "number", &[Op::RegisterSet(json(one.clone()))]);
    write(&served, "counter", &[Op::CounterAdd(5)]);
    write(&served, "max", &[Op::MaxPut(Ordinal::Integer(7))]);
    write(&served, "min", &[Op::MinPut(Ordinal::Text("abc".into()))]);
    write(&served, "flag", &[Op::FlagRaise]);
    write(&served, "multi", &[Op::MultiSet(json(one.clone()))]);
    let both = [
        Op::SetAdd(json(one.clone())),
        Op::SetAdd(Payload::bytes("1")),
    ];
    write(&served, "set", &both);
    let gone = [
        Op::SetAdd(json(one.clone())),
        Op::SetRemove(json(one.clone())),
    ];
    write(&served, "empty", &gone);
    let append = Op::LogAppend {
        value: json(one),
        keep: None,
    };
    write(&served, "log", &[append]);
    served.play(
        r#"
        GET register => "{\"a\":\"b\"}"
        INCR number => :2
        INCR counter => :6
        GET max => "7"
        GET min => "abc"
        GET flag => "1"
        INCR max => -WRONGTYPE Operation against a key holding the wrong kind of value
        TYPE multi => +multi
        GET multi => -WRONGTYPE Operation against a key holding the wrong kind of value
        SMEMBERS set => ["1"]
        SCARD set => :1
        SADD set 1 => :0
        SREM set 1 => :1
        EXISTS set => :0
        EXISTS empty => :0
        TYPE empty => +none
        INCR empty => :1
        GET empty => "1"
        XLEN log => :1
        "#,
    );
    let got = served.client().ask(&["XRANGE", "log", "-", "+"]);
    assert!(got.ends_with(r#" ["value" "1"]]]"#), "{got}");
}
