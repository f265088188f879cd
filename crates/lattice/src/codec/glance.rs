//! A look at an encoded cell that decodes nothing.

use super::{TAG_OF_BEGINNING, VERSION, kind_tag, primitive::Reader};
use crate::{DecodeError, Kind};

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

fn read(mut input: Reader<'_>) -> Result<Option<Glance<'_>>, DecodeError> {
    const NO_FLAGS: u8 = 0;
    const REGISTER: u8 = kind_tag(Kind::Register);
    const SHORT_REGISTER: u8 = REGISTER | TAG_OF_BEGINNING;
    const COUNTER: u8 = kind_tag(Kind::Counter);
    if (input.u8()?, input.u8()?, input.count()?) != (VERSION, NO_FLAGS, 1) {
        return Ok(None);
    }
    let tag = input.u8()?;
    input.dot()?;
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
        COUNTER => {
            input.some_time()?;
            let sum = input.signed()?;
            (input.count()? == 0).then_some(Glance::Counter(sum))
        }
        _ => None,
    })
}
