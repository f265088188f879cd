//! The log: entries in the order of their commits.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Dot, Payload,
    value::{ENTRY_BYTES, payload_weight_bytes},
};

/// Entries by dot; bounded to the newest `keep` where a bound was given. The smallest bound given
/// counts, so that bounds merge too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub(crate) keep: Option<u32>,
    pub(crate) entries: Arc<BTreeMap<Dot, Payload>>,
}

impl Log {
    /// The entries, oldest first, with the writes that appended them. The time of an entry is
    /// its commit's.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Dot, &Payload)> + ExactSizeIterator {
        self.entries.iter().map(|(dot, payload)| (*dot, payload))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of newest entries kept, where bounded.
    pub fn keep(&self) -> Option<u32> {
        self.keep
    }

    pub(crate) fn of(dot: Dot, value: Payload, keep: Option<u32>) -> Log {
        Log {
            keep,
            entries: Arc::new(BTreeMap::from([(dot, value)])),
        }
    }

    pub(crate) fn merge(&mut self, other: &Log) {
        if self.entries.is_empty() {
            self.entries = Arc::clone(&other.entries);
        } else if !Arc::ptr_eq(&self.entries, &other.entries) {
            let entries = Arc::make_mut(&mut self.entries);
            for (dot, payload) in other.entries.iter() {
                let held = entries.entry(*dot).or_insert_with(|| payload.clone());
                // A dot names one payload; taking the greater keeps the laws on any input.
                if payload > held {
                    *held = payload.clone();
                }
            }
        }
        self.keep = match (self.keep, other.keep) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.truncate();
    }

    pub(crate) fn truncate(&mut self) {
        let Some(keep) = self.keep else { return };
        let surplus = self.entries.len().saturating_sub(keep as usize);
        if surplus > 0 {
            let entries = Arc::make_mut(&mut self.entries);
            for _ in 0..surplus {
                entries.pop_first();
            }
        }
    }

    pub(crate) fn restamp(&mut self, map: &dyn Fn(Dot) -> Dot) {
        let entries = std::mem::take(&mut self.entries);
        self.entries = Arc::new(
            entries
                .iter()
                .map(|(dot, payload)| (map(*dot), payload.clone()))
                .collect(),
        );
    }

    pub(crate) fn weight_bytes(&self) -> usize {
        let payloads: usize = self.entries.values().map(payload_weight_bytes).sum();
        payloads + self.entries.len() * (ENTRY_BYTES + size_of::<Payload>())
    }
}
