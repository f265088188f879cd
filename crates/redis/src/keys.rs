//! Keys whatever they hold: existence, types, expiry, deletes, scans.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use tidemill_lattice::{Cell, Dot, Key, Op, Time, Writer};
use tidemill_store::PROVISIONAL;

use crate::cursors::Scope;
use crate::door::{Batch, Door, Reader, Write};
use crate::draft::Draft;
use crate::fault::{Fault, Outcome};
use crate::number::{integer, unsigned};
use crate::{Reply, glob, values};

/// Keys looked at by a `SCAN` that does not say how many.
const SCAN_COUNT: usize = 10;
/// The most that one step of a scan looks at.
const SCAN_COUNT_MAX: usize = 10_000;

pub(crate) fn exists(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let mut count = 0;
    for name in &words[1..] {
        count += reader.look(name, |value| Ok(usize::from(value.is_some())))?;
    }
    Ok(Reply::count(count))
}

pub(crate) fn type_of(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    reader.look(&words[1], |value| {
        Ok(Reply::Simple(
            value.map_or("none", values::type_name).into(),
        ))
    })
}

/// One key is deleted where its newest state is; several in one commit.
pub(crate) fn del(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    if let [_, name] = words {
        return Write::one(door.key(name)?, |draft| {
            let is_present = draft.held().is_some();
            draft.apply(&Op::Delete)?;
            Ok(Reply::Integer(is_present.into()).into())
        });
    }
    let keys: BTreeSet<Key> = words[1..]
        .iter()
        .map(|name| door.key(name))
        .collect::<Result<_, Fault>>()?;
    Ok(Write::Many(Box::new(move |reader| delete(reader, keys))))
}

fn delete(reader: &Reader<'_>, keys: BTreeSet<Key>) -> Result<Batch, Fault> {
    let mut deltas = Vec::new();
    let mut count = 0;
    for key in keys {
        let cell = reader.cell(&key)?;
        let mut dot = || Dot::new(PROVISIONAL, Writer(0), 0);
        let mut draft = Draft::new(cell.as_deref(), reader.at(), &mut dot);
        count += usize::from(draft.held().is_some());
        draft.apply(&Op::Delete)?;
        if let Some(delta) = draft.finish() {
            deltas.push((key, delta));
        }
    }
    Ok(Batch {
        deltas,
        reply: Reply::count(count),
    })
}

pub(crate) fn ttl(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    remaining(reader, &words[1], |ms| ms.saturating_add(500) / 1_000)
}

pub(crate) fn pttl(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    remaining(reader, &words[1], |ms| ms)
}

fn remaining(reader: &Reader<'_>, name: &Bytes, unit: fn(u64) -> u64) -> Outcome {
    let at = reader.at();
    let cell = reader.cell(&reader.door.key(name)?)?;
    let remaining = match values::held(cell.as_deref(), at) {
        None => -2,
        Some(_) => cell.and_then(|cell| cell.expires()).map_or(-1, |end| {
            let ms = end.millis().saturating_sub(at.millis());
            i64::try_from(unit(ms)).unwrap_or(i64::MAX)
        }),
    };
    Ok(Reply::Integer(remaining))
}

/// When `EXPIRE` counts.
#[derive(Default)]
struct Guards {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Guards {
    fn parse(words: &[Bytes]) -> Result<Guards, Fault> {
        let mut guards = Guards::default();
        for word in words {
            match &word.to_ascii_uppercase()[..] {
                b"NX" => guards.nx = true,
                b"XX" => guards.xx = true,
                b"GT" => guards.gt = true,
                b"LT" => guards.lt = true,
                _ => {
                    let word = String::from_utf8_lossy(word);
                    return Err(Fault::other(format!("Unsupported option {word}")));
                }
            }
        }
        if guards.nx && (guards.xx || guards.gt || guards.lt) {
            return Err(Fault::other(
                "NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if guards.gt && guards.lt {
            return Err(Fault::other(
                "GT and LT options at the same time are not compatible",
            ));
        }
        Ok(guards)
    }

    /// Whether a key that ends at `before` may end at `end`. One without an end lasts for ever.
    fn let_pass(&self, before: Option<Time>, end: Time) -> bool {
        !(self.nx && before.is_some()
            || self.xx && before.is_none()
            || self.gt && before.is_none_or(|before| end <= before)
            || self.lt && before.is_some_and(|before| end >= before))
    }
}

pub(crate) fn expire(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    expiring(door, words, 1_000, false, "expire")
}

pub(crate) fn pexpire(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    expiring(door, words, 1, false, "pexpire")
}

pub(crate) fn expireat(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    expiring(door, words, 1_000, true, "expireat")
}

pub(crate) fn pexpireat(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    expiring(door, words, 1, true, "pexpireat")
}

fn expiring(
    door: &Door,
    words: &[Bytes],
    unit_ms: i64,
    is_absolute: bool,
    command: &'static str,
) -> Result<Write, Fault> {
    let millis = integer(&words[2])
        .ok_or(Fault::NotInteger)?
        .checked_mul(unit_ms)
        .ok_or(Fault::ExpireTime(command))?;
    let guards = Guards::parse(&words[3..])?;
    Write::one(door.key(&words[1])?, move |draft| {
        let micros = i128::from(millis) * 1_000;
        let start = if is_absolute { 0 } else { draft.at().micros() };
        let micros = (micros + i128::from(start)).max(0);
        let end = Time::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let passes = draft.held().is_some() && guards.let_pass(draft.expires(), end);
        if passes {
            draft.expire(Some(end))?;
        }
        Ok(Reply::Integer(passes.into()).into())
    })
}

pub(crate) fn persist(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    Write::one(door.key(&words[1])?, |draft| {
        let expires = draft.expires().is_some();
        if expires {
            draft.expire(None)?;
        }
        Ok(Reply::Integer(expires.into()).into())
    })
}

/// The options of a scan.
pub(crate) struct Step {
    pub(crate) pattern: Option<Bytes>,
    pub(crate) count: usize,
    kind: Option<Vec<u8>>,
}

impl Step {
    /// Reads the words after the cursor. `TYPE` and others are for `SCAN` alone.
    pub(crate) fn parse(words: &[Bytes], is_of_keys: bool) -> Result<Step, Fault> {
        let mut step = Step {
            pattern: None,
            count: SCAN_COUNT,
            kind: None,
        };
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                return Err(Fault::Syntax);
            };
            match &name.to_ascii_uppercase()[..] {
                b"MATCH" => step.pattern = Some(value.clone()),
                b"COUNT" => {
                    let count = integer(value).ok_or(Fault::NotInteger)?;
                    let count = usize::try_from(count).map_err(|_| Fault::Syntax)?;
                    if count == 0 {
                        return Err(Fault::Syntax);
                    }
                    step.count = count.min(SCAN_COUNT_MAX);
                }
                b"TYPE" if is_of_keys => step.kind = Some(value.to_ascii_lowercase()),
                _ => return Err(Fault::Syntax),
            }
        }
        Ok(step)
    }

    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        let pattern = self.pattern.as_ref();
        pattern.is_none_or(|pattern| glob::matches(pattern, text))
    }
}

