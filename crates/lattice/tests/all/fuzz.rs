//! Hostile bytes: decoding never panics, and what it accepts is in normal form.

use bytes::Bytes;
use proptest::prelude::*;
use tidemill_fuzz::measured;
use tidemill_lattice::{Cell, ContentType, DecodeError, Glance, Key, Op, Time, Value};

use crate::world::{any_history, run, state_at};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
/// Counts and lengths that lie, times, and the beginnings of values of each type.
const TOKENS: &[&[u8]] = &[
    &[0x80],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10],
    &[0xff; 8],
    &[0; 8],
    &[9, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    &[1, 2],
    &[1, 6],
    &[1, 7],
    &[1, 8],
    &[1, 9],
    b"\x03\x0atext/plain",
];

fn check(bytes: &[u8]) {
    let input = Bytes::copy_from_slice(bytes);
    let (decoded, heap) = measured(|| Cell::decode(&input));
    let most = 16 * 1024 + 1024 * bytes.len() as u64;
    assert!(heap.total_bytes <= most, "{heap:?}");
    let Ok(cell) = decoded else {
        return;
    };
    let mut again = Vec::new();
    cell.encode(&mut again);
    assert_eq!(again, bytes, "one cell has one encoding: {cell:?}");
    let mut twice = cell.clone();
    twice.merge(&cell);
    assert_eq!(twice, cell, "what decodes merges");
    assert_eq!(Cell::decode_copied(bytes), Ok(cell.clone()));
    match (Glance::at(bytes), cell.view(Time::ZERO)) {
        (None, _) => {}
        (Some(Glance::Register(body)), Some(Value::Register(held))) => {
            assert_eq!(body, held.get().body);
        }
        (Some(Glance::Counter(sum)), Some(Value::Counter(held))) => {
            assert_eq!(sum, held.value());
        }
        (glance, view) => panic!("{glance:?} of {view:?}"),
    }
    let at = Time::from_u64(77);
    if let Some(view) = twice.view(at) {
        view.to_json(at);
    }
    twice.compact(at, at);
    twice.restamp(&|dot| dot);
    twice.weight_bytes();
}

fn encoded(cell: &Cell) -> Vec<u8> {
    let mut bytes = Vec::new();
    cell.encode(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn arbitrary_bytes_do_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes);
        // Most random bytes fail at the version; give them a chance.
        bytes.splice(0..0, [2, 0]);
        check(&bytes);
    }

    #[test]
    fn damaged_states_do_no_harm(
        steps in any_history(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        compact in any::<bool>(),
    ) {
        let mut cell = state_at(&run(&steps), Time::MAX);
        if compact {
            cell.compact(Time::from_u64(90), Time::from_u64(90));
        }
        let mut bytes = encoded(&cell);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check(&bytes);
    }

    #[test]
    fn cut_and_lengthened_states_are_refused(
        steps in any_history(),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = encoded(&state_at(&run(&steps), Time::MAX));
        let cut = bytes[..at.index(bytes.len())].to_vec();
        prop_assert!(Cell::decode(&cut.into()).is_err());
        let mut long = bytes;
        long.push(0);
        prop_assert_eq!(Cell::decode(&long.into()), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn arbitrary_keys_and_content_types_do_no_harm(
        bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(b'a'), any::<u8>()], 0..20),
        text in ".{0,40}",
    ) {
        if let Ok(key) = Key::from_bytes(&bytes) {
            prop_assert_eq!(key.as_bytes(), bytes);
        }
        if let Ok(content_type) = ContentType::parse(&text) {
            prop_assert_eq!(ContentType::parse(content_type.as_str()), Ok(content_type));
        }
    }

    #[test]
    fn arbitrary_json_is_an_operation_or_refused(
        kind in "register|multi|counter|max|min|flag|set|map|log|top|x",
        op in "set|add|put|raise|remove|append|delete|expire|set.add|x",
        value in prop_oneof![
            Just("null"), Just("1"), Just("1.5"), Just("-1"), Just("\"a\""), Just("[1]"),
            Just("{\"score\":1,\"id\":\"a\"}"), Just("{\"content_type\":1,\"base64\":2}"),
            Just("99999999999999999999"), Just("1e999"),
        ],
        field in proptest::option::of(Just("f")),
    ) {
        let text = match field {
            Some(field) => format!(
                r#"{{"type":"map","field":"{field}","field_type":"{kind}","op":"{op}","value":{value}}}"#
            ),
            None => format!(r#"{{"type":"{kind}","op":"{op}","value":{value}}}"#),
        };
        if let Ok(json) = serde_json::from_str(&text)
            && let Err(error) = Op::from_json(&json)
        {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn mutated_golden_files_do_no_harm() {
    let corpus = tidemill_fuzz::files(GOLDEN);
    let whole = corpus
        .iter()
        .filter(|bytes| Cell::decode(&Bytes::copy_from_slice(bytes)).is_ok());
    assert!(whole.count() > 10, "mutations begin with cells");
    tidemill_fuzz::fuzz(corpus, TOKENS, check);
}

#[test]
fn a_count_that_lies_allocates_nothing() {
    // A set that claims 2^60 elements, and a payload that claims 2^60 bytes.
    let count = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    let life = |kind: u8| {
        let mut bytes = vec![2, 0, 1, kind];
        bytes.extend([9, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        bytes
    };
    let mut set = life(6);
    set.push(0);
    set.extend(count);
    assert_eq!(Cell::decode(&set.into()), Err(DecodeError::Truncated));
    let mut register = life(0);
    register.extend([9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
    register.extend(count);
    assert_eq!(Cell::decode(&register.into()), Err(DecodeError::Truncated));
    assert_eq!(
        Cell::decode(&vec![3, 0, 0].into()),
        Err(DecodeError::Version(3))
    );
}

#[test]
fn what_is_not_in_normal_form_is_refused() {
    const DOT: [u8; 10] = [9, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    const TIME: [u8; 8] = [9, 0, 0, 0, 0, 0, 0, 0];
    let cases: [(&[&[u8]], &str); 9] = [
        (
            &[&[2, 0, 1, 0], &DOT, &DOT, &[0, 0]],
            "a register in the long form",
        ),
        (&[&[2, 0, 1, 0x82], &DOT], "a type without the short form"),
        (
            &[&[2, 0, 0x80, 0]],
            "a number is longer than it needs to be",
        ),
        (&[&[2, 4, 0]], "unknown flags"),
        (
            &[&[2, 1], &DOT, &[1, 5], &DOT],
            "a life from before the delete",
        ),
        (&[&[2, 0, 2, 5], &DOT, &[5], &DOT], "items are out of order"),
        (
            &[&[2, 0, 1, 6], &DOT, &[1], &TIME, &[1, 1, 0, 0, 1], &DOT],
            "a dot below the line",
        ),
        (
            &[&[2, 0, 1, 2], &DOT, &[1], &TIME, &[0, 1], &DOT, &[2]],
            "an addend below the line",
        ),
        (
            &[&[2, 0, 1, 7], &DOT, &[1, 1, b'f', 0, 1, 8], &DOT, &[0, 0]],
            "a field of a type that fields do not hold",
        ),
    ];
    for (parts, why) in cases {
        let bytes = parts.concat();
        assert_eq!(
            Cell::decode(&bytes.into()),
            Err(DecodeError::Malformed(why))
        );
    }
}
