//! State as workers and doors speak of it, translated to the session's terms.

use crate::protocol::{GetHeader, OpHeader, Payloads, Shared};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;
use tidemill_lattice::{Key, Kind, Op, Ordinal, Payload, Time, Value};
use tidemill_problem::{Code, Problem};
use tidemill_session::View;

/// The most keys that one scan gives.
const SCAN_KEYS_MAX: usize = 10_000;

/// The tenant of a node that serves one.
pub(crate) const TENANT: &str = "default";

/// The key of this name in an app's state.
pub(crate) fn key(app: &str, name: &str) -> Result<Key, Problem> {
    Key::new(TENANT, app, name).map_err(|error| Problem::new(Code::BadKey, error.to_string()))
}

/// What a session's refusal is to a caller.
pub(crate) fn problem_of(error: &tidemill_session::Error) -> Problem {
    use tidemill_lattice::OpError;
    use tidemill_session::Error;
    let code = match error {
        Error::Operation { source, .. } => match source {
            OpError::WrongKind { .. } | OpError::FieldKind { .. } => Code::WrongType,
            OpError::TooLarge { .. } => Code::PayloadTooLarge,
            OpError::NestedMap(_) | OpError::NotANumber | OpError::ZeroBound(_) => Code::BadValue,
        },
        Error::WrongKind { .. } => Code::WrongType,
        Error::Store(error) => return store_problem(error),
    };
    Problem::new(code, error.to_string())
}

/// What a store's failure is to a caller.
#[must_use]
pub fn store_problem(error: &tidemill_store::Error) -> Problem {
    use tidemill_store::Error;
    let code = match error {
        Error::SnapshotExpired { .. } => Code::SnapshotExpired,
        Error::TooLarge { .. } => Code::PayloadTooLarge,
        Error::Full { .. } => Code::StorageFull,
        Error::Closed => Code::ShuttingDown,
        Error::Consumed { .. } | Error::SnapshotAhead { .. } => Code::Internal,
        Error::Io { .. }
        | Error::Unknown { .. }
        | Error::ReadOnly { .. }
        | Error::Corrupt { .. }
        | Error::Format { .. }
        | Error::InUse { .. } => Code::StorageFailed,
    };
    Problem::new(code, error.to_string())
}

fn bad_value(op: &OpHeader, what: &str) -> Problem {
    Problem::new(Code::BadValue, format!("{} on key {}: {what}", op.o, op.k))
}

/// The operation that a worker asks for.
pub(crate) fn op(header: &OpHeader, payloads: &[Payload]) -> Result<Op, Problem> {
    if header.o == "map.remove" {
        let field = header
            .f
            .clone()
            .ok_or_else(|| bad_value(header, "names no field"))?;
        return Ok(Op::MapRemove { field });
    }
    let op = plain_op(header, payloads)?;
    Ok(match &header.f {
        Some(field) => Op::MapField {
            field: Arc::clone(field),
            op: Box::new(op),
        },
        None => op,
    })
}

fn plain_op(header: &OpHeader, payloads: &[Payload]) -> Result<Op, Problem> {
    let payload = || {
        let index = header
            .p
            .ok_or_else(|| bad_value(header, "brings no value"))?;
        payloads
            .get(index)
            .cloned()
            .ok_or_else(|| bad_value(header, "names a missing payload"))
    };
    let ordinal = |value: &Option<Json>| {
        let value = value
            .as_ref()
            .ok_or_else(|| bad_value(header, "brings no value"))?;
        Ordinal::from_json(value).map_err(|error| bad_value(header, &error.to_string()))
    };
    Ok(match header.o.as_str() {
        "register.set" => Op::RegisterSet(payload()?),
        "multi.set" => Op::MultiSet(payload()?),
        "counter.add" => {
            let amount = header.v.as_ref().and_then(Json::as_i64);
            Op::CounterAdd(amount.ok_or_else(|| bad_value(header, "needs an integer of 64 bits"))?)
        }
        "max.put" => Op::MaxPut(ordinal(&header.v)?),
        "min.put" => Op::MinPut(ordinal(&header.v)?),
        "flag.raise" => Op::FlagRaise,
        "set.add" => Op::SetAdd(payload()?),
        "set.remove" => Op::SetRemove(payload()?),
        "log.append" => Op::LogAppend {
            value: payload()?,
            keep: header.keep,
        },
        "top.put" => {
            let id = header
                .id
                .clone()
                .ok_or_else(|| bad_value(header, "brings no id"))?;
            Op::TopPut {
                score: ordinal(&header.score)?,
                id,
                of: header.of.unwrap_or(10),
            }
        }
        "delete" => Op::Delete,
        "expire" => Op::Expire(header.at_ms.map(Time::from_millis)),
        other => {
            return Err(Problem::new(
                Code::BadRequest,
                format!("there is no operation {other}"),
            ));
        }
    })
}

/// Answers reads, collecting the payloads that the answers name.
pub(crate) struct Reader<'a> {
    pub(crate) app: &'a str,
    pub(crate) payloads: &'a [Payload],
    pub(crate) out: &'a mut Payloads,
    pub(crate) shared: &'a dyn Shared,
}

