//! Several connections at once.

use std::collections::BTreeSet;
use std::thread;

use crate::support::Served;

const CONNECTIONS: usize = 8;

/// Runs the same on several connections at once and gathers the answers.
fn at_once(
    served: &Served,
    run: impl Fn(usize, &mut crate::support::Client) -> Vec<String> + Sync,
) -> Vec<String> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|n| {
                let run = &run;
                scope.spawn(move || run(n, &mut served.client()))
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    })
}

#[test]
fn of_those_that_race_for_a_key_one_wins() {
    let served = Served::start();
    let wins = at_once(&served, |n, client| {
        let own = n.to_string();
        let key = |round: u32| format!("lock{round}");
        let mut won = Vec::new();
        for key in (0..50).map(key) {
            if client.ask(&["SET", &key, &own, "NX"]) == "+OK" {
                assert_eq!(client.ask(&["GET", &key]), format!("\"{own}\""));
                won.push(key);
            }
        }
        won
    });
    let distinct: BTreeSet<&String> = wins.iter().collect();
    assert_eq!((wins.len(), distinct.len()), (50, 50));
}

#[test]
fn no_increment_is_lost_and_no_number_given_twice() {
    let served = Served::start();
    served.client().ask(&["SET", "n", "1000"]);
    let numbers = at_once(&served, |_, client| {
        (0..100).map(|_| client.ask(&["INCR", "n"])).collect()
    });
    let distinct: BTreeSet<&String> = numbers.iter().collect();
    assert_eq!(distinct.len(), CONNECTIONS * 100);
    assert_eq!(served.client().ask(&["GET", "n"]), "\"1800\"");
    let members = at_once(&served, |n, client| {
        (0..20)
            .map(|m| client.ask(&["HSET", "h", &format!("{n}-{m}"), "1"]))
            .collect()
    });
    assert_eq!(members.len(), CONNECTIONS * 20);
    assert_eq!(served.client().ask(&["HLEN", "h"]), ":160");
}

#[test]
fn a_pair_written_together_is_never_seen_apart() {
    let served = Served::start();
    served.client().ask(&["MSET", "a", "0", "b", "0"]);
    at_once(&served, |n, client| {
        for round in 0..50 {
            if n % 2 == 0 {
                let value = format!("{n}-{round}");
                client.ask(&["MSET", "a", &value, "b", &value]);
            } else {
                let seen = client.ask(&["MGET", "a", "b"]);
                let words: Vec<&str> = seen.trim_matches(['[', ']']).split(' ').collect();
                assert_eq!(words[0], words[1]);
            }
        }
        Vec::new()
    });
}
