//! What concurrent programs get: one small story for each promise.

use std::slice;

use tidemill_lattice::{
    Cell, Dot, Kind, Op, OpError, PAYLOAD_MAX_BYTES, Payload, Time, Value, Writer,
};

use crate::world::commit;

fn time(raw: u64) -> Time {
    Time::from_u64(raw)
}

fn json(text: &str) -> Payload {
    Payload::json(&text.into())
}

/// The delta of operations that see `seen` at `snapshot` and commit at `at`.
fn delta(seen: &Cell, snapshot: u64, at: u64, ops: &[Op]) -> Cell {
    commit(seen, ops, time(snapshot), time(at), 1).delta
}

fn join(cells: &[&Cell]) -> Cell {
    let mut join = Cell::empty();
    cells.iter().for_each(|cell| join.merge(cell));
    join
}

fn count(cell: &Cell, at: u64) -> Option<i128> {
    match cell.view(time(at)) {
        Some(Value::Counter(counter)) => Some(counter.value()),
        _ => None,
    }
}

#[test]
fn concurrent_first_adds_both_count() {
    let a = delta(&Cell::empty(), 0, 10, &[Op::CounterAdd(1)]);
    let b = delta(&Cell::empty(), 0, 20, &[Op::CounterAdd(2)]);
    let both = join(&[&b, &a, &b]);
    assert_eq!(count(&both, 20), Some(3));
    let c = delta(&both, 20, 30, &[Op::CounterAdd(4)]);
    let mut folded = both.clone();
    assert!(folded.compact(time(20), time(20)).changed);
    folded.merge(&c);
    assert_eq!(
        (count(&join(&[&both, &c]), 30), count(&folded, 30)),
        (Some(7), Some(7))
    );
}

#[test]
fn a_delete_wins_over_writes_that_did_not_see_it() {
    let base = delta(&Cell::empty(), 0, 10, &[Op::CounterAdd(100)]);
    let deleted = delta(&base, 10, 20, &[Op::Delete]);
    let unseen = delta(&base, 10, 30, &[Op::CounterAdd(1)]);
    let all = join(&[&unseen, &base, &deleted]);
    assert_eq!(
        (all.kind(time(30)), all.is_empty_at(time(30))),
        (None, true)
    );
    let after = delta(&all, 30, 40, &[Op::CounterAdd(7)]);
    assert_eq!(count(&join(&[&after, &all]), 40), Some(7));
    // The delete alone is remembered until nobody can need it.
    let mut tombstone = all;
    assert!(!tombstone.is_bottom());
    tombstone.compact(time(30), time(30));
    assert!(tombstone.is_bottom());
}

#[test]
fn a_write_after_a_forgotten_delete_survives_where_it_is_remembered() {
    let base = delta(&Cell::empty(), 0, 10, &[Op::CounterAdd(100)]);
    let remembers = join(&[&base, &delta(&base, 10, 20, &[Op::Delete])]);
    let mut forgot = remembers.clone();
    forgot.compact(time(20), time(20));
    let write = delta(&forgot, 20, 30, &[Op::CounterAdd(1)]);
    assert_eq!(count(&join(&[&remembers, &write]), 30), Some(1));
}

#[test]
fn an_expired_key_is_absent_and_a_write_begins_it_anew() {
    let ops = [Op::CounterAdd(5), Op::Expire(Some(time(50)))];
    let cell = delta(&Cell::empty(), 0, 10, &ops);
    assert_eq!(
        (cell.expires(), count(&cell, 49), count(&cell, 50)),
        (Some(time(50)), Some(5), None)
    );
    let later = delta(&cell, 60, 70, &[Op::CounterAdd(1)]);
    let both = join(&[&cell, &later]);
    assert_eq!((count(&both, 70), both.expires()), (Some(1), None));
    // Another type is fine too: what expired is no conflict.
    let flag = join(&[&cell, &delta(&cell, 60, 70, &[Op::FlagRaise])]);
    assert_eq!(flag.kind(time(70)), Some(Kind::Flag));
    // An extension that did not see the end comes too late.
    let stale = delta(&cell, 40, 60, &[Op::Expire(None)]);
    assert_eq!(count(&join(&[&cell, &stale]), 60), None);
    let in_time = delta(&cell, 40, 45, &[Op::Expire(None)]);
    assert_eq!(count(&join(&[&cell, &in_time]), 60), Some(5));
    let mut folded = cell.clone();
    assert_eq!(folded.compact(time(50), time(50)).expired, 1);
    assert!(folded.is_bottom());
}

