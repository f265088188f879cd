//! The leader board: the greatest k of (score, id).

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use crate::{Ordinal, value::ENTRY_BYTES};

/// The greatest score of each id, bounded to the greatest `of` by (score, id). The smallest bound
/// given counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    pub(crate) of: u32,
    pub(crate) scores: BTreeMap<Arc<str>, Ordinal>,
}

impl Top {
    /// Scores and ids from the greatest; equal scores by id, the greatest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Ordinal, &str)> {
        self.ranked()
            .into_iter()
            .map(|(score, id)| (score, id.as_ref()))
    }

    /// How many ids the board keeps.
    pub fn of(&self) -> u32 {
        self.of
    }

    /// The number of ids on the board.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether nobody is on the board.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    fn ranked(&self) -> Vec<(&Ordinal, &Arc<str>)> {
        let mut ranked: Vec<_> = self.scores.iter().map(|(id, score)| (score, id)).collect();
        ranked.sort_unstable_by_key(|entry| Reverse(*entry));
        ranked
    }

    pub(crate) fn merge(&mut self, other: &Top) {
        for (id, score) in &other.scores {
            let held = self
                .scores
                .entry(id.clone())
                .or_insert_with(|| score.clone());
            if score > held {
                *held = score.clone();
            }
        }
        self.of = self.of.min(other.of);
        self.truncate();
    }

    pub(crate) fn truncate(&mut self) {
        let of = self.of as usize;
        if self.scores.len() > of {
            let dropped: Vec<Arc<str>> = self
                .ranked()
                .into_iter()
                .skip(of)
                .map(|(_, id)| id.clone())
                .collect();
            for id in dropped {
                self.scores.remove(&id);
            }
        }
    }

    pub(crate) fn weight_bytes(&self) -> usize {
        self.scores.keys().map(|id| ENTRY_BYTES + id.len()).sum()
    }
}
