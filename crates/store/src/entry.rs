//! A key with its versions, as the table holds it.
//!
//! Pure: it knows chains and packed cells, not who looks or changes.

use std::sync::atomic::{AtomicU8, Ordering};

use tidemill_lattice::{Key, Time};

use crate::chain::Chain;
use crate::packed::Packed;
use crate::rewritten::Rewritten;

/// Uses that are counted: a key in use outlasts so many rounds of eviction.
const USED_MAX: u8 = 3;
/// After so many uses a packed key is unpacked for its readers.
const HOT_USES: u8 = 64;

/// A key with its versions. A vacant one has the key of the last who lay here.
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) versions: Versions,
    /// What a packed key, or one that was before it was written, is complete through.
    pub(crate) through: Time,
    /// What is counted of it in the table's size.
    pub(crate) weight_bytes: u32,
    /// How often it was read or written since eviction last came by, up to [`USED_MAX`].
    pub(crate) used: AtomicU8,
    pub(crate) flags: Flags,
}

pub(crate) enum Versions {
    Vacant,
    Packed(Packed),
    Rewritten(Box<Rewritten>),
    Chain(Box<Chain>),
}

/// What is known of an entry beside its versions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags(u8);

impl Flags {
    /// The key is in the owner's `dirty` list, or in a checkpoint's.
    pub(crate) const QUEUED: Flags = Flags(1);
    /// The durable tier has a value of the key.
    pub(crate) const STORED: Flags = Flags(2);
    /// That value is the base as it is.
    pub(crate) const CURRENT: Flags = Flags(4);
    /// The key is in the owner's list of what is to be folded.
    pub(crate) const UNFOLDED: Flags = Flags(8);
    /// The place is in one of the rings that eviction goes round. Outlasts the key.
    pub(crate) const IN_RING: Flags = Flags(16);
    /// A reader has unpacked it.
    pub(crate) const HOT: Flags = Flags(32);

    pub(crate) fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    /// Sets or takes back a flag. Answers whether that changed it.
    pub(crate) fn set(&mut self, flag: Flags, value: bool) -> bool {
        let before = self.0;
        self.0 = if value {
            before | flag.0
        } else {
            before & !flag.0
        };
        before != self.0
    }
}

impl Entry {
    pub(crate) fn new(key: Key, versions: Versions, through: Time) -> Entry {
        let mut entry = Entry {
            key,
            versions,
            through,
            weight_bytes: 0,
            // What is read or written once need not stay.
            used: AtomicU8::new(0),
            flags: Flags::default(),
        };
        entry.weight_bytes = entry.weigh();
        entry
    }

    /// Notes a use. Tells whether a packed key has had so many that it is better unpacked.
    pub(crate) fn touch(&self) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        let is_packed = matches!(self.versions, Versions::Packed(_));
        let most = if is_packed { HOT_USES } else { USED_MAX };
        // Most reads of a hot key find it full: then its line is not written. Of two at once one
        // may go uncounted.
        if used < most {
            self.used.store(used + 1, Ordering::Relaxed);
        }
        is_packed && used >= most
    }

    /// Uses, as far as eviction counts them.
    pub(crate) fn used(&self) -> u8 {
        self.used.load(Ordering::Relaxed).min(USED_MAX)
    }

    /// Its versions as a chain, which it becomes if it is none.
    pub(crate) fn chain(&mut self) -> &mut Chain {
        if !matches!(self.versions, Versions::Chain(_)) {
            let chain = match std::mem::replace(&mut self.versions, Versions::Vacant) {
                Versions::Packed(packed) => Box::new(Chain::unpacked(packed, self.through)),
                Versions::Rewritten(rewritten) => Box::new(rewritten.into_chain(self.through)),
                Versions::Chain(chain) => chain,
                Versions::Vacant => Box::default(),
            };
            self.versions = Versions::Chain(chain);
        }
        match &mut self.versions {
            Versions::Chain(chain) => chain,
            // It was made one above.
            Versions::Packed(_) | Versions::Rewritten(_) | Versions::Vacant => unreachable!(),
        }
    }

    /// Packs a chain that is small and rests.
    pub(crate) fn pack(&mut self, scratch: &mut Vec<u8>) {
        if let Versions::Chain(chain) = &self.versions
            && let Some(packed) = chain.pack(scratch)
        {
            self.through = chain.base_through();
            self.versions = Versions::Packed(packed);
        }
    }

    /// Drops what a rewritten key was, if its write is at or below a time that nobody reads below.
    /// Tells whether it was.
    pub(crate) fn settle(&mut self, line: Time) -> bool {
        let Versions::Rewritten(rewritten) = &mut self.versions else {
            return false;
        };
        if rewritten.time() > line || rewritten.open.is_some() {
            return false;
        }
        let value = std::mem::replace(&mut rewritten.value, Packed::NOTHING);
        self.versions = Versions::Packed(value);
        self.through = line;
        true
    }

    /// The time of the oldest delta that is not folded.
    pub(crate) fn first_delta(&self) -> Option<Time> {
        match &self.versions {
            Versions::Chain(chain) => chain.first_delta(),
            Versions::Rewritten(rewritten) => Some(rewritten.time()),
            Versions::Packed(_) | Versions::Vacant => None,
        }
    }

    /// What its base is complete through.
    pub(crate) fn base_through(&self) -> Time {
        match &self.versions {
            Versions::Chain(chain) => chain.base_through(),
            Versions::Packed(_) | Versions::Rewritten(_) | Versions::Vacant => self.through,
        }
    }

    /// Deltas that are not folded.
    pub(crate) fn delta_count(&self) -> usize {
        match &self.versions {
            Versions::Chain(chain) => chain.delta_count(),
            Versions::Rewritten(_) => 1,
            Versions::Packed(_) | Versions::Vacant => 0,
        }
    }

    /// Whether nothing is left of the key.
    pub(crate) fn is_forgotten(&self) -> bool {
        match &self.versions {
            Versions::Chain(chain) => chain.is_forgotten(),
            Versions::Packed(_) | Versions::Rewritten(_) | Versions::Vacant => false,
        }
    }

    /// Its size in bytes: its place, its share of the index and of the rings, and the heap.
    pub(crate) fn weigh(&self) -> u32 {
        const SHARES: usize = 12;
        let versions = match &self.versions {
            Versions::Vacant => 0,
            Versions::Packed(packed) => packed.weight_bytes(),
            Versions::Rewritten(rewritten) => rewritten.weight_bytes(),
            Versions::Chain(chain) => chain.weight_bytes(),
        };
        let all = size_of::<Entry>() + SHARES + self.key.weight_bytes() + versions;
        u32::try_from(all).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry>(), 104);
    }
}
