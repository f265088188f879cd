//! Why a policy is refused.

use thiserror::Error;

/// A policy whose bounds nothing could keep.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A bound that must let at least one through is 0.
    #[error("{option} is 0, so nothing could ever run: set it to 1 or more")]
    Zero {
        /// The option's name.
        option: &'static str,
    },
    /// A lower bound is above the upper one.
    #[error("{low} is above {high}: lower the one or raise the other")]
    Order {
        /// The option that should be the lower one.
        low: &'static str,
        /// The option that should be the higher one.
        high: &'static str,
    },
}
