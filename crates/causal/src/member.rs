//! What a member knows of its cluster in one epoch: frontiers, stable, low-water marks, who is
//! silent.
//!
//! Every table only rises, so gossip merges by maximum. All but the flushed marks begin empty in
//! each epoch: a minimum over tables says nothing until every member has published in this epoch,
//! and a member publishes only once its partitions are open. It must not know what a partition is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_lattice::{Time, Writer};

use crate::message::Gossip;
use crate::{Canaries, Canary, Config, Epoch, Now, PartitionId};

/// One member's view.
#[derive(Clone, Debug)]
pub struct Membership {
    me: Writer,
    canaries: Canaries,
    epoch: Option<Arc<Epoch>>,
    is_floored: bool,
    unfloored: BTreeSet<Writer>,
    beats: BTreeMap<Writer, u64>,
    heard_us: BTreeMap<Writer, u64>,
    frontiers: BTreeMap<Writer, Time>,
    pinned: BTreeMap<Writer, Time>,
    held: BTreeMap<Writer, Time>,
    marks: BTreeMap<PartitionId, Time>,
    stable: Time,
    /// The greatest `held` that it has published in any epoch, or could have had it been there.
    held_ever: Time,
}

/// What an epoch means to the member that learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// Nothing new.
    Known,
    /// It is not in the list yet.
    Absent,
    /// It was in the list, and is no more.
    Evicted,
    /// It is in the list. `skipped` if there were epochs in between that it has not seen.
    Member {
        /// Whether it has missed an epoch.
        skipped: bool,
    },
}

impl Membership {
    /// A process that knows nothing yet.
    #[must_use]
    pub fn new(me: Writer, canaries: Canaries) -> Membership {
        Membership {
            me,
            canaries,
            epoch: None,
            is_floored: false,
            unfloored: BTreeSet::new(),
            beats: BTreeMap::new(),
            heard_us: BTreeMap::new(),
            frontiers: BTreeMap::new(),
            pinned: BTreeMap::new(),
            held: BTreeMap::new(),
            marks: BTreeMap::new(),
            stable: Time::ZERO,
            held_ever: Time::ZERO,
        }
    }

    /// The epoch in which this process takes part.
    #[must_use]
    pub fn epoch(&self) -> Option<&Arc<Epoch>> {
        self.epoch.as_ref()
    }

    /// Its number; 0 for none.
    #[must_use]
    pub fn epoch_number(&self) -> u64 {
        self.epoch.as_ref().map_or(0, |epoch| epoch.number)
    }

    /// Takes in an epoch.
    pub fn learn(&mut self, epoch: &Arc<Epoch>, now: Now) -> Learnt {
        let before = self.epoch_number();
        if epoch.number <= before {
            return Learnt::Known;
        }
        if !epoch.has(self.me) {
            return if before == 0 {
                Learnt::Absent
            } else {
                Learnt::Evicted
            };
        }
        // The first members of all begin at their clocks, and so would one that took over the
        // name of a member before it.
        let begins_floored = epoch.number == 1 || self.canaries.has(Canary::KeepMemberId);
        self.is_floored |= before == 0 && begins_floored;
        self.epoch = Some(Arc::clone(epoch));
        self.unfloored.clear();
        self.frontiers.clear();
        self.pinned.clear();
        self.held.clear();
        self.heard_us = epoch
            .members
            .iter()
            .map(|placed| (placed.member, now.monotonic_us))
            .collect();
        Learnt::Member {
            skipped: before > 0 && epoch.number > before + 1,
        }
    }

    /// Takes in what another member knows in the same epoch.
    pub fn merge(&mut self, gossip: &Gossip, now: Now) {
        for (member, beat) in &gossip.beats {
            let held = self.beats.entry(*member).or_default();
            if *beat > *held {
                *held = *beat;
                self.heard_us.insert(*member, now.monotonic_us);
            }
        }
        let me = self.me;
        let others = |table: &BTreeMap<Writer, Time>, mine: &mut BTreeMap<Writer, Time>| {
            for (member, time) in table.iter().filter(|(member, _)| **member != me) {
                let held = mine.entry(*member).or_default();
                *held = (*held).max(*time);
            }
        };
        others(&gossip.frontiers, &mut self.frontiers);
        others(&gossip.pinned, &mut self.pinned);
        others(&gossip.held, &mut self.held);
        for (partition, mark) in &gossip.marks {
            self.note_mark(*partition, *mark);
        }
        if gossip.is_floored {
            self.unfloored.remove(&gossip.from);
        } else {
            self.unfloored.insert(gossip.from);
        }
        self.recompute();
    }

