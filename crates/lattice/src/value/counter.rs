//! The counter: a sum of addends.

use smallvec::SmallVec;

use crate::{Dot, Time};

/// One addend and the write it came from.
pub(crate) type Addend = (Dot, i64);

/// A sum, and the addends that are not inside it yet.
///
/// Not the usual counter of one running total a writer: the writers of a key are the homes of the
/// requests that add to it. They reach it in any order, and a home keeps no total for each key it
/// ever touched. A dot for each addend makes merging idempotent without one; once everything up
/// to a time is known to be here, [`Cell::compact`](crate::Cell::compact) folds those addends into
/// the sum, so that the metadata stays constant however many writers there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Every addend of a time at or below this is inside `sum`, and no other is.
    pub(crate) through: Time,
    pub(crate) sum: i128,
    /// In order of dots, all above `through`.
    pub(crate) addends: SmallVec<[Addend; 1]>,
}

impl Counter {
    /// The sum; saturates.
    pub fn value(&self) -> i128 {
        self.addends.iter().fold(self.sum, |sum, (_, addend)| {
            sum.saturating_add((*addend).into())
        })
    }

    pub(crate) fn of(dot: Dot, addend: i64) -> Counter {
        Counter {
            addends: [(dot, addend)].into_iter().collect(),
            ..Counter::default()
        }
    }

    pub(crate) fn merge(&mut self, other: &Counter) {
        // Equal `through` means equal sums; taking the pair keeps the laws on any input.
        let (through, sum) = (self.through, self.sum).max((other.through, other.sum));
        (self.through, self.sum) = (through, sum);
        self.addends.retain(|(dot, _)| dot.time > through);
        for &(dot, addend) in other.addends.iter().filter(|(dot, _)| dot.time > through) {
            match self.addends.binary_search_by_key(&dot, |(held, _)| *held) {
                Ok(at) => {
                    let held = &mut self.addends[at].1;
                    *held = addend.max(*held);
                }
                Err(at) => self.addends.insert(at, (dot, addend)),
            }
        }
    }

    /// Addends of one writer at one time become one, under the first of their dots, as far as
    /// their sum fits.
    pub(crate) fn gather(&mut self) {
        self.addends.dedup_by(|(dot, addend), (first, sum)| {
            let is_same = (dot.time, dot.writer) == (first.time, first.writer);
            match sum.checked_add(*addend).filter(|_| is_same) {
                Some(all) => {
                    *sum = all;
                    true
                }
                None => false,
            }
        });
    }

    /// What another addend of the same writer and time comes to once it is gathered: see
    /// [`Counter::gather`]. False, and nothing changed, unless there is one to add it to.
    pub(crate) fn add_gathered(&mut self, addend: i64) -> bool {
        let [(_, sum)] = &mut self.addends[..] else {
            return false;
        };
        let all = sum.checked_add(addend);
        *sum = all.unwrap_or(*sum);
        all.is_some()
    }

    pub(crate) fn restamp(&mut self, map: &dyn Fn(Dot) -> Dot) {
        for (dot, _) in &mut self.addends {
            *dot = map(*dot);
        }
        self.addends.sort_unstable();
    }

    pub(crate) fn compact(&mut self, through: Time) -> bool {
        let folded = self.addends.partition_point(|(dot, _)| dot.time <= through);
        if folded == 0 {
            return false;
        }
        for (_, addend) in self.addends.drain(..folded) {
            self.sum = self.sum.saturating_add(addend.into());
        }
        self.through = through;
        true
    }

    pub(crate) fn weight_bytes(&self) -> usize {
        if self.addends.spilled() {
            self.addends.capacity() * size_of::<Addend>()
        } else {
            0
        }
    }
}
