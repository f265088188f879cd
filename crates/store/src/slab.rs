//! Entries in blocks, each in a place that it keeps.
//!
//! It knows nothing of what the entries are.

/// Entries of one block: large enough to cost no bookkeeping, small enough that many slabs with
/// few entries are cheap, and as many of a key's as the allocator's next size has room for.
const BLOCK: usize = 68;

/// Entries by place. A place that is given back is used again.
pub(crate) struct Slab<T> {
    blocks: Vec<Vec<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab {
            blocks: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        let place = place as usize;
        self.blocks.get(place / BLOCK)?.get(place % BLOCK)
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let place = place as usize;
        self.blocks.get_mut(place / BLOCK)?.get_mut(place % BLOCK)
    }

    /// Puts an entry somewhere. `reuse` is shown the entry whose place is used again, if one is.
    pub(crate) fn insert(&mut self, mut entry: T, reuse: impl FnOnce(&T, &mut T)) -> u32 {
        if let Some(place) = self.free.pop()
            && let Some(old) = self.get_mut(place)
        {
            reuse(old, &mut entry);
            *old = entry;
            return place;
        }
        match self.blocks.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(entry),
            _ => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(entry);
                self.blocks.push(block);
            }
        }
        let last = self.blocks.last().map_or(0, Vec::len);
        ((self.blocks.len() - 1) * BLOCK + last - 1) as u32
    }

    /// Gives a place back. What lies there stays until the place is used again.
    pub(crate) fn free(&mut self, place: u32) {
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_and_used_again() {
        let mut slab = Slab::default();
        let places: Vec<u32> = (0..200).map(|n| slab.insert(n, |_, _| ())).collect();
        for (n, place) in places.iter().enumerate() {
            assert_eq!(slab.get(*place), Some(&n));
        }
        assert_eq!(slab.get(200), None);
        slab.free(places[7]);
        let mut seen = None;
        let again = slab.insert(1000, |old, _| seen = Some(*old));
        assert_eq!((again, seen), (places[7], Some(7)));
        assert_eq!(slab.get_mut(again), Some(&mut 1000));
        assert_eq!(slab.insert(1001, |_, _| ()), 200);
    }
}