#[test]
fn a_write_that_joins_an_expiring_key_expires_with_it() {
    let ops = [Op::CounterAdd(5), Op::Expire(Some(time(50)))];
    let cell = delta(&Cell::empty(), 0, 10, &ops);
    let concurrent = delta(&Cell::empty(), 0, 20, &[Op::CounterAdd(1)]);
    let both = join(&[&cell, &concurrent]);
    assert_eq!((count(&both, 20), count(&both, 50)), (Some(6), None));
}

#[test]
fn the_first_type_wins_and_the_other_is_dropped_and_counted() {
    let register = delta(&Cell::empty(), 0, 20, &[Op::RegisterSet(json("x"))]);
    let counter = delta(&Cell::empty(), 0, 10, &[Op::CounterAdd(1)]);
    let mut both = join(&[&register, &counter]);
    assert_eq!(both.kind(time(20)), Some(Kind::Counter));
    assert_eq!(both.compact(time(15), time(15)).conflicts, 0);
    assert_eq!(both.compact(time(20), time(20)).conflicts, 1);
    assert_eq!(count(&both, 20), Some(1));
    let error = Cell::delta(Some(&both), &Op::FlagRaise, time(20), &mut || Dot::ZERO);
    assert_eq!(
        error,
        Err(OpError::WrongKind {
            held: Kind::Counter,
            asked: Kind::Flag
        })
    );
}

#[test]
fn a_lost_value_stays_lost_when_the_winner_is_made_to_expire_in_the_past() {
    let counter = delta(&Cell::empty(), 0, 10, &[Op::CounterAdd(1)]);
    let lost = delta(&Cell::empty(), 0, 20, &[Op::FlagRaise]);
    let both = join(&[&counter, &lost]);
    let mut compacted = both.clone();
    compacted.compact(time(20), time(20));
    let expire = delta(&both, 20, 30, &[Op::Expire(Some(time(5)))]);
    for copy in [both, compacted] {
        let cell = join(&[&copy, &expire]);
        assert_eq!(
            (cell.kind(time(29)), cell.kind(time(30))),
            (Some(Kind::Counter), None)
        );
    }
}

#[test]
fn an_expiry_taken_back_leaves_nothing_behind() {
    let plain = delta(&Cell::empty(), 0, 10, &[Op::CounterAdd(1)]);
    let ops = [Op::Expire(Some(time(90))), Op::Expire(None)];
    let mut cell = join(&[&plain, &delta(&plain, 10, 20, &ops)]);
    assert_eq!(cell.expires(), None);
    let mut expected = plain;
    cell.compact(time(20), time(20));
    expected.compact(time(20), time(20));
    assert_eq!(cell, expected);
}

#[test]
fn add_wins_over_a_concurrent_remove() {
    let base = delta(
        &Cell::empty(),
        0,
        10,
        &[Op::SetAdd(json("x")), Op::SetAdd(json("y"))],
    );
    let removes = [Op::SetRemove(json("x")), Op::SetRemove(json("y"))];
    let remove = delta(&base, 10, 20, &removes);
    let add = delta(&base, 10, 15, &[Op::SetAdd(json("x"))]);
    for order in [
        [&base, &remove, &add],
        [&add, &remove, &base],
        [&remove, &add, &base],
    ] {
        let all = join(&order);
        let Some(Value::Set(set)) = all.view(time(20)) else {
            panic!("a set")
        };
        assert!(set.contains(&json("x")) && !set.contains(&json("y")));
        assert_eq!((set.len(), set.is_empty()), (1, false));
    }
}

