//! The multi-value register: keeps what no later write has seen.

use crate::{Dot, Payload, Time, value::payload_weight_bytes};

/// A multi-value register. As in [`Set`](crate::Set), a dot goes from unseen to live to dead; a
/// write is a new live dot, and the dots it saw are dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Multi {
    /// At or below this, a dot that is not live is dead.
    pub(crate) through: Time,
    /// In order of dots.
    pub(crate) live: Vec<(Dot, Payload)>,
    /// Above `through`, in order.
    pub(crate) dead: Vec<Dot>,
}

impl Multi {
    /// The values, in order of their writes. More than one where writes were concurrent.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Payload> {
        self.live.iter().map(|(_, payload)| payload)
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    fn is_dead(&self, dot: Dot) -> bool {
        self.live
            .binary_search_by_key(&dot, |(held, _)| *held)
            .is_err()
            && (dot.time <= self.through || self.dead.binary_search(&dot).is_ok())
    }

    pub(crate) fn merge(&mut self, other: &Multi) {
        let through = self.through.max(other.through);
        let mut live: Vec<(Dot, Payload)> = Vec::with_capacity(self.live.len() + other.live.len());
        let mut dead = Vec::new();
        for (entries, against) in [(&self.live, other), (&other.live, &*self)] {
            for (dot, payload) in entries {
                if against.is_dead(*dot) {
                    dead.push(*dot);
                } else {
                    live.push((*dot, payload.clone()));
                }
            }
        }
        // A dot names one payload; the order by payload keeps the laws on any input.
        live.sort_unstable_by(|a, b| b.cmp(a));
        live.dedup_by_key(|(dot, _)| *dot);
        live.reverse();
        dead.extend(self.dead.iter().chain(&other.dead));
        dead.retain(|dot| dot.time > through);
        dead.sort_unstable();
        dead.dedup();
        *self = Multi {
            through,
            live,
            dead,
        };
    }

    pub(crate) fn restamp(&mut self, map: &dyn Fn(Dot) -> Dot) {
        self.live.iter_mut().for_each(|(dot, _)| *dot = map(*dot));
        self.live.sort_unstable();
        self.dead.iter_mut().for_each(|dot| *dot = map(*dot));
        self.dead.sort_unstable();
    }

    pub(crate) fn compact(&mut self, through: Time) -> bool {
        if !self.dead.iter().any(|dot| dot.time <= through) {
            return false;
        }
        self.through = self.through.max(through);
        self.dead.retain(|dot| dot.time > through);
        true
    }

    pub(crate) fn weight_bytes(&self) -> usize {
        let payloads: usize = self.iter().map(payload_weight_bytes).sum();
        payloads
            + self.live.capacity() * size_of::<(Dot, Payload)>()
            + self.dead.capacity() * size_of::<Dot>()
    }
}
