//! What is known after an end that was not in order.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use tidemill_lattice::{Cell, Op, Time};
use tidemill_store::{Durability, Embedded, Options, RequestRecord, Store, Update};

use crate::support::*;

/// What a kill would leave: the files as they are now.
fn image(directory: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a directory");
        for entry in std::fs::read_dir(from).expect("a directory") {
            let entry = entry.expect("an entry");
            let target = to.join(entry.file_name());
            if entry.file_type().expect("a type").is_dir() {
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).expect("a copy");
            }
        }
    }
    let made = tempfile::tempdir().expect("a temporary directory");
    copy(directory, made.path());
    made
}

fn open_on(directory: &Path, disk: &Arc<FaultyDisk>) -> Embedded {
    let options = Options {
        disk: Arc::clone(disk) as _,
        ..options(directory)
    };
    Embedded::open(options, ManualClock::new()).expect("opens")
}

fn write_as(store: &Embedded, name: &str, durability: Durability) -> Time {
    let at = store.snapshot();
    let mut commit = commit(&at, deltas(store, &at, &[add(name, 1)]));
    commit.durability = durability;
    send(store, commit).expect("commits").time
}

/// A commit in memory that leaves a record, which is looked for in the log's engine.
fn write_recorded(store: &Embedded, name: &str) -> Time {
    let at = store.snapshot();
    let mut commit = commit(&at, deltas(store, &at, &[add(name, 1)]));
    commit.request = u128::from(at.time().as_u64());
    commit.record = Some(RequestRecord {
        digest: 1,
        result: "done".into(),
        expires_us: u64::MAX,
        refused_until_us: u64::MAX,
    });
    send(store, commit).expect("commits").time
}

fn update(store: &Embedded, name: &str, durability: Durability) -> Time {
    let (sender, receiver) = mpsc::channel();
    let update = Update {
        key: key(name),
        durability,
        decide: Box::new(|seen, at, dots| Cell::delta(seen, &Op::CounterAdd(1), at, dots).ok()),
    };
    store.update(
        update,
        Box::new(move |outcome| sender.send(outcome).expect("somebody waits")),
    );
    receiver.recv().expect("an answer").expect("updates").time
}

#[test]
fn durable_answers_and_orderly_ends_lose_nothing() {
    let (directory, disk) = (tempfile::tempdir().expect("a directory"), FaultyDisk::new());
    let store = open_on(directory.path(), &disk);
    let time = write_as(&store, "a", Durability::Durable);
    let last = update(&store, "b", Durability::Durable);
    let killed = image(directory.path());
    write_as(&store, "c", Durability::Memory);
    let memory = update(&store, "c", Durability::Memory);
    drop(store);
    disk.reboot();
    let again = open_on(killed.path(), &disk);
    assert_eq!(again.losses(), 0);
    assert!(again.has_kept(0, time) && again.has_kept(0, last));
    let again = open_on(directory.path(), &disk);
    assert_eq!(again.losses(), 0);
    assert!(again.has_kept(0, memory));
    assert!(
        !again.has_kept(1, time),
        "from a store with more losses than this one"
    );
}

#[test]
fn records_in_memory_are_lost_with_the_machine_and_not_with_the_process() {
    let (directory, disk) = (tempfile::tempdir().expect("a directory"), FaultyDisk::new());
    let store = open_on(directory.path(), &disk);
    let first = write_recorded(&store, "a");
    let killed = image(directory.path());
    let second = write_recorded(&store, "a");
    assert_eq!(
        open_on(killed.path(), &disk).losses(),
        0,
        "the system has all of it"
    );
    let image = image(directory.path());
    drop(store);
    disk.reboot();
    let again = open_on(image.path(), &disk);
    assert_eq!(again.losses(), 1);
    assert!(again.has_kept(0, second), "its entry is in the log");
    assert!(again.has_kept(0, first));
}

#[test]
fn what_was_answered_and_is_missing_is_known_by_its_time() {
    let (directory, disk) = (tempfile::tempdir().expect("a directory"), FaultyDisk::new());
    let store = open_on(directory.path(), &disk);
    let first = write_recorded(&store, "a");
    let torn = image(directory.path());
    let second = write_recorded(&store, "a");
    drop(store);
    disk.reboot();
    let again = open_on(torn.path(), &disk);
    assert_eq!(again.losses(), 1);
    assert!(again.has_kept(0, first) && !again.has_kept(0, second));
    assert!(again.has_kept(1, second), "a time of the new life");
    let third = write_recorded(&again, "a");
    let twice = image(torn.path());
    disk.reboot();
    let later = open_on(twice.path(), &disk);
    assert_eq!(later.losses(), 2);
    assert!(later.has_kept(0, first) && !later.has_kept(0, second));
    assert!(later.has_kept(1, third));
}

