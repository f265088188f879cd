//! The optimiser: from a valid flow to a plan, in two rewrites over one partition of the
//! steps into fragments.
//!
//! 1. [`fuse`] makes every chain one hand-off.
//! 2. [`fold`] takes branches that are not worth a hand-off of their own into the
//!    fragment beside them, and keeps costly ones apart so that they run in parallel.
//!
//! Dead code needs no rewrite: validation refuses it. Both rewrites go through
//! [`Partition::merge`], which refuses what would close a cycle between fragments or put
//! costly branches one after another, so a rewrite can try what it likes. Greedy and
//! linear is enough here: flows are small, and an optimal acyclic partition is NP-hard
//! (Moreira, Popp, Schulz, "Graph Partitioning with Acyclicity Constraints", SEA 2017).

mod bits;
mod fold;
mod fuse;
mod partition;

use crate::facts::{Facts, FunctionFacts};
use crate::plan::Plan;
use crate::validate::ValidFlow;
use partition::Partition;

/// The default of [`PlanSettings::branch_cost_limit_us`].
pub const DEFAULT_BRANCH_COST_LIMIT_US: u64 = 1_000;

/// What the optimiser may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanSettings {
    /// A branch whose known run time is at least this many microseconds is worth a hand-off
    /// of its own, so that it runs beside others.
    pub branch_cost_limit_us: u64,
}

impl Default for PlanSettings {
    fn default() -> Self {
        Self {
            branch_cost_limit_us: DEFAULT_BRANCH_COST_LIMIT_US,
        }
    }
}

/// Plans a flow with the default settings.
///
/// The same flow and facts always give the same plan. A function that has left `facts`
/// since validation is planned with what was known of it then.
#[must_use]
pub fn plan(flow: &ValidFlow, facts: &dyn Facts) -> Plan {
    plan_with(flow, facts, PlanSettings::default())
}

/// Plans a flow; see [`plan`].
#[must_use]
pub fn plan_with(flow: &ValidFlow, facts: &dyn Facts, settings: PlanSettings) -> Plan {
    let facts: Vec<FunctionFacts> = flow.facts_now(facts);
    let mut partition = Partition::new(flow.steps(), &facts);
    fuse::chains(&mut partition);
    partition.weigh(settings.branch_cost_limit_us);
    fold::branches(&mut partition);
    Plan::assemble(flow, &facts, &partition.parts())
}
