//! Values and operations as JSON: what the HTTP door and the command line speak.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map as Object, Value as Json, json};

use crate::{ContentType, Kind, Op, Ordinal, Payload, Time, Value};

/// JSON that is no operation; says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

fn refuse<T>(message: impl Into<String>) -> Result<T, JsonError> {
    Err(JsonError(message.into()))
}

impl Payload {
    /// JSON as itself; anything else, JSON that does not parse included, as
    /// `{"content_type","base64"}`.
    pub fn to_json(&self) -> Json {
        if self.content_type == ContentType::Json
            && let Ok(value) = serde_json::from_slice(&self.body)
        {
            return value;
        }
        json!({
            "content_type": self.content_type.as_str(),
            "base64": BASE64.encode(&self.body),
        })
    }

    /// The reverse of [`Payload::to_json`]: an object of exactly `content_type` and `base64` is
    /// those bytes, any other value is JSON.
    pub fn from_json(value: &Json) -> Result<Payload, JsonError> {
        let Some(object) = value.as_object().filter(|object| object.len() == 2) else {
            return Ok(Payload::json(value));
        };
        let (Some(content_type), Some(base64)) = (object.get("content_type"), object.get("base64"))
        else {
            return Ok(Payload::json(value));
        };
        let (Some(content_type), Some(base64)) = (content_type.as_str(), base64.as_str()) else {
            return refuse("`content_type` and `base64` of a value must be strings");
        };
        let content_type = ContentType::parse(content_type)
            .map_err(|error| JsonError(format!("`content_type`: {error}")))?;
        match BASE64.decode(base64) {
            Ok(body) => Ok(Payload::new(content_type, body)),
            Err(error) => refuse(format!("`base64` is not standard, padded base64: {error}")),
        }
    }
}

impl Value {
    /// The value at a time as `{"type","value"}`, in the shape of docs/http.md. The time decides
    /// which fields of a map have expired.
    pub fn to_json(&self, at: Time) -> Json {
        let value = match self {
            Value::Register(register) => register.get().to_json(),
            Value::Multi(multi) => multi.iter().map(Payload::to_json).collect(),
            Value::Counter(counter) => integer(counter.value()),
            Value::Max(max) => max.get().to_json(),
            Value::Min(min) => min.get().to_json(),
            Value::Flag(flag) => flag.is_raised().into(),
            Value::Set(set) => set.iter().map(Payload::to_json).collect(),
            Value::Map(map) => {
                let fields = map
                    .iter_at(at)
                    .map(|(field, value)| (field.to_owned(), value.to_json(at)));
                Json::Object(fields.collect())
            }
            Value::Log(log) => log.iter().map(|(_, payload)| payload.to_json()).collect(),
            Value::Top(top) => top
                .iter()
                .map(|(score, id)| json!({"score": score.to_json(), "id": id}))
                .collect(),
        };
        json!({"type": self.kind().as_str(), "value": value})
    }
}

/// A JSON number, or a string where JSON's usual readers would lose digits.
fn integer(value: i128) -> Json {
    match i64::try_from(value) {
        Ok(value) => value.into(),
        Err(_) => value.to_string().into(),
    }
}

impl Op {
    /// Reads `{"type","op","value",…}`, in the shape of docs/http.md. `key`, if there, is the
    /// caller's to read.
    pub fn from_json(value: &Json) -> Result<Op, JsonError> {
        const MEMBERS: [&str; 8] = [
            "key",
            "type",
            "op",
            "value",
            "keep",
            "of",
            "field",
            "field_type",
        ];
        let Some(object) = value.as_object() else {
            return refuse("an operation is a JSON object with `type`, `op` and `value`");
        };
        if let Some(unknown) = object.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
            return refuse(format!(
                "an operation has no `{unknown}`: use {}",
                MEMBERS.join(", ")
            ));
        }
        let request = Request(object);
        let kind = request.kind("type")?;
        let name = match request.text("op")? {
            Some(name) => name,
            None => return refuse("`op` is missing: name the operation, such as `set` or `add`"),
        };
        let Some(field) = request.text("field")? else {
            if request.0.contains_key("field_type") {
                return refuse("`field_type` needs `field`: the name of the map's field");
            }
            return request.op(kind, name);
        };
        if kind.is_some_and(|kind| kind != Kind::Map) {
            return refuse("`field` is for type `map` only");
        }
        let field: Arc<str> = field.into();
        match (request.kind("field_type")?, name) {
            (None, "remove" | "delete") => Ok(Op::MapRemove { field }),
            (kind, name) => Ok(Op::MapField {
                field,
                op: Box::new(request.op(kind, name)?),
            }),
        }
    }
}

/// The members of an operation.
struct Request<'a>(&'a Object<String, Json>);

