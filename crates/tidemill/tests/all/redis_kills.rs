//! Kills under a load of Redis clients and HTTP callers on the same state, against a model of
//! what was acknowledged: all of it is there, a write without an answer is there wholly or not
//! at all, and a count lies between what was acknowledged and what was attempted.
//!
//! `TIDEMILL_REDIS_KILLS` is the number of kills, `TIDEMILL_KILL_SEED` repeats a run's moments.

use crate::kills::{Dice, number};
use crate::resp::{address, client, try_client};
use crate::support::{Node, now, sleep, wait_for};
use crate::wire::Wire;
use ::redis::{Cmd, Connection, Value, cmd};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

const KILLS: u64 = 25;
const WRITERS: u64 = 4;
const CALLERS: u64 = 2;
/// Keys and fields of each writer.
const PLACES: u64 = 4;
/// The most commands that a writer has under way.
const PIPELINE_MAX: u64 = 8;
/// Keys that are always written together.
const TRIO: [&str; 3] = ["a", "b", "c"];

/// A key, or a field of a hash, that one writer alone writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: String,
    field: Option<String>,
}

impl Place {
    fn key(key: String) -> Self {
        Self { key, field: None }
    }

    fn read(&self, connection: &mut Connection) -> Option<String> {
        let read = match &self.field {
            None => cmd("GET").arg(&self.key).query(connection),
            Some(field) => cmd("HGET").arg(&self.key).arg(field).query(connection),
        };
        read.expect("read")
    }
}

/// What may be in a place: the last write that was acknowledged, or one after it.
#[derive(Debug, Default)]
struct Known {
    acknowledged: Option<String>,
    unanswered: Vec<Option<String>>,
}

/// Counts since the beginning; what is there lies between.
#[derive(Debug, Default)]
struct Count {
    acknowledged: i64,
    attempted: i64,
}

/// Members by what is known of them.
#[derive(Debug, Default)]
struct Members {
    acknowledged: BTreeSet<String>,
    attempted: BTreeSet<String>,
}

/// What one client, or all of them, have been told.
#[derive(Debug, Default)]
struct Model {
    places: BTreeMap<Place, Known>,
    count: Count,
    /// Answers to `INCR`.
    sums: BTreeSet<i64>,
    members: BTreeMap<String, Members>,
    /// Values of the keys that every writer writes together.
    together: BTreeSet<String>,
}

/// A write, and what an answer to it means.
enum Write {
    Put(Vec<Place>, Option<String>),
    Together(String),
    Member(String, String),
    Count,
}

impl Write {
    fn command(&self) -> Cmd {
        match self {
            Write::Put(places, value) => match (places.as_slice(), value) {
                ([Place { key, field: None }], Some(value)) => {
                    cmd("SET").arg(key).arg(value).take()
                }
                ([Place { key, field: None }], None) => cmd("DEL").arg(key).take(),
                (
                    [
                        Place {
                            key,
                            field: Some(field),
                        },
                    ],
                    Some(value),
                ) => cmd("HSET").arg(key).arg(field).arg(value).take(),
                (
                    [
                        Place {
                            key,
                            field: Some(field),
                        },
                    ],
                    None,
                ) => cmd("HDEL").arg(key).arg(field).take(),
                (many, Some(value)) => {
                    let mut command = cmd("MSET");
                    for place in many {
                        command.arg(&place.key).arg(value);
                    }
                    command
                }
                (many, None) => {
                    let keys: Vec<_> = many.iter().map(|place| &place.key).collect();
                    cmd("DEL").arg(keys).take()
                }
            },
            Write::Together(value) => {
                let mut command = cmd("MSET");
                for key in TRIO {
                    command.arg(key).arg(value);
                }
                command
            }
            Write::Member(key, member) => cmd("SADD").arg(key).arg(member).take(),
            Write::Count => cmd("INCR").arg("count").take(),
        }
    }
}

impl Model {
    fn attempt(&mut self, write: &Write) {
        match write {
            Write::Put(places, value) => {
                for place in places {
                    let known = self.places.entry(place.clone()).or_default();
                    known.unanswered.push(value.clone());
                }
            }
            Write::Together(value) => {
                self.together.insert(value.clone());
            }
            Write::Member(key, member) => {
                let members = self.members.entry(key.clone()).or_default();
                members.attempted.insert(member.clone());
            }
            Write::Count => self.count.attempted += 1,
        }
    }

    fn acknowledge(&mut self, write: &Write, answer: &Value) {
        match write {
            Write::Put(places, value) => {
                for place in places {
                    let known = self.places.entry(place.clone()).or_default();
                    known.unanswered.remove(0);
                    known.acknowledged.clone_from(value);
                }
            }
            Write::Together(_) => assert_eq!(answer, &Value::Okay),
            Write::Member(key, member) => {
                let members = self.members.entry(key.clone()).or_default();
                members.acknowledged.insert(member.clone());
            }
            Write::Count => {
                self.count.acknowledged += 1;
                let Value::Int(sum) = answer else {
                    panic!("INCR answered {answer:?}");
                };
                assert!(self.sums.insert(*sum), "{sum} was given twice");
            }
        }
    }

