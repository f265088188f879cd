//! The parser on its own: anything may come, in any pieces.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tidemill_redis::{Limits, Parser, ProtocolError};

use crate::support::encode;

/// Everything that the pieces hold, up to the first error.
fn parse(pieces: &[&[u8]], limits: Limits) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let mut parser = Parser::new(limits);
    let mut input = BytesMut::new();
    let mut commands = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match parser.next(&mut input) {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break,
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

fn whole(bytes: &[u8]) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    parse(&[bytes], Limits::default())
}

/// Bytes that are often nearly a command.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"*2\r\n".to_vec()),
        Just(b"*-1\r\n".to_vec()),
        Just(b"$3\r\n".to_vec()),
        Just(b"$0\r\n\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"PING \"a b\" 'c'\r\n".to_vec()),
        Just(b"$9999999999\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..6),
        "[*$\\-0-9\r\n \"'\\\\x]{0,6}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

#[test]
fn inline_commands_are_split_as_in_redis() {
    let (commands, error) = whole(b"\r\n  set k \"a\\x41\\n\" 'it\\'s' \r\nPING\n");
    assert_eq!(error, None);
    let expected: [&[&[u8]]; 2] = [&[b"set", b"k", b"aA\n", b"it's"], &[b"PING"]];
    assert_eq!(commands, expected);
}

#[test]
fn limits_hold() {
    let limits = Limits {
        bulk_bytes_max: 10,
        arguments_max: 3,
        command_bytes_max: 12,
    };
    let error = |input: &[u8]| parse(&[input], limits).1;
    assert_eq!(error(b"*4\r\n"), Some(ProtocolError::ArgumentCount));
    assert_eq!(error(b"a b c d\r\n"), Some(ProtocolError::ArgumentCount));
    assert_eq!(error(b"*1\r\n$11\r\n"), Some(ProtocolError::BulkLength));
    let together = b"*2\r\n$10\r\n0123456789\r\n$3\r\n";
    let limit_bytes = 12;
    assert_eq!(
        error(together),
        Some(ProtocolError::CommandLength { limit_bytes })
    );
    let long = vec![b'a'; 64 * 1024 + 1];
    assert_eq!(
        error(&long),
        Some(ProtocolError::LongLine("inline request"))
    );
    let mut count = b"*".to_vec();
    count.extend(vec![b'1'; 64 * 1024 + 1]);
    assert_eq!(
        error(&count),
        Some(ProtocolError::LongLine("mbulk count string"))
    );
    let past = Limits {
        bulk_bytes_max: usize::MAX,
        ..Limits::default()
    };
    let huge = b"*1\r\n$536870913\r\n";
    assert_eq!(parse(&[huge], past).1, Some(ProtocolError::BulkLength));
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_pieces_means_the_same(bytes in nearly(), cut in any::<prop::sample::Index>()) {
        let at = cut.index(bytes.len() + 1);
        let (front, back) = bytes.split_at(at);
        let expected = whole(&bytes);
        prop_assert_eq!(parse(&[front, back], Limits::default()), expected.clone());
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(parse(&single, Limits::default()), expected);
    }

    #[test]
    fn commands_come_out_as_they_went_in(
        commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..6), 0..6)
    ) {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
        let (found, error) = whole(&bytes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(found, commands);
    }
}
