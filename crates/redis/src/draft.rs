//! A write in the making: operations on one key, gathered into one delta.
//!
//! Pure. It is used where a key's newest state is, on the sequencer's thread, so it never copies
//! what the key holds unless an operation has to see an earlier one of the same write.

use std::borrow::Cow;

use tidemill_lattice::{Addition, Cell, Dot, Kind, Op, PAYLOAD_MAX_BYTES, Payload, Time, Value};
use tidemill_store::Seen;

use crate::fault::Fault;
use crate::values;

/// Operations on one key.
pub(crate) struct Draft<'a> {
    base: Base<'a>,
    at: Time,
    dots: &'a mut dyn FnMut() -> Dot,
    /// The dot drawn last.
    last: Dot,
    delta: Cell,
    /// Nothing of the base is left, so the delta is all there is.
    is_fresh: bool,
}

/// What the key holds before, as far as it has been looked at.
enum Base<'a> {
    Nothing,
    Seen(Seen<'a>),
    Cell(Cow<'a, Cell>),
}

impl Base<'_> {
    fn cell(&self) -> Option<&Cell> {
        match self {
            Base::Nothing => None,
            Base::Seen(seen) => seen.cell(),
            Base::Cell(cell) => Some(cell),
        }
    }
}

impl<'a> Draft<'a> {
    /// No operations yet, on what the key holds at a time.
    pub(crate) fn new(base: Option<&'a Cell>, at: Time, dots: &'a mut dyn FnMut() -> Dot) -> Self {
        let base = base.map_or(Base::Nothing, |cell| Base::Cell(Cow::Borrowed(cell)));
        Self::begin(base, at, dots)
    }

    /// The same, on what is looked at only when an operation has to.
    pub(crate) fn lazy(seen: Seen<'a>, at: Time, dots: &'a mut dyn FnMut() -> Dot) -> Self {
        let base = if seen.is_known() {
            Base::Seen(seen)
        } else {
            Base::Nothing
        };
        Self::begin(base, at, dots)
    }

    fn begin(base: Base<'a>, at: Time, dots: &'a mut dyn FnMut() -> Dot) -> Self {
        Self {
            base,
            at,
            dots,
            last: Dot::ZERO,
            delta: Cell::empty(),
            is_fresh: false,
        }
    }

    /// The time that expiry is judged by.
    pub(crate) fn at(&self) -> Time {
        self.at
    }

    /// What the key held before this write.
    pub(crate) fn held(&self) -> Option<&Value> {
        values::held(self.base.cell(), self.at)
    }

    /// What the key held, if it is a Redis string or nothing.
    pub(crate) fn string(&self) -> Result<Option<bytes::Bytes>, Fault> {
        values::string_of(self.held())
    }

    /// When the key expires, as it was before this write.
    pub(crate) fn expires(&self) -> Option<Time> {
        self.held()?;
        self.base.cell()?.expires()
    }

    /// The place of the last operation among those of this write.
    pub(crate) fn sequence(&self) -> u32 {
        self.last.sequence
    }

    /// Adds an operation. It sees the earlier ones of this write only where nothing else is left
    /// of the key; see [`Draft::settle`].
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Fault> {
        if !self.is_fresh {
            self.is_fresh = match &self.base {
                Base::Nothing => true,
                base => base.cell().is_none_or(|cell| cell.is_empty_at(self.at)),
            };
        }
        let seen = if self.is_fresh {
            Some(&self.delta)
        } else {
            self.base.cell()
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
            let mut base = self.base.cell().cloned().unwrap_or_default();
            base.merge(&self.delta);
            self.base = Base::Cell(Cow::Owned(base));
        }
    }

    /// Ends what the key holds and sets a register of bytes that never expires.
    pub(crate) fn overwrite(&mut self, payload: Payload) -> Result<(), Fault> {
        if let Base::Seen(_) = self.base
            && self.delta.is_bottom()
            && !self.is_fresh
            && payload.body.len() <= PAYLOAD_MAX_BYTES
        {
            let ended = (self.dots)();
            self.last = (self.dots)();
            if let Some(delta) = Cell::overwrite(ended, payload.clone()) {
                self.delta = delta;
                self.is_fresh = true;
                return Ok(());
            }
        }
        self.replace()?;
        self.apply(&Op::RegisterSet(payload))
    }

    /// Adds to a counter, where what it holds can be told without its cell and nothing else was
    /// done to it. Answers the new sum, which `fits` makes of the old one.
    pub(crate) fn add(
        &mut self,
        addend: i64,
        fits: impl FnOnce(i128) -> Result<i64, Fault>,
    ) -> Result<Option<i64>, Fault> {
        let Base::Seen(seen) = self.base else {
            return Ok(None);
        };
        let (Some((created, held)), true) = (seen.counter(), self.delta.is_bottom()) else {
            return Ok(None);
        };
        let total = fits(held)?;
        self.last = (self.dots)();
        self.delta = Addition::new(created, self.last, addend).cell();
        Ok(Some(total))
    }

    /// Ends what the key holds; what follows is a new incarnation, of any type.
    pub(crate) fn replace(&mut self) -> Result<(), Fault> {
        if let Base::Seen(_) = self.base
            && !self.is_fresh
        {
            // Whatever it is: a delete of nothing changes nothing either.
            self.last = (self.dots)();
            self.delta.merge(&Cell::tombstone(self.last));
        } else {
            self.apply(&Op::Delete)?;
        }
        self.is_fresh = true;
        Ok(())
    }

    /// Makes sure that operations of a type fit. A value that is empty to Redis gives way.
    pub(crate) fn make_room(&mut self, kind: Kind) -> Result<(), Fault> {
        match self.held() {
            Some(value) if value.kind() == kind => Ok(()),
            Some(_) => Err(Fault::WrongType),
            None => match self.base.cell().and_then(|cell| cell.kind(self.at)) {
                Some(other) if other != kind => self.replace(),
                _ => Ok(()),
            },
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
