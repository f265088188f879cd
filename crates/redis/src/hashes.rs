//! Hashes: maps, whose fields are registers, or counters once `HINCRBY` has met them.
//!
//! Field names are UTF-8, since functions read them as text. A hash whose last field goes is
//! deleted; writers that meet on different fields all keep theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tidemill_lattice::{Kind, Map, Op, Value};

use crate::Reply;
use crate::cursors::Scope;
use crate::door::{Door, Reader, Write};
use crate::draft::Draft;
use crate::fault::{Fault, Outcome};
use crate::keys::{self, Step};
use crate::number::integer;
use crate::values::{self, payload};

/// The map that a key holds, `None` if it holds nothing.
fn map_of(value: Option<&Value>) -> Result<Option<&Map>, Fault> {
    match value {
        None => Ok(None),
        Some(Value::Map(map)) => Ok(Some(map)),
        Some(_) => Err(Fault::WrongType),
    }
}

/// A field's name to write.
fn field_name(name: &Bytes) -> Result<Arc<str>, Fault> {
    std::str::from_utf8(name)
        .map(Arc::from)
        .map_err(|_| Fault::other("the name of a hash field must be UTF-8"))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn hset(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    set(door, words, "hset", Reply::count)
}

pub(crate) fn hmset(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    set(door, words, "hmset", |_| Reply::ok())
}

fn set(
    door: &Door,
    words: &[Bytes],
    command: &str,
    answer: fn(usize) -> Reply,
) -> Result<Write, Fault> {
    let pairs = &words[2..];
    if !pairs.len().is_multiple_of(2) {
        return Err(Fault::Arity(command.to_owned()));
    }
    let mut fields = BTreeMap::new();
    for pair in pairs.chunks_exact(2) {
        // The last value of a field counts.
        fields.insert(field_name(&pair[0])?, payload(&pair[1]));
    }
    Write::one(door.key(&words[1])?, move |draft| {
        draft.make_room(Kind::Map)?;
        let mut added = 0;
        for (field, value) in fields {
            let held = field_kind(draft, &field)?;
            added += usize::from(held.is_none());
            if held.is_some_and(|kind| kind != Kind::Register) {
                remove(draft, &field)?;
            }
            let op = Box::new(Op::RegisterSet(value));
            draft.apply(&Op::MapField { field, op })?;
        }
        Ok(answer(added).into())
    })
}

fn field_kind(draft: &Draft<'_>, field: &str) -> Result<Option<Kind>, Fault> {
    let map = map_of(draft.held())?;
    Ok(map
        .and_then(|map| map.get(field, draft.at()))
        .map(Value::kind))
}

/// Removes a field, so that another type may follow in the same write.
fn remove(draft: &mut Draft<'_>, field: &Arc<str>) -> Result<(), Fault> {
    draft.apply(&Op::MapRemove {
        field: Arc::clone(field),
    })?;
    draft.settle();
    Ok(())
}

pub(crate) fn hincrby(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let field = field_name(&words[2])?;
    let addend = integer(&words[3]).ok_or(Fault::NotInteger)?;
    Write::one(door.key(&words[1])?, move |draft| {
        draft.make_room(Kind::Map)?;
        let at = draft.at();
        let map = map_of(draft.held())?;
        let (before, replaces) = match map.and_then(|map| map.get(&field, at)) {
            None => (0, false),
            Some(Value::Counter(counter)) => {
                let before = i64::try_from(counter.value());
                (before.map_err(|_| Fault::HashNotInteger)?, false)
            }
            Some(Value::Register(register)) => {
                let before = integer(&register.get().body);
                (before.ok_or(Fault::HashNotInteger)?, true)
            }
            Some(_) => return Err(Fault::HashNotInteger),
        };
        let total = before.checked_add(addend).ok_or(Fault::Overflow)?;
        let addend = if replaces { total } else { addend };
        if replaces {
            remove(draft, &field)?;
        }
        let op = Box::new(Op::CounterAdd(addend));
        draft.apply(&Op::MapField { field, op })?;
        Ok(Reply::Integer(total).into())
    })
}

pub(crate) fn hdel(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    // A name that is no UTF-8 is of no field.
    let fields: BTreeSet<Arc<str>> = words[2..]
        .iter()
        .filter_map(|name| field_name(name).ok())
        .collect();
    Write::one(door.key(&words[1])?, move |draft| {
        let at = draft.at();
        let Some(map) = map_of(draft.held())? else {
            return Ok(Reply::Integer(0).into());
        };
        let present: Vec<Arc<str>> = fields
            .iter()
            .filter(|field| map.get(field, at).is_some())
            .cloned()
            .collect();
        let is_rest = map.iter_at(at).any(|(field, _)| !fields.contains(field));
        let count = present.len();
        if !is_rest {
            draft.apply(&Op::Delete)?;
        } else {
            for field in present {
                draft.apply(&Op::MapRemove { field })?;
            }
        }
        Ok(Reply::count(count).into())
    })
}

/// Shows `look` the value of a field.
fn look_field<T>(
    reader: &Reader<'_>,
    words: &[Bytes],
    look: impl FnOnce(Option<Bytes>) -> T,
) -> Result<T, Fault> {
    reader.look(&words[1], |value| {
        let map = map_of(value)?;
        Ok(look(map.and_then(|map| get(reader, map, &words[2]))))
    })
}

fn get(reader: &Reader<'_>, map: &Map, field: &[u8]) -> Option<Bytes> {
    let field = std::str::from_utf8(field).ok()?;
    let value = map.get(field, reader.at())?;
    Some(values::field(value, reader.at()))
}

pub(crate) fn hget(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    look_field(reader, words, Reply::maybe)
}

pub(crate) fn hexists(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    look_field(reader, words, |value| {
        Reply::Integer(value.is_some().into())
    })
}

pub(crate) fn hmget(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    reader.look(&words[1], |value| {
        let map = map_of(value)?;
        let found = words[2..]
            .iter()
            .map(|field| Reply::maybe(map.and_then(|map| get(reader, map, field))));
        Ok(Reply::Array(found.collect()))
    })
}

pub(crate) fn hgetall(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let pairs = every(reader, &words[1], |field, value| {
        let value = Reply::Bulk(values::field(value, reader.at()));
        (Reply::Bulk(bytes(field)), value)
    })?;
    Ok(Reply::Map(pairs))
}

pub(crate) fn hkeys(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let fields = every(reader, &words[1], |field, _| Reply::Bulk(bytes(field)))?;
    Ok(Reply::Array(fields))
}

pub(crate) fn hvals(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let values = every(reader, &words[1], |_, value| {
        Reply::Bulk(values::field(value, reader.at()))
    })?;
    Ok(Reply::Array(values))
}

pub(crate) fn hlen(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    Ok(Reply::count(every(reader, &words[1], |_, _| ())?.len()))
}

fn every<T>(
    reader: &Reader<'_>,
    name: &Bytes,
    mut each: impl FnMut(&str, &Value) -> T,
) -> Result<Vec<T>, Fault> {
    reader.look(name, |value| {
        let Some(map) = map_of(value)? else {
            return Ok(Vec::new());
        };
        let fields = map.iter_at(reader.at());
        Ok(fields.map(|(field, value)| each(field, value)).collect())
    })
}

pub(crate) fn hscan(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let scope = Scope::Fields(reader.door.key(&words[1])?);
    let after = keys::place(reader, &words[2], &scope)?;
    let options = Step::parse(&words[3..], false)?;
    reader.look(&words[1], |value| {
        let mut found = Vec::new();
        let mut last = None;
        let mut next = None;
        let fields = map_of(value)?.into_iter();
        let fields = fields.flat_map(|map| map.iter_at(reader.at()));
        let after = after.as_deref();
        let fields = fields.filter(|(field, _)| after.is_none_or(|after| field.as_bytes() > after));
        for (index, (field, value)) in fields.enumerate() {
            if index == options.count {
                next = last;
                break;
            }
            if options.matches(field.as_bytes()) {
                found.extend([bytes(field), values::field(value, reader.at())]);
            }
            last = Some(bytes(field));
        }
        Ok(keys::step(reader, scope, next, found))
    })
}
