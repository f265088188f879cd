//! What a request is promised about state: its level, and how safe its writes are.
//!
//! The call says it, else the function, else the app, else the node. The outermost call's
//! promises hold for everything that it reaches. Pure.

use crate::app::{Target, Version};
use crate::{Call, Options};
use serde::{Deserialize, Serialize};
use tidemill_store::Durability;

/// How much a request promises about the state it reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// One snapshot, all writes at once.
    #[default]
    Causal,
    /// Reads of what is here, every write for itself.
    Eventual,
}

/// A [`Durability`] as manifests spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DurabilityName {
    /// Answered once the process has it.
    Memory,
    /// Answered once the disk has it.
    Durable,
}

impl From<DurabilityName> for Durability {
    fn from(name: DurabilityName) -> Durability {
        match name {
            DurabilityName::Memory => Durability::Memory,
            DurabilityName::Durable => Durability::Durable,
        }
    }
}

/// What one request is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    pub(crate) level: Level,
    pub(crate) durability: Durability,
}

impl Promise {
    /// What a call of a target is promised.
    pub(crate) fn of(call: &Call, version: &Version, target: &Target, options: &Options) -> Self {
        let spec = match target {
            Target::Function(function) => Some(&function.spec),
            Target::Flow(_) => None,
        };
        let asked = &call.asked;
        let level = asked
            .level
            .or_else(|| spec.and_then(|spec| spec.level))
            .unwrap_or(version.level);
        let named = spec.and_then(|spec| spec.durability);
        let durability = asked
            .durability
            .or_else(|| named.or(version.durability).map(Durability::from))
            .unwrap_or(options.durability);
        Self { level, durability }
    }

    /// What the platform's own requests are promised.
    pub(crate) fn own(options: &Options) -> Self {
        Self {
            level: Level::Causal,
            durability: options.durability,
        }
    }
}
