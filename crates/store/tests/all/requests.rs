//! Requests with a record: one commit of each takes effect, whoever asks again, and when.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use tidemill_store::{
    Commit, Committed, Durability, Embedded, Error, RecordedAnswer, RequestRecord, Step, Store,
    SystemDisk, restore, verify,
};

use crate::support::*;

const HOUR_US: u64 = 3_600_000_000;
const DAY_US: u64 = 24 * HOUR_US;

/// When clocks of these tests begin.
const START_US: u64 = 1_700_000_000_000_000;

fn record(result: &str) -> RequestRecord {
    RequestRecord {
        digest: 11,
        result: Bytes::copy_from_slice(result.as_bytes()),
        expires_us: START_US + DAY_US,
        refused_until_us: START_US + 8 * DAY_US,
    }
}

/// The commit of a request that counts one and answers `result`.
fn counting(store: &dyn Store, request: u128, result: &str) -> Commit {
    let at = store.snapshot();
    let deltas = deltas(store, &at, &[add("n", 1)]);
    Commit {
        request,
        record: Some(record(result)),
        ..commit(&at, deltas)
    }
}

fn answer(committed: &Committed) -> Option<String> {
    let recorded = committed.repeated.as_ref().expect("a repeated request");
    let answer = recorded.answer.as_ref()?;
    assert_eq!(answer.digest, 11);
    Some(String::from_utf8_lossy(&answer.result).into_owned())
}

fn recorded(store: &dyn Store, request: u128) -> Option<RecordedAnswer> {
    let recorded = store.request(request).expect("looks up");
    recorded.map(|recorded| recorded.answer.expect("not expired"))
}

#[test]
fn the_first_commit_takes_effect_and_the_others_are_answered_by_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    assert_eq!(recorded(&store, 5), None);
    let first = send(&store, counting(&store, 5, "one")).expect("commits");
    assert_eq!(first.repeated, None);
    assert_eq!(recorded(&store, 5).map(|a| a.result), Some("one".into()));
    let second = send(&store, counting(&store, 5, "two")).expect("is answered");
    assert_eq!(second.time, first.time);
    assert_eq!(answer(&second).as_deref(), Some("one"));
    // One that asks for more is answered once what it repeats is that safe.
    let durable = Commit {
        durability: Durability::Durable,
        ..counting(&store, 5, "three")
    };
    let third = send(&store, durable).expect("is answered");
    assert_eq!(answer(&third).as_deref(), Some("one"));
    send(&store, counting(&store, 6, "other")).expect("commits");
    assert_eq!(get(&store, "n").as_deref(), Some("2"));
    assert!(store.stats().requests_repeated >= 2);
}

#[test]
fn what_is_kept_is_synced_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let commit = |store: &Embedded, request, durability| {
        let commit = counting(store, request, "done");
        let committed = send(
            store,
            Commit {
                durability,
                ..commit
            },
        );
        committed.expect("commits").time
    };
    let first = commit(&store, 1, Durability::Memory);
    let second = commit(&store, 2, Durability::Memory);
    assert!(!store.is_kept(first));
    assert_eq!(store.stats().syncs, 0);
    store.keep(first).expect("syncs");
    assert!(store.is_kept(second), "it was in the log by then");
    store.keep(second).expect("is kept");
    assert_eq!(store.stats().syncs, 1);
    let third = commit(&store, 3, Durability::Memory);
    let durable = commit(&store, 4, Durability::Durable);
    assert!(store.is_kept(third) && store.is_kept(durable));
    let repeated = Commit {
        durability: Durability::Durable,
        ..counting(&store, 3, "again")
    };
    assert!(
        send(&store, repeated)
            .expect("is answered")
            .repeated
            .is_some()
    );
    assert_eq!(
        store.stats().syncs,
        2,
        "what is durable is not synced again"
    );
    let last = commit(&store, 5, Durability::Memory);
    assert!(!store.is_kept(last));
    drop(store);
    let store = open(directory.path());
    assert!(store.is_kept(last), "opening synced it");
    let after = commit(&store, 6, Durability::Memory);
    assert!(after > last && !store.is_kept(after));
}

