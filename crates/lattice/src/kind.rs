//! The names of the value types.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The type of a key's or a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The last writer's value.
    Register,
    /// All values that no later write has seen.
    Multi,
    /// A sum.
    Counter,
    /// The greatest number or text.
    Max,
    /// The smallest number or text.
    Min,
    /// Raised once, raised for good.
    Flag,
    /// A set in which an add wins over a concurrent remove.
    Set,
    /// Fields, each with a value of its own type.
    Map,
    /// Entries in the order of their commits.
    Log,
    /// The greatest k of (score, id).
    Top,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Kind; 10] = [
        Kind::Register,
        Kind::Multi,
        Kind::Counter,
        Kind::Max,
        Kind::Min,
        Kind::Flag,
        Kind::Set,
        Kind::Map,
        Kind::Log,
        Kind::Top,
    ];

    /// The name in lower case, as in every protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Register => "register",
            Kind::Multi => "multi",
            Kind::Counter => "counter",
            Kind::Max => "max",
            Kind::Min => "min",
            Kind::Flag => "flag",
            Kind::Set => "set",
            Kind::Map => "map",
            Kind::Log => "log",
            Kind::Top => "top",
        }
    }

    /// Whether a field of a map may hold this kind.
    pub const fn fits_field(self) -> bool {
        !matches!(self, Kind::Map | Kind::Log | Kind::Top)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no type `{0}`: use register, multi, counter, max, min, flag, set, map, log or top"
)]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Kind, UnknownKind> {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!(
            "Register".parse::<Kind>(),
            Err(UnknownKind("Register".into()))
        );
    }
}