/// The place that a client's cursor means; `None` for the beginning.
pub(crate) fn place(
    reader: &Reader<'_>,
    cursor: &[u8],
    scope: &Scope,
) -> Result<Option<Bytes>, Fault> {
    match unsigned(cursor).ok_or(Fault::Cursor)? {
        0 => Ok(None),
        cursor => match reader.door.cursors.lock().get(cursor, scope) {
            Some(after) => Ok(Some(after)),
            None => Err(Fault::other(format!(
                "the cursor {cursor} is not known any more; begin the scan again with 0"
            ))),
        },
    }
}

/// The answer of a step: the cursor to go on with, and what was found.
pub(crate) fn step(
    reader: &Reader<'_>,
    scope: Scope,
    next: Option<Bytes>,
    found: Vec<Bytes>,
) -> Reply {
    let cursor = next.map_or(0, |after| reader.door.cursors.lock().put(scope, after));
    Reply::Array(vec![Reply::bulk(cursor.to_string()), Reply::bulks(found)])
}

pub(crate) fn scan(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let after = place(reader, &words[1], &Scope::Keys)?;
    let options = Step::parse(&words[2..], true)?;
    let pattern = options.pattern.as_deref().unwrap_or(b"*");
    let prefix = reader.door.prefix(&glob::literal_prefix(pattern));
    let page =
        reader
            .door
            .store
            .scan(&prefix, after.as_deref(), options.count, &reader.snapshot())?;
    let mut found = Vec::new();
    for (key, cell) in &page.entries {
        let Some(value) = values::held(Some(cell), reader.at()) else {
            continue;
        };
        let kind = options.kind.as_deref();
        let fits = kind.is_none_or(|kind| kind == values::type_name(value).as_bytes());
        if fits && options.matches(key.name()) {
            found.push(Bytes::copy_from_slice(key.name()));
        }
    }
    Ok(step(reader, Scope::Keys, page.next.map(Bytes::from), found))
}

pub(crate) fn keys(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let pattern = &words[1];
    let mut found = Vec::new();
    each(reader, &glob::literal_prefix(pattern), |key| {
        if glob::matches(pattern, key.name()) {
            found.push(Bytes::copy_from_slice(key.name()));
        }
    })?;
    Ok(Reply::bulks(found))
}

pub(crate) fn dbsize(reader: &Reader<'_>, _: &[Bytes]) -> Outcome {
    Ok(Reply::count(key_count(reader)?))
}

/// How many keys hold something.
pub(crate) fn key_count(reader: &Reader<'_>) -> Result<usize, Fault> {
    let mut count = 0;
    each(reader, b"", |_| count += 1)?;
    Ok(count)
}

fn each(reader: &Reader<'_>, prefix: &[u8], mut visit: impl FnMut(&Key)) -> Result<(), Fault> {
    let prefix = reader.door.prefix(prefix);
    let mut visit = |key: &Key, cell: &Cell| {
        if values::held(Some(cell), reader.at()).is_some() {
            visit(key);
        }
        ControlFlow::Continue(())
    };
    Ok(reader
        .door
        .store
        .apply(&prefix, &reader.snapshot(), &mut visit)?)
}
