//! A process that commits and acknowledges is killed at random moments; what it acknowledged
//! is there afterwards, wholly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemill_lattice::Clock;
use tidemill_store::{Durability, Embedded, Options, RequestRecord, Store};

use crate::support::*;

const VARIABLE: &str = "TIDEMILL_STORE_CHILD";
const THREADS: usize = 3;
const REGISTERS: i64 = 20;

/// The wall clock: each life of the store must find its own time.
struct WallClock;

impl Clock for WallClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "a process of its own needs a real clock"
    )]
    fn now_micros(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |since| since.as_micros() as u64)
    }
}

fn open_small(directory: &Path) -> Embedded {
    let options = Options {
        checkpoint_bytes: 20_000,
        memory_bytes: 10_000,
        ..options(directory)
    };
    Embedded::open(options, Arc::new(WallClock)).expect("the store opens")
}

/// The request that is a thread's commit.
fn request(thread: usize, i: i64) -> u128 {
    (thread as u128 + 1) << 64 | i as u128
}

/// Commits on three threads, each commit to three keys, and says each acknowledgement. Each
/// thread begins with the last request that has taken effect, as a client would that was not
/// answered.
fn commit_until_killed(directory: &Path) {
    let store = open_small(directory);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                let start = number(store, &format!("last/{thread}"), &store.snapshot());
                for i in start.max(1).. {
                    let at = store.snapshot();
                    let (body, register) = (i.to_string(), i % REGISTERS);
                    let ops = [
                        set(&format!("last/{thread}"), &body),
                        set(&format!("r/{thread}/{register}"), &body),
                        add(&format!("total/{thread}"), 1),
                    ];
                    let mut commit = commit(&at, deltas(store, &at, &ops));
                    if i % 7 == 0 {
                        commit.durability = Durability::Durable;
                    }
                    commit.request = request(thread, i);
                    commit.record = Some(RequestRecord {
                        digest: 1,
                        result: body.into(),
                        expires_us: u64::MAX,
                        refused_until_us: 0,
                    });
                    let committed = send(store, commit).expect("commits");
                    assert_eq!(committed.repeated.is_some(), i == start, "request {i}");
                    let line = format!("\nack {thread} {i}\n");
                    std::io::stdout()
                        .write_all(line.as_bytes())
                        .expect("the parent listens");
                }
            });
        }
    });
}

fn verify(directory: &Path, acknowledged: &BTreeMap<usize, i64>) {
    let store = open_small(directory);
    let at = store.snapshot();
    for (thread, acknowledged) in acknowledged {
        let last = number(&store, &format!("last/{thread}"), &at);
        assert!(
            last >= *acknowledged,
            "thread {thread}: {acknowledged} was acknowledged, {last} is there"
        );
        assert!(
            last <= acknowledged + 1,
            "thread {thread}: {last} is there, {acknowledged} was acknowledged"
        );
        let recorded = |i| store.request(request(*thread, i)).expect("looks up");
        assert_eq!(recorded(last).is_some(), last > 0, "request {last}");
        assert_eq!(recorded(last + 1), None, "a record without its writes");
        assert_eq!(
            number(&store, &format!("total/{thread}"), &at),
            last,
            "each commit counts once"
        );
        for register in 0..REGISTERS {
            let expected = (0..=last)
                .rev()
                .take(REGISTERS as usize)
                .find(|i| i % REGISTERS == register && *i > 0);
            let shown = number(&store, &format!("r/{thread}/{register}"), &at);
            assert_eq!(
                shown,
                expected.unwrap_or(0),
                "register {register} of thread {thread}"
            );
        }
    }
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args([
            "kill::acknowledged_commits_survive_kills",
            "--exact",
            "--nocapture",
        ])
        .env(VARIABLE, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child")
}

/// A pseudo-random number below `bound`, the same in every run (splitmix64).
fn random(state: &AtomicU64, bound: u64) -> u64 {
    let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % bound
}

#[test]
fn acknowledged_commits_survive_kills() {
    if let Some(directory) = std::env::var_os(VARIABLE) {
        return commit_until_killed(Path::new(&directory));
    }
    let kills = std::env::var("TIDEMILL_KILLS")
        .map_or(10, |n| n.parse().expect("TIDEMILL_KILLS is a number"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let seed = AtomicU64::new(42);
    let mut acknowledged: BTreeMap<usize, i64> = (0..THREADS).map(|thread| (thread, 0)).collect();
    for _ in 0..kills {
        let mut child = start(directory.path());
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (sender, receiver) = mpsc::channel();
        let reader = thread::Builder::new().spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let reader = reader.expect("a thread");
        let count = 1 + random(&seed, 600);
        let mut seen = 0;
        let mut take = |line: &str, acknowledged: &mut BTreeMap<usize, i64>| {
            let mut words = line.strip_prefix("ack ")?.split(' ').map(str::parse::<i64>);
            let (thread, i) = (words.next()?.ok()?, words.next()?.ok()?);
            acknowledged.insert(thread as usize, i);
            seen += 1;
            Some(seen)
        };
        while let Ok(line) = receiver.recv_timeout(Duration::from_secs(60)) {
            if take(&line, &mut acknowledged) >= Some(count) {
                break;
            }
        }
        child.kill().expect("kills");
        child.wait().expect("ends");
        reader.join().expect("reads to the end");
        for line in receiver.try_iter() {
            take(&line, &mut acknowledged);
        }
        assert!(seen >= count, "the child died by itself");
        verify(directory.path(), &acknowledged);
        let last = open_small(directory.path());
        let at = last.snapshot();
        for (thread, acknowledged) in &mut acknowledged {
            *acknowledged = number(&last, &format!("last/{thread}"), &at);
        }
    }
}
