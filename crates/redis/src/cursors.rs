//! Cursors of scans. To a client a cursor is a number; here it is the place after the last thing
//! given, so that a scan stays right however much is written meanwhile. Of the places the newest
//! [`PLACES_MAX`] are kept.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tidemill_lattice::Key;

/// The most cursors known at a time.
const PLACES_MAX: usize = 16_384;

/// What a cursor is a place in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The app's keys.
    Keys,
    /// The fields of a hash.
    Fields(Key),
    /// The members of a set.
    Members(Key),
}

#[derive(Default)]
pub(crate) struct Cursors {
    last: u64,
    order: VecDeque<u64>,
    places: HashMap<u64, (Scope, Bytes)>,
}

impl Cursors {
    /// The number of a place. It stays good, so that a client may ask again.
    pub(crate) fn put(&mut self, scope: Scope, after: Bytes) -> u64 {
        if self.order.len() >= PLACES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
        self.last += 1;
        self.order.push_back(self.last);
        self.places.insert(self.last, (scope, after));
        self.last
    }

    /// The place of a number, if it is known and of this scope.
    pub(crate) fn get(&self, cursor: u64, scope: &Scope) -> Option<Bytes> {
        let (held, after) = self.places.get(&cursor)?;
        (held == scope).then(|| after.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_places_are_kept_and_belong_to_their_scope() {
        let mut cursors = Cursors::default();
        let first = cursors.put(Scope::Keys, Bytes::from_static(b"a"));
        assert_eq!(cursors.get(first, &Scope::Keys).as_deref(), Some(&b"a"[..]));
        let key = Key::new("t", "a", "k").expect("a key");
        assert_eq!(cursors.get(first, &Scope::Fields(key)), None);
        assert_eq!(cursors.get(0, &Scope::Keys), None);
        for _ in 0..PLACES_MAX {
            cursors.put(Scope::Keys, Bytes::new());
        }
        assert_eq!(cursors.get(first, &Scope::Keys), None);
        assert_eq!(cursors.places.len(), PLACES_MAX);
        assert_eq!(cursors.order.len(), PLACES_MAX);
    }
}
