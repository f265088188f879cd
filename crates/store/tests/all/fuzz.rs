//! Records from hostile bytes: decoding never panics, takes no more memory than came, and what it
//! accepts is what encoding wrote.

use bytes::Bytes;
use tidemill_fuzz::measured;
use tidemill_store::record::{Entries, decode};
use tidemill_store::{Commit, Durability};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
const CHECKSUM_BYTES: usize = 8;
/// Counts and lengths that lie, a key, the beginnings of cells.
const TOKENS: &[&[u8]] = &[
    &[0x80],
    &[0x80, 0x00],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xff; 8],
    b"\x08acme\0a\0k",
    &[3, 1, 0, 0],
    &[1, 0, 1, 2],
];

fn check(bytes: &[u8]) {
    read(bytes);
    // With a right checksum, so that the fields themselves are reached.
    let body = &bytes[..bytes.len().saturating_sub(CHECKSUM_BYTES)];
    let checksum = xxhash_rust::xxh3::xxh3_64(body).to_be_bytes();
    read(&[body, &checksum].concat());
}

fn read(bytes: &[u8]) {
    let input = Bytes::copy_from_slice(bytes);
    let (decoded, heap) = measured(|| decode(&input));
    let most = 16 * 1024 + 1024 * bytes.len() as u64;
    assert!(heap.total_bytes <= most, "{heap:?}");
    let Ok((header, entries)) = decoded else {
        return;
    };
    let mut again = Entries::default();
    for entry in entries.clone() {
        let commit = Commit {
            request: entry.request,
            snapshot: entry.snapshot,
            deltas: entry.deltas,
            durability: Durability::Durable,
            messages: entry.messages,
            consumes: entry.consumes,
            record: None,
        };
        again.commit(entry.time, &commit);
    }
    let (_, again) = again.seal(header.number, header.writer);
    let twice = decode(&again.into()).expect("what was encoded decodes");
    assert_eq!(twice, (header, entries));
}

#[test]
fn mutated_records_do_no_harm() {
    tidemill_fuzz::fuzz(tidemill_fuzz::files(GOLDEN), TOKENS, check);
}
