//! Bytes of a connection to commands: RESP arrays of bulk strings, and inline commands.
//!
//! Pure and incremental: it takes what is complete and keeps its place. Arguments are slices of
//! the input, not copies. What a client announces is checked against the limits before anything
//! is kept for it, and nothing is allocated for bytes that have not come.

use bytes::{Buf, Bytes, BytesMut};

use crate::number::integer;

/// The longest line: an inline command, or the length before a bulk.
const LINE_MAX_BYTES: usize = 64 * 1024;
/// Redis's own bound on one argument.
const BULK_PROTOCOL_MAX_BYTES: usize = 512 * 1024 * 1024;
/// Room made at once for the arguments of a command, however many it announces.
const ARGUMENTS_RESERVED: usize = 64;

/// What one command may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest argument, in bytes; never more than 512 MiB.
    pub bulk_bytes_max: usize,
    /// The most arguments, the command's name included.
    pub arguments_max: usize,
    /// All arguments of one command together, in bytes.
    pub command_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MEBIBYTE: usize = 1024 * 1024;
        Self {
            bulk_bytes_max: 64 * MEBIBYTE,
            arguments_max: 1_048_576,
            command_bytes_max: 128 * MEBIBYTE,
        }
    }
}

impl Limits {
    /// For a client that has not said who it is: enough for `AUTH` and `HELLO`.
    #[must_use]
    pub const fn unauthenticated() -> Limits {
        Limits {
            bulk_bytes_max: 16 * 1024,
            arguments_max: 10,
            command_bytes_max: 64 * 1024,
        }
    }
}

/// Bytes that are no command. The connection cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number of arguments is no number, or too large.
    #[error("ERR Protocol error: invalid multibulk length")]
    ArgumentCount,
    /// An argument's length is no number, or too large.
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    /// Something else than a bulk string as an argument.
    #[error("ERR Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    NoBulk(u8),
    /// A line that does not end.
    #[error("ERR Protocol error: too big {0}")]
    LongLine(&'static str),
    /// An inline command whose quotes are not closed.
    #[error("ERR Protocol error: unbalanced quotes in request")]
    Quotes,
    /// The arguments are too large together.
    #[error("ERR Protocol error: command is larger than {limit_bytes} bytes")]
    CommandLength {
        /// The most that a command may take.
        limit_bytes: usize,
    },
}

/// Where the parser is in its input.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    /// Bytes of the input known to hold no line's end.
    scanned: usize,
    command: Option<Partial>,
}

/// A command that has begun.
#[derive(Debug)]
struct Partial {
    /// Arguments still to come.
    remaining: usize,
    /// The length of the argument that has begun.
    bulk: Option<usize>,
    bytes: usize,
    arguments: Vec<Bytes>,
}

