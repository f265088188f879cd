//! The encoding of cells: version 2.
//!
//! One form for each cell: whatever decodes, encodes to the same bytes again, so states can be
//! compared and hashed by their bytes. Numbers are LEB128 varints, signed ones zigzag; times are
//! eight bytes, little endian. Bodies are slices of the input. The golden files in
//! `tests/golden` fix the bytes.
//!
//! ```text
//! cell    = 2 (the version) body
//! body    = flags (1: deleted, 2: expiries) [dot] [n (dot, time?)*] n life*
//! life    = kind dot value | (128 dot payload, a register not written again since)
//! dot     = time writer sequence
//! x?      = 0 | 1 x
//! payload = 0 | 1 | 2 | (3 text)  bytes
//! ```

mod decode;
mod encode;
mod glance;
mod primitive;

use bytes::Bytes;
pub(crate) use encode::{put_counter, put_register};
pub use glance::Glance;
pub(crate) use glance::counter_at;

use crate::{Cell, Kind};

pub(crate) const VERSION: u8 = 2;

const FLAG_DELETED: u8 = 1;
const FLAG_EXPIRIES: u8 = 2;
/// Beside the tag of a register whose dot is the life's own.
const TAG_OF_BEGINNING: u8 = 0x80;

/// Why bytes are no cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the encoded value is cut short: read it again from where it came")]
    Truncated,
    /// A version that this program does not know.
    #[error("the value has encoding version {0}, this program reads version {VERSION}: upgrade it")]
    Version(u8),
    /// Bytes follow the cell.
    #[error("{0} bytes follow the encoded value: it is damaged")]
    Trailing(usize),
    /// A part that no cell has.
    #[error("the encoded value is damaged: {0}")]
    Malformed(&'static str),
}

impl Cell {
    /// Appends the encoding to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        encode::body(self, out);
    }

    /// Reads what [`Cell::encode`] wrote. Payload bodies share `bytes`. Never panics, and
    /// allocates in proportion to the input whatever it says.
    pub fn decode(bytes: &Bytes) -> Result<Cell, DecodeError> {
        Cell::read(primitive::Reader::new(bytes))
    }

    /// As [`Cell::decode`], with bodies copied out of `bytes`.
    pub fn decode_copied(bytes: &[u8]) -> Result<Cell, DecodeError> {
        Cell::read(primitive::Reader::copying(bytes))
    }

    fn read(mut input: primitive::Reader<'_>) -> Result<Cell, DecodeError> {
        match input.u8()? {
            VERSION => {}
            version => return Err(DecodeError::Version(version)),
        }
        let cell = decode::body(&mut input, false)?;
        match input.remaining() {
            0 => Ok(cell),
            rest => Err(DecodeError::Trailing(rest)),
        }
    }
}

/// Numbers of kinds, never to be used again for another.
const fn kind_tag(kind: Kind) -> u8 {
    match kind {
        Kind::Register => 0,
        Kind::Multi => 1,
        Kind::Counter => 2,
        Kind::Max => 3,
        Kind::Min => 4,
        Kind::Flag => 5,
        Kind::Set => 6,
        Kind::Map => 7,
        Kind::Log => 8,
        Kind::Top => 9,
    }
}