/// Two lives, the first ended by a delete that whoever sees both has not seen.
fn ended_beneath(op: &Op) -> (Cell, Cell) {
    let first = delta(&Cell::empty(), 0, 10, slice::from_ref(op));
    let second = delta(&Cell::empty(), 0, 30, slice::from_ref(op));
    let deleted = delta(&first, 10, 20, &[Op::Delete]);
    (join(&[&first, &second]), deleted)
}

#[test]
fn what_was_removed_stays_removed_when_a_delete_ends_the_life_begun_first() {
    let field = |op| Op::MapField {
        field: "f".into(),
        op: Box::new(op),
    };
    let add = Op::SetAdd(json("x"));
    let remove = Op::SetRemove(json("x"));
    let cases = [
        (add.clone(), remove.clone()),
        (field(add), field(remove)),
        (
            field(Op::CounterAdd(1)),
            Op::MapRemove { field: "f".into() },
        ),
    ];
    for (begin, end) in cases {
        let (seen, deleted) = ended_beneath(&begin);
        let removed = delta(&seen, 30, 40, &[end]);
        let before = join(&[&seen, &deleted])
            .view(time(40))
            .map(|v| v.to_json(time(40)));
        let all = join(&[&seen, &deleted, &removed]);
        let after = all.view(time(40)).map(|value| value.to_json(time(40)));
        assert_ne!(after, before, "the second life's came back");
        let mut folded = seen.clone();
        folded.merge(&deleted);
        folded.compact(time(30), time(30));
        folded.merge(&removed);
        assert_eq!(folded.view(time(40)).map(|v| v.to_json(time(40))), after);
    }
}

#[test]
fn a_line_below_a_life_takes_nothing_from_those_before_it() {
    let adds = [Op::SetAdd(json("x")), Op::SetAdd(json("y"))];
    let first = delta(&Cell::empty(), 0, 10, &adds);
    let second = delta(&Cell::empty(), 0, 30, &adds[..1]);
    let seen = join(&[&first, &second]);
    let removed = delta(&seen, 30, 40, &[Op::SetRemove(json("x"))]);
    let all = join(&[&seen, &removed]);
    let shown = |cell: &Cell| cell.view(time(40)).map(|value| value.to_json(time(40)));
    for through in [10, 25, 30, 35, 40] {
        let mut folded = all.clone();
        folded.compact(time(through), time(10));
        assert_eq!(shown(&folded), shown(&all), "through {through}");
    }
}

#[test]
fn what_was_overwritten_stays_so_when_a_delete_ends_the_life_begun_first() {
    let writes: [fn(&str) -> Op; 2] = [
        |text| Op::RegisterSet(json(text)),
        |text| Op::MultiSet(json(text)),
    ];
    for write in writes {
        let (seen, deleted) = ended_beneath(&write("old"));
        let written = delta(&seen, 30, 40, &[write("new")]);
        let all = join(&[&seen, &deleted, &written]);
        let shown = all
            .view(time(40))
            .expect("it was written")
            .to_json(time(40));
        assert!(!shown.to_string().contains("old"), "{shown}");
    }
}

#[test]
fn adding_again_and_again_costs_nothing() {
    let mut cell = Cell::empty();
    for at in 1..200u64 {
        cell.merge(&delta(
            &cell,
            at * 10,
            at * 10 + 10,
            &[Op::SetAdd(json("x"))],
        ));
        cell.compact(time(at * 10), time(at * 10));
    }
    let mut bytes = Vec::new();
    cell.encode(&mut bytes);
    assert!(bytes.len() < 80, "{} bytes", bytes.len());
}

