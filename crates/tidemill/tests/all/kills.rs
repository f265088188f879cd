//! Kills under load: whatever was answered is there, whatever was not is there wholly or
//! not at all, and each request that was enqueued ran exactly once.
//!
//! `TIDEMILL_KILLS` is the number of kills, `TIDEMILL_KILL_SEED` repeats a run's moments.

use crate::processes::{no_orphans, run_directories};
use crate::support::{Node, Reply, now, program, sleep, wait_for};
use crate::wire::Wire;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const KILLS: u64 = 25;
const CALLERS: usize = 4;

const APP: &str = r#"
import tidemill
from tidemill import state

app = tidemill.App("ledger")

@app.function
def write(round, id):
    state.counter("calls/count").add(1)
    pair = state.map("calls/pair")
    for side in ("left", "right"):
        pair.counter(side).add(1)
        pair.register("last " + side).set(id)
    state.log(f"calls/log/{round}").append(id)
    state.register("calls/a").set(id)
    state.register("calls/b").set(id)
    tidemill.enqueue(note, round, id)
    return state.counter("calls/count").get()

@app.function
def note(round, id):
    state.counter("notes/count").add(1)
    state.log(f"notes/log/{round}").append(id)
"#;

/// What one round has asked for: ids by what is known of them.
#[derive(Default)]
struct Asked {
    answered: BTreeSet<String>,
    unknown: BTreeSet<String>,
    refused: Vec<String>,
}

impl Asked {
    fn join(&mut self, other: Self) {
        self.answered.extend(other.answered);
        self.unknown.extend(other.unknown);
        self.refused.extend(other.refused);
    }
}

/// A small generator of numbers (splitmix64): the same seed, the same moments.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

pub(crate) fn number(name: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => otherwise(),
    }
}

/// One client: asks until the node is gone, and takes note of each answer.
fn client(
    node: (&str, &str),
    answers: &AtomicUsize,
    stop: &AtomicBool,
    ask: impl Fn(&mut Wire, &str) -> std::io::Result<Reply>,
    name: &str,
) -> Asked {
    let mut asked = Asked::default();
    let Ok(mut wire) = Wire::open_to(node.0, node.1) else {
        return asked;
    };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{name}-{number}");
        match ask(&mut wire, &id) {
            Ok(reply) if reply.status == 200 => {
                asked.answered.insert(id);
                answers.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply) => {
                asked.refused.push(format!("{id}: {}", reply.text()));
                break;
            }
            Err(_) => {
                asked.unknown.insert(id);
                break;
            }
        }
    }
    asked
}

fn call(wire: &mut Wire, round: u64, id: &str) -> std::io::Result<Reply> {
    let body = json!([round, id]).to_string();
    wire.ask("POST", "/v1/call/ledger/write", &body)
}

fn commit(wire: &mut Wire, round: u64, id: &str) -> std::io::Result<Reply> {
    let writes = json!([
        {"key": "kv/count", "op": "counter.add", "value": 1},
        {"key": "kv/pair", "type": "map", "field": "left", "op": "counter.add", "value": 1},
        {"key": "kv/pair", "type": "map", "field": "right", "op": "counter.add", "value": 1},
        {"key": format!("kv/log/{round}"), "op": "log.append", "value": id},
        {"key": "kv/a", "op": "register.set", "value": id},
        {"key": "kv/b", "op": "register.set", "value": id},
    ]);
    wire.ask("POST", "/v1/kv/ledger", &writes.to_string())
}

/// Loads the node from several clients and kills it at some moment.
fn load_and_kill(node: &mut Node, round: u64, dice: &mut Dice) -> [Asked; 2] {
    let at_once = dice.roll(3) == 0;
    let moment = Duration::from_millis(dice.roll(400));
    let (answers, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (address, token) = (node.address.clone(), node.token.clone());
    let place = (address.as_str(), token.as_str());
    let (answers, stop) = (&answers, &stop);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let ask = move |wire: &mut Wire, id: &str| call(wire, round, id);
                let name = format!("r{round}c{caller}");
                scope.spawn(move || client(place, answers, stop, ask, &name))
            })
            .collect();
        let ask = move |wire: &mut Wire, id: &str| commit(wire, round, id);
        let name = format!("r{round}k");
        let writer = scope.spawn(move || client(place, answers, stop, ask, &name));
        if !at_once {
            // Until the workers run, only the other writer is answered.
            wait_for("answers", || {
                (answers.load(Ordering::Relaxed) > 40).then_some(())
            });
        }
        sleep(moment);
        node.crash();
        stop.store(true, Ordering::Relaxed);
        let mut calls = Asked::default();
        for caller in callers {
            calls.join(caller.join().expect("a client"));
        }
        [calls, writer.join().expect("a client")]
    })
}

fn value(node: &Node, key: &str) -> Value {
    let path = format!("/v1/kv/ledger/{}?view=json", key.replace('/', "%2F"));
    let reply = node.ask("GET", &path, "");
    match reply.status {
        200 => reply.json()["value"].clone(),
        _ => {
            reply.problem("unknown-key");
            Value::Null
        }
    }
}

