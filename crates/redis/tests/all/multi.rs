//! `MULTI`, `EXEC`, `DISCARD`.

use crate::support::{Client, Served};
use std::thread;

#[test]
fn commands_are_queued_and_answered_together() {
    let served = Served::start();
    served.play(
        r#"
        SET n 5
        MULTI => +OK
        INCR n => +QUEUED
        SET a 1 => +QUEUED
        GET a => +QUEUED
        HSET h f 1 g 2 => +QUEUED
        HINCRBY h f 4 => +QUEUED
        HGETALL h => +QUEUED
        SADD s x y => +QUEUED
        SREM s x => +QUEUED
        SMEMBERS s => +QUEUED
        MSET a 2 b 3 => +QUEUED
        MGET a b n => +QUEUED
        DEL a b nothing => +QUEUED
        EXISTS a b n => +QUEUED
        APPEND t he => +QUEUED
        APPEND t llo => +QUEUED
        EXPIRE t 100 => +QUEUED
        TTL t => +QUEUED
        PING => +QUEUED
        EXEC => [:6 +OK "1" :2 :5 ["f" "5" "g" "2"] :2 :1 ["y"] +OK ["2" "3" "6"] :2 :1 :2 :5 :1 :100 +PONG]
        GET n => "6"
        GET t => "hello"
        GET a => nil
        HGET h f => "5"
        MULTI => +OK
        EXEC => []
        "#,
    );
}

#[test]
fn nothing_is_seen_before_it_is_committed_and_then_all_of_it() {
    let served = Served::start();
    let (mut one, mut two) = (served.client(), served.client());
    one.ask(&["MULTI"]);
    one.ask(&["SET", "a", "1"]);
    one.ask(&["SET", "b", "1"]);
    assert_eq!(two.ask(&["MGET", "a", "b"]), "[nil nil]");
    assert_eq!(one.ask(&["EXEC"]), "[+OK +OK]");
    assert_eq!(two.ask(&["MGET", "a", "b"]), "[\"1\" \"1\"]");
}

#[test]
fn a_mistake_while_queueing_discards_all_and_one_while_running_only_itself() {
    Served::start().play(
        r#"
        MULTI => +OK
        SET a 1 => +QUEUED
        GET => -ERR wrong number of arguments for 'get' command
        SET b 1 => +QUEUED
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        MULTI => +OK
        EXPIRE a => -ERR wrong number of arguments for 'expire' command
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        MULTI => +OK
        SCAN 0 => -ERR SCAN is not taken inside MULTI: it looks through the whole space, and would not see what the transaction has written
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        EXISTS a b => :0
        MULTI => +OK
        SET a text => +QUEUED
        INCR a => +QUEUED
        SADD a x => +QUEUED
        SET b 1 => +QUEUED
        EXEC => [+OK -ERR value is not an integer or out of range -WRONGTYPE Operation against a key holding the wrong kind of value +OK]
        MGET a b => ["text" "1"]
        "#,
    );
}

#[test]
fn an_open_transaction_ends_by_exec_discard_reset_or_with_its_connection() {
    let served = Served::start();
    served.play(
        r#"
        EXEC => -ERR EXEC without MULTI
        DISCARD => -ERR DISCARD without MULTI
        UNWATCH => +OK
        MULTI => +OK
        MULTI => -ERR MULTI calls can not be nested
        SET a 1 => +QUEUED
        DISCARD => +OK
        GET a => nil
        MULTI => +OK
        SET a 1 => +QUEUED
        RESET => +RESET
        GET a => nil
        EXEC => -ERR EXEC without MULTI
        "#,
    );
    let mut mistaken = served.client();
    mistaken.ask(&["MULTI"]);
    assert!(mistaken.ask(&["NOPE"]).starts_with("-ERR unknown command"));
    assert!(mistaken.ask(&["EXEC"]).starts_with("-EXECABORT"));
    let mut gone = served.client();
    gone.ask(&["MULTI"]);
    gone.ask(&["SET", "a", "1"]);
    drop(gone);
    assert_eq!(served.client().ask(&["GET", "a"]), "nil");
    let mut watching = served.client();
    assert!(
        watching
            .ask(&["WATCH", "a"])
            .starts_with("-ERR WATCH is not there: ")
    );
}

#[test]
fn entries_get_the_ids_of_their_commit() {
    let served = Served::start();
    let mut client = served.client();
    client.ask(&["MULTI"]);
    client.ask(&["XADD", "x", "*", "f", "1"]);
    client.ask(&["XADD", "x", "*", "f", "2"]);
    client.ask(&["XLEN", "x"]);
    client.ask(&["XRANGE", "x", "-", "+"]);
    let answer = client.ask(&["EXEC"]);
    let ids: Vec<&str> = answer.split('"').skip(1).step_by(2).take(2).collect();
    assert!(ids[0] < ids[1], "{answer}");
    assert!(answer.contains(" :2 -ERR the ids of entries"), "{answer}");
    let entries = client.ask(&["XRANGE", "x", "-", "+"]);
    assert!(
        ids.iter().all(|id| entries.contains(id)),
        "{entries} {ids:?}"
    );
}

fn add(client: &mut Client) {
    client.ask(&["MULTI"]);
    client.ask(&["INCR", "n"]);
    client.ask(&["HINCRBY", "h", "f", "2"]);
    client.ask(&["DECRBY", "absent", "1"]);
    let answer = client.ask(&["EXEC"]);
    assert!(!answer.contains('-') || answer.contains(":-"), "{answer}");
}

#[test]
fn additions_that_race_all_count() {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 25;
    let served = Served::start();
    for round in 1..=ROUNDS {
        let mut first = served.client();
        // Registers with numbers, which every transaction of the round finds so.
        first.ask(&["SET", "n", "10"]);
        first.ask(&["DEL", "h", "absent"]);
        first.ask(&["HSET", "h", "f", "20"]);
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let mut client = served.client();
                scope.spawn(move || add(&mut client));
                let mut plain = served.client();
                scope.spawn(move || plain.ask(&["INCR", "n"]));
            }
        });
        let found = [
            first.ask(&["GET", "n"]),
            first.ask(&["HGET", "h", "f"]),
            first.ask(&["GET", "absent"]),
        ];
        let expected = [10 + 2 * CLIENTS, 20 + 2 * CLIENTS].map(|n| format!("\"{n}\""));
        assert_eq!(found[..2], expected, "round {round}");
        assert_eq!(found[2], format!("\"-{CLIENTS}\""), "round {round}");
    }
}
