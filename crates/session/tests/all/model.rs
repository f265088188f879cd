//! Random trees of forks and joins against a program that runs them one after the
//! other: what a request commits must be what program order says, siblings in order.

use crate::{Fixture, key};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use tidemill_lattice::{Op, Payload};
use tidemill_session::{Request, View};

#[derive(Clone, Debug)]
enum Act {
    Set(u8, u8),
    Add(u8, i8),
    Put(u8, u8),
    Take(u8, u8),
    Append(u8, u8),
    Fork(Vec<Vec<Act>>),
}

fn act() -> impl Strategy<Value = Act> {
    let key = 0..3_u8;
    let leaf = prop_oneof![
        (key.clone(), any::<u8>()).prop_map(|(k, v)| Act::Set(k, v)),
        (key.clone(), any::<i8>()).prop_map(|(k, v)| Act::Add(k, v)),
        (key.clone(), 0..4_u8).prop_map(|(k, v)| Act::Put(k, v)),
        (key.clone(), 0..4_u8).prop_map(|(k, v)| Act::Take(k, v)),
        (key, any::<u8>()).prop_map(|(k, v)| Act::Append(k, v)),
    ];
    leaf.prop_recursive(4, 48, 4, |inner| {
        prop::collection::vec(prop::collection::vec(inner, 0..5), 1..4).prop_map(Act::Fork)
    })
}

fn number(value: u8) -> Payload {
    Payload::json(&json!(value))
}

fn perform(request: &Arc<Request>, view: &mut View, acts: &[Act], case: u64) {
    for act in acts {
        let (name, op) = match act {
            Act::Set(k, v) => (format!("r{k}"), Op::RegisterSet(number(*v))),
            Act::Add(k, v) => (format!("c{k}"), Op::CounterAdd(i64::from(*v))),
            Act::Put(k, v) => (format!("s{k}"), Op::SetAdd(number(*v))),
            Act::Take(k, v) => (format!("s{k}"), Op::SetRemove(number(*v))),
            Act::Append(k, v) => (
                format!("l{k}"),
                Op::LogAppend {
                    value: number(*v),
                    keep: None,
                },
            ),
            Act::Fork(branches) => {
                let layers = view.layers();
                let steps: Vec<_> = (1..)
                    .zip(branches)
                    .map(|(n, acts)| {
                        let mut child = request.view(layers.clone(), view.tag() + n);
                        perform(request, &mut child, acts, case);
                        child.finish()
                    })
                    .collect();
                view.join(&steps);
                continue;
            }
        };
        view.write(&key(&format!("{case}/{name}")), &op).unwrap();
    }
}

/// The same by plain values. A set keeps the tokens of its adds, so that a branch
/// takes away only what it saw.
#[derive(Clone, Default)]
struct Plain {
    registers: BTreeMap<u8, u8>,
    counters: BTreeMap<u8, i64>,
    sets: BTreeMap<u8, BTreeMap<u64, u8>>,
    logs: BTreeMap<u8, Vec<u8>>,
}

impl Plain {
    fn perform(&mut self, acts: &[Act], tokens: &mut u64) {
        for act in acts {
            match act {
                Act::Set(k, v) => {
                    self.registers.insert(*k, *v);
                }
                Act::Add(k, v) => *self.counters.entry(*k).or_default() += i64::from(*v),
                Act::Put(k, v) => {
                    *tokens += 1;
                    let set = self.sets.entry(*k).or_default();
                    // An add takes the place of the adds of this element that it saw.
                    set.retain(|_, held| held != v);
                    set.insert(*tokens, *v);
                }
                Act::Take(k, v) => {
                    self.sets.entry(*k).or_default().retain(|_, held| held != v);
                }
                Act::Append(k, v) => self.logs.entry(*k).or_default().push(*v),
                Act::Fork(branches) => self.fork(branches, tokens),
            }
        }
    }

    fn fork(&mut self, branches: &[Vec<Act>], tokens: &mut u64) {
        let base = self.clone();
        for acts in branches {
            let mut branch = base.clone();
            branch.perform(acts, tokens);
            for (k, v) in &branch.registers {
                if touches_register(acts, *k) {
                    self.registers.insert(*k, *v);
                }
            }
            for (k, v) in &branch.counters {
                let before = base.counters.get(k).copied().unwrap_or(0);
                *self.counters.entry(*k).or_default() += v - before;
            }
            for (k, log) in &branch.logs {
                let before = base.logs.get(k).map_or(0, Vec::len);
                self.logs.entry(*k).or_default().extend(&log[before..]);
            }
            for k in 0..3 {
                let none = BTreeMap::new();
                let before = base.sets.get(&k).unwrap_or(&none);
                let after = branch.sets.get(&k).unwrap_or(&none);
                let own = self.sets.entry(k).or_default();
                for token in before.keys().filter(|token| !after.contains_key(token)) {
                    own.remove(token);
                }
                for (token, v) in after
                    .iter()
                    .filter(|(token, _)| !before.contains_key(token))
                {
                    own.insert(*token, *v);
                }
            }
        }
    }

    fn shown(&self) -> BTreeMap<String, Json> {
        let mut all = BTreeMap::new();
        all.extend(
            self.registers
                .iter()
                .map(|(k, v)| (format!("r{k}"), json!(v))),
        );
        all.extend(
            self.counters
                .iter()
                .map(|(k, v)| (format!("c{k}"), json!(v))),
        );
        all.extend(self.logs.iter().map(|(k, v)| (format!("l{k}"), json!(v))));
        for (k, set) in &self.sets {
            let elements: std::collections::BTreeSet<u8> = set.values().copied().collect();
            if !elements.is_empty() {
                all.insert(format!("s{k}"), json!(elements));
            }
        }
        all
    }
}

fn touches_register(acts: &[Act], key: u8) -> bool {
    acts.iter().any(|act| match act {
        Act::Set(k, _) => *k == key,
        Act::Fork(branches) => branches.iter().any(|acts| touches_register(acts, key)),
        _ => false,
    })
}

fn shown(fixture: &Fixture, case: u64) -> BTreeMap<String, Json> {
    let view = fixture.begin().view(Vec::new(), 0);
    let mut all = BTreeMap::new();
    for kind in ["r", "c", "s", "l"] {
        for k in 0..3 {
            let name = format!("{kind}{k}");
            let Some(cell) = view.read(&key(&format!("{case}/{name}"))).unwrap() else {
                continue;
            };
            let Some(value) = cell.view(view.time()) else {
                continue;
            };
            let mut json = value.to_json(view.time())["value"].clone();
            if let (true, Json::Array(elements)) = (kind == "s", &mut json) {
                if elements.is_empty() {
                    continue;
                }
                elements.sort_by_key(Json::as_u64);
            }
            all.insert(name, json);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_committed_is_what_program_order_says(
        requests in prop::collection::vec(prop::collection::vec(act(), 0..8), 1..4)
    ) {
        static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::new);
        static CASES: AtomicU64 = AtomicU64::new(0);
        let fixture = &*FIXTURE;
        let case = CASES.fetch_add(1, Ordering::Relaxed);
        let (mut plain, mut tokens) = (Plain::default(), 0);
        for acts in &requests {
            let request = fixture.begin();
            let mut view = request.view(Vec::new(), 0);
            perform(&request, &mut view, acts, case);
            fixture.commit(&request, &[view.finish()]);
            plain.perform(acts, &mut tokens);
        }
        prop_assert_eq!(shown(fixture, case), plain.shown());
    }
}