    fn join(&mut self, other: Model) {
        for (place, known) in other.places {
            self.places.insert(place, known);
        }
        self.count.acknowledged += other.count.acknowledged;
        self.count.attempted += other.count.attempted;
        for sum in other.sums {
            assert!(self.sums.insert(sum), "{sum} was given twice");
        }
        for (key, members) in other.members {
            let all = self.members.entry(key).or_default();
            all.acknowledged.extend(members.acknowledged);
            all.attempted.extend(members.attempted);
        }
        self.together.extend(other.together);
    }

    /// Checks the state of a node against what is known, and takes what is there for known.
    fn check(&mut self, node: &Node) {
        let mut connection = client(node, "resp3");
        for (place, known) in &mut self.places {
            let there = place.read(&mut connection);
            let fits = there == known.acknowledged || known.unanswered.contains(&there);
            assert!(fits, "{place:?} holds {there:?}: {known:?}");
            known.acknowledged = there;
            known.unanswered.clear();
        }
        for writer in 0..WRITERS {
            let own = own_trio(writer);
            let there: Vec<_> = own
                .iter()
                .map(|place| place.read(&mut connection))
                .collect();
            assert!(there.iter().all(|value| *value == there[0]), "{there:?}");
        }
        let there = together(&mut connection).expect("read");
        let is_known = there
            .as_ref()
            .is_none_or(|value| self.together.contains(value));
        assert!(is_known, "nobody wrote {there:?}");
        let sum: Option<i64> = cmd("GET")
            .arg("count")
            .query(&mut connection)
            .expect("read");
        let (sum, count) = (sum.unwrap_or(0), &mut self.count);
        let fits = (count.acknowledged..=count.attempted).contains(&sum);
        assert!(fits, "the count is {sum}: {count:?}");
        assert!(self.sums.last().is_none_or(|last| *last <= sum), "{sum}");
        (count.acknowledged, count.attempted) = (sum, sum);
        for (key, members) in &mut self.members {
            let there = members_of(&mut connection, key);
            let lost: Vec<_> = members.acknowledged.difference(&there).collect();
            assert!(lost.is_empty(), "{key}: acknowledged and lost: {lost:?}");
            let strange: Vec<_> = there.difference(&members.attempted).collect();
            assert!(strange.is_empty(), "{key}: nobody added {strange:?}");
            members.acknowledged = there;
        }
    }
}

/// The members of a set; JSON strings, which HTTP callers add, without their quotes.
fn members_of(connection: &mut Connection, key: &str) -> BTreeSet<String> {
    let members: Vec<String> = cmd("SMEMBERS").arg(key).query(connection).expect("read");
    members
        .iter()
        .map(|member| member.trim_matches('"').to_owned())
        .collect()
}

/// The value of the keys that are written together, which is one.
fn together(connection: &mut Connection) -> ::redis::RedisResult<Option<String>> {
    let there: Vec<Option<String>> = cmd("MGET").arg(&TRIO).query(connection)?;
    assert!(there.iter().all(|value| *value == there[0]), "{there:?}");
    Ok(there.into_iter().next().flatten())
}

fn own_trio(writer: u64) -> Vec<Place> {
    let keys = (0..3).map(|number| Place::key(format!("m/{writer}/{number}")));
    keys.collect()
}

fn some_write(dice: &mut Dice, writer: u64, round: u64, id: &str) -> Write {
    let number = dice.roll(PLACES);
    let value = (dice.roll(4) > 0).then(|| id.to_owned());
    match dice.roll(7) {
        0 | 1 => Write::Put(vec![Place::key(format!("s/{writer}/{number}"))], value),
        2 => {
            let place = Place {
                key: format!("h/{writer}"),
                field: Some(format!("f{number}")),
            };
            Write::Put(vec![place], value)
        }
        3 => Write::Put(own_trio(writer), value),
        4 => Write::Together(id.to_owned()),
        5 => Write::Member(format!("members/{round}"), id.to_owned()),
        _ => Write::Count,
    }
}

/// What the clients of one round share.
struct Round<'a> {
    number: u64,
    redis: &'a str,
    http: &'a str,
    token: &'a str,
    answers: AtomicUsize,
    is_over: AtomicBool,
}

impl Round<'_> {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes in pipelines until the node is gone.
fn write(round: &Round<'_>, writer: u64, mut dice: Dice, mut model: Model) -> Model {
    let protocol = ["resp2", "resp3"][usize::from(writer.is_multiple_of(2))];
    let Ok(mut connection) = try_client(round.redis, round.token, protocol) else {
        return model;
    };
    let mut sequence = 0;
    while round.goes_on() {
        let mut bytes = Vec::new();
        let mut writes = Vec::new();
        for _ in 0..=dice.roll(PIPELINE_MAX) {
            sequence += 1;
            let id = format!("r{}w{writer}-{sequence}", round.number);
            let write = some_write(&mut dice, writer, round.number, &id);
            model.attempt(&write);
            bytes.extend(write.command().get_packed_command());
            writes.push(write);
        }
        if connection.send_packed_command(&bytes).is_err() {
            return model;
        }
        for write in &writes {
            match connection.recv_response() {
                Ok(Value::ServerError(error)) => panic!("refused: {error:?}"),
                Ok(answer) => model.acknowledge(write, &answer),
                Err(_) => return model,
            }
            round.answered();
        }
    }
    model
}

