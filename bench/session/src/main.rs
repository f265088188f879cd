//! Requests at the interface of `tidemill-session`, without HTTP, functions or workers. Prints one
//! line of JSON; `bench/session.py` sets the numbers beside one another.
//!
//! - `request causal|eventual COUNT`: 4 reads and 2 writes, durability `memory`, one caller;
//! - `commits CALLERS MILLIS`: durable commits of one write from so many threads;
//! - `versions WRITERS ROUNDS`: what versions of a hot key take while all are pinned.

mod edge;

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use edge::Opened;
use serde_json::{Value as Json, json};
use tidemill_lattice::{Key, Op, Payload};
use tidemill_session::{Buffer, Outgoing, Request};
use tidemill_store::Durability;

/// As in the node.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keys that requests read and write.
const KEYS: u64 = 10_000;
const READS: u64 = 4;
const WRITES: u64 = 2;
const VALUE_BYTES: usize = 16;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tidemill-bench-session: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> io::Result<Json> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().ok().filter(|number| *number > 0);
    let usage = || {
        io::Error::other(
            "usage: tidemill-bench-session request causal|eventual COUNT | commits CALLERS MILLIS \
             | versions WRITERS ROUNDS",
        )
    };
    match words[..] {
        ["request", level @ ("causal" | "eventual"), count] => {
            request(level == "causal", number(count).ok_or_else(usage)?)
        }
        ["commits", callers, millis] => {
            let callers = number(callers).ok_or_else(usage)?;
            commits(
                callers,
                Duration::from_millis(number(millis).ok_or_else(usage)?),
            )
        }
        ["versions", writers, rounds] => {
            let writers = number(writers).ok_or_else(usage)?;
            versions(writers, number(rounds).ok_or_else(usage)?)
        }
        _ => Err(usage()),
    }
}

fn key(number: u64) -> io::Result<Key> {
    Key::new("default", "bench", format!("key/{number}")).map_err(io::Error::other)
}

fn value(number: u64) -> Op {
    let mut bytes = vec![b'v'; VALUE_BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Op::RegisterSet(Payload::bytes(bytes))
}

/// Commits and waits for the answer.
fn commit(request: &Request, buffers: &[Arc<Buffer>], durability: Durability) -> io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let done = Box::new(move |outcome| drop(sender.send(outcome)));
    request.commit(buffers, durability, Outgoing::default(), done);
    let outcome = receiver.recv().map_err(io::Error::other)?;
    outcome.map(|_| ()).map_err(io::Error::other)
}

