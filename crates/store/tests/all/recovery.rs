//! Opening: what was acknowledged is there, what is damaged is not served.

use std::path::Path;
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use tidemill_lattice::{Op, Time};
use tidemill_store::{Embedded, Error, Options, Store, record};

use crate::support::*;

#[test]
fn a_directory_is_for_one_store() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let second = Embedded::open(options(directory.path()), ManualClock::new());
    let Err(error) = second else {
        panic!("a second store opened {directory:?}")
    };
    let (directory_named, pid) = (directory.path().to_path_buf(), Some(std::process::id()));
    assert_eq!(
        error,
        Error::InUse {
            directory: directory_named,
            pid
        }
    );
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    drop(store);
    open(directory.path());
}

#[test]
fn commits_messages_and_epochs_survive_with_and_without_checkpoints() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut last = Time::ZERO;
    let mut writer = None;
    let mut ids = Vec::new();
    for life in 0..6_i64 {
        let store = open(directory.path());
        assert!(writer < Some(store.writer()), "every life is a new writer");
        writer = Some(store.writer());
        assert!(store.snapshot().time() >= last);
        assert_eq!(number(&store, "n", &store.snapshot()), 10 * life);
        let pending: Vec<_> = store
            .pending_messages()
            .expect("lists")
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        assert_eq!(pending, ids, "in life {life}");
        for _ in 0..9 {
            assert!(
                write(&store, &[add("n", 1)]).time > last,
                "the clock stands still"
            );
        }
        if life % 3 == 1 {
            store.checkpoint().expect("checkpoints");
            assert_eq!(store.stats().log_bytes.min(1), 0, "the log is trimmed");
        }
        let at = store.snapshot();
        let mut both = commit(&at, deltas(&store, &at, &[add("n", 1)]));
        both.messages = vec![format!("{life} a").into(), format!("{life} b").into()];
        both.consumes = (!ids.is_empty()).then(|| ids.remove(0));
        let sent = send(&store, both).expect("commits");
        ids.extend(sent.messages);
        last = sent.time;
        if life % 3 == 2 {
            store.checkpoint().expect("checkpoints");
        }
    }
}

#[test]
fn a_checkpoint_leaves_only_what_is_alive() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = ManualClock::new();
    let store = Embedded::open(options(directory.path()), clock.clone()).expect("opens");
    for i in 0..50 {
        write(
            &store,
            &[set(&format!("a/{i}"), "1"), set(&format!("b/{i}"), "1")],
        );
    }
    let soon = Time::from_micros(1_700_000_000_000_000 + 1_000);
    for i in 0..50 {
        write(&store, &[delete(&format!("a/{i}"))]);
        write(&store, &[(key(&format!("b/{i}")), Op::Expire(Some(soon)))]);
    }
    store.checkpoint().expect("checkpoints");
    assert_eq!(store.stats().keys, 50, "deleted keys are forgotten");
    drop(store);
    // The expired keys are not in memory any more, and nobody touches them.
    let store = Embedded::open(options(directory.path()), clock.clone()).expect("opens");
    clock.move_us(2_000);
    write(&store, &[set("c", "1")]);
    store.checkpoint().expect("checkpoints");
    drop(store);
    let (_database, data) = keyspace(directory.path(), "data");
    assert_eq!(data.len().expect("counts"), 1, "only `c` is stored");
}

fn keyspace(directory: &Path, name: &str) -> (Database, Keyspace) {
    let database = Database::builder(directory.join("engine"))
        .open()
        .expect("the engine opens");
    let keyspace = database
        .keyspace(name, KeyspaceCreateOptions::default)
        .expect("is there");
    (database, keyspace)
}

/// Writes five records, changes the one at `index` by `change`, and opens again.
fn after_damage(
    index: usize,
    change: fn(&Keyspace, &[u8], Vec<u8>),
) -> Result<Vec<Option<String>>, Error> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let names: Vec<String> = (0..5).map(|i| i.to_string()).collect();
    for name in &names {
        write_durable(&store, &[set(name, "1")]);
    }
    drop(store);
    let (database, log) = keyspace(directory.path(), "log");
    let (key, value) = log
        .iter()
        .nth(index)
        .expect("a record")
        .into_inner()
        .expect("reads");
    change(&log, &key, value.to_vec());
    database
        .persist(fjall::PersistMode::SyncAll)
        .expect("syncs");
    drop((log, database));
    let store = Embedded::open(options(directory.path()), ManualClock::new())?;
    let seen = names.iter().map(|name| get(&store, name)).collect();
    write(&store, &[set("next", "1")]);
    drop(store);
    assert_eq!(get(&open(directory.path()), "next").as_deref(), Some("1"));
    Ok(seen)
}

