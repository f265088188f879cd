//! The parser against mutations of a corpus: no bytes make it panic, mean something else in other
//! pieces, or take more memory than came.

use bytes::{Bytes, BytesMut};
use tidemill_fuzz::measured;
use tidemill_redis::{Limits, Parser, ProtocolError};

use crate::support::encode;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/parser");
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"*",
    b"*2\r\n",
    b"*1000000\r\n",
    b"$",
    b"$1\r\na\r\n",
    b"$536870912\r\n",
    b"-1",
    b"\"",
    b"'",
    b"\\x",
    b"\\",
    b" ",
    b"\0",
    b"PING\r\n",
];
/// Longer inputs are cut at so many places only.
const CUTS_MAX: usize = 24;

#[derive(Debug, PartialEq)]
struct Parsed {
    commands: Vec<Vec<Bytes>>,
    error: Option<ProtocolError>,
    /// Bytes left over, where no error ended it.
    left: usize,
}

fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: Limits) -> Parsed {
    let mut parser = Parser::new(limits);
    let mut input = BytesMut::new();
    let mut commands = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match parser.next(&mut input) {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break,
                Err(error) => {
                    let (error, left) = (Some(error), 0);
                    return Parsed {
                        commands,
                        error,
                        left,
                    };
                }
            }
        }
    }
    let (error, left) = (None, input.len());
    Parsed {
        commands,
        error,
        left,
    }
}

fn check(bytes: &[u8]) {
    for limits in [Limits::default(), Limits::unauthenticated()] {
        let (whole, heap) = measured(|| parse([bytes], limits));
        let most = 64 * 1024 + 128 * bytes.len() as u64;
        assert!(heap.held_bytes <= most, "{heap:?}");
        assert!(whole.commands.iter().all(|command| !command.is_empty()));
        assert_eq!(parse(bytes.chunks(1), limits), whole, "byte by byte");
        let step = bytes.len() / CUTS_MAX + 1;
        for at in (0..=bytes.len()).step_by(step) {
            let (front, back) = bytes.split_at(at);
            assert_eq!(parse([front, back], limits), whole, "cut at {at}");
        }
        // A newline after it ends whatever line is open, and must not panic either.
        parse([bytes, b"\r\n\n"], limits);
        let again: Vec<u8> = whole
            .commands
            .iter()
            .flat_map(|words| encode(words))
            .collect();
        let again = parse([&again[..]], Limits::default());
        assert_eq!(
            (again.commands, again.error, again.left),
            (whole.commands, None, 0)
        );
    }
}

#[test]
fn no_bytes_harm_the_parser() {
    tidemill_fuzz::fuzz(tidemill_fuzz::files(CORPUS), TOKENS, check);
}

#[test]
fn what_a_client_only_announces_takes_no_memory() {
    for text in [
        "*1\r\n$536870912\r\n",
        "*1048576\r\n",
        "*1048576\r\n$67108864\r\n",
    ] {
        let limits = Limits {
            bulk_bytes_max: usize::MAX,
            command_bytes_max: usize::MAX,
            ..Limits::default()
        };
        let (parsed, heap) = measured(|| parse([text.as_bytes()], limits));
        assert_eq!((parsed.commands.len(), parsed.error), (0, None));
        assert!(heap.held_bytes < 16 * 1024, "{text:?}: {heap:?}");
    }
}
