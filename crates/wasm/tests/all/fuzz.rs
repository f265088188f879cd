//! Hostile bytes: whatever is given as a component or as an HTTP message is taken or refused, and
//! nothing panics.

use bytes::Bytes;
use std::cell::Cell;
use std::time::SystemTime;
use tidemill_lattice::{ContentType, Payload};
use tidemill_wasm::{EXCHANGE_CONTENT_TYPE, Engine, Exchange, Head, Options};

/// Of so many mutated components one is compiled, in a run of many: compiling takes a thousand times
/// what decoding takes.
const COMPILED_OF: u64 = 50;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

#[test]
fn no_bytes_given_as_a_component_bring_the_engine_down() {
    let engine = Engine::start(&Options::default(), None).expect("an engine");
    let whole = std::fs::read(format!("{DATA}/imports-unknown.wasm")).expect("a component");
    // Sections, types, lengths that lie, and the smallest component.
    let tokens: &[&[u8]] = &[
        b"\0asm\x0d\0\x01\0",
        b"\0asm\x01\0\0\0",
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x80, 0x80, 0x00],
        &[1, 4, 0],
        &[7, 2, 1, 0x40],
        &[0x0b],
        b"\x06handle",
    ];
    let is_long = std::env::var_os("TIDEMILL_FUZZ_CASES").is_some();
    let turn = Cell::new(0_u64);
    let check = |bytes: &[u8]| {
        turn.set(turn.get() + 1);
        if is_long && !turn.get().is_multiple_of(COMPILED_OF) {
            return;
        }
        // Taken or refused.
        drop(engine.component(bytes, SystemTime::UNIX_EPOCH));
    };
    tidemill_fuzz::fuzz(vec![whole, b"\0asm\x0d\0\x01\0".to_vec()], tokens, check);
}

#[test]
fn what_reads_as_an_http_message_is_written_the_same() {
    let exchange = Exchange {
        head: Head {
            method: Some("POST".into()),
            uri: Some("http://localhost/a?b".into()),
            status: Some(200),
            headers: vec![("x-own".into(), "caf\u{e9}".into())],
        },
        body: Bytes::from_static(b"body"),
    };
    let tokens: &[&[u8]] = &[
        &[0xff; 4],
        &[0; 4],
        b"{}",
        b"\"headers\":[[\"\",\"\\n\"]]",
        b"\"status\":99999",
        b"\\u1234",
    ];
    let check = |bytes: &[u8]| {
        let content_type = ContentType::Other(EXCHANGE_CONTENT_TYPE.into());
        let payload = Payload::new(content_type, Bytes::copy_from_slice(bytes));
        let Ok(read) = Exchange::from_payload(&payload) else {
            return;
        };
        // Headers that HTTP does not have are refused where they are used.
        if let Ok(headers) = Exchange::header_map(&read.head) {
            assert_eq!(headers.len(), read.head.headers.len());
        }
        let again = Exchange::from_payload(&read.to_payload()).expect("what was written");
        assert_eq!(again, read);
    };
    tidemill_fuzz::fuzz(vec![exchange.to_payload().body.to_vec()], tokens, check);
}