fn flip(log: &Keyspace, key: &[u8], mut value: Vec<u8>) {
    let middle = value.len() / 2;
    value[middle] ^= 0x10;
    log.insert(key, value).expect("writes");
}

fn remove(log: &Keyspace, key: &[u8], _: Vec<u8>) {
    log.remove(key).expect("removes");
}

#[test]
fn a_damaged_record_in_the_middle_stops_the_opening() {
    let error = after_damage(2, flip).expect_err("damage is not served");
    assert!(
        matches!(&error, Error::Corrupt { cause, .. } if cause.contains("checksum")),
        "{error}"
    );
    assert!(error.to_string().contains("restore"), "{error}");
}

#[test]
fn a_damaged_record_at_the_end_is_cut() {
    let one = || Some("1".to_owned());
    let seen = after_damage(4, flip).expect("opens");
    assert_eq!(seen, [one(), one(), one(), one(), None]);
}

#[test]
fn a_missing_record_in_the_middle_stops_the_opening() {
    for index in [0, 2] {
        let error = after_damage(index, remove).expect_err("a gap is not served");
        assert!(
            matches!(&error, Error::Corrupt { cause, .. } if cause.contains("missing")),
            "{error}"
        );
    }
}

#[test]
fn a_damaged_value_is_not_served() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    write(&store, &[set("a", "1"), set("b", "1")]);
    store.checkpoint().expect("checkpoints");
    drop(store);
    let (database, data) = keyspace(directory.path(), "data");
    data.insert(key("a").as_bytes(), [0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff])
        .expect("writes");
    drop((data, database));
    let store = open(directory.path());
    let read = store.read_at(&key("a"), &store.snapshot());
    assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
    assert_eq!(get(&store, "b").as_deref(), Some("1"));
    let at = store.snapshot();
    let blind = commit(&at, vec![(key("a"), tidemill_lattice::Cell::empty())]);
    assert!(matches!(send(&store, blind), Err(Error::Corrupt { .. })));
}

#[test]
fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    drop(open(directory.path()));
    let (database, meta) = keyspace(directory.path(), "meta");
    meta.insert("format", 4_u64.to_be_bytes()).expect("writes");
    drop((meta, database));
    let opened = Embedded::open(options(directory.path()), ManualClock::new());
    assert!(matches!(
        opened.err(),
        Some(Error::Format {
            found: 4,
            known: 3,
            ..
        })
    ));
}

#[test]
fn cold_keys_come_back_from_the_durable_tier() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        memory_bytes: 20_000,
        ..options(directory.path())
    };
    let store: Arc<dyn Store> = {
        let store = Embedded::open(options, ManualClock::new()).expect("opens");
        for i in 0..400 {
            write(&store, &[add(&format!("k/{i}"), i)]);
        }
        store.checkpoint().expect("checkpoints");
        for _ in 0..200 {
            write(&store, &[add("hot", 1)]);
        }
        assert!(
            store.stats().keys < 200,
            "clean keys leave memory: {:?}",
            store.stats()
        );
        Arc::new(store)
    };
    for i in (0..400).rev() {
        write(&*store, &[add(&format!("k/{i}"), 1)]);
    }
    let at = store.snapshot();
    for i in 0..400 {
        assert_eq!(number(&*store, &format!("k/{i}"), &at), i + 1);
    }
}

#[test]
fn a_record_too_large_is_refused_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let at = store.snapshot();
    let mut large = commit(&at, Vec::new());
    large.messages = vec![vec![0; record::LIMIT_BYTES].into()];
    assert!(matches!(send(&store, large), Err(Error::TooLarge { .. })));
    write(&store, &[set("a", "1")]);
    drop(store);
    assert_eq!(get(&open(directory.path()), "a").as_deref(), Some("1"));
}
