//! Strings: registers, and counters once they are counted with.
//!
//! `SET` ends what the key held and begins anew, so it may change the type. `INCR` of a register
//! that holds an integer makes it a counter, at the owner and in one delta, so none is lost.

use bytes::Bytes;
use tidemill_lattice::{Cell, Dot, Key, Kind, Op, Time, Value, Writer};
use tidemill_store::PROVISIONAL;

use crate::Reply;
use crate::door::{Answer, Batch, Door, Reader, Write};
use crate::draft::Draft;
use crate::fault::{Fault, Outcome};
use crate::number::integer;
use crate::values::{self, payload};

pub(crate) fn get(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    Ok(Reply::maybe(reader.string(&words[1])?))
}

/// All at one snapshot. What is no string is nothing, as in Redis.
pub(crate) fn mget(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let found = words[1..].iter().map(|name| {
        reader.look(name, |value| {
            Ok(Reply::maybe(value.and_then(values::string)))
        })
    });
    Ok(Reply::Array(found.collect::<Result<_, Fault>>()?))
}

pub(crate) fn strlen(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    reader.look(&words[1], |value| {
        let length = values::string_of(value)?.map_or(0, |text| text.len());
        Ok(Reply::count(length))
    })
}

/// When a write lets its key expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// As before.
    Keep,
    /// Never.
    Never,
    /// So many milliseconds after the write.
    In(u64),
    /// At this many Unix milliseconds.
    At(u64),
}

impl Expiry {
    /// The end of a key written at a time; `None` for never.
    pub(crate) fn end(self, at: Time, before: Option<Time>) -> Option<Time> {
        match self {
            Expiry::Keep => before,
            Expiry::Never => None,
            Expiry::In(millis) => Some(Time::from_micros(
                at.micros().saturating_add(millis.saturating_mul(1_000)),
            )),
            Expiry::At(millis) => Some(Time::from_millis(millis)),
        }
    }

    /// Reads the word of an option such as `EX`, and its number.
    fn parse(option: &[u8], number: &[u8], command: &'static str) -> Result<Expiry, Fault> {
        let number = integer(number).ok_or(Fault::NotInteger)?;
        let is_seconds = matches!(option, b"EX" | b"EXAT");
        let millis = if is_seconds {
            number.checked_mul(1_000)
        } else {
            Some(number)
        };
        let millis = millis
            .filter(|millis| *millis > 0)
            .and_then(|millis| u64::try_from(millis).ok())
            .ok_or(Fault::ExpireTime(command))?;
        Ok(match option {
            b"EX" | b"PX" => Expiry::In(millis),
            _ => Expiry::At(millis),
        })
    }
}

/// When `SET` writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    IfAbsent,
    IfPresent,
}

struct SetOptions {
    condition: Condition,
    expiry: Expiry,
    gets: bool,
}

fn set_options(words: &[Bytes]) -> Result<SetOptions, Fault> {
    let mut options = SetOptions {
        condition: Condition::Always,
        expiry: Expiry::Never,
        gets: false,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let word = word.to_ascii_uppercase();
        let is_free = options.expiry == Expiry::Never;
        match &word[..] {
            b"NX" if options.condition == Condition::Always => {
                options.condition = Condition::IfAbsent;
            }
            b"XX" if options.condition == Condition::Always => {
                options.condition = Condition::IfPresent;
            }
            b"GET" => options.gets = true,
            b"KEEPTTL" if is_free => options.expiry = Expiry::Keep,
            b"EX" | b"PX" | b"EXAT" | b"PXAT" if is_free => {
                let number = words.next().ok_or(Fault::Syntax)?;
                options.expiry = Expiry::parse(&word, number, "set")?;
            }
            _ => return Err(Fault::Syntax),
        }
    }
    Ok(options)
}

pub(crate) fn set(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let options = set_options(&words[3..])?;
    let value = payload(&words[2]);
    Write::one(door.key(&words[1])?, move |draft| {
        let before = if options.gets {
            Reply::maybe(draft.string()?)
        } else {
            Reply::Null
        };
        let writes = match options.condition {
            Condition::Always => true,
            Condition::IfAbsent => draft.held().is_none(),
            Condition::IfPresent => draft.held().is_some(),
        };
        if writes && options.expiry == Expiry::Never {
            draft.overwrite(value)?;
        } else if writes {
            overwrite(draft, &Op::RegisterSet(value), options.expiry)?;
        }
        Ok(match (options.gets, writes) {
            (true, _) | (false, false) => before,
            (false, true) => Reply::ok(),
        }
        .into())
    })
}

/// Begins a new incarnation with one operation.
fn overwrite(draft: &mut Draft<'_>, op: &Op, expiry: Expiry) -> Result<(), Fault> {
    let before = match expiry {
        Expiry::Keep => draft.expires(),
        Expiry::Never | Expiry::In(_) | Expiry::At(_) => None,
    };
    let end = expiry.end(draft.at(), before);
    draft.replace()?;
    if end.is_some_and(|end| end <= draft.at()) {
        return Ok(());
    }
    draft.apply(op)?;
    match end {
        Some(_) => draft.apply(&Op::Expire(end)),
        None => Ok(()),
    }
}

