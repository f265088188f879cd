//! Brings keys that are about to be looked up near, all of them at once.
//!
//! Most of a look-up in a large table is waiting for memory, and a latch ends what a processor does
//! ahead of itself: of look-ups that follow each other each waits by itself. Here the latches are
//! taken first and let go last, and in between nothing depends on the look before it.
//!
//! It knows the table. It changes nothing, and what it finds it does not tell.

use std::hint::black_box;
use std::sync::atomic::Ordering;

use parking_lot::RwLockReadGuard;
use smallvec::SmallVec;
use tidemill_lattice::Key;

use crate::embedded::{Inner, shard_of_hash};
use crate::entry::{Entry, Versions};
use crate::table::{Part, hash_of, part_of};

/// A processor has no more than so many misses under way.
const AT_ONCE: usize = 16;

impl Inner {
    /// Touches what the table has of these keys.
    pub(crate) fn prefetch(&self, keys: &[Key]) {
        for keys in keys.chunks(AT_ONCE) {
            let look = |key| {
                let hash = hash_of(key);
                let view = &self.views[shard_of_hash(hash, self.views.len())];
                // Recursive, since two keys may have one part and a writer may wait between them.
                (view.parts[part_of(hash)].read_recursive(), hash)
            };
            let looks: SmallVec<[(RwLockReadGuard<'_, Part>, u64); AT_ONCE]> =
                keys.iter().map(look).collect();
            let places: SmallVec<[Option<u32>; AT_ONCE]> = looks
                .iter()
                .map(|(part, hash)| part.likely(*hash))
                .collect();
            let entries = looks.iter().zip(places);
            let entries = entries.filter_map(|((part, _), place)| part.entry(place?));
            black_box(entries.fold(0, |sum, entry| sum ^ touch(entry)));
        }
    }
}

/// Something of each line of memory that an entry has.
fn touch(entry: &Entry) -> u8 {
    let ends = |bytes: &[u8]| bytes.first().unwrap_or(&0) ^ bytes.last().unwrap_or(&0);
    let value = match &entry.versions {
        Versions::Packed(packed) => ends(packed.as_bytes()),
        Versions::Vacant | Versions::Rewritten(_) | Versions::Chain(_) => 0,
    };
    entry.used.load(Ordering::Relaxed) ^ ends(entry.key.as_bytes()) ^ value
}