#[test]
fn what_was_removed_stays_removed_when_a_stale_copy_is_merged() {
    let (x, y) = (json("x"), json("y"));
    for (write, remove) in [
        (Op::SetAdd(x.clone()), Op::SetRemove(x.clone())),
        (Op::MultiSet(x), Op::MultiSet(y)),
    ] {
        let stale = delta(&Cell::empty(), 0, 10, &[write]);
        let current = join(&[&stale, &delta(&stale, 10, 20, &[remove])]);
        // At 10 the line is drawn through the removed write itself.
        for line in [10, 20] {
            let mut compacted = current.clone();
            assert!(compacted.compact(time(line), time(line)).changed);
            let expected = current.view(time(20)).map(|value| value.to_json(time(20)));
            for order in [[&stale, &compacted], [&compacted, &stale]] {
                let both = join(&order);
                assert_eq!(
                    both.view(time(20)).map(|value| value.to_json(time(20))),
                    expected
                );
            }
        }
    }
}

#[test]
fn concurrent_values_stay_until_one_has_seen_both() {
    let a = delta(&Cell::empty(), 0, 10, &[Op::MultiSet(json("a"))]);
    let b = delta(&Cell::empty(), 0, 20, &[Op::MultiSet(json("b"))]);
    let both = join(&[&b, &a]);
    let values = |cell: &Cell| match cell.view(time(99)) {
        Some(Value::Multi(multi)) => multi.iter().cloned().collect(),
        _ => Vec::new(),
    };
    assert_eq!(values(&both), [json("a"), json("b")]);
    let c = delta(&both, 20, 30, &[Op::MultiSet(json("c"))]);
    assert_eq!(values(&join(&[&c, &both])), [json("c")]);
}

#[test]
fn a_removed_field_keeps_what_did_not_see_the_removal_out() {
    let field = |op| Op::MapField {
        field: "f".into(),
        op: Box::new(op),
    };
    let base = delta(
        &Cell::empty(),
        0,
        10,
        &[field(Op::CounterAdd(5)), field(Op::CounterAdd(1))],
    );
    let remove = delta(&base, 10, 20, &[Op::MapRemove { field: "f".into() }]);
    let unseen = delta(&base, 10, 30, &[field(Op::CounterAdd(9))]);
    let all = join(&[&unseen, &remove, &base]);
    let Some(Value::Map(map)) = all.view(time(30)) else {
        panic!("a map")
    };
    assert_eq!(
        (map.get("f", time(30)), map.iter_at(time(30)).count()),
        (None, 0)
    );
    let again = join(&[&all, &delta(&all, 30, 40, &[field(Op::FlagRaise)])]);
    let Some(Value::Map(map)) = again.view(time(40)) else {
        panic!("a map")
    };
    assert_eq!(map.get("f", time(40)).map(Value::kind), Some(Kind::Flag));
}

#[test]
fn a_commit_sees_its_own_writes_in_program_order() {
    let ops = [
        Op::CounterAdd(3),
        Op::Delete,
        Op::RegisterSet(json("a")),
        Op::RegisterSet(json("b")),
    ];
    let cell = delta(&Cell::empty(), 0, 10, &ops);
    let Some(Value::Register(register)) = cell.view(time(10)) else {
        panic!("a register")
    };
    assert_eq!(
        (register.get(), register.dot().time),
        (&json("b"), time(10))
    );
}

#[test]
fn what_changes_nothing_is_empty_and_takes_no_dot() {
    let none = |seen: &Cell, op: Op| {
        let mut dots = || panic!("{op:?} takes no dot");
        assert_eq!(
            Cell::delta(Some(seen), &op, time(50), &mut dots),
            Ok(Cell::empty())
        );
    };
    let absent = Cell::empty();
    none(&absent, Op::Delete);
    none(&absent, Op::Expire(Some(time(1))));
    none(&absent, Op::SetRemove(json("x")));
    none(&absent, Op::MapRemove { field: "f".into() });
    none(&delta(&absent, 0, 10, &[Op::FlagRaise]), Op::FlagRaise);
    none(
        &delta(&absent, 0, 10, &[Op::MaxPut(3.into())]),
        Op::MaxPut(2.into()),
    );
    none(
        &delta(&absent, 0, 10, &[Op::MinPut(3.into())]),
        Op::MinPut(4.into()),
    );
}

