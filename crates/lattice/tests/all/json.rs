//! The JSON of docs/http.md, both ways.

use serde_json::{Value as Json, json};
use tidemill_lattice::{Cell, ContentType, Dot, Op, Ordinal, Payload, Time, Writer};

fn state(ops: &[Op]) -> Cell {
    let mut cell = Cell::empty();
    for (index, op) in (1..).zip(ops) {
        let at = Time::from_micros(index);
        let mut dot = || Dot::new(at.next(), Writer(1), 0);
        let delta = Cell::delta(Some(&cell), op, at, &mut dot).unwrap();
        cell.merge(&delta);
    }
    cell
}

fn shown(ops: &[Json]) -> Json {
    let ops: Vec<Op> = ops.iter().map(|op| Op::from_json(op).unwrap()).collect();
    let at = Time::from_micros(500);
    state(&ops).view(at).unwrap().to_json(at)
}

#[test]
fn every_type_has_its_shape() {
    let bytes = json!({"content_type": "application/octet-stream", "base64": "AP8="});
    let op = |kind: &str, op: &str, value: Json| json!({"type": kind, "op": op, "value": value});
    assert_eq!(
        shown(&[op("register", "set", json!({"a": [1, null]}))]),
        json!({"type": "register", "value": {"a": [1, null]}})
    );
    assert_eq!(
        shown(&[op("multi", "set", bytes.clone())]),
        json!({"type": "multi", "value": [bytes]})
    );
    assert_eq!(
        shown(&[
            op("counter", "add", json!(5)),
            op("counter", "add", json!(-7))
        ]),
        json!({"type": "counter", "value": -2})
    );
    assert_eq!(
        shown(&[op("max", "put", json!(1)), op("max", "put", json!(2.5))]),
        json!({"type": "max", "value": 2.5})
    );
    assert_eq!(
        shown(&[op("min", "put", json!("b")), op("min", "put", json!("a"))]),
        json!({"type": "min", "value": "a"})
    );
    assert_eq!(
        shown(&[json!({"type": "flag", "op": "raise"})]),
        json!({"type": "flag", "value": true})
    );
    assert_eq!(
        shown(&[
            op("set", "add", json!("b")),
            op("set", "add", json!("a")),
            op("set", "add", json!("c")),
            op("set", "remove", json!("c")),
        ]),
        json!({"type": "set", "value": ["a", "b"]})
    );
    let append = |value: u32| json!({"type": "log", "op": "append", "value": value, "keep": 2});
    assert_eq!(
        shown(&[append(1), append(2), append(3)]),
        json!({"type": "log", "value": [2, 3]})
    );
    let put = |score: Json, id: &str| json!({"type": "top", "op": "put", "value": {"score": score, "id": id}, "of": 2});
    assert_eq!(
        shown(&[put(json!(1), "a"), put(json!(2.5), "b"), put(json!(2), "c")]),
        json!({"type": "top", "value": [{"score": 2.5, "id": "b"}, {"score": 2, "id": "c"}]})
    );
}

#[test]
fn a_map_shows_its_fields() {
    let field = |field: &str, kind: &str, op: &str, value: Json| json!({"type": "map", "field": field, "field_type": kind, "op": op, "value": value});
    assert_eq!(
        shown(&[
            field("n", "counter", "add", json!(2)),
            field("tags", "set", "add", json!("x")),
            field("tags", "set", "remove", json!("x")),
            field("gone", "register", "set", json!(1)),
            json!({"type": "map", "op": "remove", "field": "gone"}),
        ]),
        json!({"type": "map", "value": {
            "n": {"type": "counter", "value": 2},
            "tags": {"type": "set", "value": []},
        }})
    );
}

#[test]
fn large_counters_are_strings() {
    let add = json!({"type": "counter", "op": "add", "value": i64::MAX});
    assert_eq!(
        shown(&[add.clone(), add]),
        json!({"type": "counter", "value": "18446744073709551614"})
    );
}