/// Counts on the same counter by HTTP, and adds a member in the same commit.
fn call(round: &Round<'_>, caller: u64) -> Model {
    let mut model = Model::default();
    let Ok(mut wire) = Wire::open_to(round.http, round.token) else {
        return model;
    };
    let key = format!("http/{}", round.number);
    for sequence in 0.. {
        if !round.goes_on() {
            break;
        }
        let id = format!("r{}h{caller}-{sequence}", round.number);
        let member = Write::Member(key.clone(), id.clone());
        model.attempt(&member);
        model.attempt(&Write::Count);
        let writes = json!([
            {"key": key, "op": "set.add", "value": id},
            {"key": "count", "op": "counter.add", "value": 1},
        ]);
        match wire.ask("POST", "/v1/kv/redis", &writes.to_string()) {
            Ok(reply) => assert_eq!(reply.status, 200, "{}", reply.text()),
            Err(_) => break,
        }
        model.acknowledge(&member, &Value::Okay);
        model.count.acknowledged += 1;
        round.answered();
    }
    model
}

/// Reads what is written together until the node is gone: it is never seen in halves.
fn watch(round: &Round<'_>) {
    let Ok(mut connection) = try_client(round.redis, round.token, "resp2") else {
        return;
    };
    while round.goes_on() && together(&mut connection).is_ok() {}
}

/// Loads the node and kills it at some moment.
fn load_and_kill(node: &mut Node, number: u64, dice: &mut Dice, model: &mut Model) {
    let moment = Duration::from_millis(dice.roll(250));
    let enough = usize::try_from(dice.roll(200)).expect("small");
    let (redis, http, token) = (
        address(&node.data),
        node.address.clone(),
        node.token.clone(),
    );
    let round = Round {
        number,
        redis: &redis,
        http: &http,
        token: &token,
        answers: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    };
    let round = &round;
    let mut places = std::mem::take(&mut model.places);
    let told = std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for writer in 0..WRITERS {
            let mut own = Model::default();
            let is_own = |place: &Place| place.key.split('/').nth(1) == Some(&writer.to_string());
            own.places = places.extract_if(.., |place, _| is_own(place)).collect();
            let dice = Dice(dice.roll(u64::MAX));
            clients.push(scope.spawn(move || write(round, writer, dice, own)));
        }
        for caller in 0..CALLERS {
            clients.push(scope.spawn(move || call(round, caller)));
        }
        let watcher = scope.spawn(|| watch(round));
        wait_for("answers", || {
            let answers = round.answers.load(Ordering::Relaxed);
            (answers >= enough || clients.iter().any(ScopedJoinHandle::is_finished)).then_some(())
        });
        sleep(moment);
        node.crash();
        round.is_over.store(true, Ordering::Relaxed);
        watcher.join().expect("nothing in halves");
        let told = clients.into_iter().map(ScopedJoinHandle::join);
        told.collect::<Vec<_>>()
    });
    for told in told {
        model.join(told.expect("a client"));
    }
}

fn restart(data: &Path, dice: &mut Dice) -> Node {
    let checkpoint_ms = ["50", "1000"][usize::from(dice.roll(2) == 0)];
    let environment = [("TIDEMILL_STORE_CHECKPOINT_MS", checkpoint_ms)];
    let arguments = ["--durability", "durable", "--redis-listen", "127.0.0.1:0"];
    Node::start_on(data, &arguments, &environment)
}

#[test]
fn whatever_redis_clients_were_told_survives_kills() {
    let kills = number("TIDEMILL_REDIS_KILLS", || KILLS);
    let seed = number("TIDEMILL_KILL_SEED", || {
        RandomState::new().hash_one(0) >> 16
    });
    println!("TIDEMILL_KILL_SEED={seed} TIDEMILL_REDIS_KILLS={kills}");
    let mut dice = Dice(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let mut model = Model::default();
    let mut node = restart(&data, &mut dice);
    let begun = now();
    for round in 0..kills {
        load_and_kill(&mut node, round, &mut dice, &mut model);
        node = restart(&data, &mut dice);
        model.check(&node);
        // A round's members are checked once more after the next kill, and then done.
        model
            .members
            .retain(|key, _| key.ends_with(&format!("/{round}")));
    }
    println!(
        "{kills} kills in {:?}: the count is {}",
        begun.elapsed(),
        model.count.acknowledged
    );
    assert!(model.count.acknowledged > i64::try_from(kills).expect("few"));
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0), "{}", node.log());
    model.check(&restart(&data, &mut dice));
}