    /// A partition's log holds, on stable storage, every delta at or below a time.
    pub fn note_mark(&mut self, partition: PartitionId, mark: Time) {
        let held = self.marks.entry(partition).or_default();
        *held = (*held).max(mark);
    }

    /// The flushed mark of a partition, as far as it is known here.
    #[must_use]
    pub fn mark(&self, partition: PartitionId) -> Time {
        self.marks.get(&partition).copied().unwrap_or_default()
    }

    /// Publishes this member's own: its frontier, its oldest pin, its oldest snapshot held.
    pub fn publish(&mut self, frontier: Time, pinned: Time, held: Time) {
        for (table, time) in [
            (&mut self.frontiers, frontier),
            (&mut self.pinned, pinned),
            (&mut self.held, held),
        ] {
            let own = table.entry(self.me).or_default();
            *own = (*own).max(time);
        }
        self.held_ever = self.held_ever.max(held);
        self.recompute();
    }

    fn recompute(&mut self) {
        if let Some(least) = self.least(&self.frontiers) {
            let stable = if self.canaries.has(Canary::StableOffByOne) {
                least
            } else {
                least.prev()
            };
            self.stable = self.stable.max(stable);
        }
    }

    /// The minimum over all members; `None` while one is missing.
    fn least(&self, table: &BTreeMap<Writer, Time>) -> Option<Time> {
        let members = &self.epoch.as_ref()?.members;
        let mut least = Time::MAX;
        for placed in members {
            least = least.min(*table.get(&placed.member)?);
        }
        (!members.is_empty()).then_some(least)
    }

    /// Every commit at or below it is applied wherever it belongs. Never goes back.
    #[must_use]
    pub fn stable(&self) -> Time {
        self.stable
    }

    /// No snapshot below it is pinned anywhere; [`Time::ZERO`] while that is not known.
    #[must_use]
    pub fn pinned_line(&self) -> Time {
        self.least(&self.pinned).unwrap_or_default()
    }

    /// Neither will a snapshot below it be read, nor will a delta made from one still come.
    #[must_use]
    pub fn fold_line(&self) -> Time {
        self.least(&self.held).unwrap_or_default()
    }

    /// The greatest time that any member may have folded up to, of those that this one has a say
    /// in: what it has published as held, in this epoch or an earlier one, and where it joined.
    #[must_use]
    pub fn held_ever(&self) -> Time {
        self.held_ever
    }

    /// The greatest frontier that another member has published in this epoch.
    #[must_use]
    pub fn greatest_frontier(&self) -> Option<Time> {
        self.frontiers
            .iter()
            .filter(|(member, _)| **member != self.me)
            .map(|(_, frontier)| *frontier)
            .max()
    }

