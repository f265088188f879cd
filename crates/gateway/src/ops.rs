//! Operations on state as JSON. Pure: a body in, operations out.

use crate::body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use serde_json::value::RawValue;
use std::sync::Arc;
use tidemill_lattice::{ContentType, Kind, Op, Ordinal, Payload, Time};
use tidemill_problem::{Code, Problem};

/// An operation as the body spells it (docs/http.md, "State as JSON").
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update<'a> {
    key: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    op: String,
    #[serde(default, borrow, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    keep: Option<u32>,
    of: Option<u32>,
    field: Option<Arc<str>>,
    field_type: Option<String>,
}

/// A `null` that is there is a value; only a missing member is none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Operations on one key: one, or an array of them.
///
/// # Errors
/// `bad-request` for what is no operation, `bad-value` for a value that does not fit.
pub(crate) fn on_key(body: &[u8], key: &str) -> Result<Vec<(String, Op)>, Problem> {
    let updates: Vec<Update<'_>> = if is_array(body) {
        parse(body)?
    } else {
        vec![parse(body)?]
    };
    let with_key = |update: Update<'_>| {
        if update.key.as_deref().is_some_and(|named| named != key) {
            let detail = "`key` differs from the key in the path: leave it out, or POST to the \
                          app's path to write several keys";
            return Err(Problem::new(Code::BadRequest, detail));
        }
        Ok((key.to_owned(), operation(&update)?))
    };
    convert(updates, with_key)
}

/// Operations on several keys: an array.
///
/// # Errors
/// As [`on_key`].
pub(crate) fn on_keys(body: &[u8]) -> Result<Vec<(String, Op)>, Problem> {
    let updates: Vec<Update<'_>> = parse(body)?;
    convert(updates, |mut update| {
        let key = update.key.take().ok_or_else(|| {
            Problem::new(
                Code::BadRequest,
                "`key` is missing: each operation names its key",
            )
        })?;
        Ok((key, operation(&update)?))
    })
}

fn is_array(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Problem> {
    body::check_depth(body)?;
    serde_json::from_slice(body).map_err(|error| body::json_problem("the body", &error))
}

fn convert<'a>(
    updates: Vec<Update<'a>>,
    each: impl Fn(Update<'a>) -> Result<(String, Op), Problem>,
) -> Result<Vec<(String, Op)>, Problem> {
    let several = updates.len() > 1;
    let numbered = updates.into_iter().enumerate().map(|(index, update)| {
        each(update).map_err(|mut problem| {
            if several {
                problem.detail = format!("operation {index}: {}", problem.detail);
            }
            problem
        })
    });
    numbered.collect()
}

fn operation(update: &Update<'_>) -> Result<Op, Problem> {
    let (prefix, verb) = match update.op.split_once('.') {
        Some((prefix, verb)) => (Some(prefix), verb),
        None => (None, &*update.op),
    };
    let on_map = update.kind.as_deref() == Some("map") || prefix == Some("map");
    if update.field.is_none() && !on_map {
        if update.field_type.is_some() {
            return Err(bad("`field_type` is given without `field`"));
        }
        return plain(
            agreed("type", update.kind.as_deref(), prefix)?,
            verb,
            update,
        );
    }
    let Some(field) = update.field.clone() else {
        return if matches!(verb, "delete" | "expire") {
            plain(None, verb, update)
        } else {
            Err(bad(
                "`field` is missing: an operation on a map names its field",
            ))
        };
    };
    if let Some(kind) = update.kind.as_deref()
        && kind != "map"
    {
        return Err(bad(format!(
            "`field` belongs to maps, and `type` is {kind}"
        )));
    }
    let prefix = prefix.filter(|prefix| *prefix != "map");
    if verb == "remove" && prefix.is_none() && update.field_type.is_none() {
        return Ok(Op::MapRemove { field });
    }
    if matches!(verb, "delete" | "expire") {
        return Err(bad(format!(
            "`{verb}` is for whole keys: use `remove` on a field"
        )));
    }
    let kind = agreed("field_type", update.field_type.as_deref(), prefix)?;
    let op = Box::new(plain(kind, verb, update)?);
    Ok(Op::MapField { field, op })
}

/// The type that member and operation name, which must not differ.
fn agreed<'a>(
    member: &str,
    named: Option<&'a str>,
    prefix: Option<&'a str>,
) -> Result<Option<&'a str>, Problem> {
    match (named, prefix) {
        (Some(named), Some(prefix)) if named != prefix => Err(bad(format!(
            "`{member}` is {named}, but the operation is one of {prefix}"
        ))),
        _ => Ok(named.or(prefix)),
    }
}

