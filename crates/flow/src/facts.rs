//! What the optimiser must be told about functions. Where the facts come from (manifest,
//! measurements) is the caller's business.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

/// What is known of one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionFacts {
    /// The worker group. Workers of one group can run each other's functions; the number
    /// itself means nothing.
    pub group: u64,
    /// Whether the function may share a worker hand-off with others. False for generators
    /// and for functions with a concurrency limit of their own, since the limit is counted
    /// in hand-offs.
    pub fusable: bool,
    /// Whether the function yields items instead of returning one result.
    pub generator: bool,
    /// The observed mean run time in microseconds, if it has run often enough to tell.
    /// Give a value that does not flap around the cost limit, or plans will.
    pub mean_cost_us: Option<u64>,
    /// The longest a run of the function may take, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for FunctionFacts {
    /// A plain function in group 0 that has never run, with the manifest's timeout.
    fn default() -> Self {
        Self {
            group: 0,
            fusable: true,
            generator: false,
            mean_cost_us: None,
            timeout_ms: 60_000,
        }
    }
}

/// The functions of one app version.
pub trait Facts {
    /// What is known of `name`, or `None` if the app has no such function.
    fn function(&self, name: &str) -> Option<FunctionFacts>;

    /// The names of all functions, in any order: asked for only to name near ones in an error.
    fn names(&self) -> Vec<String>;
}

impl Facts for BTreeMap<String, FunctionFacts> {
    fn function(&self, name: &str) -> Option<FunctionFacts> {
        self.get(name).copied()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

impl<S: BuildHasher> Facts for HashMap<String, FunctionFacts, S> {
    fn function(&self, name: &str) -> Option<FunctionFacts> {
        self.get(name).copied()
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}
