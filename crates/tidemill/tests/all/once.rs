//! Clients that ask again with the same key until they are answered, while the node is killed
//! under them: what each key asked for is there once, and its answer is always the same.
//!
//! `TIDEMILL_KILLS` is the number of kills, `TIDEMILL_KILL_SEED` repeats a run's moments.

use crate::kills::{Dice, number};
use crate::support::{Node, Reply, now, sleep, wait_for};
use crate::wire::Wire;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

const KILLS: u64 = 25;
const CLIENTS: usize = 3;
/// One call in so many is asked twice at the same moment.
const TWICE: usize = 4;

const APP: &str = r#"
import tidemill
from tidemill import state

app = tidemill.App("once")

@app.function
def take(id):
    n = state.counter("count").get() + 1
    state.counter("count").add(1)
    state.log("log/" + id[:2]).append(id)
    tidemill.enqueue(note, id)
    return [id, n]

@app.function
def note(id):
    written = tidemill.step("write", write, id)
    state.counter("notes").add(written)

def write(id):
    with open("@FILE@", "a") as file:
        file.write(id + "\n")
    return 1
"#;

/// The node as its clients find it.
#[derive(Default)]
struct Place {
    address: String,
    token: String,
}

/// What the clients share.
#[derive(Default)]
struct Shared {
    place: RwLock<Place>,
    stop: AtomicBool,
    answered: AtomicUsize,
    replayed: AtomicUsize,
    answers: Mutex<BTreeMap<String, Value>>,
}

fn ask(wire: &mut Wire, key: &str) -> std::io::Result<Reply> {
    let body = json!([key]).to_string();
    let request = wire.request("POST", "/v1/call/once/take", &body);
    let keyed = format!("\r\nIdempotency-Key: \"{key}\"\r\nContent-Type:");
    wire.send(request.replacen("\r\nContent-Type:", &keyed, 1).as_bytes())?;
    wire.answer()
}

impl Shared {
    /// Asks until there is an answer, whatever becomes of the node meanwhile.
    fn insist(&self, wire: &mut Option<Wire>, key: &str) -> Option<Value> {
        loop {
            if wire.is_none() {
                let place = self.place.read().expect("a place");
                *wire = Wire::open_to(&place.address, &place.token).ok();
            }
            match wire.as_mut().map(|wire| ask(wire, key)) {
                Some(Ok(reply)) if reply.status == 200 => {
                    if reply.header("idempotency-replayed") == "true" {
                        self.replayed.fetch_add(1, Ordering::Relaxed);
                    }
                    return Some(reply.json());
                }
                // Starting or stopping.
                Some(Ok(reply)) => assert!(reply.status == 503, "{key}: {}", reply.text()),
                _ => *wire = None,
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            sleep(Duration::from_millis(5));
        }
    }

    fn client(&self, name: &str) {
        let (mut wire, mut other) = (None, None);
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("{name}-{n}");
            let twice = n % TWICE == 0;
            let (first, second) = std::thread::scope(|scope| {
                let (key, other) = (&key, &mut other);
                let second = twice.then(|| scope.spawn(move || self.insist(other, key)));
                let first = self.insist(&mut wire, key);
                (
                    first,
                    second.and_then(|second| second.join().expect("asks")),
                )
            });
            let (Some(first), second) = (first, second) else {
                return;
            };
            if let Some(second) = second {
                assert_eq!(first, second, "{key} was answered in two ways");
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
            self.answers.lock().expect("answers").insert(key, first);
        }
    }

    fn show(&self, node: &Node) {
        let mut place = self.place.write().expect("a place");
        place.address.clone_from(&node.address);
        place.token.clone_from(&node.token);
    }
}

fn start(data: &Path, dice: &mut Dice) -> Node {
    let durability = ["durable", "memory"][usize::from(dice.roll(2) == 0)];
    Node::start_on(data, &["--durability", durability], &[])
}

fn value(node: &Node, key: &str) -> Value {
    let path = format!("/v1/kv/once/{}?view=json", key.replace('/', "%2F"));
    node.ask("GET", &path, "").json()["value"].clone()
}

/// All ids that have taken effect, each of them once.
fn taken(node: &Node) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for client in 0..CLIENTS {
        for id in value(node, &format!("log/c{client}"))
            .as_array()
            .unwrap_or(&Vec::new())
        {
            let id = id.as_str().expect("an id").to_owned();
            assert!(all.insert(id.clone()), "{id} took effect twice");
        }
    }
    assert_eq!(value(node, "count"), json!(all.len()));
    all
}

