//! Backups: what is in them, that a broken one is refused, and stores made from them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use tidemill_lattice::{Cell, Dot, Op, Payload, Time, Writer};
use tidemill_store::backup::{Block, Decoder, Encoder, Head, ReadError, WriteError};
use tidemill_store::{
    Embedded, Error, MessageId, Options, RecordedAnswer, RestoreError, Store, StoredRequest,
    SystemDisk, restore, verify,
};

use crate::support::*;

const GOLDEN: &str = include_str!("../golden/backup-v2.hex");

/// A small backup, made by hand.
fn sample() -> Vec<u8> {
    let snapshot = Time::from_micros(1_700_000_000_000_123).next();
    let writer = Writer(5);
    let mut sequence = 0;
    let mut dots = || {
        sequence += 1;
        Dot::new(Time::from_micros(1_700_000_000_000_000), writer, sequence)
    };
    let at = Time::from_micros(1_699_999_999_999_999);
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, Head { snapshot, writer }).expect("writes");
    let entries = [
        ("cart", Op::RegisterSet(Payload::bytes("x".repeat(200)))),
        ("visits", Op::CounterAdd(-3)),
    ];
    for (name, op) in entries {
        let cell = Cell::delta(None, &op, at, &mut dots).expect("the operation fits");
        encoder.entry(&key(name), &cell).expect("writes");
    }
    encoder.message((at, 0), b"hello").expect("writes");
    encoder.message((at, 1), b"").expect("writes");
    for request in requests(at) {
        encoder.request(&request).expect("writes");
    }
    let summary = encoder.finish().expect("writes");
    assert_eq!((summary.keys, summary.messages), (2, 2));
    assert_eq!(summary.requests, 2);
    assert_eq!(summary.bytes, out.len() as u64);
    out
}

/// One with its result, one whose result has expired.
fn requests(time: Time) -> [StoredRequest; 2] {
    let kept = StoredRequest {
        id: 3,
        time,
        group: 0,
        due_us: 1_700_000_001_000_000,
        refused_until_us: 1_700_000_009_000_000,
        answer: Some(RecordedAnswer {
            digest: 11,
            result: Bytes::from_static(b"done"),
        }),
    };
    let refused = StoredRequest {
        id: 4,
        due_us: kept.refused_until_us,
        answer: None,
        ..kept.clone()
    };
    [kept, refused]
}

fn hex(bytes: &[u8]) -> String {
    let digits = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = bytes.chunks(32).map(digits);
    lines.map(|line: String| line + "\n").collect()
}

fn check(bytes: &[u8]) -> Result<tidemill_store::backup::Summary, ReadError> {
    Decoder::new(bytes)?.check()
}

#[test]
fn a_backup_is_encoded_as_ever() {
    let backup = sample();
    assert_eq!(
        hex(&backup),
        GOLDEN,
        "the format has changed: give it a new version"
    );
    let mut decoder = Decoder::new(&backup[..]).expect("a head");
    let mut keys = Vec::new();
    let mut messages = Vec::new();
    let mut recorded = Vec::new();
    while let Some(block) = decoder.block().expect("reads") {
        match block {
            Block::Requests(more) => recorded.extend(more),
            Block::Entries(entries) => keys.extend(entries.into_iter().map(|(key, _)| key)),
            Block::Messages(more) => messages.extend(more.into_iter().map(|(_, body)| body)),
        }
    }
    assert_eq!(keys, [key("cart"), key("visits")]);
    let at = Time::from_micros(1_699_999_999_999_999);
    assert_eq!(recorded, requests(at));
    assert_eq!(messages, [Bytes::from_static(b"hello"), Bytes::new()]);
    let summary = decoder.summary().expect("whole");
    assert_eq!((summary.keys, summary.messages), (2, 2));
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_backup_is_found() {
    let backup = sample();
    for length in 0..backup.len() {
        let cut = check(&backup[..length]);
        assert!(
            matches!(cut, Err(ReadError::Cut { at_byte }) if at_byte == length as u64),
            "cut at {length}: {cut:?}"
        );
    }
    for bit in 0..backup.len() * 8 {
        let mut flipped = backup.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&flipped).is_err(), "bit {bit}");
    }
    let longer = [&backup[..], b"x"].concat();
    assert!(matches!(check(&longer), Err(ReadError::Damaged { .. })));
}

