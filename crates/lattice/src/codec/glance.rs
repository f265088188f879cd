//! A look at an encoded cell that decodes nothing.

use super::{TAG_OF_BEGINNING, VERSION, kind_tag, primitive::Reader};
use crate::{Cell, DecodeError, Dot, Kind, Value};

/// What the plainest cells hold: those with one life, without deletes and expiry. Most keys are
/// so most of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance<'a> {
    /// The body of a register, of whatever content type.
    Register(&'a [u8]),
    /// The sum of a counter.
    Counter(i128),
}

impl<'a> Glance<'a> {
    /// What [`Cell::encode`](crate::Cell::encode) wrote holds, if it is as plain as that.
    pub fn at(bytes: &'a [u8]) -> Option<Glance<'a>> {
        read(Reader::copying(bytes)).ok().flatten()
    }
}

impl Cell {
    /// The value, if the cell is as plain as [`Glance`] asks of registers and others: one life,
    /// no deletes and no expiry.
    pub fn plain(&self) -> Option<&Value> {
        match &self.lives[..] {
            [life] if self.expiries.is_empty() && self.deleted == Dot::ZERO => Some(&life.value),
            _ => None,
        }
    }
}

/// The beginning of the life and the sum of what was encoded, if [`Glance::at`] sees a counter.
pub(crate) fn counter_at(bytes: &[u8]) -> Option<(Dot, i128)> {
    let mut input = Reader::copying(bytes);
    let (tag, created) = begin(&mut input).ok()??;
    if tag != COUNTER {
        return None;
    }
    let sum = counter(&mut input).ok()??;
    Some((created, sum))
}

const REGISTER: u8 = kind_tag(Kind::Register);
const SHORT_REGISTER: u8 = REGISTER | TAG_OF_BEGINNING;
const COUNTER: u8 = kind_tag(Kind::Counter);

/// The tag and the beginning of the only life.
fn begin(input: &mut Reader<'_>) -> Result<Option<(u8, Dot)>, DecodeError> {
    const NO_FLAGS: u8 = 0;
    if (input.u8()?, input.u8()?, input.count()?) != (VERSION, NO_FLAGS, 1) {
        return Ok(None);
    }
    Ok(Some((input.u8()?, input.dot()?)))
}

/// `None` if there are addends beside the sum.
fn counter(input: &mut Reader<'_>) -> Result<Option<i128>, DecodeError> {
    input.some_time()?;
    let sum = input.signed()?;
    Ok((input.count()? == 0).then_some(sum))
}

fn read(mut input: Reader<'_>) -> Result<Option<Glance<'_>>, DecodeError> {
    let Some((tag, _)) = begin(&mut input)? else {
        return Ok(None);
    };
    Ok(match tag {
        REGISTER | SHORT_REGISTER => {
            if tag == REGISTER {
                input.dot()?;
            }
            if input.u8()? == 3 {
                input.slice()?;
            }
            Some(Glance::Register(input.slice()?))
        }
        COUNTER => counter(&mut input)?.map(Glance::Counter),
        _ => None,
    })
}