/// Waits until writes that were sent at once are applied.
fn settle(request: &Request) -> io::Result<()> {
    if request.is_settled() {
        return Ok(());
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    request.settle(Box::new(move |outcome| drop(sender.send(outcome))));
    let outcome = receiver.recv().map_err(io::Error::other)?;
    outcome.map_err(io::Error::other)
}

fn filled() -> io::Result<Opened> {
    let opened = Opened::new()?;
    for first in (0..KEYS).step_by(1000) {
        let request = Request::begin(0, opened.store());
        let mut view = request.view(Vec::new(), 0);
        for number in first..first + 1000 {
            let written = view.write(&key(number)?, &value(number));
            written.map_err(io::Error::other)?;
        }
        commit(&request, &[view.finish()], Durability::Memory)?;
    }
    Ok(opened)
}

fn request(is_causal: bool, count: u64) -> io::Result<Json> {
    let opened = filled()?;
    let mut random = 42_u64;
    let mut one = || -> io::Result<Duration> {
        let mut keys = Vec::new();
        for _ in 0..READS + WRITES {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            keys.push(key((random >> 33) % KEYS)?);
        }
        let begun = edge::now();
        let store = opened.store();
        let request = if is_causal {
            Request::begin(1, store)
        } else {
            Request::begin_eventual(1, store, Durability::Memory)
        };
        let mut view = request.view(Vec::new(), 0);
        let (reads, writes) = keys.split_at(READS as usize);
        for key in reads {
            view.read(key).map_err(io::Error::other)?;
        }
        for key in writes {
            view.write(key, &value(random)).map_err(io::Error::other)?;
        }
        settle(&request)?;
        commit(&request, &[view.finish()], Durability::Memory)?;
        Ok(begun.elapsed())
    };
    for _ in 0..count / 10 {
        one()?;
    }
    let mut times: Vec<u128> = Vec::new();
    for _ in 0..count {
        times.push(one()?.as_nanos());
    }
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(0) as u64;
    Ok(json!({ "p50_ns": at(50), "p99_ns": at(99) }))
}

fn commits(callers: u64, time: Duration) -> io::Result<Json> {
    let opened = filled()?;
    let (counted, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let before = opened.store().stats();
    let begun = edge::now();
    let ended = edge::on_threads(callers, |caller| -> io::Result<()> {
        for round in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let request = Request::begin(1, opened.store());
            let mut view = request.view(Vec::new(), 0);
            let written = view.write(&key(caller)?, &value(round));
            written.map_err(io::Error::other)?;
            commit(&request, &[view.finish()], Durability::Durable)?;
            counted.fetch_add(1, Ordering::Relaxed);
            if begun.elapsed() >= time {
                over.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    });
    ended.into_iter().collect::<io::Result<()>>()?;
    let elapsed_ns = begun.elapsed().as_nanos() as f64;
    let after = opened.store().stats();
    let commits = counted.load(Ordering::Relaxed) as f64;
    let flushes = (after.flushes - before.flushes).max(1) as f64;
    Ok(json!({ "ns_a_commit": elapsed_ns / commits, "commits_a_flush": commits / flushes }))
}

/// Every writer reads one snapshot and writes the hot key once a round; a reader from before all of
/// them keeps every version.
fn versions(writers: u64, rounds: u64) -> io::Result<Json> {
    let opened = Opened::new()?;
    let hot = key(0)?;
    let write = |number: u64| -> io::Result<()> {
        let request = Request::begin(u128::from(number), opened.store());
        let mut view = request.view(Vec::new(), 0);
        view.write(&hot, &value(number)).map_err(io::Error::other)?;
        commit(&request, &[view.finish()], Durability::Durable)
    };
    write(0)?;
    write(0)?;
    let begun = opened.store().stats();
    let pinned = opened.store().snapshot();
    let mut each = Vec::new();
    let mut before = begun;
    for _ in 0..rounds {
        // As if on machines of their own: all read before any of them commits.
        let mut requests = Vec::new();
        for writer in 0..writers {
            let request = Request::begin(u128::from(writer), opened.store());
            let mut view = request.view(Vec::new(), 0);
            view.write(&hot, &value(writer)).map_err(io::Error::other)?;
            requests.push((request, view.finish()));
        }
        for (request, buffer) in requests {
            // The log's size is looked at after each round, so it has to be there by then.
            commit(&request, &[buffer], Durability::Durable)?;
        }
        let now = opened.store().stats();
        let bytes = now.bytes.saturating_sub(before.bytes) as f64;
        let log_bytes = now.log_bytes.saturating_sub(before.log_bytes) as f64;
        each.push((bytes / writers as f64, log_bytes / writers as f64));
        before = now;
    }
    drop(pinned);
    // The next write of the key folds what nobody can see any more.
    write(0)?;
    write(0)?;
    let after = opened.store().stats();
    Ok(json!({
        "bytes_a_version": each.iter().map(|(bytes, _)| bytes).collect::<Vec<_>>(),
        "log_bytes_a_version": each.iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(),
        "value_bytes": VALUE_BYTES,
        "bytes_before": begun.bytes,
        "bytes_after": after.bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::run;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn small_runs_give_numbers_and_wrong_words_are_refused() {
        for level in ["causal", "eventual"] {
            let found = run(&words(&format!("request {level} 20"))).expect("a run");
            assert!(found["p50_ns"].as_u64() > Some(0), "{found}");
        }
        let found = run(&words("commits 4 20")).expect("a run");
        assert!(found["commits_a_flush"].as_f64() > Some(0.0), "{found}");
        for bad in [
            "",
            "request strict 1",
            "request causal 0",
            "commits 1",
            "sorts",
        ] {
            assert!(run(&words(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_cost_the_same_however_many_and_go_with_their_readers() {
        let found = run(&words("versions 50 3")).expect("a run");
        let bytes = found["bytes_a_version"].as_array().expect("a list");
        let first = bytes[0].as_f64().expect("a number");
        assert!(first > 0.0, "{found}");
        let key = |name: &str| found[name].as_u64().expect("a number");
        assert!(key("bytes_after") <= key("bytes_before"), "{found}");
    }
}