#[test]
fn blocks_that_change_places_are_found() {
    let mut out = Vec::new();
    let head = Head {
        snapshot: Time::from_micros(9),
        writer: Writer(1),
    };
    let mut encoder = Encoder::new(&mut out, head).expect("writes");
    let body = vec![7; 300 * 1024];
    let mut ends = Vec::new();
    for index in 0..3 {
        encoder
            .message((Time::from_micros(1), index), &body)
            .expect("writes");
        ends.push(index);
    }
    encoder.finish().expect("writes");
    assert!(check(&out).is_ok());
    // Three blocks of the same length, and the end.
    let size = (out.len() - 29 - 61) / 3;
    let blocks: Vec<&[u8]> = out[29..29 + 3 * size].chunks(size).collect();
    let end = &out[29 + 3 * size..];
    let order = |order: &[usize]| {
        let mut bytes = out[..29].to_vec();
        order
            .iter()
            .for_each(|index| bytes.extend_from_slice(blocks[*index]));
        bytes.extend_from_slice(end);
        check(&bytes)
    };
    assert!(order(&[0, 1, 2]).is_ok());
    for wrong in [&[1, 0, 2][..], &[0, 2], &[0, 1], &[0, 1, 1, 2]] {
        assert!(order(wrong).is_err(), "{wrong:?}");
    }
}

/// All keys and messages of a backup, as a reader of its store would see them.
type Content = (Time, BTreeMap<String, String>, Vec<(MessageId, Bytes)>);

fn content(backup: &[u8]) -> Content {
    let mut decoder = Decoder::new(backup).expect("a head");
    let at = decoder.head().snapshot;
    let (mut shown, mut messages) = (BTreeMap::new(), Vec::new());
    while let Some(block) = decoder.block().expect("reads") {
        match block {
            Block::Entries(entries) => {
                for (key, cell) in entries {
                    shown.insert(key.name_lossy().into_owned(), view(&cell, at));
                }
            }
            Block::Messages(more) => messages.extend(more),
            Block::Requests(_) => {}
        }
    }
    (at, shown, messages)
}

fn view(cell: &Cell, at: Time) -> String {
    format!(
        "{:?}",
        cell.view(at).expect("only what is visible is in it")
    )
}

fn restored(backup: &[u8], directory: &Path) -> Embedded {
    restore(backup, directory, Arc::new(SystemDisk)).expect("restores");
    open(directory)
}

/// Stops the writers when a test ends, however it ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writers move amounts between accounts, so that the sum stays, and hand a message on in the
/// same commits: each consumes the one before.
fn run_writer(store: &dyn Store, number: u32, stop: &AtomicBool) {
    let mut before = None;
    let mut round = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let at = store.snapshot();
        let (from, to) = (format!("n/{}", round % 50), format!("m/{}", round % 37));
        let ops = [
            add(&from, -1),
            add(&to, 1),
            set(&format!("w/{number}"), &round.to_string()),
        ];
        let mut commit = commit(&at, deltas(store, &at, &ops));
        commit.messages = vec![Bytes::from(format!("{number} {round}"))];
        commit.consumes = before;
        before = Some(send(store, commit).expect("commits").messages[0]);
        round += 1;
    }
}

/// What a writer has pending is the message of its last round.
fn check_messages(backup: &[u8]) {
    let (time, shown, messages) = content(backup);
    for number in 0..3 {
        let Some(round) = shown.get(&format!("w/{number}")) else {
            continue;
        };
        let start = format!("{number} ");
        let mine = messages
            .iter()
            .filter(|(_, body)| body.starts_with(start.as_bytes()));
        let mine: Vec<_> = mine.collect();
        let [(id, body)] = mine[..] else {
            panic!("writer {number} has {} messages pending", mine.len())
        };
        assert!(id.0 <= time);
        let last = String::from_utf8_lossy(body).replace(&start, "");
        let last = format!("{:?}", text(&last).body);
        assert!(round.contains(&last), "{round} is not {last}");
    }
}

#[test]
fn what_is_pending_belongs_to_the_snapshot() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let store = open(keep.path());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for number in 0..3 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || run_writer(store, number, stop));
        }
        for _ in 0..3_000 {
            let mut out = Vec::new();
            store.backup(&mut out).expect("backs up");
            check_messages(&out);
        }
    });
}

#[test]
fn a_backup_under_writes_is_one_snapshot_and_comes_back_as_it() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        memory_bytes: 50_000,
        checkpoint_bytes: 20_000,
        ..options(&keep.path().join("first"))
    };
    let store = Embedded::open(options, ManualClock::new()).expect("opens");
    for i in 0..600 {
        write(
            &store,
            &[
                set(&format!("k/{i:04}"), &i.to_string()),
                add("n/0", 1),
                add("m/0", -1),
            ],
        );
    }
    write(&store, &[delete("k/0007")]);
    let stop = AtomicBool::new(false);
    let backups: Vec<Vec<u8>> = thread::scope(|scope| {
        let _stop = Stop(&stop);
        for number in 0..3 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || run_writer(store, number, stop));
        }
        (0..12)
            .map(|_| {
                let mut out = Vec::new();
                let summary = store.backup(&mut out).expect("backs up");
                assert_eq!(check(&out).expect("is whole"), summary);
                out
            })
            .collect()
    });
    for (index, backup) in backups.iter().enumerate() {
        let (_, shown, messages) = content(backup);
        assert!(!shown.contains_key("k/0007"), "it was deleted");
        for i in (0..600).filter(|i| *i != 7) {
            assert!(
                shown.contains_key(&format!("k/{i:04}")),
                "k/{i:04} is missing"
            );
        }
        check_messages(backup);
        if index % 4 != 3 {
            continue;
        }
        let store = restored(backup, &keep.path().join(format!("again-{index}")));
        let at = store.snapshot();
        let mut sum = 0;
        let mut seen = BTreeMap::new();
        store
            .apply(b"", &at, &mut |key, cell| {
                let name = key.name_lossy().into_owned();
                if name.starts_with("n/") || name.starts_with("m/") {
                    sum += show(cell, &at)
                        .expect("a number")
                        .parse::<i64>()
                        .expect("a number");
                }
                seen.insert(name, view(cell, at.time()));
                std::ops::ControlFlow::Continue(())
            })
            .expect("reads");
        assert_eq!(sum, 0, "a commit came back in part");
        assert_eq!(seen, shown);
        assert_eq!(store.pending_messages().expect("lists"), messages);
    }
}