#[test]
fn what_can_not_be_kept_is_said() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = FaultyDisk::new();
    let failing = tidemill_store::Options {
        disk: Arc::clone(&disk) as _,
        ..options(directory.path())
    };
    let store = Embedded::open(failing, ManualClock::new()).expect("opens");
    let committed = send(&store, counting(&store, 1, "done")).expect("commits");
    disk.fail_at(Step::BeforeAppend);
    assert!(send(&store, counting(&store, 2, "lost")).is_err());
    assert!(store.keep(committed.time).is_err());
    assert!(!store.is_kept(committed.time));
}

#[test]
fn of_many_at_the_same_moment_one_takes_effect() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    for request in 1..20 {
        let (sender, receiver) = mpsc::channel();
        for n in 0..20 {
            let sender = sender.clone();
            let commit = counting(&store, request, &n.to_string());
            store.commit(
                commit,
                Box::new(move |outcome| drop(sender.send((n, outcome.expect("is answered"))))),
            );
        }
        drop(sender);
        let answers: Vec<(i32, Committed)> = receiver.iter().collect();
        assert_eq!(answers.len(), 20);
        let (repeated, first): (Vec<_>, Vec<_>) =
            answers.iter().partition(|(_, c)| c.repeated.is_some());
        let [(winner, committed)] = &first[..] else {
            panic!("one takes effect: {first:?}");
        };
        for (_, other) in repeated {
            assert_eq!(answer(other), Some(winner.to_string()));
            assert_eq!(other.time, committed.time);
        }
        assert_eq!(number(&store, "n", &store.snapshot()), request as i64);
    }
}

#[test]
fn a_record_needs_no_writes_and_no_record_leaves_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let at = store.snapshot();
    let reading = Commit {
        request: 5,
        record: Some(record("read")),
        ..commit(&at, Vec::new())
    };
    let committed = send(&store, reading.clone()).expect("commits");
    assert!(committed.time > at.time());
    assert!(recorded(&store, 5).is_some());
    let commits = store.stats().commits;
    let unrecorded = Commit {
        request: 6,
        record: None,
        ..reading
    };
    assert_eq!(
        send(&store, unrecorded).expect("is answered").time,
        at.time()
    );
    let writing = Commit {
        request: 7,
        record: None,
        ..counting(&store, 7, "")
    };
    send(&store, writing.clone()).expect("commits");
    send(&store, writing).expect("commits again");
    assert_eq!(recorded(&store, 6), None);
    assert_eq!(recorded(&store, 7), None);
    assert_eq!(store.stats().commits, commits + 2);
    assert_eq!(get(&store, "n").as_deref(), Some("2"));
}

#[test]
fn records_outlive_the_store_and_its_log() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let first = {
        let store = open(directory.path());
        send(&store, counting(&store, 5, "one")).expect("commits")
    };
    for checkpoint in [false, true, false] {
        let store = open(directory.path());
        assert!(recorded(&store, 5).is_some());
        let again = send(&store, counting(&store, 5, "two")).expect("is answered");
        assert_eq!(again.time, first.time);
        assert_eq!(answer(&again).as_deref(), Some("one"));
        assert_eq!(get(&store, "n").as_deref(), Some("1"));
        if checkpoint {
            store.checkpoint().expect("checkpoints");
        }
    }
}

#[test]
fn the_record_of_a_failed_write_never_was() {
    for step in [Step::BeforeAppend, Step::AfterAppend] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = FaultyDisk::new();
        let failing = tidemill_store::Options {
            disk: Arc::clone(&disk) as _,
            ..options(directory.path())
        };
        let store = Embedded::open(failing, ManualClock::new()).expect("opens");
        send(&store, counting(&store, 4, "before")).expect("commits");
        disk.fail_at(step);
        assert!(send(&store, counting(&store, 5, "lost")).is_err());
        assert_eq!(recorded(&store, 5), None, "after {step:?}");
        assert!(recorded(&store, 4).is_some());
        drop(store);
        let store = open(directory.path());
        assert_eq!(recorded(&store, 5), None, "after {step:?}");
        assert!(recorded(&store, 4).is_some());
        let again = send(&store, counting(&store, 5, "done")).expect("commits");
        assert_eq!(again.repeated, None);
        drop(store);
        let store = open(directory.path());
        assert_eq!(recorded(&store, 5).map(|a| a.result), Some("done".into()));
        assert_eq!(get(&store, "n").as_deref(), Some("2"));
    }
}

