//! The contract of [`Store`], run against every implementation and against an embedded store
//! that keeps nothing in memory and checkpoints all the time.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use tidemill_lattice::{Op, Time, Value};
use tidemill_store::{Embedded, Error, Store};

use crate::support::*;

struct Room {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    _directory: tempfile::TempDir,
}

fn room(make: fn(&Path, Arc<ManualClock>) -> Arc<dyn Store>) -> Room {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let clock = ManualClock::new();
    let store = make(directory.path(), Arc::clone(&clock));
    Room {
        store,
        clock,
        _directory: directory,
    }
}

fn roomy(directory: &Path, clock: Arc<ManualClock>) -> Arc<dyn Store> {
    Arc::new(Embedded::open(options(directory), clock).expect("the store opens"))
}

fn tight(directory: &Path, clock: Arc<ManualClock>) -> Arc<dyn Store> {
    let options = tidemill_store::Options {
        memory_bytes: 0,
        checkpoint_bytes: 1,
        checkpoint_us: 0,
        ..options(directory)
    };
    Arc::new(Embedded::open(options, clock).expect("the store opens"))
}

macro_rules! contract {
    ($($name:ident)*) => {
        mod embedded { $(#[test] fn $name() { super::$name(&super::room(super::roomy)); })* }
        mod embedded_without_memory { $(#[test] fn $name() { super::$name(&super::room(super::tight)); })* }
    };
}

contract! {
    a_commit_is_visible_to_later_snapshots_only
    times_rise_and_dots_carry_them
    a_deleted_key_keeps_a_tombstone_for_writers
    a_scan_is_ordered_and_comes_in_pages
    a_scan_shows_only_what_is_visible
    apply_runs_until_it_breaks
    an_empty_commit_is_answered_and_not_logged
    a_snapshot_from_the_future_is_refused
    messages_are_pending_until_consumed_once
    an_expired_snapshot_is_refused
    conflicting_types_settle_on_one
    a_panicking_callback_harms_nobody
}

fn a_commit_is_visible_to_later_snapshots_only(room: &Room) {
    let store = &*room.store;
    let empty = store.snapshot();
    assert_eq!(get_at(store, "a", &empty), None);
    let first = write(store, &[set("a", "1"), add("n", 5)]);
    let middle = store.snapshot();
    assert!(middle.time() >= first.time);
    write(store, &[set("a", "2"), add("n", 6)]);
    for _ in 0..40 {
        write(store, &[add("n", 1)]);
    }
    let last = store.snapshot();
    for (at, a, n) in [
        (&empty, None, None),
        (&middle, Some("1"), Some("5")),
        (&last, Some("2"), Some("51")),
    ] {
        assert_eq!(get_at(store, "a", at).as_deref(), a);
        assert_eq!(get_at(store, "n", at).as_deref(), n);
    }
    assert_eq!(store.stats().commits, 42);
}

fn times_rise_and_dots_carry_them(room: &Room) {
    let store = &*room.store;
    let append = |body| {
        (
            key("log"),
            Op::LogAppend {
                value: text(body),
                keep: None,
            },
        )
    };
    let times: Vec<Time> = ["x", "y", "z"]
        .map(|body| write(store, &[append(body)]).time)
        .to_vec();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    let at = store.snapshot();
    let cell = store
        .read_at(&key("log"), &at)
        .expect("reads")
        .expect("is there");
    let Some(Value::Log(log)) = cell.view(at.time()) else {
        panic!("no log: {cell:?}")
    };
    assert_eq!(
        log.iter().map(|(dot, _)| dot.time).collect::<Vec<_>>(),
        times
    );
}

fn a_deleted_key_keeps_a_tombstone_for_writers(room: &Room) {
    let store = &*room.store;
    write(store, &[set("a", "1")]);
    // As long as someone reads the time before, the tombstone can not be forgotten.
    let before = store.snapshot();
    write(store, &[delete("a")]);
    let after = store.snapshot();
    assert_eq!(get_at(store, "a", &before).as_deref(), Some("1"));
    let cell = store
        .read_at(&key("a"), &after)
        .expect("reads")
        .expect("a tombstone");
    assert!(cell.view(after.time()).is_none());
    write(store, &[add("a", 3)]);
    assert_eq!(
        get(store, "a").as_deref(),
        Some("3"),
        "a new life may have another type"
    );
}

fn a_scan_is_ordered_and_comes_in_pages(room: &Room) {
    let store = &*room.store;
    let names: Vec<String> = (0..700).map(|i| format!("u/{:03}", i * 11 % 700)).collect();
    for names in names.chunks(100) {
        write(
            store,
            &names.iter().map(|name| set(name, name)).collect::<Vec<_>>(),
        );
    }
    write(store, &[set("t", ""), set("v", ""), set("u", "")]);
    let at = store.snapshot();
    let mut sorted = names;
    sorted.sort();
    for limit in [1, 99, 256, 699, 700, 1000] {
        let (mut seen, mut after): (Vec<String>, Option<Vec<u8>>) = (Vec::new(), None);
        loop {
            let page = store
                .scan(&prefix("u/"), after.as_deref(), limit, &at)
                .expect("scans");
            assert!(page.entries.len() <= limit);
            seen.extend(
                page.entries
                    .iter()
                    .map(|(key, _)| key.name_lossy().into_owned()),
            );
            after = page.next;
            if after.is_none() || limit == 1 && seen.len() > 5 {
                break;
            }
        }
        assert_eq!(seen, sorted[..seen.len()]);
        assert!(limit == 1 || seen.len() == sorted.len());
    }
}

fn a_scan_shows_only_what_is_visible(room: &Room) {
    let store = &*room.store;
    write(store, &[set("a", "1"), set("b", "1"), set("d", "1")]);
    let before = store.snapshot();
    write(store, &[delete("b"), set("c", "2"), set("d", "2")]);
    let after = store.snapshot();
    let list = |at: &_| -> Vec<String> {
        let page = store.scan(&prefix(""), None, 10, at).expect("scans");
        assert_eq!(page.next, None);
        page.entries
            .iter()
            .map(|(key, cell)| format!("{}={}", key.name_lossy(), show(cell, at).expect("visible")))
            .collect()
    };
    assert_eq!(list(&before), ["a=1", "b=1", "d=1"]);
    assert_eq!(list(&after), ["a=1", "c=2", "d=2"]);
}

fn apply_runs_until_it_breaks(room: &Room) {
    let store = &*room.store;
    write(
        store,
        &[add("n/1", 1), add("n/2", 2), add("n/3", 3), add("m", 9)],
    );
    let at = store.snapshot();
    let mut seen = Vec::new();
    let visit = &mut |key: &tidemill_lattice::Key, cell: &tidemill_lattice::Cell| {
        seen.push((
            key.name_lossy().into_owned(),
            show(cell, &at).expect("visible"),
        ));
        if seen.len() == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    store.apply(&prefix("n/"), &at, visit).expect("applies");
    assert_eq!(
        seen,
        [("n/1".into(), "1".into()), ("n/2".into(), "2".into())]
    );
}

fn an_empty_commit_is_answered_and_not_logged(room: &Room) {
    let store = &*room.store;
    write(store, &[set("a", "1")]);
    let at = store.snapshot();
    let answer = send(store, commit(&at, Vec::new())).expect("succeeds");
    assert_eq!((answer.time, answer.messages), (at.time(), Vec::new()));
    assert_eq!(store.stats().commits, 1);
}

fn a_snapshot_from_the_future_is_refused(room: &Room) {
    let store = &*room.store;
    let at = store.snapshot();
    let mut ahead = commit(&at, deltas(store, &at, &[set("a", "1")]));
    ahead.snapshot = Time::MAX;
    assert!(matches!(
        send(store, ahead),
        Err(Error::SnapshotAhead { .. })
    ));
    assert_eq!(get(store, "a"), None);
}

fn messages_are_pending_until_consumed_once(room: &Room) {
    let store = &*room.store;
    let at = store.snapshot();
    let mut sending = commit(&at, Vec::new());
    sending.messages = vec!["one".into(), "two".into()];
    let sent = send(store, sending).expect("succeeds");
    assert_eq!(sent.messages, [(sent.time, 0), (sent.time, 1)]);
    assert_eq!(store.pending_messages().expect("lists").len(), 2);
    let at = store.snapshot();
    let mut handling = commit(&at, deltas(store, &at, &[add("handled", 1)]));
    handling.consumes = Some(sent.messages[0]);
    send(store, handling.clone()).expect("the first handling succeeds");
    let again = send(store, handling);
    assert_eq!(
        again,
        Err(Error::Consumed {
            message: sent.messages[0]
        })
    );
    assert_eq!(get(store, "handled").as_deref(), Some("1"));
    let pending = store.pending_messages().expect("lists");
    assert_eq!(pending, [(sent.messages[1], "two".into())]);
}

fn an_expired_snapshot_is_refused(room: &Room) {
    let store = &*room.store;
    write(store, &[set("a", "1")]);
    let old = store.snapshot();
    let stale = commit(&old, deltas(store, &old, &[set("b", "1")]));
    room.clock.move_us(600_000_000);
    write(store, &[set("a", "2")]);
    assert_eq!(
        get_at(store, "a", &old).as_deref(),
        Some("1"),
        "at its lifetime it still reads"
    );
    room.clock.move_us(1);
    write(store, &[set("a", "3")]);
    let expired = |outcome| matches!(outcome, Err(Error::SnapshotExpired { .. }));
    assert!(expired(store.read_at(&key("a"), &old).map(|_| ())));
    assert!(expired(store.scan(&prefix(""), None, 9, &old).map(|_| ())));
    assert!(expired(send(store, stale).map(|_| ())));
    assert_eq!(get(store, "a").as_deref(), Some("3"));
}

fn conflicting_types_settle_on_one(room: &Room) {
    let store = &*room.store;
    let at = store.snapshot();
    let (one, two) = (
        deltas(store, &at, &[set("a", "1")]),
        deltas(store, &at, &[add("a", 2)]),
    );
    send(store, commit(&at, one)).expect("succeeds");
    send(store, commit(&at, two)).expect("succeeds: it did not see the other");
    assert_eq!(
        get(store, "a").as_deref(),
        Some("1"),
        "the first commit fixes the type"
    );
}

fn a_panicking_callback_harms_nobody(room: &Room) {
    let store = &*room.store;
    let at = store.snapshot();
    let doomed = commit(&at, deltas(store, &at, &[set("a", "1")]));
    store.commit(
        doomed,
        Box::new(|_| panic!("this panic is part of the test")),
    );
    write(store, &[set("b", "1")]);
    assert_eq!(get(store, "a").as_deref(), Some("1"));
}
