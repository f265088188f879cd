//! Maps: fields by name, each of a type of its own.

use crate::{
    Error, IntoPayload, Payload, Scalar,
    bindings::tidemill::platform::{
        map::{self, Operation},
        state::Field,
    },
};

/// Fields by name, each of a type of its own.
#[derive(Clone, Debug)]
pub struct Map {
    key: String,
}

impl Map {
    pub(super) fn new(key: String) -> Map {
        Map { key }
    }

    /// All fields with their values.
    pub fn get(&self) -> Result<Vec<(String, Field)>, Error> {
        map::get(&self.key)
    }

    /// What one field holds, whatever its type.
    pub fn get_field(&self, name: &str) -> Result<Option<Field>, Error> {
        map::get_field(&self.key, name)
    }

    /// Removes a field, whatever it holds.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        self.apply(name, &Operation::Remove)
    }

    fn apply(&self, name: &str, operation: &Operation) -> Result<(), Error> {
        map::apply(&self.key, name, operation)
    }
}

/// Declares the handle of a field of one type, and how it is got from its map.
macro_rules! fields {
    ($($(#[$doc:meta])* $function:ident $handle:ident;)+) => {
        impl Map {$(
            $(#[$doc])*
            pub fn $function(&self, name: impl Into<String>) -> $handle<'_> {
                $handle { map: self, name: name.into() }
            }
        )+}

        $(
            $(#[$doc])*
            #[derive(Clone, Debug)]
            pub struct $handle<'map> {
                map: &'map Map,
                name: String,
            }

            impl $handle<'_> {
                fn field(&self) -> Result<Option<Field>, Error> {
                    self.map.get_field(&self.name)
                }

                fn apply(&self, operation: &Operation) -> Result<(), Error> {
                    self.map.apply(&self.name, operation)
                }
            }
        )+
    };
}

fields! {
    /// A field that is a register: of concurrent writes the later one stays.
    register MapRegister;
    /// A field that is a multi-value register: of concurrent writes all stay.
    multi MapMulti;
    /// A field that is a sum.
    counter MapCounter;
    /// A field that is the greatest of all that was put.
    max MapMax;
    /// A field that is the least of all that was put.
    min MapMin;
    /// A field that is false until somebody raises it.
    flag MapFlag;
    /// A field that is a set of values.
    set MapSet;
}

/// A field is read by a handle of another type than it was written by.
fn wrong_type(name: &str, wanted: &str) -> Error {
    let message = [
        "the field ",
        name,
        " is no ",
        wanted,
        ": read it by its own type",
    ];
    Error::new("wrong-type", message.concat())
}

impl MapRegister<'_> {
    /// The value, if one was set.
    pub fn get(&self) -> Result<Option<Payload>, Error> {
        match self.field()? {
            None => Ok(None),
            Some(Field::Register(value)) => Ok(Some(value)),
            Some(_) => Err(wrong_type(&self.name, "register")),
        }
    }

    /// Sets the value.
    pub fn set(&self, value: impl IntoPayload) -> Result<(), Error> {
        self.apply(&Operation::RegisterSet(value.into_payload()?))
    }
}

impl MapMulti<'_> {
    /// The values that stand side by side.
    pub fn get(&self) -> Result<Vec<Payload>, Error> {
        match self.field()? {
            None => Ok(Vec::new()),
            Some(Field::Multi(values)) => Ok(values),
            Some(_) => Err(wrong_type(&self.name, "multi")),
        }
    }

    /// Sets one value in place of all that were seen.
    pub fn set(&self, value: impl IntoPayload) -> Result<(), Error> {
        self.apply(&Operation::MultiSet(value.into_payload()?))
    }
}

impl MapCounter<'_> {
    /// The sum; 0 for an absent field.
    pub fn get(&self) -> Result<i64, Error> {
        match self.field()? {
            None => Ok(0),
            Some(Field::Counter(sum)) => Ok(sum),
            Some(_) => Err(wrong_type(&self.name, "counter")),
        }
    }

    /// Adds, or with a negative amount takes away.
    pub fn add(&self, amount: i64) -> Result<(), Error> {
        self.apply(&Operation::CounterAdd(amount))
    }
}

impl MapMax<'_> {
    /// The greatest value, if one was put.
    pub fn get(&self) -> Result<Option<Scalar>, Error> {
        match self.field()? {
            None => Ok(None),
            Some(Field::Max(value)) => Ok(Some(value)),
            Some(_) => Err(wrong_type(&self.name, "max")),
        }
    }

    /// Puts a number or a text. Numbers come before texts.
    pub fn put(&self, value: impl Into<Scalar>) -> Result<(), Error> {
        self.apply(&Operation::MaxPut(value.into()))
    }
}

impl MapMin<'_> {
    /// The least value, if one was put.
    pub fn get(&self) -> Result<Option<Scalar>, Error> {
        match self.field()? {
            None => Ok(None),
            Some(Field::Min(value)) => Ok(Some(value)),
            Some(_) => Err(wrong_type(&self.name, "min")),
        }
    }

    /// Puts a number or a text. Numbers come before texts.
    pub fn put(&self, value: impl Into<Scalar>) -> Result<(), Error> {
        self.apply(&Operation::MinPut(value.into()))
    }
}

impl MapFlag<'_> {
    /// Whether it is raised.
    pub fn get(&self) -> Result<bool, Error> {
        match self.field()? {
            None => Ok(false),
            Some(Field::Flag) => Ok(true),
            Some(_) => Err(wrong_type(&self.name, "flag")),
        }
    }

    /// Raises it.
    pub fn raise(&self) -> Result<(), Error> {
        self.apply(&Operation::FlagRaise)
    }
}

impl MapSet<'_> {
    /// The elements.
    pub fn get(&self) -> Result<Vec<Payload>, Error> {
        match self.field()? {
            None => Ok(Vec::new()),
            Some(Field::Set(elements)) => Ok(elements),
            Some(_) => Err(wrong_type(&self.name, "set")),
        }
    }

    /// Adds an element.
    pub fn add(&self, element: impl IntoPayload) -> Result<(), Error> {
        self.apply(&Operation::SetAdd(element.into_payload()?))
    }

    /// Removes an element.
    pub fn remove(&self, element: impl IntoPayload) -> Result<(), Error> {
        self.apply(&Operation::SetRemove(element.into_payload()?))
    }
}
