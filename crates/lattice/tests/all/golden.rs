//! The encoding's bytes, fixed by files, and the sizes that memory use rests on.
//!
//! A file that differs means that stored data of an earlier build reads differently: raise the
//! encoding's version instead. `TIDEMILL_BLESS=1` writes files for new cells.

use std::{fs, mem::size_of, path::PathBuf};

use tidemill_lattice::{
    Cell, ContentType, Counter, Dot, Key, Kind, Log, Map, Multi, Op, Ordinal, Payload, Register,
    Set, Time, Top, Value, Writer,
};

fn json(text: &str) -> Payload {
    Payload::json(&text.into())
}

fn field(name: &str, op: Op) -> Op {
    Op::MapField {
        field: name.into(),
        op: Box::new(op),
    }
}

/// The state after operations, each its own commit a millisecond after the one before.
fn state(ops: &[Op]) -> Cell {
    let mut cell = Cell::empty();
    for (index, op) in (1..).zip(ops) {
        let at = Time::from_millis(1_700_000_000_000 + index);
        let mut dot = || Dot::new(at.next(), Writer(7), 300);
        let delta = Cell::delta(Some(&cell), op, at, &mut dot).expect("the operation fits");
        cell.merge(&delta);
    }
    cell
}

fn compacted(mut cell: Cell) -> Cell {
    cell.compact(
        Time::from_millis(1_700_000_000_002),
        Time::from_millis(1_700_000_000_002),
    );
    cell
}

/// A counter, and a value of another type written before it was seen.
fn conflict() -> Cell {
    let mut cell = state(&[Op::CounterAdd(1), Op::CounterAdd(1 << 40)]);
    cell.merge(
        &Cell::delta(
            None,
            &Op::MultiSet(Payload::null()),
            Time::ZERO,
            &mut || Dot::new(Time::from_millis(1), Writer(1), 1),
        )
        .unwrap(),
    );
    cell
}

/// Every kind, plain and with its metadata.
fn cells() -> Vec<(&'static str, Cell)> {
    let other = Payload::new(
        ContentType::parse("text/plain; charset=utf-8").unwrap(),
        "hé",
    );
    let pickle = Payload::new(ContentType::Pickle5, &b"\x80\x05N."[..]);
    let top = |score: Ordinal, id: &str| Op::TopPut {
        score,
        id: id.into(),
        of: 3,
    };
    let append = |value, keep| Op::LogAppend { value, keep };
    let removed = [
        Op::SetAdd(json("a")),
        Op::SetAdd(other.clone()),
        Op::SetRemove(json("a")),
    ];
    let sum = [
        Op::CounterAdd(i64::MIN),
        Op::CounterAdd(-1),
        Op::CounterAdd(5),
    ];
    vec![
        ("empty", Cell::empty()),
        (
            "register",
            state(&[
                Op::RegisterSet(json("first")),
                Op::RegisterSet(other.clone()),
            ]),
        ),
        (
            "multi",
            state(&[Op::MultiSet(json("a")), Op::MultiSet(pickle)]),
        ),
        ("counter", state(&sum)),
        ("counter-compacted", compacted(state(&sum))),
        ("max-float", state(&[Op::MaxPut(Ordinal::Float(2.5))])),
        ("max-text", state(&[Op::MaxPut("z".into())])),
        ("min-integer", state(&[Op::MinPut((-3).into())])),
        ("flag", state(&[Op::FlagRaise])),
        ("set", state(&removed)),
        ("set-compacted", {
            let mut cell = state(&removed);
            cell.compact(
                Time::from_millis(1_700_000_000_009),
                Time::from_millis(1_700_000_000_009),
            );
            cell
        }),
        (
            "map",
            state(&[
                field("count", Op::CounterAdd(2)),
                field("tags", Op::SetAdd(Payload::bytes("x"))),
                field("name", Op::RegisterSet(json("n"))),
                Op::MapRemove {
                    field: "name".into(),
                },
            ]),
        ),
        (
            "log",
            state(&[append(json("a"), None), append(json("b"), Some(5))]),
        ),
        (
            "top",
            state(&[top(1.into(), "ann"), top(Ordinal::Float(1.5), "bob")]),
        ),
        ("deleted", state(&[Op::FlagRaise, Op::Delete])),
        (
            "expiring",
            state(&[
                Op::FlagRaise,
                Op::Expire(None),
                Op::Expire(Some(Time::from_millis(1_800_000_000_000))),
            ]),
        ),
        ("conflict", conflict()),
    ]
}

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name]
        .iter()
        .collect()
}

/// Sixteen bytes a line.
fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| {
        line.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    bytes.chunks(16).map(|chunk| line(chunk) + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn check(name: &str, now: &str) -> String {
    let path = golden(name);
    if std::env::var_os("TIDEMILL_BLESS").is_some() && !path.exists() {
        fs::write(&path, now).unwrap();
    }
    let held = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(held, now, "{name} differs");
    held
}

#[test]
fn the_encoding_is_the_one_on_file() {
    let mut kinds: Vec<Kind> = Vec::new();
    for (name, cell) in cells() {
        let mut bytes = Vec::new();
        cell.encode(&mut bytes);
        let held = check(&format!("{name}.hex"), &hex(&bytes));
        assert_eq!(
            Cell::decode(&unhex(&held).into()),
            Ok(cell.clone()),
            "{name}"
        );
        kinds.extend(cell.kind(Time::from_millis(1_700_000_000_020)));
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, Kind::ALL, "each kind has a file");
    let files = fs::read_dir(golden("")).unwrap();
    let count = files
        .filter(|file| {
            file.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|end| end == "hex")
        })
        .count();
    assert_eq!(count, cells().len(), "each file has a cell");
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_sizes_are_the_ones_on_file() {
    let sizes = [
        ("Cell", size_of::<Cell>()),
        ("Value", size_of::<Value>()),
        ("Register", size_of::<Register>()),
        ("Multi", size_of::<Multi>()),
        ("Counter", size_of::<Counter>()),
        ("Set", size_of::<Set>()),
        ("Map", size_of::<Map>()),
        ("Log", size_of::<Log>()),
        ("Top", size_of::<Top>()),
        ("Payload", size_of::<Payload>()),
        ("Ordinal", size_of::<Ordinal>()),
        ("Key", size_of::<Key>()),
        ("Dot", size_of::<Dot>()),
        ("Time", size_of::<Time>()),
        ("Op", size_of::<Op>()),
    ];
    let text: String = sizes
        .iter()
        .map(|(name, size)| format!("{name} {size}\n"))
        .collect();
    check("sizes-bytes.txt", &text);
}