impl<'a> Request<'a> {
    fn text(&self, name: &str) -> Result<Option<&'a str>, JsonError> {
        match self.0.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(_) => refuse(format!("`{name}` must be a string")),
        }
    }

    fn kind(&self, name: &str) -> Result<Option<Kind>, JsonError> {
        match self.text(name)? {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|error| JsonError(format!("`{name}`: {error}"))),
        }
    }

    fn value(&self) -> Result<&'a Json, JsonError> {
        self.0
            .get("value")
            .ok_or_else(|| JsonError("`value` is missing".to_owned()))
    }

    fn payload(&self) -> Result<Payload, JsonError> {
        Payload::from_json(self.value()?)
    }

    fn ordinal(&self) -> Result<Ordinal, JsonError> {
        Ordinal::from_json(self.value()?)
            .map_err(|_| JsonError("`value` must be a number or a string".to_owned()))
    }

    fn bound(&self, name: &str) -> Result<Option<u32>, JsonError> {
        match self.0.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|bound| u32::try_from(bound).ok()) {
                Some(bound) if bound > 0 => Ok(Some(bound)),
                _ => refuse(format!(
                    "`{name}` must be an integer from 1 to {}",
                    u32::MAX
                )),
            },
        }
    }

    /// The operation on the key or field itself. `kind` may be left out where the name says it:
    /// `counter.add`.
    fn op(&self, kind: Option<Kind>, name: &str) -> Result<Op, JsonError> {
        match name {
            "delete" => return Ok(Op::Delete),
            "expire" => return self.expire(),
            _ => {}
        }
        let (kind, name) = match (kind, name.split_once('.')) {
            (Some(kind), None) => (kind, name),
            (kind, Some((prefix, rest))) if kind.is_none_or(|kind| kind.as_str() == prefix) => (
                prefix
                    .parse()
                    .map_err(|error| JsonError(format!("`op`: {error}")))?,
                rest,
            ),
            (Some(kind), Some(_)) => {
                return refuse(format!("`op` is `{name}`, which is not for type `{kind}`"));
            }
            (None, _) => return refuse(format!("`op` is `{name}`: say of which `type`")),
        };
        Ok(match (kind, name) {
            (Kind::Register, "set") => Op::RegisterSet(self.payload()?),
            (Kind::Multi, "set") => Op::MultiSet(self.payload()?),
            (Kind::Counter, "add") => match self.value()?.as_i64() {
                Some(addend) => Op::CounterAdd(addend),
                None => return refuse("`value` must be an integer of 64 bits"),
            },
            (Kind::Max, "put") => Op::MaxPut(self.ordinal()?),
            (Kind::Min, "put") => Op::MinPut(self.ordinal()?),
            (Kind::Flag, "raise") => Op::FlagRaise,
            (Kind::Set, "add") => Op::SetAdd(self.payload()?),
            (Kind::Set, "remove") => Op::SetRemove(self.payload()?),
            (Kind::Log, "append") => Op::LogAppend {
                value: self.payload()?,
                keep: self.bound("keep")?,
            },
            (Kind::Top, "put") => self.top()?,
            (Kind::Map, _) => return refuse("an operation on a map needs `field`"),
            (kind, name) => {
                return refuse(format!(
                    "type `{kind}` has no `{name}`: use {}",
                    names(kind)
                ));
            }
        })
    }

    fn expire(&self) -> Result<Op, JsonError> {
        match (self.value()?, self.value()?.as_u64()) {
            (Json::Null, _) => Ok(Op::Expire(None)),
            (_, Some(millis)) => Ok(Op::Expire(Some(Time::from_millis(millis)))),
            _ => refuse("`value` of `expire` must be Unix milliseconds, or null for never"),
        }
    }

    fn top(&self) -> Result<Op, JsonError> {
        let Some(of) = self.bound("of")? else {
            return refuse("`of` is missing: how many ids the board keeps");
        };
        let value = self.value()?;
        let score = value
            .get("score")
            .and_then(|score| Ordinal::from_json(score).ok());
        match (
            score.filter(Ordinal::is_number),
            value.get("id").and_then(Json::as_str),
        ) {
            (Some(score), Some(id)) => Ok(Op::TopPut {
                score,
                id: id.into(),
                of,
            }),
            _ => refuse("`value` must be {\"score\": number, \"id\": string}"),
        }
    }
}

fn names(kind: Kind) -> &'static str {
    match kind {
        Kind::Register | Kind::Multi => "set, delete or expire",
        Kind::Counter => "add, delete or expire",
        Kind::Max | Kind::Min | Kind::Top => "put, delete or expire",
        Kind::Flag => "raise, delete or expire",
        Kind::Set => "add, remove, delete or expire",
        Kind::Log => "append, delete or expire",
        Kind::Map => "an operation on a field, delete or expire",
    }
}
