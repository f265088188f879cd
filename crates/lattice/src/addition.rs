//! Additions to a counter: what an `INCR` is.
//!
//! As with an [`Overwrite`](crate::Overwrite), what is left of a plain counter once the addition is
//! folded follows from its encoding, without a cell.

use smallvec::SmallVec;

use crate::{
    Cell, Counter, Dot, Time, Value,
    cell::Life,
    codec::{VERSION, counter_at, put_counter},
};

/// A write that adds to a counter that its writer saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The beginning of the counter's life.
    pub(crate) created: Dot,
    /// The write.
    pub dot: Dot,
    pub(crate) addend: i64,
}

impl Addition {
    /// Adds to the counter whose life begins by `created`, by a dot above it.
    #[must_use]
    pub fn new(created: Dot, dot: Dot, addend: i64) -> Addition {
        Addition {
            created,
            dot,
            addend,
        }
    }

    /// The beginning of the life and the sum of the counter that `encoded` holds, if it is a plain
    /// one: [`Glance::Counter`](crate::Glance::Counter).
    #[must_use]
    pub fn target(encoded: &[u8]) -> Option<(Dot, i128)> {
        counter_at(encoded)
    }

    /// Both as one, by the first one's dot. `None` unless they are of one writer, time and life and
    /// their sum fits; cf. [`Cell::gather`].
    pub fn and(&self, later: &Addition) -> Option<Addition> {
        let of = |one: &Addition| (one.created, one.dot.time, one.dot.writer);
        if of(self) != of(later) || later.dot < self.dot {
            return None;
        }
        let addend = self.addend.checked_add(later.addend)?;
        Some(Addition { addend, ..*self })
    }

    /// Writes the encoding of the cell that is left once this is folded into the one encoded in
    /// `base`, to which nothing came before this write's time that is not in it. Tells whether that
    /// one is this counter; if not, `out` is as it was.
    pub fn encode_folded(&self, base: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((created, sum)) = counter_at(base) else {
            return false;
        };
        if created != self.created {
            return false;
        }
        let folded = Counter {
            through: self.dot.time,
            sum: sum.saturating_add(self.addend.into()),
            addends: SmallVec::new(),
        };
        out.extend_from_slice(&[VERSION, 0, 1]);
        put_counter(out, created, &folded);
        true
    }

    /// The delta.
    #[must_use]
    pub fn cell(&self) -> Cell {
        let value = Value::Counter(Counter::of(self.dot, self.addend));
        let created = self.created;
        let lives = SmallVec::from_iter([Life { created, value }]);
        Cell::from_parts(Dot::ZERO, Vec::new(), lives)
    }
}

impl Cell {
    /// The addition that this delta is, if it is one to a life that was there.
    pub fn as_addition(&self) -> Option<Addition> {
        let Some(Value::Counter(counter)) = self.plain() else {
            return None;
        };
        let ([life], [(dot, addend)]) = (&self.lives[..], &counter.addends[..]) else {
            return None;
        };
        let is_one = counter.through == Time::ZERO && counter.sum == 0 && *dot != life.created;
        is_one.then_some(Addition {
            created: life.created,
            dot: *dot,
            addend: *addend,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{Op, Writer};

    use super::*;

    fn dot(micros: u64, sequence: u32) -> Dot {
        Dot::new(Time::from_micros(micros), Writer(3), sequence)
    }

    fn add(seen: Option<&Cell>, dot: Dot, addend: i64) -> Cell {
        let op = Op::CounterAdd(addend);
        Cell::delta(seen, &op, dot.time.prev(), &mut || dot).expect("it fits")
    }

    /// A counter of 5, folded, and its encoding.
    fn five() -> (Cell, Vec<u8>) {
        let mut five = add(None, dot(2, 0), 5);
        five.compact(Time::from_micros(4), Time::ZERO);
        let mut encoded = Vec::new();
        five.encode(&mut encoded);
        (five, encoded)
    }

    #[test]
    fn it_folds_to_what_the_cell_would() {
        let (mut five, encoded) = five();
        let first = add(Some(&five), dot(9, 0), 7);
        let second = add(Some(&five), dot(9, 1), -3);
        let both = first.as_addition().expect("it is one");
        assert_eq!(both.cell(), first);
        let both = both.and(&second.as_addition().expect("one")).expect("fits");
        five.merge(&first);
        five.merge(&second);
        five.compact(Time::from_micros(9), Time::ZERO);
        let (mut folded, mut same) = (Vec::new(), Vec::new());
        assert!(both.encode_folded(&encoded, &mut folded));
        five.encode(&mut same);
        assert_eq!(folded, same);
        assert_eq!(counter_at(&folded), Some((dot(2, 0), 9)));
    }

    #[test]
    fn it_is_of_one_life_writer_and_time() {
        let (five, encoded) = five();
        let one = add(Some(&five), dot(9, 1), 1).as_addition().expect("one");
        let later = |dot| add(Some(&five), dot, i64::MAX).as_addition().expect("one");
        assert_eq!(one.and(&later(dot(9, 2))), None, "too much");
        assert_eq!(one.and(&later(dot(10, 2))), None, "another time");
        assert_eq!(one.and(&one.clone_at(dot(9, 0))), None, "an earlier one");
        let other = Addition {
            created: dot(1, 0),
            ..one
        };
        assert_eq!(one.and(&other), None, "another life");
        assert!(!other.encode_folded(&encoded, &mut Vec::new()));
        let mut register = Vec::new();
        let op = Op::RegisterSet(crate::Payload::bytes(b"5".to_vec()));
        let set = Cell::delta(None, &op, Time::ZERO, &mut || dot(2, 0)).expect("it fits");
        set.encode(&mut register);
        assert!(!one.encode_folded(&register, &mut Vec::new()));
    }

    #[test]
    fn other_deltas_are_none() {
        let first = add(None, dot(9, 0), 1);
        assert_eq!(first.as_addition(), None, "it begins the counter");
        assert_eq!(Cell::tombstone(dot(9, 0)).as_addition(), None);
        let (five, _) = five();
        assert_eq!(five.as_addition(), None, "a sum");
        let mut two = add(Some(&five), dot(9, 0), 1);
        two.merge(&add(Some(&five), dot(9, 1), 1));
        assert_eq!(two.as_addition(), None, "two addends");
        let mut ended = add(Some(&five), dot(9, 0), 1);
        ended.merge(&Cell::tombstone(dot(1, 0)));
        assert_eq!(ended.as_addition(), None, "a delete too");
    }

    impl Addition {
        fn clone_at(&self, dot: Dot) -> Addition {
            Addition { dot, ..*self }
        }
    }
}
