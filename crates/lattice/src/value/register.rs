//! The register: the last writer's value.

use crate::{Dot, Payload, value::payload_weight_bytes};

/// Holds the payload of the greatest dot. Dots are totally ordered, so a tie merges the same way
/// everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    pub(crate) dot: Dot,
    pub(crate) payload: Payload,
}

impl Register {
    /// The value.
    pub fn get(&self) -> &Payload {
        &self.payload
    }

    /// The write that set it.
    pub fn dot(&self) -> Dot {
        self.dot
    }

    pub(crate) fn merge(&mut self, other: &Register) {
        // A dot names one payload; comparing payloads as well keeps the laws on any input.
        if (other.dot, &other.payload) > (self.dot, &self.payload) {
            *self = other.clone();
        }
    }

    pub(crate) fn restamp(&mut self, map: &dyn Fn(Dot) -> Dot) {
        self.dot = map(self.dot);
    }

    pub(crate) fn weight_bytes(&self) -> usize {
        payload_weight_bytes(&self.payload)
    }
}