/// Sets the key to the last word whatever it holds.
fn write(
    door: &Door,
    words: &[Bytes],
    expiry: Expiry,
    answer: impl FnOnce(&Draft<'_>) -> Result<Reply, Fault> + Send + 'static,
) -> Result<Write, Fault> {
    let value = payload(&words[words.len() - 1]);
    Write::one(door.key(&words[1])?, move |draft| {
        let reply = answer(draft)?;
        overwrite(draft, &Op::RegisterSet(value), expiry)?;
        Ok(reply.into())
    })
}

pub(crate) fn getset(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    write(door, words, Expiry::Never, |draft| {
        Ok(Reply::maybe(draft.string()?))
    })
}

pub(crate) fn setex(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let expiry = Expiry::parse(b"EX", &words[2], "setex")?;
    write(door, words, expiry, |_| Ok(Reply::ok()))
}

pub(crate) fn psetex(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let expiry = Expiry::parse(b"PX", &words[2], "psetex")?;
    write(door, words, expiry, |_| Ok(Reply::ok()))
}

pub(crate) fn setnx(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let value = payload(&words[2]);
    Write::one(door.key(&words[1])?, move |draft| {
        let is_absent = draft.held().is_none();
        if is_absent {
            overwrite(draft, &Op::RegisterSet(value), Expiry::Never)?;
        }
        Ok(Reply::Integer(is_absent.into()).into())
    })
}

/// One commit, whatever the keys hold.
pub(crate) fn mset(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let pairs = &words[1..];
    if !pairs.len().is_multiple_of(2) {
        return Err(Fault::Arity("mset".to_owned()));
    }
    let mut values: std::collections::BTreeMap<Key, Op> = std::collections::BTreeMap::new();
    for pair in pairs.chunks_exact(2) {
        let op = Op::RegisterSet(payload(&pair[1]));
        // The last value of a key counts.
        values.insert(door.key(&pair[0])?, op);
    }
    Ok(Write::Many(Box::new(move |_| {
        let mut deltas = Vec::with_capacity(values.len());
        for (key, op) in values {
            deltas.push((key, blind(&op)?));
        }
        Ok(Batch {
            deltas,
            reply: Reply::ok(),
        })
    })))
}

/// The delta that ends whatever the key will hold when it is committed, and writes.
fn blind(op: &Op) -> Result<Cell, Fault> {
    let mut sequence = 0;
    let mut dots = || {
        sequence += 1;
        Dot::new(PROVISIONAL, Writer(0), sequence - 1)
    };
    let mut delta = Cell::tombstone(dots());
    let written = Cell::delta(None, op, Time::ZERO, &mut dots)?;
    delta.merge(&written);
    Ok(delta)
}

pub(crate) fn getdel(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    Write::one(door.key(&words[1])?, |draft| {
        let before = draft.string()?;
        draft.apply(&Op::Delete)?;
        Ok(Reply::maybe(before).into())
    })
}

pub(crate) fn getex(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let option = words.get(2).map(|word| word.to_ascii_uppercase());
    let expiry = match (option.as_deref(), words.get(3)) {
        (None, _) => Expiry::Keep,
        (Some(b"PERSIST"), None) => Expiry::Never,
        (Some(option @ (b"EX" | b"PX" | b"EXAT" | b"PXAT")), Some(number)) if words.len() == 4 => {
            Expiry::parse(option, number, "getex")?
        }
        _ => return Err(Fault::Syntax),
    };
    Write::one(door.key(&words[1])?, move |draft| {
        let value = draft.string()?;
        let before = draft.expires();
        if value.is_some() && expiry != Expiry::Keep {
            let end = expiry.end(draft.at(), before);
            if end != before {
                draft.expire(end)?;
            }
        }
        Ok(Reply::maybe(value).into())
    })
}

pub(crate) fn append(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let tail = words[2].clone();
    Write::one(door.key(&words[1])?, move |draft| {
        let text = match draft.string()? {
            None => values::kept(&tail),
            Some(head) => Bytes::from([&head[..], &tail[..]].concat()),
        };
        let length = text.len();
        let op = Op::RegisterSet(payload(&text));
        match draft.held() {
            // Within one incarnation the key keeps its expiry.
            Some(Value::Register(_)) => draft.apply(&op)?,
            _ => overwrite(draft, &op, Expiry::Keep)?,
        }
        Ok(Reply::count(length).into())
    })
}

pub(crate) fn incr(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    add(door, &words[1], 1)
}

pub(crate) fn decr(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    add(door, &words[1], -1)
}

pub(crate) fn incrby(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let addend = integer(&words[2]).ok_or(Fault::NotInteger)?;
    add(door, &words[1], addend)
}

pub(crate) fn decrby(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let addend = integer(&words[2]).ok_or(Fault::NotInteger)?;
    let addend = addend
        .checked_neg()
        .ok_or_else(|| Fault::other("decrement would overflow"))?;
    add(door, &words[1], addend)
}

fn add(door: &Door, name: &Bytes, addend: i64) -> Result<Write, Fault> {
    Write::one(door.key(name)?, move |draft| count(draft, addend))
}

fn count(draft: &mut Draft<'_>, addend: i64) -> Result<Answer, Fault> {
    let sum = |before: i64| before.checked_add(addend).ok_or(Fault::Overflow);
    let fits = |before: i128| sum(i64::try_from(before).map_err(|_| Fault::NotInteger)?);
    if let Some(total) = draft.add(addend, fits)? {
        return Ok(Reply::Integer(total).into());
    }
    let total = match draft.held() {
        None => {
            draft.make_room(Kind::Counter)?;
            draft.apply(&Op::CounterAdd(addend))?;
            addend
        }
        Some(Value::Counter(counter)) => {
            let total = fits(counter.value())?;
            draft.apply(&Op::CounterAdd(addend))?;
            total
        }
        Some(Value::Register(register)) => {
            let before = integer(&register.get().body).ok_or(Fault::NotInteger)?;
            let total = sum(before)?;
            overwrite(draft, &Op::CounterAdd(total), Expiry::Keep)?;
            total
        }
        Some(_) => return Err(Fault::WrongType),
    };
    Ok(Reply::Integer(total).into())
}
