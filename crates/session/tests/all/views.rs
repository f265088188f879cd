use crate::{Fixture, key, text};
use serde_json::{Value as Json, json};
use std::sync::Arc;
use tidemill_lattice::{Kind, Op};
use tidemill_session::{Error, Outgoing, View};

fn shown(view: &View, name: &str) -> Json {
    let cell = view.read(&key(name)).unwrap();
    let value = cell.as_ref().and_then(|cell| cell.view(view.time()));
    value.map_or(Json::Null, |value| {
        value.to_json(view.time())["value"].clone()
    })
}

#[test]
fn a_view_sees_its_snapshot_and_its_own_writes() {
    let fixture = Fixture::new();
    let request = fixture.begin();
    let mut view = request.view(Vec::new(), 0);
    view.write(&key("n"), &Op::CounterAdd(2)).unwrap();
    view.write(&key("n"), &Op::CounterAdd(3)).unwrap();
    assert_eq!(shown(&view, "n"), 5);
    let other = fixture.begin();
    let before = other.view(Vec::new(), 0);
    assert_eq!(shown(&before, "n"), Json::Null);
    fixture.commit(&request, &[view.finish()]);
    assert_eq!(shown(&before, "n"), Json::Null, "a snapshot does not move");
    assert_eq!(shown(&fixture.begin().view(Vec::new(), 0), "n"), 5);
}

#[test]
fn siblings_see_the_fork_and_not_each_other_and_merge_in_the_order_of_their_tags() {
    let fixture = Fixture::new();
    let request = fixture.begin();
    let mut parent = request.view(Vec::new(), 0);
    parent
        .write(&key("r"), &Op::RegisterSet(text("parent")))
        .unwrap();
    let layers = parent.layers();
    let mut left = request.view(layers.clone(), 1);
    let mut right = request.view(layers, 2);
    assert_eq!(shown(&left, "r"), "parent");
    right
        .write(&key("r"), &Op::RegisterSet(text("right")))
        .unwrap();
    left.write(&key("r"), &Op::RegisterSet(text("left")))
        .unwrap();
    left.write(
        &key("log"),
        &Op::LogAppend {
            value: text("left"),
            keep: None,
        },
    )
    .unwrap();
    right
        .write(
            &key("log"),
            &Op::LogAppend {
                value: text("right"),
                keep: None,
            },
        )
        .unwrap();
    assert_eq!(shown(&left, "r"), "left");
    assert_eq!(shown(&right, "log"), json!(["right"]));
    parent.join(&[left.finish(), right.finish()]);
    assert_eq!(shown(&parent, "r"), "right");
    assert_eq!(shown(&parent, "log"), json!(["left", "right"]));
    parent
        .write(&key("r"), &Op::RegisterSet(text("after")))
        .unwrap();
    assert_eq!(shown(&parent, "r"), "after");
    fixture.commit(&request, &[parent.finish()]);
    let after = fixture.begin().view(Vec::new(), 0);
    assert_eq!(shown(&after, "r"), "after");
    assert_eq!(shown(&after, "log"), json!(["left", "right"]));
}

#[test]
fn a_childs_remove_reaches_what_its_parent_added() {
    let fixture = Fixture::new();
    let request = fixture.begin();
    let mut parent = request.view(Vec::new(), 0);
    parent.write(&key("s"), &Op::SetAdd(text("a"))).unwrap();
    parent.write(&key("s"), &Op::SetAdd(text("b"))).unwrap();
    parent.write(&key("gone"), &Op::CounterAdd(1)).unwrap();
    let mut child = request.view(parent.layers(), 1);
    child.write(&key("s"), &Op::SetRemove(text("a"))).unwrap();
    child.write(&key("gone"), &Op::Delete).unwrap();
    child
        .write(&key("gone"), &Op::RegisterSet(text("anew")))
        .unwrap();
    parent.join(&[child.finish()]);
    assert_eq!(shown(&parent, "s"), json!(["b"]));
    fixture.commit(&request, &[parent.finish()]);
    let after = fixture.begin().view(Vec::new(), 0);
    assert_eq!(shown(&after, "s"), json!(["b"]));
    assert_eq!(shown(&after, "gone"), "anew");
}