    /// Whether every member has published in this epoch.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.least(&self.frontiers).is_some()
    }

    /// Whether this member knows a time that all of its commits are above.
    #[must_use]
    pub fn is_floored(&self) -> bool {
        self.is_floored
    }

    /// It knows one now. Whatever was folded before it came is below.
    pub fn set_floored(&mut self, floor: Time) {
        self.is_floored = true;
        self.held_ever = self.held_ever.max(floor);
    }

    /// Whether no other member knows one either: everybody is new.
    #[must_use]
    pub fn nobody_is_floored(&self) -> bool {
        self.epoch.as_ref().is_some_and(|epoch| {
            let mut others = epoch
                .members
                .iter()
                .filter(|placed| placed.member != self.me);
            others.all(|placed| self.unfloored.contains(&placed.member))
        })
    }

    /// What to tell others.
    pub fn gossip(&mut self) -> Gossip {
        *self.beats.entry(self.me).or_default() += 1;
        Gossip {
            from: self.me,
            is_floored: self.is_floored,
            beats: self.beats.clone(),
            frontiers: self.frontiers.clone(),
            pinned: self.pinned.clone(),
            held: self.held.clone(),
            marks: self.marks.clone(),
        }
    }

    /// How often this member has told others.
    #[must_use]
    pub fn beat(&self) -> u64 {
        self.beats.get(&self.me).copied().unwrap_or_default()
    }

    /// The next epoch, if a member has been silent for too long. One at a time: two that are
    /// given up at once may be a log's owner and its standby. While the epoch has not settled a
    /// tail may be nowhere else, so then it takes longer, and counts as a loss.
    #[must_use]
    pub fn eviction(&self, config: &Config, now: Now) -> Option<Epoch> {
        let epoch = self.epoch.as_ref()?;
        let silence = |placed: &&crate::Placed| {
            let heard = self.heard_us.get(&placed.member).copied();
            now.monotonic_us.saturating_sub(heard.unwrap_or(0))
        };
        let suspect = epoch
            .members
            .iter()
            .filter(|placed| placed.member != self.me)
            .max_by_key(silence)?;
        let others_are_in = epoch
            .members
            .iter()
            .filter(|placed| placed.member != suspect.member)
            .all(|placed| self.frontiers.contains_key(&placed.member));
        let silent_us = silence(&suspect);
        let mut next = epoch.next(&[], &[suspect.member], config.floor(now));
        if others_are_in && silent_us > config.evict_us {
            Some(next)
        } else if silent_us > config.evict_unsettled_us {
            next.loss += 1;
            Some(next)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Placed};

    fn at(time: u64) -> Time {
        Time::from_u64(time)
    }

    fn epoch(number: u64, members: &[u32]) -> Arc<Epoch> {
        let placed = |n: &u32| Placed {
            member: Writer(*n),
            address: Address(*n),
        };
        Arc::new(Epoch {
            number,
            members: members.iter().map(placed).collect(),
            salt: 0,
            loss: 0,
            floor: Time::ZERO,
        })
    }

    fn member() -> Membership {
        let mut member = Membership::new(Writer(1), Canaries::default());
        let learnt = member.learn(&epoch(1, &[1, 2]), Now::default());
        assert_eq!(learnt, Learnt::Member { skipped: false });
        member
    }

    fn frontier(member: u32, time: u64) -> Gossip {
        Gossip {
            from: Writer(member),
            is_floored: true,
            frontiers: BTreeMap::from([(Writer(member), at(time))]),
            ..Gossip::default()
        }
    }

    #[test]
    fn stable_is_below_every_frontier_and_never_goes_back() {
        let mut member = member();
        member.publish(at(10), at(0), at(0));
        assert_eq!(member.stable(), Time::ZERO, "one is missing");
        member.merge(&frontier(2, 7), Now::default());
        assert_eq!(member.stable(), at(6));
        member.learn(&epoch(2, &[1, 2]), Now::default());
        member.publish(at(12), at(3), at(3));
        member.learn(&epoch(3, &[1, 2]), Now::default());
        assert_eq!(member.held_ever(), at(3), "what was folded stays folded");
        member.publish(at(12), at(0), at(0));
        assert!(!member.is_settled(), "the epoch begins empty");
        assert_eq!(member.stable(), at(6));
        member.merge(&frontier(2, 9), Now::default());
        assert_eq!(member.stable(), at(8));
    }

    #[test]
    fn a_silent_member_is_given_up_sooner_in_a_settled_epoch() {
        let mut member = member();
        let config = Config::default();
        let after = |us| Now {
            monotonic_us: us,
            wall_us: 0,
        };
        member.publish(at(10), at(0), at(0));
        let early = after(config.evict_us);
        assert_eq!(member.eviction(&config, early), None);
        let next = member.eviction(&config, after(config.evict_us + 1));
        assert_eq!(next.map(|next| (next.number, next.loss)), Some((2, 0)));
        let mut unsettled = Membership::new(Writer(1), Canaries::default());
        unsettled.learn(&epoch(1, &[1, 2, 3]), Now::default());
        let late = after(config.evict_us + 1);
        assert_eq!(unsettled.eviction(&config, late), None);
        let next = unsettled.eviction(&config, after(config.evict_unsettled_us + 1));
        assert_eq!(next.map(|next| next.loss), Some(1));
    }

    #[test]
    fn who_is_not_in_the_list_is_absent_at_first_and_evicted_later() {
        let mut member = Membership::new(Writer(9), Canaries::default());
        assert_eq!(
            member.learn(&epoch(3, &[1]), Now::default()),
            Learnt::Absent
        );
        member.learn(&epoch(4, &[1, 9]), Now::default());
        assert!(!member.is_floored(), "a joiner begins above others");
        member.set_floored(at(5));
        assert_eq!(member.held_ever(), at(5));
        let skipped = member.learn(&epoch(6, &[1, 9]), Now::default());
        assert_eq!(skipped, Learnt::Member { skipped: true });
        assert_eq!(
            member.learn(&epoch(7, &[1]), Now::default()),
            Learnt::Evicted
        );
    }
}
