//! Bytes to cells. Refuses whatever is not in normal form, so that hostile bytes cannot make a
//! cell that merging never makes.

use std::{collections::BTreeMap, sync::Arc};

use smallvec::SmallVec;

use super::{FLAG_DELETED, FLAG_EXPIRIES, TAG_OF_BEGINNING, kind_tag, primitive::Reader};
use crate::{
    Cell, Counter, DecodeError, Dot, Flag, Kind, Log, Map, Max, Min, Multi, Payload, Register, Set,
    Time, Top, Value,
    cell::Life,
    value::{Dots, Slot},
};

type Decoded<T> = Result<T, DecodeError>;

fn require(holds: bool, otherwise: &'static str) -> Decoded<()> {
    if holds {
        Ok(())
    } else {
        Err(DecodeError::Malformed(otherwise))
    }
}

/// Checks that items come in strictly rising order.
struct Rising<T>(Option<T>);

impl<T: Ord> Rising<T> {
    fn next(&mut self, item: T) -> Decoded<()> {
        require(
            self.0.as_ref().is_none_or(|last| *last < item),
            "items are out of order",
        )?;
        self.0 = Some(item);
        Ok(())
    }
}

pub(super) fn body(input: &mut Reader, is_field: bool) -> Decoded<Cell> {
    let flags = input.u8()?;
    require(
        flags & !(FLAG_DELETED | FLAG_EXPIRIES) == 0,
        "unknown flags",
    )?;
    let mut deleted = Dot::ZERO;
    if flags & FLAG_DELETED != 0 {
        deleted = input.dot()?;
        require(deleted != Dot::ZERO, "a delete without a dot")?;
    }
    let mut expiries = Vec::new();
    if flags & FLAG_EXPIRIES != 0 {
        let count = input.count()?;
        require(count > 0, "no expiry where one was announced")?;
        let mut order = Rising(None);
        for _ in 0..count {
            let expiry = (input.dot()?, input.some_time()?);
            require(expiry.0 > deleted, "an expiry from before the delete")?;
            order.next(expiry)?;
            expiries.push(expiry);
        }
    }
    let mut lives = SmallVec::new();
    let mut order = Rising(None);
    for _ in 0..input.count()? {
        let tag = input.u8()?;
        let is_of_beginning = tag & TAG_OF_BEGINNING != 0;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| kind_tag(*kind) == tag & !TAG_OF_BEGINNING)
            .ok_or(DecodeError::Malformed("an unknown type"))?;
        require(
            !is_field || kind.fits_field(),
            "a field of a type that fields do not hold",
        )?;
        let created = input.dot()?;
        require(created > deleted, "a life from before the delete")?;
        order.next((created, kind))?;
        let value = if is_of_beginning {
            require(kind == Kind::Register, "a type without the short form")?;
            let (dot, payload) = (created, input.payload()?);
            Value::Register(Register { dot, payload })
        } else {
            value(input, kind)?
        };
        if let Value::Register(register) = &value {
            let is_short = register.dot == created;
            require(is_short == is_of_beginning, "a register in the long form")?;
        }
        lives.push(Life { created, value });
    }
    Ok(Cell::from_parts(deleted, expiries, lives))
}

fn value(input: &mut Reader, kind: Kind) -> Decoded<Value> {
    Ok(match kind {
        Kind::Register => Value::Register(Register {
            dot: input.dot()?,
            payload: input.payload()?,
        }),
        Kind::Multi => Value::Multi(multi(input)?),
        Kind::Counter => Value::Counter(counter(input)?),
        Kind::Max => Value::Max(Max(input.ordinal()?)),
        Kind::Min => Value::Min(Min(input.ordinal()?)),
        Kind::Flag => Value::Flag(Flag::default()),
        Kind::Set => Value::Set(set(input)?),
        Kind::Map => Value::Map(map(input)?),
        Kind::Log => Value::Log(log(input)?),
        Kind::Top => Value::Top(top(input)?),
    })
}

