//! The record encoding, byte for byte: logs written today must be read tomorrow.

use bytes::Bytes;
use proptest::prelude::*;
use tidemill_lattice::{Cell, Dot, Key, Op, Payload, Time, Writer};
use tidemill_store::record::{Entries, RecordError, decode};
use tidemill_store::{Commit, Durability};

const GOLDEN: &str = include_str!("../golden/record-v3.hex");
const GOLDEN_V2: &str = include_str!("../golden/record-v2.hex");

fn sample() -> (Time, Commit) {
    let time = Time::from_micros(1_700_000_000_000_123).next();
    let mut sequence = 0;
    let mut dots = || {
        sequence += 1;
        Dot {
            time,
            writer: Writer(5),
            sequence,
        }
    };
    let at = Time::from_micros(1_699_999_999_999_999);
    let mut delta = |name: &str, op: Op| {
        let key = Key::new("acme", "shop", name).expect("a valid key");
        (
            key,
            Cell::delta(None, &op, at, &mut dots).expect("the operation fits"),
        )
    };
    let commit = Commit {
        request: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        snapshot: at,
        deltas: vec![
            delta("cart", Op::RegisterSet(Payload::bytes("x".repeat(200)))),
            delta("visits", Op::CounterAdd(-3)),
            delta("gone", Op::Delete),
        ],
        durability: Durability::Durable,
        messages: vec![Bytes::from_static(b"hello"), Bytes::new()],
        consumes: Some((Time::from_micros(1_600_000_000_000_000), 7)),
        record: None,
    };
    (time, commit)
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32);
    lines
        .map(|line| {
            line.iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                + "\n"
        })
        .collect()
}

/// A commit, then a write of one key that came later and was stamped before.
fn group() -> Entries {
    let (time, commit) = sample();
    let mut entries = Entries::default();
    entries.commit(time, &commit);
    let (key, delta) = &commit.deltas[1];
    entries.write(time.prev(), commit.snapshot, key, delta);
    let (ended, payload) = (overwritten(time.prev()), Payload::bytes("new"));
    let cell = Cell::overwrite(ended, payload).expect("there is a dot");
    let overwrite = cell.as_overwrite().expect("it is one");
    // Of the same times as the one before, of the same time alone, and of neither.
    entries.overwrite(commit.snapshot, key, &overwrite);
    entries.overwrite(commit.snapshot.prev(), key, &overwrite);
    entries.write(time.prev(), commit.snapshot.prev(), key, delta);
    entries
}

fn overwritten(time: Time) -> Dot {
    Dot::new(time, Writer(5), 300)
}

fn bytes_of(hex: &str) -> Bytes {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(text, 16).expect("hexadecimal")
    };
    digits.chunks(2).map(byte).collect()
}

#[test]
fn a_group_of_the_version_before_is_read() {
    let (time, commit) = sample();
    let (header, entries) = decode(&bytes_of(GOLDEN_V2)).expect("decodes");
    assert_eq!((header.number, header.writer), (77, Writer(5)));
    let [first, second] = &entries[..] else {
        panic!("two entries: {entries:?}")
    };
    assert_eq!((first.time, &first.deltas), (time, &commit.deltas));
    assert_eq!(second.time, time.prev());
    assert_eq!(second.deltas[..], commit.deltas[1..2]);
}

#[test]
fn a_group_is_encoded_as_ever() {
    let (time, commit) = sample();
    let (header, encoded) = group().seal(77, Writer(5));
    assert_eq!(
        hex(&encoded),
        GOLDEN,
        "the encoding has changed: give it a new version"
    );
    let (decoded, entries) = decode(&encoded.into()).expect("decodes");
    assert_eq!(decoded, header);
    assert_eq!((header.number, header.writer), (77, Writer(5)));
    assert_eq!((header.low, header.high), (time.prev(), time));
    let [first, second, overwrites @ .., last] = &entries[..] else {
        panic!("three entries and more: {entries:?}")
    };
    let overwrite = Cell::overwrite(overwritten(time.prev()), Payload::bytes("new"));
    let overwrite = vec![(
        second.deltas[0].0.clone(),
        overwrite.expect("there is a dot"),
    )];
    let snapshots = [commit.snapshot, commit.snapshot.prev()];
    assert_eq!(overwrites.len(), snapshots.len());
    for (entry, snapshot) in overwrites.iter().zip(snapshots) {
        assert_eq!((entry.time, entry.snapshot), (time.prev(), snapshot));
        assert_eq!((entry.request, &entry.deltas), (0, &overwrite));
    }
    assert_eq!(
        (last.time, last.snapshot),
        (time.prev(), commit.snapshot.prev())
    );
    assert_eq!(last.deltas, second.deltas);
    assert_eq!((first.time, first.snapshot), (time, commit.snapshot));
    assert_eq!(
        (first.request, &first.deltas),
        (commit.request, &commit.deltas)
    );
    assert_eq!(
        (&first.messages, first.consumes),
        (&commit.messages, commit.consumes)
    );
    assert_eq!(
        (second.time, second.snapshot),
        (time.prev(), commit.snapshot)
    );
    assert_eq!(second.deltas[..], commit.deltas[1..2]);
}

#[test]
fn what_is_taken_back_leaves_nothing_and_lists_join() {
    let (time, commit) = sample();
    let (key, delta) = &commit.deltas[0];
    let mut entries = Entries::default();
    let size_bytes = entries.write(time, commit.snapshot, key, delta);
    entries.undo(size_bytes);
    assert!(entries.is_empty());
    let mut tail = Entries::default();
    tail.write(time.next(), commit.snapshot, key, delta);
    entries.append(tail);
    let mut more = Entries::default();
    more.commit(time, &commit);
    entries.append(more);
    let (header, bytes) = entries.seal(1, Writer(1));
    assert_eq!((header.low, header.high), (time, time.next()));
    let (_, read) = decode(&bytes.into()).expect("decodes");
    let times: Vec<Time> = read.iter().map(|entry| entry.time).collect();
    assert_eq!(times, [time.next(), time]);
}

#[test]
fn every_cut_and_every_flipped_bit_is_found() {
    let (_, encoded) = group().seal(77, Writer(5));
    for length in 0..encoded.len() {
        assert!(
            decode(&Bytes::copy_from_slice(&encoded[..length])).is_err(),
            "cut at {length}"
        );
    }
    for bit in 0..encoded.len() * 8 {
        let mut bytes = encoded.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            decode(&bytes.into()).err(),
            Some(RecordError::Checksum),
            "bit {bit}"
        );
    }
}

proptest! {
    /// With a right checksum over anything, so that the fields themselves are reached.
    #[test]
    fn hostile_bytes_are_refused_without_a_panic(mut body in prop::collection::vec(any::<u8>(), 0..200), version in 1..4_u8) {
        body.insert(0, version);
        let checksum = xxhash_rust::xxh3::xxh3_64(&body);
        body.extend_from_slice(&checksum.to_be_bytes());
        let _ = decode(&body.into());
    }
}