#[test]
fn a_restored_store_gives_no_dot_twice() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let clock = ManualClock::new();
    let first = keep.path().join("first");
    drop(open(&first));
    let store = Embedded::open(options(&first), clock.clone()).expect("opens");
    clock.move_us(3_600_000_000);
    write(&store, &[add("n", 5)]);
    let mut backup = Vec::new();
    let summary = store.backup(&mut backup).expect("backs up");
    assert_eq!(summary.head.writer, store.writer());
    // Its clock is an hour behind.
    let again = restored(&backup, &keep.path().join("again"));
    assert!(again.writer() > store.writer());
    assert_eq!(again.snapshot().time(), summary.head.snapshot);
    assert!(write(&again, &[add("n", 2)]).time > summary.head.snapshot);
    assert_eq!(get(&again, "n").as_deref(), Some("7"));
    drop(again);
    let again = open(&keep.path().join("again"));
    assert_eq!(get(&again, "n").as_deref(), Some("7"));
}

#[test]
fn a_broken_backup_leaves_nothing_in_its_place() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let backup = sample();
    let place = keep.path().join("store");
    for length in [0, 10, 29, 40, backup.len() / 2, backup.len() - 1] {
        let outcome = restore(&backup[..length], &place, Arc::new(SystemDisk));
        assert!(
            matches!(outcome, Err(RestoreError::Backup(ReadError::Cut { .. }))),
            "{outcome:?}"
        );
        assert_eq!(fs::read_dir(keep.path()).expect("lists").count(), 0);
    }
    // What a killed restore leaves does not open, and the next one takes its place.
    let partial = keep.path().join("store.partial");
    fs::create_dir(&partial).expect("a directory");
    fs::write(partial.join("file"), b"").expect("writes");
    let refused = restore(&backup[..], &place, Arc::new(SystemDisk));
    assert!(
        matches!(refused, Err(RestoreError::NotEmpty { .. })),
        "{refused:?}"
    );
    fs::write(partial.join("RESTORING"), b"").expect("writes");
    let store = restored(&backup, &place);
    assert_eq!(get(&store, "visits").as_deref(), Some("-3"));
    assert!(!partial.exists());
    drop(store);
    let refused = restore(&backup[..], &place, Arc::new(SystemDisk));
    assert!(
        matches!(refused, Err(RestoreError::NotEmpty { .. })),
        "{refused:?}"
    );
    assert_eq!(get(&open(&place), "visits").as_deref(), Some("-3"));
}

/// A stream whose taker lets time pass.
struct Slow<'a>(&'a Embedded, &'a ManualClock, Vec<u8>);

impl Write for Slow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.move_us(60_000_000);
        write(self.0, &[set("n", "2")]);
        self.0.checkpoint().map_err(io::Error::other)?;
        self.2.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_backup_that_outlives_its_snapshot_says_so_in_the_stream_too() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let clock = ManualClock::new();
    let store = Embedded::open(options(keep.path()), clock.clone()).expect("opens");
    let body = "x".repeat(90_000);
    for i in 0..60 {
        write(&store, &[set(&format!("k/{i}"), &body)]);
    }
    let mut slow = Slow(&store, &clock, Vec::new());
    let outcome = store.backup(&mut slow);
    assert!(
        matches!(&outcome, Err(WriteError::Store(Error::Io { cause, .. })) if cause.contains("600 s")),
        "{outcome:?}"
    );
    let read = check(&slow.2);
    assert!(
        matches!(&read, Err(ReadError::Abandoned(why)) if why.contains("snapshot")),
        "{read:?}"
    );
}

#[test]
fn a_store_in_use_is_not_verified() {
    let keep = tempfile::tempdir().expect("a temporary directory");
    let store = open(keep.path());
    write(&store, &[set("a", "1")]);
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let refused = verify(keep.path(), scratch.path());
    assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
    drop(store);
    let report = verify(keep.path(), scratch.path()).expect("verifies");
    assert!(report.is_whole() && report.torn.is_empty(), "{report:?}");
    assert_eq!((report.records, report.epoch), (1, 1));
}