/// Waits until the store has swept so many records.
fn swept(store: &Embedded, count: u64) {
    for _ in 0..10_000 {
        if store.stats().requests_swept >= count {
            return;
        }
        // It wakes the thread that sweeps.
        store.checkpoint().expect("a checkpoint");
    }
    panic!("{} of {count} were swept", store.stats().requests_swept);
}

#[test]
fn a_result_expires_its_id_is_refused_and_then_forgotten() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = ManualClock::new();
    let store = Embedded::open(options(directory.path()), clock.clone()).expect("opens");
    for request in 0..600 {
        send(&store, counting(&store, request, "x")).expect("commits");
    }
    let unrefused = Commit {
        record: Some(RequestRecord {
            refused_until_us: 0,
            ..record("x")
        }),
        ..counting(&store, 1000, "x")
    };
    send(&store, unrefused).expect("commits");
    let refused = || {
        let again = send(&store, counting(&store, 5, "again")).expect("is answered");
        assert_eq!(answer(&again), None);
        assert_eq!(
            again.time,
            store.request(5).expect("reads").expect("known").time
        );
    };
    clock.move_us(DAY_US - 1);
    assert!(recorded(&store, 5).is_some());
    clock.move_us(1);
    // Before the sweep has come by, and after.
    refused();
    swept(&store, 601);
    refused();
    assert_eq!(store.request(1000).expect("reads"), None);
    drop(store);
    let store = Embedded::open(options(directory.path()), clock.clone()).expect("opens");
    assert!(store.request(599).expect("reads").is_some());
    clock.move_us(7 * DAY_US);
    assert_eq!(store.request(5).expect("reads"), None);
    swept(&store, 600);
    let again = send(&store, counting(&store, 5, "again")).expect("commits");
    assert_eq!(again.repeated, None);
    assert_eq!(get(&store, "n").as_deref(), Some("602"));
}

#[test]
fn a_record_above_the_limit_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let mut large = counting(&store, 5, "");
    large.record = Some(RequestRecord {
        result: vec![0; tidemill_store::record::LIMIT_BYTES].into(),
        ..record("")
    });
    let refused = send(&store, large);
    assert!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "{refused:?}"
    );
    assert_eq!(recorded(&store, 5), None);
    assert_eq!(get(&store, "n"), None);
    send(&store, counting(&store, 5, "small")).expect("commits");
}

#[test]
fn backups_carry_records() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let store = open(&keep.path().join("first"));
    for request in 0..3000 {
        send(&store, counting(&store, request, &request.to_string())).expect("commits");
    }
    let mut backup = Vec::new();
    let summary = store.backup(&mut backup).expect("backs up");
    assert_eq!(summary.requests, 3000);
    let place = keep.path().join("again");
    let restored = restore(&backup[..], &place, Arc::new(SystemDisk)).expect("restores");
    assert_eq!(restored.requests, 3000);
    let again = open(&place);
    for request in [0, 1, 2999] {
        let repeated = send(&again, counting(&again, request, "no")).expect("is answered");
        assert_eq!(answer(&repeated), Some(request.to_string()));
    }
    assert_eq!(get(&again, "n").as_deref(), Some("3000"));
}

fn look(directory: &Path) -> tidemill_store::Report {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    verify(directory, scratch.path()).expect("looks")
}

#[test]
fn a_damaged_record_is_found_and_not_taken_for_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    for request in 0..3 {
        send(&store, counting(&store, request, "x")).expect("commits");
    }
    drop(store);
    assert_eq!(look(directory.path()).requests, 3);
    {
        let database = fjall::Database::builder(directory.path().join("engine"))
            .open()
            .expect("opens");
        let requests = database
            .keyspace("requests", fjall::KeyspaceCreateOptions::default)
            .expect("opens");
        let value = requests.get(1_u128.to_be_bytes()).expect("reads");
        let mut value = value.expect("is there").to_vec();
        value[4] ^= 1;
        requests
            .insert(1_u128.to_be_bytes(), value)
            .expect("writes");
    }
    let report = look(directory.path());
    assert_eq!(report.requests, 2);
    let [damage] = &report.damages[..] else {
        panic!("one damage: {report:?}");
    };
    assert!(damage.place.contains("request 0000"), "{damage}");
    let store = open(directory.path());
    assert!(matches!(store.request(1), Err(Error::Corrupt { .. })));
    let refused = send(&store, counting(&store, 1, "again"));
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    assert_eq!(get(&store, "n").as_deref(), Some("3"));
    assert!(recorded(&store, 2).is_some());
}
