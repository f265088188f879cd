//! Compositions of functions: the common form that every front end compiles to, and
//! the optimiser that decides which steps share a worker.
//!
//! A [`Flow`] is data. It is [validated](Flow::validate) against what is known of the
//! app's functions, then [planned](plan): the [`Plan`] is a graph of [`Fragment`]s,
//! each of which is one hand-off to one worker.
//!
//! ```
//! use std::collections::BTreeMap;
//! use tidemill_flow::{Flow, FunctionFacts, plan};
//!
//! let facts: BTreeMap<String, FunctionFacts> = ["clean", "mask", "count", "combine"]
//!     .into_iter()
//!     .map(|name| (name.to_owned(), FunctionFacts::default()))
//!     .collect();
//! let flow = Flow::of("clean").fan_out(["mask", "count"]).fan_in("combine").build();
//! let valid = flow.validate(&facts)?;
//! assert_eq!(plan(&valid, &facts).fragments().len(), 1);
//! # Ok::<(), tidemill_flow::FlowError>(())
//! ```
//!
//! This crate is pure: it must not know of I/O, workers, state or time. Values never
//! pass through it; whoever runs a plan carries them.

mod builder;
mod error;
mod explain;
mod facts;
mod ir;
mod optimise;
mod plan;
mod progress;
mod validate;

pub use builder::{Branches, Chain};
pub use error::{FlowError, ParseError};
pub use facts::{Facts, FunctionFacts};
pub use ir::{
    CallStep, Flow, Input, MAX_INPUTS, MAX_STEPS, Step, StepId, VERSION, is_function_name,
};
pub use optimise::{DEFAULT_BRANCH_COST_LIMIT_US, PlanSettings, plan, plan_with};
pub use plan::{Fragment, FragmentId, Plan};
pub use progress::Progress;
pub use validate::ValidFlow;
