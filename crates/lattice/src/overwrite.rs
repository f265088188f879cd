//! Writes that end whatever a key held and set a register: what a blind `SET` is.
//!
//! Most writes of plain key-value clients are such. Their delta says little more than a payload,
//! and what is left of the key once they are folded follows from the delta alone.

use smallvec::SmallVec;

use crate::{
    Cell, ContentType, Dot, Payload, Value,
    cell::Life,
    codec::{VERSION, put_register},
    value::Register,
};

/// A write that ends what a key held by one dot and begins a register by the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overwrite<'a> {
    /// The dot of the delete.
    pub ended: Dot,
    /// The register's body, whose content type is [`ContentType::OctetStream`].
    pub body: &'a [u8],
}

impl Overwrite<'_> {
    /// The dot by which the register begins. `None` if there is none after the delete's.
    fn begun(&self) -> Option<Dot> {
        let sequence = self.ended.sequence.checked_add(1)?;
        Some(Dot {
            sequence,
            ..self.ended
        })
    }

    /// Writes what [`Cell::encode`] would of the cell that is left once the delta is folded into
    /// whatever was there, and the delete forgotten.
    pub fn encode_folded(&self, out: &mut Vec<u8>) {
        let begun = self.begun().unwrap_or(self.ended);
        out.extend_from_slice(&[VERSION, 0, 1]);
        put_register(out, begun, &ContentType::OctetStream, self.body);
    }
}

impl Cell {
    /// The delta of an overwrite, whose register begins by the dot after `ended`. `None` if there
    /// is no such dot.
    pub fn overwrite(ended: Dot, payload: Payload) -> Option<Cell> {
        let body = &[];
        let created = Overwrite { ended, body }.begun()?;
        let value = Value::Register(Register {
            dot: created,
            payload,
        });
        let lives = SmallVec::from_iter([Life { created, value }]);
        Some(Cell::from_parts(ended, Vec::new(), lives))
    }

    /// The overwrite that this delta is, if it is one of plain bytes.
    pub fn as_overwrite(&self) -> Option<Overwrite<'_>> {
        let [life] = &self.lives[..] else { return None };
        let Value::Register(register) = &life.value else {
            return None;
        };
        let Payload { content_type, body } = &register.payload;
        let overwrite = Overwrite {
            ended: self.deleted,
            body,
        };
        let is_one = self.expiries.is_empty()
            && self.deleted != Dot::ZERO
            && register.dot == life.created
            && overwrite.begun() == Some(life.created)
            && *content_type == ContentType::OctetStream;
        is_one.then_some(overwrite)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Op, Time, Writer};

    use super::*;

    fn dot(micros: u64, sequence: u32) -> Dot {
        Dot::new(Time::from_micros(micros), Writer(3), sequence)
    }

    #[test]
    fn an_overwrite_is_a_delete_and_a_set_and_folds_to_what_it_says() {
        let payload = Payload::bytes(b"new".to_vec());
        let delta = Cell::overwrite(dot(9, 4), payload.clone()).expect("there is a dot");
        let mut sequence = 4;
        let mut dots = || {
            sequence += 1;
            dot(9, sequence)
        };
        let mut plain = Cell::tombstone(dot(9, 4));
        let op = Op::RegisterSet(payload);
        let set = Cell::delta(None, &op, Time::ZERO, &mut dots).expect("it fits");
        plain.merge(&set);
        assert_eq!(delta, plain);

        let overwrite = delta.as_overwrite().expect("it is one");
        assert_eq!((overwrite.ended, overwrite.body), (dot(9, 4), &b"new"[..]));
        let mut folded = Vec::new();
        overwrite.encode_folded(&mut folded);
        let mut whole = Cell::overwrite(dot(2, 0), Payload::bytes(b"old".to_vec())).expect("a dot");
        whole.merge(&delta);
        let line = Time::from_micros(9);
        whole.compact(line, line);
        let mut encoded = Vec::new();
        whole.encode(&mut encoded);
        assert_eq!(folded, encoded);
    }

    #[test]
    fn other_deltas_are_none() {
        let old = Dot::new(Time::from_micros(2), Writer(3), 0);
        let mut dots = || dot(9, 0);
        let bytes = || Payload::bytes(b"x".to_vec());
        let set = Op::RegisterSet(bytes());
        let set = Cell::delta(None, &set, Time::ZERO, &mut dots).expect("it fits");
        assert_eq!(set.as_overwrite(), None, "it deletes nothing");
        let mut later = Cell::tombstone(old);
        later.merge(&set);
        assert_eq!(later.as_overwrite(), None, "two writes");
        assert_eq!(Cell::tombstone(old).as_overwrite(), None);
        let text = Payload {
            content_type: ContentType::Json,
            ..bytes()
        };
        let json = Cell::overwrite(dot(9, 0), text).expect("there is a dot");
        assert_eq!(json.as_overwrite(), None, "not plain bytes");
        assert_eq!(Cell::overwrite(dot(9, u32::MAX), bytes()), None);
    }
}
