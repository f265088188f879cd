//! Values of keys as JSON. Pure: a value in, text out.

use crate::ops::is_encoded;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};
use tidemill_lattice::{ContentType, Payload, Time, Value};

/// Writes `{"type","value"}`. Payloads that are JSON stand in it byte by byte, so
/// that no number loses digits on its way.
pub(crate) fn write_view(out: &mut Vec<u8>, value: &Value, at: Time) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(value.kind().as_str().as_bytes());
    out.extend_from_slice(b"\",\"value\":");
    match value {
        Value::Register(register) => write_payload(out, register.get()),
        Value::Multi(multi) => write_list(out, multi.iter(), write_payload),
        Value::Set(set) => write_list(out, set.iter(), write_payload),
        Value::Log(log) => {
            let entries = log.iter().map(|(_, payload)| payload);
            write_list(out, entries, write_payload);
        }
        Value::Counter(counter) => out.extend_from_slice(counter.value().to_string().as_bytes()),
        Value::Max(max) => write_json(out, &max.get().to_json()),
        Value::Min(min) => write_json(out, &min.get().to_json()),
        Value::Flag(_) => out.extend_from_slice(b"true"),
        Value::Top(top) => write_list(out, top.iter(), |out, (score, id)| {
            write_json(out, &json!({ "score": score.to_json(), "id": id }));
        }),
        Value::Map(map) => {
            let mut separator = b'{';
            for (field, value) in map.iter_at(at) {
                out.push(separator);
                separator = b',';
                write_json(out, &Json::from(field));
                out.push(b':');
                write_view(out, value, at);
            }
            if separator == b'{' {
                out.push(b'{');
            }
            out.push(b'}');
        }
    }
    out.push(b'}');
}

fn write_list<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    write: impl Fn(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn write_json(out: &mut Vec<u8>, value: &Json) {
    out.extend_from_slice(value.to_string().as_bytes());
}

/// Writes the JSON value itself, or `{"content_type","base64"}`. What calls itself
/// JSON is checked: workers write it, and one stray byte would spoil the document. JSON
/// that looks like the second form is written in it, so that a reader is never misled.
pub(crate) fn write_payload(out: &mut Vec<u8>, payload: &Payload) {
    if payload.content_type == ContentType::Json
        && let Ok(raw) = serde_json::from_slice::<&RawValue>(&payload.body)
        && !is_encoded(raw.get())
    {
        out.extend_from_slice(raw.get().as_bytes());
        return;
    }
    let encoded = json!({
        "content_type": payload.content_type.as_str(),
        "base64": STANDARD.encode(&payload.body),
    });
    write_json(out, &encoded);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_lattice::{Cell, Dot, Op, Writer};

    const NOW: Time = Time::from_micros(1_000);

    fn after(ops: &[Op]) -> Cell {
        let mut cell = Cell::empty();
        let mut sequence = 0;
        for op in ops {
            let mut dots = || {
                sequence += 1;
                Dot {
                    time: NOW,
                    writer: Writer(1),
                    sequence,
                }
            };
            let delta = Cell::delta(Some(&cell), op, NOW, &mut dots).expect("the operation fits");
            cell.merge(&delta);
        }
        cell
    }

    fn view(ops: &[Op]) -> Json {
        let cell = after(ops);
        let mut out = Vec::new();
        write_view(
            &mut out,
            cell.view(NOW).expect("the key holds something"),
            NOW,
        );
        serde_json::from_slice(&out).expect("a view is JSON")
    }

    fn json_payload(value: &Json) -> Payload {
        Payload::json(value)
    }

    #[test]
    fn every_type_has_its_view() {
        let a = || json_payload(&json!("a"));
        let field = |name: &str, op| Op::MapField {
            field: name.into(),
            op: Box::new(op),
        };
        let top = |score: i64, id: &str| Op::TopPut {
            score: score.into(),
            id: id.into(),
            of: 2,
        };
        let cases = [
            (
                vec![Op::RegisterSet(a())],
                json!({"type": "register", "value": "a"}),
            ),
            (
                vec![Op::MultiSet(a())],
                json!({"type": "multi", "value": ["a"]}),
            ),
            (
                vec![Op::CounterAdd(3), Op::CounterAdd(-5)],
                json!({"type": "counter", "value": -2}),
            ),
            (
                vec![Op::MaxPut(3.into()), Op::MaxPut(2.into())],
                json!({"type": "max", "value": 3}),
            ),
            (
                vec![Op::MinPut("b".into())],
                json!({"type": "min", "value": "b"}),
            ),
            (vec![Op::FlagRaise], json!({"type": "flag", "value": true})),
            (
                vec![
                    Op::SetAdd(a()),
                    Op::SetAdd(json_payload(&json!(1))),
                    Op::SetRemove(a()),
                ],
                json!({"type": "set", "value": [1]}),
            ),
            (
                vec![Op::LogAppend {
                    value: a(),
                    keep: None,
                }],
                json!({"type": "log", "value": ["a"]}),
            ),
            (
                vec![top(1, "x"), top(5, "y"), top(3, "z")],
                json!({"type": "top", "value": [{"score": 5, "id": "y"}, {"score": 3, "id": "z"}]}),
            ),
            (
                vec![field("n", Op::CounterAdd(1)), field("s", Op::SetAdd(a()))],
                json!({"type": "map", "value": {
                    "n": {"type": "counter", "value": 1},
                    "s": {"type": "set", "value": ["a"]},
                }}),
            ),
        ];
        for (ops, expected) in cases {
            assert_eq!(view(&ops), expected);
        }
    }

    #[test]
    fn payloads_keep_their_digits_and_other_types_go_in_base64() {
        let long = "123456789012345678901234567890";
        let cell = after(&[Op::RegisterSet(Payload::new(ContentType::Json, long))]);
        let mut out = Vec::new();
        write_view(&mut out, cell.view(NOW).expect("set"), NOW);
        assert!(String::from_utf8_lossy(&out).contains(long));
        let bytes = view(&[Op::RegisterSet(Payload::bytes(vec![1]))]);
        assert_eq!(bytes["value"]["base64"], "AQ==");
        let broken = view(&[Op::RegisterSet(Payload::new(ContentType::Json, "{"))]);
        assert_eq!(broken["value"]["content_type"], "application/json");
        let alike = Payload::json(&json!({"content_type": "x", "base64": "AA=="}));
        let alike = view(&[Op::RegisterSet(alike)]);
        assert_eq!(alike["value"]["content_type"], "application/json");
    }
}
