//! A resting key's cell as its encoding, in place where it is short.
//!
//! Most keys are small and rest. A cell ready to be merged takes several blocks of memory and as
//! many misses of the cache; its encoding lies beside its key.

use tidemill_lattice::{Cell, Glance, Value};

/// Room in place. With it a [`Packed`] takes 40 bytes.
const SHORT_MAX_BYTES: usize = 38;
/// Larger cells stay as they are: decoding them for each look would cost more than they save.
const PACKED_MAX_BYTES: usize = 255;
/// The same for registers, at which a look decodes nothing.
pub(crate) const REGISTER_MAX_BYTES: usize = 5 * 1024;

/// An encoded cell.
#[derive(Clone, Debug)]
pub(crate) enum Packed {
    Short {
        length: u8,
        bytes: [u8; SHORT_MAX_BYTES],
    },
    Long(Box<[u8]>),
}

impl Packed {
    /// No cell at all, to stand where one was taken from.
    pub(crate) const NOTHING: Packed = Packed::Short {
        length: 0,
        bytes: [0; SHORT_MAX_BYTES],
    };

    /// The encoding of a cell, which is gathered in `scratch`, if it is small enough.
    pub(crate) fn of(cell: &Cell, scratch: &mut Vec<u8>) -> Option<Packed> {
        if cell.weight_bytes() > 2 * REGISTER_MAX_BYTES {
            return None;
        }
        let is_register = matches!(cell.plain(), Some(Value::Register(_)));
        if !is_register && cell.weight_bytes() > 2 * PACKED_MAX_BYTES {
            return None;
        }
        scratch.clear();
        cell.encode(scratch);
        let most = if is_register {
            REGISTER_MAX_BYTES
        } else {
            PACKED_MAX_BYTES
        };
        (scratch.len() <= most).then(|| Packed::from_bytes(scratch))
    }

    /// What [`Cell::encode`] wrote.
    pub(crate) fn from_bytes(encoded: &[u8]) -> Packed {
        let mut bytes = [0; SHORT_MAX_BYTES];
        match bytes.get_mut(..encoded.len()) {
            Some(room) => {
                room.copy_from_slice(encoded);
                Packed::Short {
                    length: encoded.len() as u8,
                    bytes,
                }
            }
            None => Packed::Long(encoded.into()),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Packed::Short { length, bytes } => {
                bytes.get(..usize::from(*length)).unwrap_or_default()
            }
            Packed::Long(bytes) => bytes,
        }
    }

    pub(crate) fn glance(&self) -> Option<Glance<'_>> {
        Glance::at(self.as_bytes())
    }

    /// The cell.
    ///
    /// # Panics
    /// If the memory of this process was damaged: a cell wrote these bytes.
    pub(crate) fn cell(&self) -> Cell {
        Cell::decode_copied(self.as_bytes()).expect("a cell wrote these bytes")
    }

    /// Its size on the heap in bytes.
    pub(crate) fn weight_bytes(&self) -> usize {
        match self {
            Packed::Short { .. } => 0,
            Packed::Long(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_lattice::{Dot, Op, Payload, Time, Writer};

    use super::*;

    fn register(size_bytes: usize) -> Cell {
        let op = Op::RegisterSet(Payload::bytes(vec![7; size_bytes]));
        let mut dots = || Dot::new(Time::from_micros(1), Writer(1), 0);
        Cell::delta(None, &op, Time::ZERO, &mut dots).expect("it fits")
    }

    #[test]
    fn what_is_packed_is_what_was() {
        assert_eq!(size_of::<Packed>(), 40);
        for size_bytes in (0..400).chain([4096, 6000]) {
            let cell = register(size_bytes);
            match Packed::of(&cell, &mut Vec::new()) {
                Some(packed) => {
                    assert_eq!(packed.cell(), cell);
                    let body = vec![7; size_bytes];
                    assert_eq!(packed.glance(), Some(Glance::Register(&body)));
                    assert_eq!(packed.weight_bytes() > 0, packed.as_bytes().len() > 38);
                }
                None => assert!(size_bytes > REGISTER_MAX_BYTES),
            }
        }
    }

    #[test]
    fn what_a_look_would_have_to_decode_is_packed_while_it_is_short() {
        let added = |element: String| {
            let op = Op::SetAdd(Payload::bytes(element));
            let mut dots = || Dot::new(Time::from_micros(1), Writer(1), 0);
            Cell::delta(None, &op, Time::ZERO, &mut dots).expect("it fits")
        };
        let of = |size_bytes: usize| Packed::of(&added("x".repeat(size_bytes)), &mut Vec::new());
        assert!(of(100).is_some());
        assert!(of(400).is_none());
        assert!(of(4096).is_none());
    }
}
