//! Values as the WIT has them, and as the lattices have them.

use crate::bindings::tidemill::platform::{map, state, types};
use std::sync::Arc;
use tidemill_lattice::{ContentType, Kind, Op, Ordinal, Payload, Time, Value};
use tidemill_problem::{Code, Problem};

pub(crate) fn to_guest(payload: &Payload) -> types::Payload {
    types::Payload {
        content_type: payload.content_type.as_str().to_owned(),
        body: payload.body.to_vec(),
    }
}

pub(crate) fn from_guest(payload: types::Payload) -> Result<Payload, Problem> {
    let content_type = ContentType::parse(&payload.content_type)
        .map_err(|error| Problem::new(Code::BadValue, error.to_string()))?;
    Ok(Payload::new(content_type, payload.body))
}

pub(crate) fn scalar(ordinal: &Ordinal) -> types::Scalar {
    match ordinal {
        Ordinal::Integer(value) => types::Scalar::Integer(*value),
        Ordinal::Float(value) => types::Scalar::Decimal(*value),
        Ordinal::Text(value) => types::Scalar::Text(value.to_string()),
    }
}

pub(crate) fn ordinal(scalar: types::Scalar) -> Result<Ordinal, Problem> {
    match scalar {
        types::Scalar::Integer(value) => Ok(Ordinal::Integer(value)),
        types::Scalar::Decimal(value) => {
            Ordinal::float(value).map_err(|error| Problem::new(Code::BadValue, error.to_string()))
        }
        types::Scalar::Text(value) => Ok(Ordinal::Text(value.into())),
    }
}

pub(crate) fn kind(kind: Kind) -> state::Kind {
    match kind {
        Kind::Register => state::Kind::Register,
        Kind::Multi => state::Kind::Multi,
        Kind::Counter => state::Kind::Counter,
        Kind::Max => state::Kind::Max,
        Kind::Min => state::Kind::Min,
        Kind::Flag => state::Kind::Flag,
        Kind::Set => state::Kind::Set,
        Kind::Map => state::Kind::Map,
        Kind::Log => state::Kind::Log,
        Kind::Top => state::Kind::Top,
    }
}

/// The nearest integer of 64 bits.
pub(crate) fn sum(value: i128) -> i64 {
    let bounded = value.clamp(i64::MIN.into(), i64::MAX.into());
    i64::try_from(bounded).unwrap_or_default()
}

pub(crate) fn payloads<'a>(all: impl Iterator<Item = &'a Payload>) -> Vec<types::Payload> {
    all.map(to_guest).collect()
}

/// What a field holds; nothing where it holds what fields cannot.
fn field(value: &Value) -> Option<state::Field> {
    Some(match value {
        Value::Register(register) => state::Field::Register(to_guest(register.get())),
        Value::Multi(multi) => state::Field::Multi(payloads(multi.iter())),
        Value::Counter(counter) => state::Field::Counter(sum(counter.value())),
        Value::Max(max) => state::Field::Max(scalar(max.get())),
        Value::Min(min) => state::Field::Min(scalar(min.get())),
        Value::Flag(_) => state::Field::Flag,
        Value::Set(set) => state::Field::Set(payloads(set.iter())),
        Value::Map(_) | Value::Log(_) | Value::Top(_) => return None,
    })
}

pub(crate) fn fields(value: Option<&Value>, at: Time) -> Vec<(String, state::Field)> {
    let Some(Value::Map(map)) = value else {
        return Vec::new();
    };
    map.iter_at(at)
        .filter_map(|(name, value)| Some((name.to_owned(), field(value)?)))
        .collect()
}

pub(crate) fn one_field(value: Option<&Value>, name: &str, at: Time) -> Option<state::Field> {
    match value {
        Some(Value::Map(map)) => field(map.get(name, at)?),
        _ => None,
    }
}

pub(crate) fn entries(value: Option<&Value>) -> Vec<state::Entry> {
    let Some(Value::Log(log)) = value else {
        return Vec::new();
    };
    log.iter()
        .map(|(dot, payload)| state::Entry {
            time_us: dot.time.micros(),
            value: to_guest(payload),
        })
        .collect()
}

pub(crate) fn scores(value: Option<&Value>) -> Vec<state::Score> {
    let Some(Value::Top(top)) = value else {
        return Vec::new();
    };
    top.iter()
        .map(|(score, id)| state::Score {
            score: scalar(score),
            id: id.to_owned(),
        })
        .collect()
}

pub(crate) fn value(value: &Value, at: Time) -> state::Value {
    match value {
        Value::Register(register) => state::Value::Register(to_guest(register.get())),
        Value::Multi(multi) => state::Value::Multi(payloads(multi.iter())),
        Value::Counter(counter) => state::Value::Counter(sum(counter.value())),
        Value::Max(max) => state::Value::Max(scalar(max.get())),
        Value::Min(min) => state::Value::Min(scalar(min.get())),
        Value::Flag(_) => state::Value::Flag,
        Value::Set(set) => state::Value::Set(payloads(set.iter())),
        Value::Map(_) => state::Value::Map(fields(Some(value), at)),
        Value::Log(_) => state::Value::Log(entries(Some(value))),
        Value::Top(_) => state::Value::Top(scores(Some(value))),
    }
}

/// The operation on a field.
pub(crate) fn operation(name: String, operation: map::Operation) -> Result<Op, Problem> {
    let field: Arc<str> = name.into();
    let op = match operation {
        map::Operation::RegisterSet(value) => Op::RegisterSet(from_guest(value)?),
        map::Operation::MultiSet(value) => Op::MultiSet(from_guest(value)?),
        map::Operation::CounterAdd(amount) => Op::CounterAdd(amount),
        map::Operation::MaxPut(value) => Op::MaxPut(ordinal(value)?),
        map::Operation::MinPut(value) => Op::MinPut(ordinal(value)?),
        map::Operation::FlagRaise => Op::FlagRaise,
        map::Operation::SetAdd(value) => Op::SetAdd(from_guest(value)?),
        map::Operation::SetRemove(value) => Op::SetRemove(from_guest(value)?),
        map::Operation::Remove => return Ok(Op::MapRemove { field }),
    };
    Ok(Op::MapField {
        field,
        op: Box::new(op),
    })
}
