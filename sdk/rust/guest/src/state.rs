//! State: keys of the own app, each of one type, which says how concurrent writes come together.
//!
//! A handle is a key's name and type; to make one reads nothing.
//!
//! ```no_run
//! use tidemill_guest::{Payload, state};
//!
//! # fn main() -> Result<(), tidemill_guest::Error> {
//! state::counter("visits").add(1)?;
//! state::register("profile/ada").set(Payload::text("Ada"))?;
//! state::map("order/7").counter("items").add(2)?;
//! let best = state::top("scores", 10);
//! best.put("ada", 41)?;
//! # Ok(())
//! # }
//! ```

mod map;

pub use map::{Map, MapCounter, MapFlag, MapMax, MapMin, MapMulti, MapRegister, MapSet};

pub use crate::bindings::tidemill::platform::state::{Entry, Field, Kind, Score, Value};
use crate::{
    Error, IntoPayload, Payload, Scalar,
    bindings::tidemill::platform::{
        counter, extremes, flag, history, multi, register, set, state, top,
    },
};

/// What a key holds, whatever its type.
pub fn get(key: &str) -> Result<Option<Value>, Error> {
    state::get(key)
}

/// Deletes a key of any type. Wins over writes that did not see it.
pub fn delete(key: &str) -> Result<(), Error> {
    state::delete(key)
}

/// Lets a key expire at these Unix milliseconds, or never.
pub fn expire(key: &str, at_ms: Option<u64>) -> Result<(), Error> {
    state::expire(key, at_ms)
}

/// The keys that begin with `prefix`, in the order of their bytes, read by the page.
///
/// ```no_run
/// # use tidemill_guest::state;
/// # fn main() -> Result<(), tidemill_guest::Error> {
/// for key in state::keys("order/") {
///     let (key, kind) = key?;
/// }
/// # Ok(())
/// # }
/// ```
pub fn keys(prefix: impl Into<String>) -> Keys {
    Keys {
        prefix: prefix.into(),
        page: Vec::new().into_iter(),
        next: Some(None),
    }
}

/// What [`keys`] gives; after an error it ends.
pub struct Keys {
    prefix: String,
    page: std::vec::IntoIter<(String, Kind)>,
    /// Where the next page begins; none after the last.
    next: Option<Option<String>>,
}

const PAGE_KEYS: u32 = 1000;

impl Iterator for Keys {
    type Item = Result<(String, Kind), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(key) = self.page.next() {
                return Some(Ok(key));
            }
            let after = self.next.take()?;
            match state::keys(&self.prefix, after.as_deref(), PAGE_KEYS) {
                Ok(page) => {
                    self.page = page.keys.into_iter();
                    self.next = page.next.map(Some);
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Declares a handle that is a key's name and nothing else.
macro_rules! handles {
    ($($(#[$doc:meta])* $function:ident $handle:ident;)+) => {$(
        $(#[$doc])*
        pub fn $function(key: impl Into<String>) -> $handle {
            $handle { key: key.into() }
        }

        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $handle {
            key: String,
        }
    )+};
}

handles! {
    /// Any value; of concurrent writes the later one stays.
    register Register;
    /// Any value; of concurrent writes all stay, until somebody who has seen them sets a new one.
    multi Multi;
    /// A sum: every `add` counts.
    counter Counter;
    /// The greatest of all that was put.
    max Max;
    /// The least of all that was put.
    min Min;
    /// False until somebody raises it.
    flag Flag;
    /// A set of values. A remove takes away what its request has seen.
    set Set;
    /// Entries in the order of their commits.
    log Log;
}

/// Fields by name, each of a type of its own.
pub fn map(key: impl Into<String>) -> Map {
    Map::new(key.into())
}

/// The `keep` ids with the greatest scores; the least `keep` ever given holds.
pub fn top(key: impl Into<String>, keep: u32) -> Top {
    Top {
        key: key.into(),
        keep,
    }
}

impl Register {
    /// The value, if one was set.
    pub fn get(&self) -> Result<Option<Payload>, Error> {
        register::get(&self.key)
    }

    /// Sets the value.
    pub fn set(&self, value: impl IntoPayload) -> Result<(), Error> {
        register::set(&self.key, &value.into_payload()?)
    }
}

impl Multi {
    /// The values that stand side by side.
    pub fn get(&self) -> Result<Vec<Payload>, Error> {
        multi::get(&self.key)
    }

    /// Sets one value in place of all that were seen.
    pub fn set(&self, value: impl IntoPayload) -> Result<(), Error> {
        multi::set(&self.key, &value.into_payload()?)
    }
}

impl Counter {
    /// The sum; 0 for an absent key.
    pub fn get(&self) -> Result<i64, Error> {
        counter::get(&self.key)
    }

    /// Adds, or with a negative amount takes away.
    pub fn add(&self, amount: i64) -> Result<(), Error> {
        counter::add(&self.key, amount)
    }
}

impl Max {
    /// The greatest value, if one was put.
    pub fn get(&self) -> Result<Option<Scalar>, Error> {
        extremes::get_max(&self.key)
    }

    /// Puts a number or a text. Numbers come before texts.
    pub fn put(&self, value: impl Into<Scalar>) -> Result<(), Error> {
        extremes::put_max(&self.key, &value.into())
    }
}

impl Min {
    /// The least value, if one was put.
    pub fn get(&self) -> Result<Option<Scalar>, Error> {
        extremes::get_min(&self.key)
    }

    /// Puts a number or a text. Numbers come before texts.
    pub fn put(&self, value: impl Into<Scalar>) -> Result<(), Error> {
        extremes::put_min(&self.key, &value.into())
    }
}

impl Flag {
    /// Whether it is raised.
    pub fn get(&self) -> Result<bool, Error> {
        flag::get(&self.key)
    }

    /// Raises it.
    pub fn raise(&self) -> Result<(), Error> {
        flag::raise(&self.key)
    }
}

impl Set {
    /// The elements.
    pub fn get(&self) -> Result<Vec<Payload>, Error> {
        set::get(&self.key)
    }

    /// Whether it has this element.
    pub fn has(&self, element: impl IntoPayload) -> Result<bool, Error> {
        set::has(&self.key, &element.into_payload()?)
    }

    /// Adds an element.
    pub fn add(&self, element: impl IntoPayload) -> Result<(), Error> {
        set::add(&self.key, &element.into_payload()?)
    }

    /// Removes an element.
    pub fn remove(&self, element: impl IntoPayload) -> Result<(), Error> {
        set::remove(&self.key, &element.into_payload()?)
    }
}

impl Log {
    /// The entries, from the oldest.
    pub fn get(&self) -> Result<Vec<Entry>, Error> {
        history::get(&self.key)
    }

    /// Appends an entry.
    pub fn append(&self, value: impl IntoPayload) -> Result<(), Error> {
        history::append(&self.key, &value.into_payload()?, None)
    }

    /// Appends an entry, and bounds the log to its `keep` newest; the least ever given holds.
    pub fn append_keeping(&self, value: impl IntoPayload, keep: u32) -> Result<(), Error> {
        history::append(&self.key, &value.into_payload()?, Some(keep))
    }
}

/// The ids with the greatest scores.
#[derive(Clone, Debug)]
pub struct Top {
    key: String,
    keep: u32,
}

impl Top {
    /// The ids with their scores, from the greatest.
    pub fn get(&self) -> Result<Vec<Score>, Error> {
        top::get(&self.key)
    }

    /// Puts an id with its score.
    pub fn put(&self, id: &str, score: impl Into<Scalar>) -> Result<(), Error> {
        top::put(&self.key, id, &score.into(), self.keep)
    }
}