#[test]
fn a_write_that_does_not_fit_is_refused_and_leaves_nothing() {
    let fixture = Fixture::new();
    let request = fixture.begin();
    let mut view = request.view(Vec::new(), 0);
    view.write(&key("k"), &Op::CounterAdd(1)).unwrap();
    let error = view
        .write(&key("k"), &Op::RegisterSet(text("x")))
        .unwrap_err();
    assert!(matches!(error, Error::Operation { .. }));
    let message = error.to_string();
    assert!(
        message.contains("counter") && message.contains("register"),
        "{message}"
    );
    assert_eq!(shown(&view, "k"), 1);
    let error = view.read_as(&key("k"), Kind::Set).unwrap_err();
    assert!(matches!(
        error,
        Error::WrongKind {
            held: Kind::Counter,
            asked: Kind::Set,
            ..
        }
    ));
}

#[test]
fn a_scan_merges_the_store_and_the_writes_page_by_page() {
    let fixture = Fixture::new();
    let request = fixture.begin();
    let mut view = request.view(Vec::new(), 0);
    for i in (0..20).step_by(2) {
        view.write(&key(&format!("k{i:02}")), &Op::CounterAdd(1))
            .unwrap();
    }
    fixture.commit(&request, &[view.finish()]);
    let request = fixture.begin();
    let mut view = request.view(Vec::new(), 0);
    for i in (1..20).step_by(2) {
        view.write(&key(&format!("k{i:02}")), &Op::FlagRaise)
            .unwrap();
    }
    view.write(&key("k04"), &Op::Delete).unwrap();
    view.write(&key("other"), &Op::FlagRaise).unwrap();
    let prefix = tidemill_lattice::Key::prefix("default", "app", "k");
    let mut found = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = view.scan(&prefix, after.as_deref(), 3).unwrap();
        assert!(page.keys.len() <= 3);
        found.extend(
            page.keys
                .iter()
                .map(|(key, _)| key.name_lossy().into_owned()),
        );
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let expected: Vec<String> = (0..20)
        .filter(|i| *i != 4)
        .map(|i| format!("k{i:02}"))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_loop_of_adds_leaves_one_addend() {
    let fixture = Fixture::new();
    let request = fixture.begin();
    let mut view = request.view(Vec::new(), 0);
    for n in 0..1000 {
        view.write(&key("n"), &Op::CounterAdd(n)).unwrap();
    }
    let mut child = request.view(view.layers(), 1);
    child.write(&key("n"), &Op::CounterAdd(-500)).unwrap();
    assert_eq!(shown(&child, "n"), 499_000);
    view.write(&key("n"), &Op::CounterAdd(1)).unwrap();
    view.join(&[child.finish()]);
    let buffer = view.finish();
    let delta = buffer.get(&key("n")).expect("a delta");
    assert!(delta.weight_bytes() < 100, "{} bytes", delta.weight_bytes());
    fixture.commit(&request, &[buffer]);
    assert_eq!(shown(&fixture.begin().view(Vec::new(), 0), "n"), 499_001);
}

#[test]
fn only_what_leaves_nothing_is_not_asked_of_the_store() {
    let fixture = Fixture::new();
    let request = fixture.begin();
    let nothing = request.view(Vec::new(), 0).finish();
    let plain = Outgoing::default();
    let unchanged = request.unchanged(&[Arc::clone(&nothing)], &plain).unwrap();
    assert_eq!(unchanged.time, request.time());
    assert!(unchanged.messages.is_empty() && unchanged.repeated.is_none());
    let mut view = request.view(Vec::new(), 0);
    view.write(&key("k"), &Op::RegisterSet(text("v"))).unwrap();
    let buffers = [nothing, view.finish()];
    assert!(request.unchanged(&buffers, &plain).is_none());
    let sends = Outgoing {
        messages: vec![bytes::Bytes::from_static(b"m")],
        ..Outgoing::default()
    };
    assert!(request.unchanged(&[], &sends).is_none());
}