fn plain(kind: Option<&str>, verb: &str, update: &Update<'_>) -> Result<Op, Problem> {
    match verb {
        "delete" => return Ok(Op::Delete),
        "expire" => return expire(update),
        _ => {}
    }
    let kind: Kind = kind
        .ok_or_else(|| {
            bad(format!(
                "the type is missing: give `type`, or `op` as `type.{verb}`"
            ))
        })?
        .parse()
        .map_err(|error| bad(format!("{error}")))?;
    match (kind, verb) {
        (Kind::Register, "set") => Ok(Op::RegisterSet(payload(update)?)),
        (Kind::Multi, "set") => Ok(Op::MultiSet(payload(update)?)),
        (Kind::Counter, "add") => Ok(Op::CounterAdd(integer(update)?)),
        (Kind::Max, "put") => Ok(Op::MaxPut(ordinal(&json(update)?)?)),
        (Kind::Min, "put") => Ok(Op::MinPut(ordinal(&json(update)?)?)),
        (Kind::Flag, "raise") => Ok(Op::FlagRaise),
        (Kind::Set, "add") => Ok(Op::SetAdd(payload(update)?)),
        (Kind::Set, "remove") => Ok(Op::SetRemove(payload(update)?)),
        (Kind::Log, "append") => Ok(Op::LogAppend {
            value: payload(update)?,
            keep: update.keep,
        }),
        (Kind::Top, "put") => top_put(update),
        _ => Err(bad(format!(
            "a {kind} has no operation {verb:?}: use {}, delete or expire",
            verbs(kind)
        ))),
    }
}

const fn verbs(kind: Kind) -> &'static str {
    match kind {
        Kind::Register | Kind::Multi => "set",
        Kind::Counter => "add",
        Kind::Max | Kind::Min | Kind::Top => "put",
        Kind::Flag => "raise",
        Kind::Set => "add, remove",
        Kind::Log => "append",
        Kind::Map => "an operation with `field`",
    }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadRequest, detail)
}

fn bad_value(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadValue, detail)
}

fn raw<'a>(update: &Update<'a>) -> Result<&'a RawValue, Problem> {
    let missing = || bad(format!("`value` is missing: `{}` needs one", update.op));
    update.value.ok_or_else(missing)
}

fn json(update: &Update<'_>) -> Result<Json, Problem> {
    let raw = raw(update)?;
    serde_json::from_str(raw.get()).map_err(|error| body::json_problem("`value`", &error))
}

fn expire(update: &Update<'_>) -> Result<Op, Problem> {
    match json(update)? {
        Json::Null => Ok(Op::Expire(None)),
        value => match value.as_u64() {
            Some(at_ms) => Ok(Op::Expire(Some(Time::from_millis(at_ms)))),
            None => Err(bad_value(
                "`value` of expire is Unix milliseconds, or null for never",
            )),
        },
    }
}

fn integer(update: &Update<'_>) -> Result<i64, Problem> {
    let wrong = || bad_value("`value` of a counter is an integer of 64 bits");
    json(update)?.as_i64().ok_or_else(wrong)
}

