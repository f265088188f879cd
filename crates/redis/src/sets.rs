//! Sets. An add wins over a remove that has not seen it.
//!
//! Functions may hold a member as JSON and as plain bytes, which are two elements to them and one
//! to Redis: it is shown once, and removing it removes both.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidemill_lattice::{Kind, Op, Set, Value};

use crate::Reply;
use crate::cursors::Scope;
use crate::door::{Door, Reader, Write};
use crate::fault::{Fault, Outcome};
use crate::keys::{self, Step};
use crate::values::{self, payload};

/// The set that a key holds, `None` if it holds nothing.
fn set_of(value: Option<&Value>) -> Result<Option<&Set>, Fault> {
    match value {
        None => Ok(None),
        Some(Value::Set(set)) => Ok(Some(set)),
        Some(_) => Err(Fault::WrongType),
    }
}

fn distinct(words: &[Bytes]) -> BTreeSet<Bytes> {
    words.iter().cloned().collect()
}

pub(crate) fn sadd(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let members = distinct(&words[2..]);
    Write::one(door.key(&words[1])?, move |draft| {
        draft.make_room(Kind::Set)?;
        let held = set_of(draft.held())?;
        let is_new =
            |member: &Bytes| held.is_none_or(|held| values::elements(held, member).is_empty());
        let new: Vec<Bytes> = members.into_iter().filter(is_new).collect();
        for member in &new {
            draft.apply(&Op::SetAdd(payload(member)))?;
        }
        Ok(Reply::count(new.len()).into())
    })
}

pub(crate) fn srem(door: &Door, words: &[Bytes]) -> Result<Write, Fault> {
    let members = distinct(&words[2..]);
    Write::one(door.key(&words[1])?, move |draft| {
        let Some(held) = set_of(draft.held())? else {
            return Ok(Reply::Integer(0).into());
        };
        let mut removed = BTreeSet::new();
        let mut count = 0;
        for member in &members {
            let elements = values::elements(held, member);
            count += usize::from(!elements.is_empty());
            removed.extend(elements);
        }
        // A set without members is no key.
        if held.iter().all(|element| removed.contains(element)) {
            draft.apply(&Op::Delete)?;
        } else {
            for element in removed {
                draft.apply(&Op::SetRemove(element))?;
            }
        }
        Ok(Reply::count(count).into())
    })
}

fn members(reader: &Reader<'_>, name: &Bytes) -> Result<BTreeSet<Bytes>, Fault> {
    reader.look(name, |value| {
        Ok(set_of(value)?.map(values::members).unwrap_or_default())
    })
}

fn shown(members: impl IntoIterator<Item = Bytes>) -> Reply {
    Reply::Set(members.into_iter().map(Reply::Bulk).collect())
}

pub(crate) fn smembers(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    Ok(shown(members(reader, &words[1])?))
}

pub(crate) fn scard(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    Ok(Reply::count(members(reader, &words[1])?.len()))
}

pub(crate) fn sismember(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    reader.look(&words[1], |value| {
        let set = set_of(value)?;
        let is_member = set.is_some_and(|set| !values::elements(set, &words[2]).is_empty());
        Ok(Reply::Integer(is_member.into()))
    })
}

/// All sets at one snapshot.
pub(crate) fn sunion(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let mut union = BTreeSet::new();
    for name in &words[1..] {
        union.extend(members(reader, name)?);
    }
    Ok(shown(union))
}

/// All sets at one snapshot.
pub(crate) fn sinter(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let mut common = members(reader, &words[1])?;
    for name in &words[2..] {
        let other = members(reader, name)?;
        common.retain(|member| other.contains(member));
    }
    Ok(shown(common))
}

pub(crate) fn sscan(reader: &Reader<'_>, words: &[Bytes]) -> Outcome {
    let scope = Scope::Members(reader.door.key(&words[1])?);
    let after = keys::place(reader, &words[2], &scope)?;
    let options = Step::parse(&words[3..], false)?;
    let mut found = Vec::new();
    let mut last: Option<Bytes> = None;
    let mut next = None;
    let rest = members(reader, &words[1])?
        .into_iter()
        .filter(|member| after.as_ref().is_none_or(|after| member > after));
    for (index, member) in rest.enumerate() {
        if index == options.count {
            next = last;
            break;
        }
        if options.matches(&member) {
            found.push(member.clone());
        }
        last = Some(member);
    }
    Ok(keys::step(reader, scope, next, found))
}