fn check(node: &Node, shared: &Shared, notes: &Path, kills: u64) {
    let taken = taken(node);
    let answers = shared.answers.lock().expect("answers").clone();
    for (key, answer) in &answers {
        assert_eq!(answer[0], **key);
        assert!(taken.contains(key), "{key} was answered and is lost");
    }
    let mut wire = Wire::open(node).expect("connects");
    for (key, answer) in &answers {
        let again = ask(&mut wire, key).expect("an answer");
        assert_eq!(again.header("idempotency-replayed"), "true", "{key}");
        assert_eq!(again.json(), *answer, "{key}");
    }
    let other = r#"["other"]"#;
    let key = answers.keys().next().expect("an answer");
    let headers = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", key),
    ];
    node.ask_with("POST", "/v1/call/once/take", &headers, other.as_bytes())
        .problem("request-mismatch");
    assert_eq!(self::taken(node), taken, "asking again took effect");
    wait_for("the enqueued requests", || {
        (value(node, "notes") == json!(taken.len())).then_some(())
    });
    // Outside the node: at least once, and again only where a kill came between the writing
    // and its record.
    let written = fs::read_to_string(notes).expect("notes");
    let lines = written.lines().count();
    let distinct: BTreeSet<&str> = written.lines().collect();
    assert_eq!(distinct.len(), taken.len());
    let most = usize::try_from(kills).expect("few") * 8;
    assert!(
        lines - distinct.len() <= most,
        "{lines} writes of {}",
        distinct.len()
    );
}

#[test]
fn each_key_takes_effect_once_whatever_is_killed() {
    let kills = number("TIDEMILL_KILLS", || KILLS);
    let seed = number("TIDEMILL_KILL_SEED", || {
        RandomState::new().hash_one(0) >> 16
    });
    println!("TIDEMILL_KILL_SEED={seed} TIDEMILL_KILLS={kills}");
    let mut dice = Dice(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let notes = directory.path().join("notes");
    let file = directory.path().join("once.py");
    fs::write(&file, APP.replace("@FILE@", &notes.to_string_lossy())).expect("written");
    let mut node = start(&data, &mut dice);
    node.cli_ok(&["deploy", &file.to_string_lossy()]);
    let shared = Shared::default();
    shared.show(&node);
    let begun = now();
    let names: Vec<String> = (0..CLIENTS).map(|n| format!("c{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let shared = &shared;
            scope.spawn(move || shared.client(name));
        }
        let mut kill_all = || {
            for _ in 0..kills {
                let before = shared.answered.load(Ordering::Relaxed);
                let wanted = before + 1 + usize::try_from(dice.roll(12)).expect("small");
                wait_for("answers", || {
                    (shared.answered.load(Ordering::Relaxed) >= wanted).then_some(())
                });
                sleep(Duration::from_micros(dice.roll(8000)));
                node.crash();
                node = start(&data, &mut dice);
                shared.show(&node);
            }
        };
        // The clients end also where the node does not come back.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut kill_all));
        shared.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
    });
    println!(
        "{kills} kills in {:?}: {} answers, {} of them by a record",
        begun.elapsed(),
        shared.answered.load(Ordering::Relaxed),
        shared.replayed.load(Ordering::Relaxed)
    );
    check(&node, &shared, &notes, kills);
}

#[test]
fn what_was_recorded_is_answered_after_a_restart() {
    let mut node = Node::start();
    let directory = tempfile::tempdir().expect("a directory");
    let (file, notes) = (
        directory.path().join("once.py"),
        directory.path().join("notes"),
    );
    fs::write(&file, APP.replace("@FILE@", &notes.to_string_lossy())).expect("written");
    node.cli_ok(&["deploy", &file.to_string_lossy()]);
    let path = "/v1/call/once/take";
    let headers = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", "\"k\""),
        ("Prefer", "respond-async"),
    ];
    let accepted = node.ask_with("POST", path, &headers, b"[\"k\"]");
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let place = accepted.header("location").to_owned();
    let result = format!("{place}/result");
    wait_for("the result", || {
        (node.ask("GET", &result, "").status == 200).then_some(())
    });
    node.crash();
    let data = node.data.clone();
    let node = Node::start_on(&data, &[], &[]);
    assert_eq!(node.ask("GET", &result, "").json(), json!(["k", 1]));
    let shown = node.ask("GET", &place, "").json();
    assert_eq!(
        (&shown["state"], &shown["key"]),
        (&json!("succeeded"), &json!("k"))
    );
    let again = node.ask_with("POST", path, &headers, b"[\"k\"]");
    assert_eq!((again.status, again.header("location")), (202, &*place));
    let waited = node.ask_with("POST", path, &headers[..2], b"[ \"k\" ]");
    assert_eq!(waited.header("idempotency-replayed"), "true");
    assert_eq!(waited.json(), json!(["k", 1]));
    for bad in ["\"", "\"a\"b", ""] {
        let headers = [
            ("Content-Type", "application/json"),
            ("Idempotency-Key", bad),
        ];
        node.ask_with("POST", path, &headers, b"[\"k\"]")
            .problem("bad-request");
    }
    assert_eq!(value(&node, "count"), json!(1));
    let metrics = node.ask("GET", "/metrics", "").text();
    assert!(
        metrics.contains("tidemill_store_requests_repeated"),
        "{metrics}"
    );
}