#[test]
fn operations_that_no_state_makes_right_are_refused() {
    let refusal =
        |op: Op| Cell::delta(None, &op, time(0), &mut || panic!("no dot")).expect_err("refused");
    let field = |op| Op::MapField {
        field: "f".into(),
        op: Box::new(op),
    };
    let top = |score, of| Op::TopPut {
        score,
        id: "a".into(),
        of,
    };
    let nan = tidemill_lattice::Ordinal::Float(f64::NAN);
    assert_eq!(refusal(Op::MaxPut(nan.clone())), OpError::NotANumber);
    assert_eq!(refusal(field(Op::MinPut(nan))), OpError::NotANumber);
    assert_eq!(refusal(top("1".into(), 1)), OpError::NotANumber);
    assert_eq!(refusal(top(1.into(), 0)), OpError::ZeroBound("of"));
    let append = Op::LogAppend {
        value: json("x"),
        keep: Some(0),
    };
    assert_eq!(refusal(append.clone()), OpError::ZeroBound("keep"));
    assert_eq!(refusal(field(append)), OpError::NestedMap(Kind::Log));
    assert_eq!(
        refusal(field(field(Op::FlagRaise))),
        OpError::NestedMap(Kind::Map)
    );
    assert_eq!(
        refusal(field(top(1.into(), 1))),
        OpError::NestedMap(Kind::Top)
    );
    let huge = Payload::bytes(vec![0; PAYLOAD_MAX_BYTES + 1]);
    assert!(matches!(
        refusal(Op::RegisterSet(huge)),
        OpError::TooLarge { what: "value", .. }
    ));
    let map = delta(&Cell::empty(), 0, 10, &[field(Op::FlagRaise)]);
    let error = Cell::delta(Some(&map), &field(Op::CounterAdd(1)), time(10), &mut || {
        Dot::ZERO
    });
    let expected = OpError::FieldKind {
        field: "f".into(),
        held: Kind::Flag,
        asked: Kind::Counter,
    };
    assert_eq!(error, Err(expected));
}

#[test]
fn bodies_are_slices_of_what_was_decoded() {
    let cell = delta(
        &Cell::empty(),
        0,
        10,
        &[Op::RegisterSet(Payload::bytes(vec![7; 1000]))],
    );
    let mut bytes = Vec::new();
    cell.encode(&mut bytes);
    let bytes = bytes::Bytes::from(bytes);
    let decoded = Cell::decode(&bytes).unwrap();
    let Some(Value::Register(register)) = decoded.view(time(10)) else {
        panic!("a register")
    };
    let range = bytes.as_ptr_range();
    assert!(range.contains(&register.get().body.as_ptr()));
    assert!(decoded.weight_bytes() >= 1000);
}

#[test]
fn what_one_writer_adds_at_one_time_is_one_addend() {
    let add = |amount, time, writer, sequence| {
        let dot = Dot::new(Time::from_u64(time), Writer(writer), sequence);
        Cell::delta(None, &Op::CounterAdd(amount), Time::ZERO, &mut || dot).unwrap()
    };
    let sum = |cell: &Cell| match cell.view(Time::MAX) {
        Some(Value::Counter(counter)) => counter.value(),
        other => panic!("{other:?}"),
    };
    let mut many = Cell::empty();
    let mut size_bytes = Vec::new();
    for sequence in 0..1000 {
        let seen = (!many.is_bottom()).then(|| many.clone());
        let dot = Dot::new(Time::from_u64(7), Writer(1), sequence);
        let op = Op::CounterAdd(1);
        let delta = Cell::delta(seen.as_ref(), &op, Time::ZERO, &mut || dot).unwrap();
        many.merge(&delta);
        many.gather();
    }
    many.encode(&mut size_bytes);
    assert_eq!(sum(&many), 1000);
    assert!(size_bytes.len() < 40, "{} bytes", size_bytes.len());
    // Of others nothing is joined, and no sum runs over.
    let mut apart = add(1, 7, 1, 0);
    for other in [add(1, 7, 2, 0), add(1, 8, 1, 0), add(i64::MAX, 7, 1, 1)] {
        apart.merge(&other);
    }
    let before = (sum(&apart), apart.clone());
    apart.gather();
    assert_eq!((sum(&apart), apart), before);
}
