//! A wall clock that is set back by an hour: nothing written goes back, and what is to expire
//! does so once the clock has caught up.

use crate::support::{Client, Served};

const HOUR_MS: u64 = 3_600_000;

/// The two numbers of a stream's entry.
fn id(client: &mut Client) -> (u64, u64) {
    let id = client.ask(&["XADD", "stream", "*", "field", "value"]);
    let (millis, sequence) = id.trim_matches('"').split_once('-').expect("an id");
    let number = |text: &str| text.parse().expect("a number");
    (number(millis), number(sequence))
}

#[test]
fn writes_and_reads_keep_their_order() {
    let served = Served::start();
    let mut client = served.client();
    served.play(
        "MSET a before b before c before
         INCRBY n 5
         HSET h f before
         SADD s before",
    );
    let mut last = id(&mut client);
    served.set_back_ms(HOUR_MS);
    served.play(
        "MGET a b c => [\"before\" \"before\" \"before\"]
         GET n => \"5\"
         SET a after => +OK
         GET a => \"after\"
         MSET b after new after => +OK
         DEL c new => :2
         MGET a b c new => [\"after\" \"after\" nil nil]
         SETNX c again => :1
         GET c => \"again\"
         INCR n => :6
         GET n => \"6\"
         SET n 1 => +OK
         INCR n => :2
         GET n => \"2\"
         APPEND a - => :6
         HSET h f after => :0
         HINCRBY h m 2 => :2
         HGETALL h => [\"f\" \"after\" \"m\" \"2\"]
         SREM s before => :1
         SADD s after => :1
         SMEMBERS s => [\"after\"]
         DBSIZE => :7
         DEL h => :1
         HSET h g 1 => :1
         HGETALL h => [\"g\" \"1\"]",
    );
    for _ in 0..5 {
        let next = id(&mut client);
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
    assert_eq!(client.ask(&["XLEN", "stream"]), ":6");
    // On the way back to where it was, and beyond.
    for millis in [HOUR_MS / 2, HOUR_MS / 2, HOUR_MS] {
        let before = served.store.snapshot().time();
        served.pass_ms(millis);
        assert!(id(&mut client) > last);
        assert!(served.store.snapshot().time() > before);
        served.play("MGET a b c => [\"after-\" \"after\" \"again\"]");
    }
}

#[test]
fn what_expires_does_so_once_the_clock_has_caught_up() {
    let served = Served::start();
    served.play(
        "SET early 1 PX 5000 => +OK
         SET gone 1 PX 1000 => +OK
         PASS 1000
         GET gone => nil",
    );
    served.set_back_ms(HOUR_MS);
    served.play(
        "GET gone => nil
         TTL gone => :-2
         GET early => \"1\"
         TTL early => :4
         SET late 1 PX 2000 => +OK
         PTTL late => :2000
         EXPIRE late 10 GT => :1
         TTL late => :10
         SET at 1 => +OK
         EXPIREAT at 1700000003 => :1
         TTL at => :2
         PERSIST at => :1
         TTL at => :-1
         EXPIRE at 0 => :1
         EXISTS at => :0
         INCR count => :1
         EXPIRE count 1 => :1",
    );
    // Time stands until the clock is where it was.
    served.pass_ms(HOUR_MS - 1);
    served.play(
        "TTL late => :10
         GET count => \"1\"
         PASS 1002
         GET count => nil
         INCR count => :1
         TTL early => :3
         PASS 4000
         EXISTS early late => :1
         PASS 6000
         EXISTS early late => :0",
    );
}
