//! The numbered member list, and who owns what in it.
//!
//! Pure: an epoch is a value. Where it is stored, and that each number is written once, is the
//! business of whoever drives the machines.

use tidemill_lattice::{Time, Writer};

use crate::{Address, PartitionId};

/// A member and where it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// The member: one incarnation of a process.
    pub member: Writer,
    /// Its address, which it may have in common with members that are gone.
    pub address: Address,
}

/// One version of the member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its number, from 1 on without gaps.
    pub number: u64,
    /// The members, in order, each once.
    pub members: Vec<Placed>,
    /// Changes who owns what without changing who is there.
    pub salt: u64,
    /// How often commits may have been lost: raised when a member is given up before the epoch
    /// had settled.
    pub loss: u64,
    /// Above every snapshot that was given before this epoch, and above every floor before: where
    /// no member knows a frontier to begin above, all begin here.
    pub floor: Time,
}

/// By how much a floor is above the one before, at the least. Members that begin at a floor count
/// on from it, without their clocks, by one a time that they give: this is room for millions.
const FLOOR_STEP_US: u64 = 1000;

impl Epoch {
    /// The next epoch, with `joining` and without `leaving`. `floor` is from the proposer's clock:
    /// see [`Config::floor`](crate::Config::floor).
    #[must_use]
    pub fn next(&self, joining: &[Placed], leaving: &[Writer], floor: Time) -> Epoch {
        let above_last = Time::from_micros(self.floor.micros().saturating_add(FLOOR_STEP_US));
        let mut members = self.members.clone();
        members.retain(|placed| !leaving.contains(&placed.member));
        members.extend_from_slice(joining);
        members.sort_unstable();
        members.dedup();
        Epoch {
            number: self.number + 1,
            members,
            floor: floor.max(above_last),
            ..*self
        }
    }

    /// Whether this incarnation is a member.
    #[must_use]
    pub fn has(&self, member: Writer) -> bool {
        self.address_of(member).is_some()
    }

    /// Where a member is reached.
    #[must_use]
    pub fn address_of(&self, member: Writer) -> Option<Address> {
        self.members
            .iter()
            .find(|placed| placed.member == member)
            .map(|placed| placed.address)
    }

    /// Who owns a partition; `None` if there are no members.
    #[must_use]
    pub fn owner(&self, partition: PartitionId) -> Option<Placed> {
        self.ranked(partition).0
    }

    /// Who holds the unflushed tail beside the owner; `None` if there is only one member.
    #[must_use]
    pub fn standby(&self, partition: PartitionId) -> Option<Placed> {
        self.ranked(partition).1
    }

    /// The two highest by rendezvous hashing (Thaler, Ravishankar, "Using name-based mappings to
    /// increase hit rates", 1998).
    fn ranked(&self, partition: PartitionId) -> (Option<Placed>, Option<Placed>) {
        let weight = |placed: &Placed| {
            let name = (u64::from(partition.0) << 32) | u64::from(placed.member.0);
            (mix(name ^ mix(self.salt)), *placed)
        };
        let (mut first, mut second) = (None, None);
        for each in self.members.iter().map(weight) {
            if first.is_none_or(|best| each > best) {
                second = first.replace(each);
            } else if second.is_none_or(|next| each > next) {
                second = Some(each);
            }
        }
        (first.map(|(_, p)| p), second.map(|(_, p)| p))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(members: u32) -> Epoch {
        let placed = |n| Placed {
            member: Writer(n),
            address: Address(n),
        };
        Epoch {
            number: 1,
            members: (1..=members).map(placed).collect(),
            salt: 0,
            loss: 0,
            floor: Time::ZERO,
        }
    }

    #[test]
    fn a_member_that_leaves_hands_its_partitions_to_their_standbys_and_moves_no_other() {
        let before = epoch(5);
        let after = before.next(&[], &[Writer(3)], Time::ZERO);
        let mut moved = 0;
        for partition in (0..200).map(PartitionId) {
            let (old, new) = (before.owner(partition), after.owner(partition));
            if old.map(|p| p.member) == Some(Writer(3)) {
                assert_eq!(new, before.standby(partition));
                moved += 1;
            } else {
                assert_eq!(new, old);
            }
        }
        assert!((20..60).contains(&moved), "{moved} of 200 were the fifth's");
    }

    #[test]
    fn one_member_has_no_standby_and_none_has_no_owner() {
        let one = epoch(1);
        assert!(one.owner(PartitionId(0)).is_some());
        assert_eq!(one.standby(PartitionId(0)), None);
        let none = one.next(&[], &[Writer(1)], Time::ZERO);
        assert_eq!(none.owner(PartitionId(0)), None);
    }

    #[test]
    fn a_floor_is_above_the_one_before_whatever_its_proposers_clock_says() {
        let fast = epoch(2).next(&[], &[], Time::from_micros(900_000));
        let slow = fast.next(&[], &[], Time::from_micros(700_000));
        assert_eq!(fast.floor, Time::from_micros(900_000));
        assert!(slow.floor > Time::from_micros(900_001));
        let later = slow.next(&[], &[], Time::from_micros(2_000_000));
        assert_eq!(later.floor, Time::from_micros(2_000_000));
    }
}