impl Reader<'_> {
    /// One read of a view, as the worker protocol has it.
    pub(crate) fn get(&mut self, view: &View, get: &GetHeader) -> Result<Json, Problem> {
        let app = get.app.as_deref().unwrap_or(self.app);
        if let Some(prefix) = &get.scan {
            return scan(view, app, prefix, get);
        }
        let Some(name) = &get.k else {
            return Err(Problem::new(Code::BadRequest, "a read names no key"));
        };
        let key = key(app, name)?;
        let kind = get.t.as_deref().map(str::parse::<Kind>).transpose();
        let kind = kind.map_err(|error| Problem::new(Code::BadRequest, error.to_string()))?;
        let cell = match kind {
            Some(kind) => view.read_as(&key, kind),
            None => view.read(&key),
        };
        let cell = cell.map_err(|error| problem_of(&error))?;
        let at = view.time();
        let value = cell.as_ref().and_then(|cell| cell.view(at));
        if let Some(index) = get.has {
            let element = self.payloads.get(index).ok_or_else(|| {
                Problem::new(Code::BadRequest, "a read names a payload that is not there")
            })?;
            return Ok(matches!(value, Some(Value::Set(set)) if set.contains(element)).into());
        }
        Ok(match (value, &get.f) {
            (None, _) => Json::Null,
            (Some(Value::Map(map)), Some(field)) => map
                .get(field, at)
                .map_or(Json::Null, |value| self.view(value, at)),
            (Some(_), Some(_)) => {
                return Err(Problem::new(
                    Code::BadRequest,
                    format!("key {name} is not a map"),
                ));
            }
            (Some(value), None) => self.view(value, at),
        })
    }

    fn push(&mut self, payload: &Payload) -> usize {
        self.out.push(payload, self.shared)
    }

    fn push_all<'p>(&mut self, payloads: impl Iterator<Item = &'p Payload>) -> Vec<usize> {
        payloads.map(|payload| self.push(payload)).collect()
    }

    fn view(&mut self, value: &Value, at: Time) -> Json {
        match value {
            Value::Register(register) => json!({"t": "register", "p": self.push(register.get())}),
            Value::Multi(multi) => json!({"t": "multi", "ps": self.push_all(multi.iter())}),
            Value::Set(set) => json!({"t": "set", "ps": self.push_all(set.iter())}),
            Value::Log(log) => {
                let times: Vec<u64> = log.iter().map(|(dot, _)| dot.time.micros()).collect();
                let entries = self.push_all(log.iter().map(|(_, entry)| entry));
                json!({"t": "log", "ps": entries, "at": times})
            }
            Value::Counter(counter) => json!({"t": "counter", "v": integer(counter.value())}),
            Value::Max(max) => json!({"t": "max", "v": max.get().to_json()}),
            Value::Min(min) => json!({"t": "min", "v": min.get().to_json()}),
            Value::Flag(_) => json!({"t": "flag", "v": true}),
            Value::Top(top) => {
                let entries: Vec<Json> = top
                    .iter()
                    .map(|(score, id)| json!([score.to_json(), id]))
                    .collect();
                json!({"t": "top", "v": entries})
            }
            Value::Map(map) => {
                let fields: Map<String, Json> = map
                    .iter_at(at)
                    .map(|(field, value)| (field.to_owned(), self.view(value, at)))
                    .collect();
                json!({"t": "map", "f": fields})
            }
        }
    }
}

/// A sum as JSON: a number where a reader's 64 bits hold it, else the nearest float.
fn integer(sum: i128) -> Json {
    match i64::try_from(sum) {
        Ok(sum) => sum.into(),
        #[expect(
            clippy::cast_precision_loss,
            reason = "beyond 64 bits a float is what JSON has"
        )]
        Err(_) => u64::try_from(sum).map_or_else(|_| (sum as f64).into(), Json::from),
    }
}

fn scan(view: &View, app: &str, prefix: &str, get: &GetHeader) -> Result<Json, Problem> {
    let (keys, next) = list(
        view,
        app,
        prefix,
        get.after.as_deref(),
        get.limit.unwrap_or(1000),
    )?;
    let keys: Vec<Json> = keys
        .into_iter()
        .map(|(name, kind)| json!([name, kind.as_str()]))
        .collect();
    Ok(json!({"keys": keys, "next": next}))
}

/// Keys of an app, with the name to go on from when there may be more.
pub(crate) type Listed = (Vec<(String, Kind)>, Option<String>);

/// The visible keys of an app that begin with `prefix`, after the name `after`.
pub(crate) fn list(
    view: &View,
    app: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Listed, Problem> {
    let bytes = Key::prefix(TENANT, app, prefix);
    let after = after.map(|after| Key::prefix(TENANT, app, after));
    let page = view
        .scan(&bytes, after.as_deref(), limit.clamp(1, SCAN_KEYS_MAX))
        .map_err(|error| problem_of(&error))?;
    let keys = page
        .keys
        .iter()
        .map(|(key, kind)| (key.name_lossy().into_owned(), *kind))
        .collect();
    let next = page
        .next
        .and_then(|bytes| Key::from_bytes(&bytes).ok())
        .map(|key| key.name_lossy().into_owned());
    Ok((keys, next))
}