fn through(input: &mut Reader) -> Decoded<Time> {
    match input.some_time()? {
        None => Ok(Time::ZERO),
        Some(time) => require(time != Time::ZERO, "a line drawn nowhere").map(|()| time),
    }
}

/// Dots in order, above a time.
fn dots<T: FromIterator<Dot>>(input: &mut Reader, above: Time) -> Decoded<T> {
    let mut order = Rising(None);
    (0..input.count()?)
        .map(|_| {
            let dot = input.dot()?;
            require(dot.time > above, "a dot below the line")?;
            order.next(dot)?;
            Ok(dot)
        })
        .collect()
}

/// Payloads by dot, in order.
fn entries<T: FromIterator<(Dot, Payload)>>(input: &mut Reader) -> Decoded<T> {
    let mut order = Rising(None);
    (0..input.count()?)
        .map(|_| {
            let dot = input.dot()?;
            order.next(dot)?;
            Ok((dot, input.payload()?))
        })
        .collect()
}

fn multi(input: &mut Reader) -> Decoded<Multi> {
    let through = through(input)?;
    let live: Vec<(Dot, Payload)> = entries(input)?;
    let dead: Vec<Dot> = dots(input, through)?;
    require(
        !live.iter().any(|(dot, _)| dead.binary_search(dot).is_ok()),
        "a dot both live and dead",
    )?;
    Ok(Multi {
        through,
        live,
        dead,
    })
}

fn counter(input: &mut Reader) -> Decoded<Counter> {
    let through = through(input)?;
    let sum = input.signed()?;
    let mut addends = SmallVec::new();
    let mut order = Rising(None);
    for _ in 0..input.count()? {
        let dot = input.dot()?;
        require(dot.time > through, "an addend below the line")?;
        order.next(dot)?;
        addends.push((dot, input.signed()?));
    }
    Ok(Counter {
        through,
        sum,
        addends,
    })
}

fn set(input: &mut Reader) -> Decoded<Set> {
    let through = through(input)?;
    let mut slots = BTreeMap::new();
    let mut order = Rising(None);
    for _ in 0..input.count()? {
        let element = input.payload()?;
        order.next(element.clone())?;
        let live: Dots = dots(input, Time::ZERO)?;
        let dead: Dots = dots(input, through)?;
        require(
            !live.iter().any(|dot| dead.binary_search(dot).is_ok()),
            "a dot both live and dead",
        )?;
        let slot = Slot { live, dead };
        require(!slot.is_empty(), "an element without dots")?;
        slots.insert(element, slot);
    }
    Ok(Set {
        through,
        slots: Arc::new(slots),
    })
}

fn map(input: &mut Reader) -> Decoded<Map> {
    let mut fields = BTreeMap::new();
    let mut order = Rising(None);
    for _ in 0..input.count()? {
        let field = input.text()?;
        order.next(field.clone())?;
        let cell = body(input, true)?;
        require(!cell.is_bottom(), "a field without a state")?;
        fields.insert(field, cell);
    }
    Ok(Map {
        fields: Arc::new(fields),
    })
}

fn log(input: &mut Reader) -> Decoded<Log> {
    let keep = input.number::<u32>()?;
    let entries: BTreeMap<Dot, Payload> = entries(input)?;
    let keep = (keep > 0).then_some(keep);
    require(
        keep.is_none_or(|keep| entries.len() <= keep as usize),
        "a log longer than its bound",
    )?;
    Ok(Log {
        keep,
        entries: Arc::new(entries),
    })
}

fn top(input: &mut Reader) -> Decoded<Top> {
    let of = input.number::<u32>()?;
    let mut scores = BTreeMap::new();
    let mut order = Rising(None);
    for _ in 0..input.count()? {
        let id = input.text()?;
        order.next(id.clone())?;
        let score = input.ordinal()?;
        require(score.is_number(), "a score that is no number")?;
        scores.insert(id, score);
    }
    require(
        of > 0 && scores.len() <= of as usize,
        "a board longer than its bound",
    )?;
    Ok(Top { of, scores })
}
