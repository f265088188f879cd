//! A write in the making: operations on one key, gathered into one delta.
//!
//! Pure. It is used where a key's newest state is, on the sequencer's thread, so it never copies
//! what the key holds unless an operation has to see an earlier one of the same write.

use std::borrow::Cow;

use tidemill_lattice::{Cell, Dot, Kind, Op, Time, Value};

use crate::fault::Fault;
use crate::values;

/// Operations on one key.
pub(crate) struct Draft<'a> {
    base: Option<Cow<'a, Cell>>,
    at: Time,
    dots: &'a mut dyn FnMut() -> Dot,
    /// The dot drawn last.
    last: Dot,
    delta: Cell,
    /// Nothing of the base is left, so the delta is all there is.
    is_fresh: bool,
}

impl<'a> Draft<'a> {
    /// No operations yet, on what the key holds at a time.
    pub(crate) fn new(base: Option<&'a Cell>, at: Time, dots: &'a mut dyn FnMut() -> Dot) -> Self {
        Self {
            base: base.map(Cow::Borrowed),
            at,
            dots,
            last: Dot::ZERO,
            delta: Cell::empty(),
            is_fresh: base.is_none_or(|cell| cell.is_empty_at(at)),
        }
    }

    /// The time that expiry is judged by.
    pub(crate) fn at(&self) -> Time {
        self.at
    }

    /// What the key held before this write.
    pub(crate) fn held(&self) -> Option<&Value> {
        values::held(self.base.as_deref(), self.at)
    }

    /// What the key held, if it is a Redis string or nothing.
    pub(crate) fn string(&self) -> Result<Option<bytes::Bytes>, Fault> {
        values::string_of(self.held())
    }

    /// When the key expires, as it was before this write.
    pub(crate) fn expires(&self) -> Option<Time> {
        self.held()?;
        self.base.as_deref()?.expires()
    }

    /// The place of the last operation among those of this write.
    pub(crate) fn sequence(&self) -> u32 {
        self.last.sequence
    }

    /// Adds an operation. It sees the earlier ones of this write only where nothing else is left
    /// of the key; see [`Draft::settle`].
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Fault> {
        let seen = if self.is_fresh {
            Some(&self.delta)
        } else {
            self.base.as_deref()
        };
        let (dots, last) = (&mut *self.dots, &mut self.last);
        let mut draw = || {
            *last = dots();
            *last
        };
        let delta = Cell::delta(seen, op, self.at, &mut draw)?;
        self.delta.merge(&delta);
        Ok(())
    }

    /// Lets later operations see the earlier ones. Copies the key's value.
    pub(crate) fn settle(&mut self) {
        if !self.is_fresh {
            let mut base = self.base.take().map(Cow::into_owned).unwrap_or_default();
            base.merge(&self.delta);
            self.base = Some(Cow::Owned(base));
        }
    }

    /// Ends what the key holds; what follows is a new incarnation, of any type.
    pub(crate) fn replace(&mut self) -> Result<(), Fault> {
        self.apply(&Op::Delete)?;
        self.is_fresh = true;
        Ok(())
    }

    /// Makes sure that operations of a type fit. A value that is empty to Redis gives way.
    pub(crate) fn make_room(&mut self, kind: Kind) -> Result<(), Fault> {
        match self.held() {
            Some(value) if value.kind() == kind => Ok(()),
            Some(_) => Err(Fault::WrongType),
            None => {
                let base = self.base.as_deref();
                match base.and_then(|cell| cell.kind(self.at)) {
                    Some(other) if other != kind => self.replace(),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Sets when the key expires. A time that has come deletes it.
    pub(crate) fn expire(&mut self, end: Option<Time>) -> Result<(), Fault> {
        if end.is_some_and(|end| end <= self.at) {
            self.apply(&Op::Delete)
        } else {
            self.apply(&Op::Expire(end))
        }
    }

    /// The delta, `None` if it changes nothing.
    pub(crate) fn finish(self) -> Option<Cell> {
        (!self.delta.is_bottom()).then_some(self.delta)
    }
}
