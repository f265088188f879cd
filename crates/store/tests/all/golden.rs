//! The record encoding, byte for byte: logs written today must be read tomorrow.

use bytes::Bytes;
use proptest::prelude::*;
use tidemill_lattice::{Cell, Dot, Key, Op, Payload, Time, Writer};
use tidemill_store::record::{Header, RecordError, decode, encode};
use tidemill_store::{Commit, Durability};

const GOLDEN: &str = include_str!("../golden/record-v1.hex");

fn sample() -> (Header, Commit) {
    let time = Time::from_micros(1_700_000_000_000_123).next();
    let header = Header {
        time,
        writer: Writer(5),
        previous: Time::from_micros(1_700_000_000_000_000),
    };
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
    };
    (header, commit)
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

#[test]
fn a_record_is_encoded_as_ever() {
    let (header, commit) = sample();
    let encoded = encode(header, &commit);
    assert_eq!(
        hex(&encoded),
        GOLDEN,
        "the encoding has changed: give it a new version"
    );
    let record = decode(&encoded.into()).expect("decodes");
    assert_eq!(record.header, header);
    assert_eq!(
        (record.request, record.snapshot),
        (commit.request, commit.snapshot)
    );
    assert_eq!(record.deltas, commit.deltas);
    assert_eq!(
        (record.messages, record.consumes),
        (commit.messages, commit.consumes)
    );
}

#[test]
fn every_cut_and_every_flipped_bit_is_found() {
    let (header, commit) = sample();
    let encoded = encode(header, &commit);
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
    fn hostile_bytes_are_refused_without_a_panic(mut body in prop::collection::vec(any::<u8>(), 0..200), version in 0..3_u8) {
        body.insert(0, version);
        let checksum = xxhash_rust::xxh3::xxh3_64(&body);
        body.extend_from_slice(&checksum.to_be_bytes());
        let _ = decode(&body.into());
    }
}
