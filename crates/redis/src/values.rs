//! What Redis's types are in values that merge.
//!
//! Strings are registers, counters, maxima, minima and flags; hashes are maps, sets sets, streams
//! logs. `multi` and `top` have no likeness in Redis and are of a type of their own.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidemill_lattice::{Cell, ContentType, Ordinal, Payload, Set, Time, Value};

use crate::fault::Fault;

/// The largest part of a read buffer that is copied out of it. A small value that was kept as a
/// slice would keep the whole buffer from being freed.
const COPIED_MAX_BYTES: usize = 64 * 1024;

/// From this size on an answer shares the stored bytes.
const SHARED_MIN_BYTES: usize = 512;

/// Bytes that came from a connection, fit to be kept.
pub(crate) fn kept(bytes: &Bytes) -> Bytes {
    if bytes.len() <= COPIED_MAX_BYTES {
        Bytes::copy_from_slice(bytes)
    } else {
        bytes.clone()
    }
}

/// A string that came from a connection, as the payload to store.
pub(crate) fn payload(bytes: &Bytes) -> Payload {
    Payload::bytes(kept(bytes))
}

/// What a cell holds. An empty hash, set or stream is nothing: Redis knows none.
pub(crate) fn held(cell: Option<&Cell>, at: Time) -> Option<&Value> {
    let value = cell?.view(at)?;
    let is_empty = match value {
        Value::Set(set) => set.is_empty(),
        Value::Map(map) => map.iter_at(at).next().is_none(),
        Value::Log(log) => log.is_empty(),
        _ => false,
    };
    (!is_empty).then_some(value)
}

/// What `TYPE` answers.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Register(_) | Value::Counter(_) | Value::Max(_) | Value::Min(_) | Value::Flag(_) => {
            "string"
        }
        Value::Map(_) => "hash",
        Value::Set(_) => "set",
        Value::Log(_) => "stream",
        Value::Multi(_) => "multi",
        Value::Top(_) => "top",
    }
}

/// A value as a Redis string; `None` where it is none.
pub(crate) fn string(value: &Value) -> Option<Bytes> {
    match value {
        Value::Register(register) => Some(shown(&register.get().body)),
        Value::Counter(counter) => Some(counter.value().to_string().into()),
        Value::Max(max) => Some(ordinal(max.get())),
        Value::Min(min) => Some(ordinal(min.get())),
        Value::Flag(_) => Some(Bytes::from_static(b"1")),
        Value::Map(_) | Value::Set(_) | Value::Log(_) | Value::Multi(_) | Value::Top(_) => None,
    }
}

/// A stored value for an answer. A small one is copied: sharing it would touch the count of its
/// holders, which mostly lies in no cache, and make room for one where there was none.
fn shown(body: &Bytes) -> Bytes {
    if body.len() <= SHARED_MIN_BYTES {
        Bytes::copy_from_slice(body)
    } else {
        body.clone()
    }
}

/// A key's string, `None` where it holds nothing.
pub(crate) fn string_of(value: Option<&Value>) -> Result<Option<Bytes>, Fault> {
    match value {
        None => Ok(None),
        Some(value) => string(value).map(Some).ok_or(Fault::WrongType),
    }
}

/// A hash field's value. What functions keep in fields and Redis does not know is shown as JSON.
pub(crate) fn field(value: &Value, at: Time) -> Bytes {
    string(value).unwrap_or_else(|| {
        let shown = value.to_json(at);
        shown.get("value").unwrap_or(&shown).to_string().into()
    })
}

fn ordinal(ordinal: &Ordinal) -> Bytes {
    match ordinal {
        Ordinal::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        number => number.to_json().to_string().into(),
    }
}

/// A set's members as bytes, each once: functions may hold the same bytes as JSON and as plain
/// bytes, which Redis can not tell apart.
pub(crate) fn members(set: &Set) -> BTreeSet<Bytes> {
    set.iter().map(|element| element.body.clone()).collect()
}

/// The elements of a set that are these bytes to Redis.
pub(crate) fn elements(set: &Set, member: &Bytes) -> Vec<Payload> {
    [
        ContentType::OctetStream,
        ContentType::Json,
        ContentType::Pickle5,
    ]
    .into_iter()
    .map(|content_type| Payload::new(content_type, member.clone()))
    .filter(|element| set.contains(element))
    .collect()
}