fn ordinal(value: &Json) -> Result<Ordinal, Problem> {
    let wrong = |_| bad_value("`value` is a number or a string");
    Ordinal::from_json(value).map_err(wrong)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scored {
    score: serde_json::Number,
    id: Arc<str>,
}

fn top_put(update: &Update<'_>) -> Result<Op, Problem> {
    let scored: Scored = serde_json::from_str(raw(update)?.get())
        .map_err(|error| bad_value(format!("`value` of top is {{\"score\", \"id\"}}: {error}")))?;
    let of = update
        .of
        .ok_or_else(|| bad("`of` is missing: how many entries the top holds"))?;
    Ok(Op::TopPut {
        score: ordinal(&Json::Number(scored.score))?,
        id: scored.id,
        of,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded<'a> {
    #[serde(borrow)]
    content_type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    base64: std::borrow::Cow<'a, str>,
}

/// Whether a JSON text is a payload in base64, or looks like one.
pub(crate) fn is_encoded(text: &str) -> bool {
    serde_json::from_str::<Encoded<'_>>(text).is_ok()
}

fn payload(update: &Update<'_>) -> Result<Payload, Problem> {
    let text = raw(update)?.get();
    if let Ok(encoded) = serde_json::from_str::<Encoded<'_>>(text) {
        let content_type = ContentType::parse(&encoded.content_type)
            .map_err(|error| bad_value(format!("`content_type` is wrong: {error}")))?;
        let body = STANDARD
            .decode(&*encoded.base64)
            .map_err(|error| bad_value(format!("`base64` is wrong: {error}")))?;
        return Ok(Payload::new(content_type, body));
    }
    Ok(Payload::new(ContentType::Json, compact(text)))
}

/// Valid JSON in one spelling: without space between tokens, texts escaped only
/// where they must be, numbers and the order of members as they were. So equal
/// values are mostly equal bytes, as the SDK writes them, and a set holds them once;
/// and no number loses digits.
fn compact(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        if byte == b'"' {
            at = end_of_string(bytes, at);
            let token = text.get(start..at).unwrap_or_default();
            // A lone surrogate is no text for Rust; it stays as it was.
            match serde_json::from_str::<String>(token) {
                Ok(plain) => out.extend_from_slice(Json::from(plain).to_string().as_bytes()),
                Err(_) => out.extend_from_slice(token.as_bytes()),
            }
        } else if !byte.is_ascii_whitespace() {
            out.push(byte);
        }
    }
    out
}

/// The place after the closing quote of a string whose content begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn op(text: &str) -> Result<Op, Code> {
        let ops = on_key(text.as_bytes(), "k").map_err(|problem| problem.code)?;
        assert_eq!(ops.len(), 1);
        assert_eq!(ops[0].0, "k");
        Ok(ops[0].1.clone())
    }

    fn payload_of(value: &Json) -> Payload {
        Payload::json(value)
    }

    #[test]
    fn each_type_has_its_operations() {
        let one = payload_of(&json!({"a": 1}));
        let cases = [
            (
                r#"{"type":"register","op":"set","value":{ "a": 1 }}"#,
                Op::RegisterSet(one.clone()),
            ),
            (
                r#"{"op":"register.set","value":null}"#,
                Op::RegisterSet(Payload::null()),
            ),
            (
                r#"{"op":"multi.set","value":{"a":1}}"#,
                Op::MultiSet(one.clone()),
            ),
            (
                r#"{"type":"counter","op":"counter.add","value":-3}"#,
                Op::CounterAdd(-3),
            ),
            (r#"{"op":"max.put","value":"b"}"#, Op::MaxPut("b".into())),
            (r#"{"op":"min.put","value":4}"#, Op::MinPut(4.into())),
            (r#"{"type":"flag","op":"raise"}"#, Op::FlagRaise),
            (
                r#"{"type":"set","op":"add","value":{"a":1}}"#,
                Op::SetAdd(one.clone()),
            ),
            (
                r#"{"type":"set","op":"remove","value":{"a":1}}"#,
                Op::SetRemove(one.clone()),
            ),
            (
                r#"{"op":"log.append","value":{"a":1},"keep":5}"#,
                Op::LogAppend {
                    value: one,
                    keep: Some(5),
                },
            ),
            (
                r#"{"op":"top.put","value":{"score":2,"id":"x"},"of":3}"#,
                Op::TopPut {
                    score: 2.into(),
                    id: "x".into(),
                    of: 3,
                },
            ),
            (r#"{"op":"delete"}"#, Op::Delete),
            (r#"{"type":"set","op":"delete"}"#, Op::Delete),
            (r#"{"type":"map","op":"delete"}"#, Op::Delete),
            (r#"{"op":"expire","value":null}"#, Op::Expire(None)),
            (
                r#"{"op":"expire","value":5}"#,
                Op::Expire(Some(Time::from_millis(5))),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(op(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn fields_of_maps_take_operations_of_their_own() {
        let add = Op::MapField {
            field: "f".into(),
            op: Box::new(Op::CounterAdd(1)),
        };
        for text in [
            r#"{"type":"map","field":"f","field_type":"counter","op":"add","value":1}"#,
            r#"{"type":"map","field":"f","op":"counter.add","value":1}"#,
            r#"{"field":"f","op":"counter.add","value":1}"#,
        ] {
            assert_eq!(op(text), Ok(add.clone()), "{text}");
        }
        let remove = Op::MapRemove { field: "f".into() };
        assert_eq!(
            op(r#"{"type":"map","field":"f","op":"remove"}"#),
            Ok(remove.clone())
        );
        assert_eq!(op(r#"{"field":"f","op":"map.remove"}"#), Ok(remove));
        let element = Op::MapField {
            field: "f".into(),
            op: Box::new(Op::SetRemove(payload_of(&json!(1)))),
        };
        let text = r#"{"type":"map","field":"f","field_type":"set","op":"remove","value":1}"#;
        assert_eq!(op(text), Ok(element));
    }

    #[test]
    fn bytes_travel_in_base64() {
        let text = r#"{"op":"register.set","value":{"content_type":"image/png","base64":"AQI="}}"#;
        let expected = Payload::new(
            ContentType::parse("image/png").expect("a media type"),
            vec![1, 2],
        );
        assert_eq!(op(text), Ok(Op::RegisterSet(expected)));
        let wrong = r#"{"op":"register.set","value":{"content_type":"image/png","base64":"!"}}"#;
        assert_eq!(op(wrong), Err(Code::BadValue));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cases = [
            (r#"{"op":"add","value":1}"#, Code::BadRequest),
            (
                r#"{"type":"counter","op":"set","value":1}"#,
                Code::BadRequest,
            ),
            (
                r#"{"type":"counter","op":"set.add","value":1}"#,
                Code::BadRequest,
            ),
            (r#"{"type":"tally","op":"add","value":1}"#, Code::BadRequest),
            (r#"{"type":"map","op":"add","value":1}"#, Code::BadRequest),
            (
                r#"{"type":"set","field":"f","op":"add","value":1}"#,
                Code::BadRequest,
            ),
            (r#"{"field":"f","op":"expire","value":1}"#, Code::BadRequest),
            (r#"{"op":"register.set"}"#, Code::BadRequest),
            (
                r#"{"op":"register.set","value":1,"vlue":2}"#,
                Code::BadRequest,
            ),
            (r#"{"key":"other","op":"delete"}"#, Code::BadRequest),
            (
                r#"{"op":"top.put","value":{"score":1,"id":"x"}}"#,
                Code::BadRequest,
            ),
            (r#"{"op":"counter.add","value":1.5}"#, Code::BadValue),
            (r#"{"op":"counter.add","value":"1"}"#, Code::BadValue),
            (r#"{"op":"max.put","value":[1]}"#, Code::BadValue),
            (
                r#"{"op":"top.put","value":{"score":"1","id":"x"},"of":1}"#,
                Code::BadValue,
            ),
            (r#"{"op":"expire","value":"soon"}"#, Code::BadValue),
        ];
        for (text, code) in cases {
            assert_eq!(op(text), Err(code), "{text}");
        }
    }

    #[test]
    fn values_are_spelt_one_way_without_loss() {
        let spelt = |text: &str| String::from_utf8(compact(text)).unwrap_or_default();
        let long = "{ \"b\" : [ 123456789012345678901 , 1e+16, 1.0 ],\n\"a\": \"\\u00e9 \\\" x\" }";
        let expected = "{\"b\":[123456789012345678901,1e+16,1.0],\"a\":\"\u{e9} \\\" x\"}";
        assert_eq!(spelt(long), expected);
        assert_eq!(spelt(expected), expected);
        assert_eq!(spelt("\"\\ud800\""), "\"\\ud800\"");
    }

    #[test]
    fn several_operations_say_which_is_wrong() {
        let ops = on_keys(br#"[{"key":"a","op":"delete"},{"key":"b","op":"flag.raise"}]"#);
        let keys: Vec<_> = ops
            .expect("valid")
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, ["a", "b"]);
        let wrong = on_keys(br#"[{"key":"a","op":"delete"},{"op":"delete"}]"#);
        let problem = wrong.expect_err("no key");
        assert!(
            problem.detail.starts_with("operation 1: `key`"),
            "{}",
            problem.detail
        );
        assert!(on_keys(b"[]").expect("no operation is valid").is_empty());
        let shape = on_keys(b"{}").expect_err("not an array");
        assert!(shape.detail.contains("line 1"), "{}", shape.detail);
    }
}