#[test]
fn what_is_in_memory_may_be_lost_with_the_process() {
    let is_commit = |is_commit: bool| {
        let (directory, disk) = (tempfile::tempdir().expect("a directory"), FaultyDisk::new());
        let store = open_on(directory.path(), &disk);
        let first = write_as(&store, "a", Durability::Durable);
        let at = store.snapshot().time();
        assert!(at >= first);
        write_as(&store, "a", Durability::Durable);
        let last = if is_commit {
            write_as(&store, "a", Durability::Memory)
        } else {
            update(&store, "a", Durability::Memory)
        };
        let killed = image(directory.path());
        drop(store);
        let again = open_on(killed.path(), &disk);
        assert_eq!(again.losses(), 1, "the same boot, but the process is gone");
        assert!(again.has_kept(0, first), "the second commit had seen it");
        assert!(!again.has_kept(0, last));
    };
    is_commit(true);
    is_commit(false);
}

/// The sum of a counter, in what a kill leaves now.
fn sum_after_a_kill(directory: &Path, disk: &Arc<FaultyDisk>, name: &str) -> Option<String> {
    let killed = image(directory);
    let again = open_on(killed.path(), disk);
    let at = again.snapshot();
    let cell = again.read_at(&key(name), &at).expect("reads")?;
    show(&cell, &at)
}

#[test]
fn what_is_durable_takes_with_it_what_it_may_have_seen() {
    let (directory, disk) = (tempfile::tempdir().expect("a directory"), FaultyDisk::new());
    let store = open_on(directory.path(), &disk);
    let ends: [&dyn Fn() -> Time; 4] = [
        &|| write_as(&store, "b", Durability::Durable),
        &|| update(&store, "c", Durability::Durable),
        &|| write_recorded(&store, "d"),
        &|| store.checkpoint().expect("a checkpoint"),
    ];
    for (round, end) in ends.iter().enumerate() {
        for _ in 0..100 {
            write_as(&store, "a", Durability::Memory);
        }
        end();
        let sum = sum_after_a_kill(directory.path(), &disk, "a");
        assert_eq!(sum, Some((100 * (round + 1)).to_string()), "round {round}");
    }
}

#[test]
fn what_is_in_memory_reaches_the_log_by_itself() {
    let (directory, disk) = (tempfile::tempdir().expect("a directory"), FaultyDisk::new());
    let store = open_on(directory.path(), &disk);
    for round in 1..=3 {
        // Whoever commits on and on does not put the log off.
        let begun = store.stats().flushes;
        let mut sum = 0;
        while store.stats().flushes < begun + 3 {
            write_as(&store, &format!("k{round}"), Durability::Memory);
            sum += 1;
        }
        assert!(sum > 0);
        let kept = sum_after_a_kill(directory.path(), &disk, &format!("k{round}"));
        let kept: i64 = kept.map_or(0, |kept| kept.parse().expect("a number"));
        assert!((1..=sum).contains(&kept), "{kept} of {sum}");
    }
}

#[test]
fn a_damaged_file_stops_the_opening() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = FaultyDisk::new();
    let store = open_on(directory.path(), &disk);
    write_as(&store, "a", Durability::Memory);
    drop(store);
    std::fs::write(directory.path().join("LOSSES"), b"nonsense").expect("written");
    let Err(error) = Embedded::open(options(directory.path()), ManualClock::new()) else {
        panic!("it opens");
    };
    assert!(error.to_string().contains("LOSSES"), "{error}");
}

#[test]
fn whoever_waits_for_a_time_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let ahead = Time::from_micros(store.stable().micros() + 5_000_000);
    let (sender, receiver) = mpsc::channel();
    store.when_stable(
        ahead,
        Box::new(move || sender.send(()).expect("somebody waits")),
    );
    receiver.recv().expect("told");
    assert!(store.stable() >= ahead);
    assert!(store.snapshot().time() >= ahead);
}
