//! Random lives of a store against a plain map: commits, reopenings, checkpoints, old pins.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_store::{Embedded, Options, Snapshot, Store};

use crate::support::*;

#[derive(Clone, Debug)]
enum Action {
    Set(u8, u8),
    Add(u8, i8),
    Delete(u8),
    Both(u8, u8),
    Pin,
    Unpin,
    Checkpoint,
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0..6_u8, any::<u8>()).prop_map(|(key, body)| Action::Set(key, body)),
        3 => (6..12_u8, any::<i8>()).prop_map(|(key, by)| Action::Add(key, by)),
        2 => (0..12_u8).prop_map(Action::Delete),
        2 => (0..6_u8, 6..12_u8).prop_map(|(one, other)| Action::Both(one, other)),
        1 => Just(Action::Pin),
        1 => Just(Action::Unpin),
        2 => Just(Action::Checkpoint),
        2 => Just(Action::Reopen),
    ]
}

type Model = BTreeMap<String, String>;

fn check(store: &dyn Store, at: &Snapshot, model: &Model) {
    let page = store.scan(&prefix(""), None, 100, at).expect("scans");
    let seen: Model = page
        .entries
        .iter()
        .map(|(key, cell)| {
            (
                key.name_lossy().into_owned(),
                show(cell, at).expect("visible"),
            )
        })
        .collect();
    assert_eq!(&seen, model, "a scan at {:?}", at.time());
    for number in 0..12 {
        let name = format!("{number:02}");
        assert_eq!(
            get_at(store, &name, at).as_ref(),
            model.get(&name),
            "{name}"
        );
    }
}

fn change(model: &mut Model, name: &str, by: i64) {
    let number = model
        .get(name)
        .map_or(0, |shown| shown.parse().expect("a number"));
    model.insert(name.to_owned(), (number + by).to_string());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_store_reads_like_a_map(actions in prop::collection::vec(action(), 1..60), memory in 0..2_u64) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let clock = ManualClock::new();
        let options = Options { memory_bytes: memory * 1_000_000, ..options(directory.path()) };
        let reopen = || Embedded::open(options.clone(), clock.clone()).expect("opens");
        let mut store = reopen();
        let mut model = Model::new();
        let mut pinned: Vec<(Snapshot, Model)> = Vec::new();
        for action in actions {
            clock.move_us(3);
            match action {
                Action::Set(key, body) => {
                    let (name, body) = (format!("{key:02}"), body.to_string());
                    write(&store, &[set(&name, &body)]);
                    model.insert(name, body);
                }
                Action::Add(key, by) => {
                    let name = format!("{key:02}");
                    write(&store, &[add(&name, by.into())]);
                    change(&mut model, &name, by.into());
                }
                Action::Delete(key) => {
                    let name = format!("{key:02}");
                    write(&store, &[delete(&name)]);
                    model.remove(&name);
                }
                Action::Both(one, other) => {
                    let (one, other) = (format!("{one:02}"), format!("{other:02}"));
                    write(&store, &[set(&one, "both"), add(&other, 1)]);
                    model.insert(one, "both".into());
                    change(&mut model, &other, 1);
                }
                Action::Pin => pinned.push((store.snapshot(), model.clone())),
                Action::Unpin => {
                    if !pinned.is_empty() {
                        pinned.remove(0);
                    }
                }
                Action::Checkpoint => {
                    store.checkpoint().expect("checkpoints");
                }
                Action::Reopen => {
                    pinned.clear();
                    drop(store);
                    store = reopen();
                }
            }
            check(&store, &store.snapshot(), &model);
            for (at, model) in &pinned {
                check(&store, at, model);
            }
        }
        drop(store);
        let store = reopen();
        check(&store, &store.snapshot(), &model);
    }
}