#[test]
fn payloads_go_both_ways() {
    let payloads = [
        Payload::null(),
        Payload::json(&json!({"base64": "x", "content_type": "y", "more": 1})),
        Payload::bytes("\u{1}\u{2}"),
        Payload::new(ContentType::Json, "not json"),
        Payload::new(ContentType::parse("text/plain; charset=x").unwrap(), ""),
    ];
    for payload in payloads {
        assert_eq!(Payload::from_json(&payload.to_json()), Ok(payload));
    }
}

#[test]
fn operations_of_any_type_need_none() {
    let read = |json: Json| Op::from_json(&json).unwrap();
    assert_eq!(read(json!({"op": "delete"})), Op::Delete);
    assert_eq!(
        read(json!({"op": "delete", "type": "set", "key": "k"})),
        Op::Delete
    );
    assert_eq!(
        read(json!({"op": "expire", "value": null})),
        Op::Expire(None)
    );
    assert_eq!(
        read(json!({"op": "expire", "value": 1500})),
        Op::Expire(Some(Time::from_micros(1_500_000)))
    );
    let expire = Op::MapField {
        field: "f".into(),
        op: Box::new(Op::Expire(None)),
    };
    assert_eq!(
        read(json!({"type": "map", "field": "f", "op": "expire", "value": null})),
        expire
    );
    assert_eq!(
        read(json!({"op": "max.put", "value": 3})),
        Op::MaxPut(Ordinal::Integer(3))
    );
    let remove = json!({"op": "remove", "type": "map", "field": "f"});
    assert_eq!(read(remove), Op::MapRemove { field: "f".into() });
}

#[test]
fn what_is_no_operation_is_refused_with_a_hint() {
    for (json, hint) in [
        (json!([]), "JSON object"),
        (json!({"type": "set"}), "`op` is missing"),
        (json!({"op": "add", "value": 1}), "say of which `type`"),
        (
            json!({"type": "sets", "op": "add", "value": 1}),
            "no type `sets`",
        ),
        (
            json!({"type": "set", "op": "put", "value": 1}),
            "use add, remove",
        ),
        (
            json!({"type": "set", "op": "counter.add", "value": 1}),
            "not for type `set`",
        ),
        (json!({"type": "set", "op": "add"}), "`value` is missing"),
        (
            json!({"type": "counter", "op": "add", "value": 1.5}),
            "integer of 64 bits",
        ),
        (
            json!({"type": "counter", "op": "add", "value": 1, "valeu": 1}),
            "no `valeu`",
        ),
        (
            json!({"type": "max", "op": "put", "value": null}),
            "number or a string",
        ),
        (
            json!({"type": "log", "op": "append", "value": 1, "keep": 0}),
            "`keep`",
        ),
        (
            json!({"type": "top", "op": "put", "value": {"score": 1, "id": "a"}}),
            "`of`",
        ),
        (
            json!({"type": "top", "op": "put", "value": {"score": "1", "id": "a"}, "of": 1}),
            "score",
        ),
        (
            json!({"type": "map", "op": "set", "value": 1}),
            "needs `field`",
        ),
        (
            json!({"type": "set", "op": "add", "value": 1, "field": "f"}),
            "type `map` only",
        ),
        (
            json!({"type": "set", "op": "add", "value": 1, "field_type": "set"}),
            "needs `field`",
        ),
        (
            json!({"op": "expire", "value": "soon"}),
            "Unix milliseconds",
        ),
        (json!({"op": "expire"}), "`value` is missing"),
        (
            json!({"type": "set", "op": "add", "value": {"content_type": "text/plain", "base64": "?"}}),
            "base64",
        ),
        (
            json!({"type": "set", "op": "add", "value": {"content_type": "text", "base64": ""}}),
            "type/subtype",
        ),
    ] {
        let error = Op::from_json(&json)
            .expect_err(&json.to_string())
            .to_string();
        assert!(error.contains(hint), "{json}: {error}");
    }
}