impl Parser {
    /// A parser at the beginning of a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let mut parser = Self {
            limits,
            scanned: 0,
            command: None,
        };
        parser.set_limits(limits);
        parser
    }

    /// Changes the limits, from the next argument on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = Limits {
            bulk_bytes_max: limits.bulk_bytes_max.min(BULK_PROTOCOL_MAX_BYTES),
            ..limits
        };
    }

    /// The next command at the front of `input`, never an empty one; `None` until more has come.
    ///
    /// # Errors
    /// Says what is wrong; the connection must be closed, since its place is lost.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        loop {
            if self.command.is_some() {
                if !self.arguments(input)? {
                    return Ok(None);
                }
                if let Some(partial) = self.command.take()
                    && !partial.arguments.is_empty()
                {
                    return Ok(Some(partial.arguments));
                }
                continue;
            }
            match input.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(end) = self.line_end(input, "mbulk count string")? else {
                        return Ok(None);
                    };
                    self.begin(line(input, end))?;
                    input.advance(end + 1);
                }
                Some(_) => {
                    let Some(end) = self.line_end(input, "inline request")? else {
                        return Ok(None);
                    };
                    let arguments = split(line(input, end)).ok_or(ProtocolError::Quotes)?;
                    input.advance(end + 1);
                    if arguments.len() > self.limits.arguments_max {
                        return Err(ProtocolError::ArgumentCount);
                    }
                    if !arguments.is_empty() {
                        return Ok(Some(arguments));
                    }
                }
            }
        }
    }

    fn begin(&mut self, line: &[u8]) -> Result<(), ProtocolError> {
        let count = line.get(1..).and_then(integer);
        let count = count.ok_or(ProtocolError::ArgumentCount)?;
        // A negative count is an empty command, as in Redis.
        let count = usize::try_from(count.max(0)).map_err(|_| ProtocolError::ArgumentCount)?;
        if count > self.limits.arguments_max {
            return Err(ProtocolError::ArgumentCount);
        }
        self.command = Some(Partial {
            remaining: count,
            bulk: None,
            bytes: 0,
            arguments: Vec::with_capacity(count.min(ARGUMENTS_RESERVED)),
        });
        Ok(())
    }

    /// Takes arguments as far as they have come; tells whether the command is complete.
    fn arguments(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some(mut partial) = self.command.take() else {
            return Ok(true);
        };
        while partial.remaining > 0 {
            let length = match partial.bulk {
                Some(length) => length,
                None => match self.bulk_length(input, partial.bytes)? {
                    Some(length) => length,
                    None => break,
                },
            };
            partial.bulk = Some(length);
            if input.len() < length + 2 {
                break;
            }
            partial.arguments.push(input.split_to(length).freeze());
            input.advance(2);
            partial.bytes += length;
            partial.bulk = None;
            partial.remaining -= 1;
        }
        let complete = partial.remaining == 0;
        self.command = Some(partial);
        Ok(complete)
    }

    fn bulk_length(
        &mut self,
        input: &mut BytesMut,
        before: usize,
    ) -> Result<Option<usize>, ProtocolError> {
        match input.first() {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::NoBulk(*other)),
        }
        let Some(end) = self.line_end(input, "bulk count string")? else {
            return Ok(None);
        };
        let length = line(input, end).get(1..).and_then(integer);
        input.advance(end + 1);
        let length = length.and_then(|length| usize::try_from(length).ok());
        let length = length
            .filter(|length| *length <= self.limits.bulk_bytes_max)
            .ok_or(ProtocolError::BulkLength)?;
        let limit_bytes = self.limits.command_bytes_max;
        if before.saturating_add(length) > limit_bytes {
            return Err(ProtocolError::CommandLength { limit_bytes });
        }
        Ok(Some(length))
    }

    /// Where the line at the front ends: the place of its line feed, if that has come.
    fn line_end(
        &mut self,
        input: &[u8],
        what: &'static str,
    ) -> Result<Option<usize>, ProtocolError> {
        let fresh = input.get(self.scanned..).unwrap_or_default();
        let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
            if input.len() > LINE_MAX_BYTES {
                return Err(ProtocolError::LongLine(what));
            }
            self.scanned = input.len();
            return Ok(None);
        };
        let end = self.scanned + at;
        self.scanned = 0;
        if end > LINE_MAX_BYTES {
            return Err(ProtocolError::LongLine(what));
        }
        Ok(Some(end))
    }
}

/// The line that ends there, without its end.
fn line(input: &[u8], end: usize) -> &[u8] {
    let line = input.get(..end).unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The words of an inline command; `None` where quotes are not closed. As in Redis words are split
/// at less than what is skipped before them. A zero byte ends the words: to Redis it is the end of
/// what has come, and it waits for ever.
fn split(line: &[u8]) -> Option<Vec<Bytes>> {
    let end = line.iter().position(|byte| *byte == 0);
    let mut rest = skip_space(&line[..end.unwrap_or(line.len())]);
    let mut words = Vec::new();
    while !rest.is_empty() {
        let (word, after) = plain(rest)?;
        words.push(Bytes::from(word));
        rest = skip_space(after);
    }
    Some(words)
}

fn skip_space(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_space(*byte));
    text.get(start.unwrap_or(text.len())..).unwrap_or_default()
}

/// `isspace` of C; Rust's has no vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// A word; a quote begins its quoted part, which is its last.
fn plain(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    let mut rest = text;
    loop {
        match rest {
            [] => return Some((word, rest)),
            [b' ' | b'\t' | b'\r' | b'\n', after @ ..] => return Some((word, after)),
            [b'"' | b'\'', ..] => {
                let (part, after) = quoted(rest)?;
                word.extend(part);
                return Some((word, after));
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

/// A quoted part, and what follows it. The closing quote must be followed by a space or nothing.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&quote, mut rest) = text.split_first()?;
    let mut word = Vec::new();
    loop {
        rest = match rest {
            [] => return None,
            [byte, after @ ..] if *byte == quote => {
                return match after.first() {
                    Some(next) if !is_space(*next) => None,
                    _ => Some((word, after)),
                };
            }
            [b'\\', b'\'', after @ ..] if quote == b'\'' => {
                word.push(b'\'');
                after
            }
            [b'\\', b'x', high, low, after @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', escaped, after @ ..] if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}
