//! Values that only ever move one way: `max`, `min` and `flag`.

use crate::Ordinal;

/// The greatest ordinal put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Max(pub(crate) Ordinal);

/// The smallest ordinal put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Min(pub(crate) Ordinal);

/// A raised flag. There is no lowered one: that is an absent key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flag(());

impl Max {
    /// The greatest ordinal put.
    pub fn get(&self) -> &Ordinal {
        &self.0
    }

    pub(crate) fn merge(&mut self, other: &Max) {
        if other.0 > self.0 {
            self.0 = other.0.clone();
        }
    }
}

impl Min {
    /// The smallest ordinal put.
    pub fn get(&self) -> &Ordinal {
        &self.0
    }

    pub(crate) fn merge(&mut self, other: &Min) {
        if other.0 < self.0 {
            self.0 = other.0.clone();
        }
    }
}

impl Flag {
    /// Always true, for symmetry with the other values.
    pub const fn is_raised(&self) -> bool {
        true
    }
}

pub(super) fn weight_bytes(ordinal: &Ordinal) -> usize {
    match ordinal {
        Ordinal::Text(text) => text.len(),
        _ => 0,
    }
}