fn count(node: &Node, key: &str) -> usize {
    usize::try_from(value(node, key).as_u64().unwrap_or(0)).expect("small")
}

/// The entries of a log, each of which is there once.
fn entries(node: &Node, key: &str) -> BTreeSet<String> {
    let value = value(node, key);
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    let set: BTreeSet<String> = list
        .iter()
        .map(|id| id.as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(set.len(), list.len(), "{key} has an entry twice");
    set
}

/// What must be there after all rounds so far.
#[derive(Default)]
struct Ledger {
    calls: usize,
    commits: usize,
    unanswered: usize,
    kept: usize,
}

impl Ledger {
    /// Checks one round's ids in one log, and gives how many are there.
    fn check_round(&mut self, node: &Node, log: &str, asked: &Asked) -> usize {
        assert!(asked.refused.is_empty(), "{:?}", asked.refused);
        let there = entries(node, log);
        let lost: Vec<_> = asked.answered.difference(&there).collect();
        assert!(lost.is_empty(), "{log}: answered and lost: {lost:?}");
        let late: BTreeSet<_> = there.difference(&asked.answered).cloned().collect();
        let strange: Vec<_> = late.difference(&asked.unknown).collect();
        assert!(strange.is_empty(), "{log}: nobody wrote {strange:?}");
        self.unanswered += asked.unknown.len();
        self.kept += late.len();
        there.len()
    }

    fn check(&mut self, node: &Node, round: u64, asked: &[Asked; 2]) {
        self.calls += self.check_round(node, &format!("calls/log/{round}"), &asked[0]);
        self.commits += self.check_round(node, &format!("kv/log/{round}"), &asked[1]);
        self.check_totals(node);
        let noted = entries(node, &format!("notes/log/{round}"));
        assert_eq!(noted, entries(node, &format!("calls/log/{round}")));
    }

    /// Every commit's writes agree with each other.
    fn check_totals(&self, node: &Node) {
        for (door, expected) in [("calls", self.calls), ("kv", self.commits)] {
            assert_eq!(count(node, &format!("{door}/count")), expected, "{door}");
            let pair = value(node, &format!("{door}/pair"));
            let sides = ["left", "right"].map(|side| pair[side]["value"].as_u64().unwrap_or(0));
            assert_eq!(sides, [expected as u64; 2], "{door}: {pair}");
            assert_eq!(pair["last left"]["value"], pair["last right"]["value"]);
            let a = value(node, &format!("{door}/a"));
            assert_eq!(a, value(node, &format!("{door}/b")), "{door}");
        }
        let mut noted = 0;
        let expected = self.calls;
        wait_for("the enqueued requests", || {
            noted = count(node, "notes/count");
            assert!(noted <= expected, "{noted} notes of {expected} calls");
            (noted == expected).then_some(())
        });
    }
}

/// Starts a node and kills it before it has said that it is ready, or just after.
fn kill_while_starting(data: &Path, dice: &mut Dice) {
    let mut child = program()
        .args(["up", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    sleep(Duration::from_millis(dice.roll(150)));
    child.kill().expect("killed");
    child.wait().expect("ended");
    no_orphans(child.id());
}

fn restart(data: &Path, dice: &mut Dice) -> Node {
    // Checkpoints now and then, and in some rounds all the time.
    let checkpoint_ms = ["50", "1000"][usize::from(dice.roll(2) == 0)];
    let environment = [("TIDEMILL_STORE_CHECKPOINT_MS", checkpoint_ms)];
    Node::start_on(data, &["--durability", "durable"], &environment)
}

fn app_file(data: &Path) -> PathBuf {
    let path = data.with_file_name("ledger.py");
    fs::write(&path, APP).expect("written");
    path
}

#[test]
fn whatever_was_answered_survives_kills_under_load() {
    let kills = number("TIDEMILL_KILLS", || KILLS);
    let seed = number("TIDEMILL_KILL_SEED", || {
        RandomState::new().hash_one(0) >> 16
    });
    println!("TIDEMILL_KILL_SEED={seed} TIDEMILL_KILLS={kills}");
    let mut dice = Dice(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut node = restart(&data, &mut dice);
    node.cli_ok(&["deploy", &app_file(&data).to_string_lossy()]);
    let mut ledger = Ledger::default();
    let begun = now();
    for round in 0..kills {
        let asked = load_and_kill(&mut node, round, &mut dice);
        let pid = node.pid();
        no_orphans(pid);
        if dice.roll(4) == 0 {
            kill_while_starting(&data, &mut dice);
        }
        node = restart(&data, &mut dice);
        let left = run_directories(pid);
        assert!(left.is_empty(), "not swept: {left:?}");
        ledger.check(&node, round, &asked);
    }
    println!(
        "{kills} kills in {:?}: {} calls and {} commits are there; of {} without an answer {} are",
        begun.elapsed(),
        ledger.calls,
        ledger.commits,
        ledger.unanswered,
        ledger.kept
    );
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0), "{}", node.log());
    ledger.check_totals(&restart(&data, &mut dice));
}
