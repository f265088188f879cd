//! What a seed's cluster is like and what is done to it. Mixed from weighted choices, so that some
//! seeds are hostile in one way and most in several.

use tidemill_causal::Durability;

use crate::rng::Rng;

/// How far a clock may be ahead of the true time, or behind: two of them are less apart than the
/// protocol's bound.
pub const CLOCKS_MAX_US: u64 = 200_000;

/// One seed's settings. Times in microseconds, shares in a thousand.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Storage members at the beginning.
    pub members: u32,
    /// Hosts that only compute.
    pub executors: u32,
    /// Clients, each one session after the other.
    pub clients: u32,
    /// Partitions.
    pub partitions: u16,
    /// What commits ask for.
    pub durability: Durability,
    /// How long faults and new requests go on.
    pub active_us: u64,
    /// Between two faults, at the least.
    pub fault_gap_us: u64,
    /// Whether there are faults at all.
    pub faults: bool,
    /// Weights of the kinds of fault: see [`crate::faults::FAULTS`].
    pub fault_weights: [u64; 14],
    /// Whether a fault waits until the cluster has recovered from the one before.
    pub one_at_a_time: bool,
    /// Messages lost.
    pub drop: u64,
    /// Messages doubled.
    pub double: u64,
    /// Messages that are late, and by how much at the most.
    pub late: u64,
    /// See `late`.
    pub late_us: u64,
    /// The usual time on the way, at the least and at the most.
    pub wire_us: (u64, u64),
    /// The time of a write to stable storage, at the least and at the most.
    pub disk_us: (u64, u64),
    /// How far clocks are apart at the beginning.
    pub skew_us: u64,
    /// What clocks round down to.
    pub clock_step_us: u64,
    /// Keys of each kind.
    pub keys: u32,
    /// Requests that only read.
    pub read_only: u64,
    /// Edits that remove, delete or expire.
    pub removes: u64,
    /// Steps that run elsewhere.
    pub remote: u64,
    /// Requests that send a message.
    pub messages: u64,
    /// Requests that are writes at level `eventual`.
    pub eventual: u64,
    /// Time that a client waits between requests, at the most.
    pub think_us: u64,
    /// Between two folds, and between two marks.
    pub fold_us: u64,
    /// See `fold_us`.
    pub mark_us: u64,
    /// Between two pushes to caches.
    pub push_us: u64,
    /// How long a pin holds.
    pub lease_us: u64,
    /// How long ids are known.
    pub retention_us: u64,
    /// Entries of a log until it becomes an image.
    pub image_entries: usize,
}

impl Profile {
    /// The settings of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Profile {
        let mut rng = Rng::new(seed ^ 0x7072_6f66);
        let r = &mut rng;
        let durability = match r.below(10) {
            0..4 => Durability::Durable,
            4..9 => Durability::Replicated,
            _ => Durability::Memory,
        };
        let hot = r.permille(500);
        let slow_wire = r.permille(300);
        let wild = r.permille(400);
        let mut profile = Profile {
            members: u32::try_from(r.between(2, 4)).unwrap_or(3),
            executors: u32::try_from(r.between(1, 2)).unwrap_or(1),
            clients: u32::try_from(r.between(3, 6)).unwrap_or(4),
            partitions: u16::try_from(r.between(2, 5)).unwrap_or(4),
            durability,
            active_us: 1_600_000,
            fault_gap_us: r.between(40, 150) * 1000,
            faults: true,
            fault_weights: [4, 4, 4, 3, 3, 4, 3, 3, 3, 2, 2, 8, 2, 1],
            one_at_a_time: durability != Durability::Durable || r.permille(400),
            drop: if wild { 40 } else { 10 },
            double: if wild { 80 } else { 20 },
            late: if wild { 60 } else { 15 },
            late_us: r.between(50, 400) * 1000,
            wire_us: if slow_wire { (500, 9000) } else { (200, 2000) },
            disk_us: if r.permille(300) {
                (3000, 25_000)
            } else {
                (500, 5000)
            },
            skew_us: [0, 2000, 20_000, 150_000][r.index(4)],
            clock_step_us: [1, 1, 1000, 4000, 16_000][r.index(5)],
            keys: if hot {
                1
            } else {
                2 + u32::try_from(r.below(2)).unwrap_or(0)
            },
            read_only: 350,
            removes: [100, 250, 450][r.index(3)],
            remote: 350,
            messages: 200,
            eventual: 100,
            think_us: r.between(2, 25) * 1000,
            fold_us: [8_000, 20_000, 60_000][r.index(3)],
            mark_us: [15_000, 40_000, 120_000][r.index(3)],
            push_us: [6_000, 15_000][r.index(2)],
            lease_us: [150_000, 400_000][r.index(2)],
            retention_us: [2_500_000, 60_000_000][r.index(2)],
            image_entries: [8, 24, 64][r.index(3)],
        };
        // Some seeds are of one kind of fault mostly.
        match r.below(6) {
            0 => profile.fault_weights = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            1 => profile.fault_weights = [6, 6, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 1, 1],
            2 => profile.fault_weights = [0, 0, 0, 4, 4, 1, 1, 0, 0, 3, 0, 3, 0, 0],
            3 if durability == Durability::Durable => profile.begin_anew(),
            _ => {}
        }
        if durability == Durability::Memory {
            // What is only in an owner's memory is lost with it.
            profile.fault_weights = [0, 0, 0, 0, 0, 0, 0, 2, 3, 0, 2, 8, 0, 0];
        }
        profile
    }

    /// All members die together, again and again, with clocks as far apart as they are let be.
    fn begin_anew(&mut self) {
        self.fault_weights = [0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 6];
        self.one_at_a_time = false;
        self.skew_us = CLOCKS_MAX_US;
    }

    /// A cluster whose members die together, again and again.
    #[must_use]
    pub fn anew(seed: u64) -> Profile {
        let mut profile = Profile::of(seed);
        profile.durability = Durability::Durable;
        profile.fault_gap_us = 60_000 + seed % 5 * 30_000;
        profile.begin_anew();
        profile
    }

    /// A cluster to measure: nothing goes wrong.
    #[must_use]
    pub fn calm(members: u32, durability: Durability) -> Profile {
        Profile {
            members,
            executors: 0,
            clients: members * 2,
            partitions: u16::try_from(members * 2).unwrap_or(6),
            durability,
            faults: false,
            drop: 0,
            double: 0,
            late: 0,
            wire_us: (200, 300),
            disk_us: (1000, 1000),
            skew_us: 1000,
            clock_step_us: 1,
            keys: 8,
            removes: 0,
            remote: 0,
            messages: 0,
            eventual: 0,
            ..Profile::of(0)
        }
    }
}
