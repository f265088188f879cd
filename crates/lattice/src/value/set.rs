//! The set: add wins over a concurrent remove.

use std::{collections::BTreeMap, sync::Arc};

use smallvec::SmallVec;

use crate::{
    Dot, Payload, Time,
    value::{ENTRY_BYTES, payload_weight_bytes},
};

/// Sorted dots.
pub(crate) type Dots = SmallVec<[Dot; 1]>;

/// An observed-remove set (Bieniusa et al., "An optimized conflict-free replicated set", 2012).
///
/// Each add of an element is a dot, which goes from unseen to live to dead and never back: three
/// steps of a chain, so the join of two sets is the greater step for each dot. A remove names the
/// dots it saw; an add replaces the dots it saw, so that adding an element again and again costs
/// nothing. Dead dots are remembered until [`Cell::compact`](crate::Cell::compact) draws a line
/// under them: at or below `through`, a dot that is not live is dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub(crate) through: Time,
    /// No slot is empty.
    pub(crate) slots: Arc<BTreeMap<Payload, Slot>>,
}

/// What is known of one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) live: Dots,
    /// Above `through`.
    pub(crate) dead: Dots,
}

impl Set {
    /// Whether the element is in the set.
    pub fn contains(&self, element: &Payload) -> bool {
        self.slots
            .get(element)
            .is_some_and(|slot| !slot.live.is_empty())
    }

    /// The elements, ordered by content type, then bytes.
    pub fn iter(&self) -> impl Iterator<Item = &Payload> {
        self.slots
            .iter()
            .filter(|(_, slot)| !slot.live.is_empty())
            .map(|(element, _)| element)
    }

    /// The number of elements. Walks the set.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether no element is in the set.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The dots by which the element is in the set.
    pub(crate) fn live(&self, element: &Payload) -> &[Dot] {
        self.slots.get(element).map_or(&[], |slot| &slot.live)
    }

    pub(crate) fn of(element: Payload, slot: Slot) -> Set {
        Set {
            through: Time::ZERO,
            slots: Arc::new(BTreeMap::from([(element, slot)])),
        }
    }

    pub(crate) fn merge(&mut self, other: &Set) {
        if *self == Set::default() {
            *self = other.clone();
            return;
        }
        if Arc::ptr_eq(&self.slots, &other.slots) && self.through == other.through {
            return;
        }
        let (mine, theirs) = (self.through, other.through);
        self.through = mine.max(theirs);
        let slots = Arc::make_mut(&mut self.slots);
        if theirs > Time::ZERO {
            // A dot that is live here may be dead there and below their line, so not named.
            let absent = Slot::default();
            slots.retain(|element, slot| {
                if !other.slots.contains_key(element) {
                    slot.merge(mine, &absent, theirs);
                }
                !slot.is_empty()
            });
        }
        for (element, their_slot) in other.slots.iter() {
            if let Some(slot) = slots.get_mut(element) {
                slot.merge(mine, their_slot, theirs);
                if slot.is_empty() {
                    slots.remove(element);
                }
            } else {
                let mut slot = Slot::default();
                slot.merge(mine, their_slot, theirs);
                if !slot.is_empty() {
                    slots.insert(element.clone(), slot);
                }
            }
        }
    }

    pub(crate) fn restamp(&mut self, map: &dyn Fn(Dot) -> Dot) {
        for slot in Arc::make_mut(&mut self.slots).values_mut() {
            for dots in [&mut slot.live, &mut slot.dead] {
                dots.iter_mut().for_each(|dot| *dot = map(*dot));
                dots.sort_unstable();
                dots.dedup();
            }
        }
    }

    pub(crate) fn compact(&mut self, through: Time) -> bool {
        let is_old = |dot: &Dot| dot.time <= through;
        if !self.slots.values().any(|slot| slot.dead.iter().any(is_old)) {
            return false;
        }
        self.through = self.through.max(through);
        Arc::make_mut(&mut self.slots).retain(|_, slot| {
            slot.dead.retain(|dot| !is_old(dot));
            !slot.is_empty()
        });
        true
    }

    pub(crate) fn weight_bytes(&self) -> usize {
        let dots = |dots: &Dots| dots.len() * size_of::<Dot>();
        self.slots
            .iter()
            .map(|(element, slot)| {
                ENTRY_BYTES
                    + size_of::<Payload>()
                    + payload_weight_bytes(element)
                    + dots(&slot.live)
                    + dots(&slot.dead)
            })
            .sum()
    }
}

impl Slot {
    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.dead.is_empty()
    }

    fn merge(&mut self, mine: Time, other: &Slot, theirs: Time) {
        let is_dead = |slot: &Slot, through: Time, dot: &Dot| {
            slot.live.binary_search(dot).is_err()
                && (dot.time <= through || slot.dead.binary_search(dot).is_ok())
        };
        let mut live = Dots::new();
        let mut dead = Dots::new();
        for dot in &self.live {
            (if is_dead(other, theirs, dot) {
                &mut dead
            } else {
                &mut live
            })
            .push(*dot);
        }
        for dot in &other.live {
            (if is_dead(self, mine, dot) {
                &mut dead
            } else {
                &mut live
            })
            .push(*dot);
        }
        dead.extend(self.dead.iter().chain(&other.dead).copied());
        let through = mine.max(theirs);
        dead.retain(|dot| dot.time > through);
        for dots in [&mut live, &mut dead] {
            dots.sort_unstable();
            dots.dedup();
        }
        *self = Slot { live, dead };
    }
}
