//! The checker's promises by exhaustion: is there any visibility, and any total order, that
//! explains a history? Shares no code with the checker but the history itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use tidemill_sim::checker::{History, Id, Value, Write};

/// A relation: for each request the set of those that it sees, as bits.
type Relation = Vec<u8>;

/// Every strict partial order of `size` requests.
fn orders(size: usize) -> &'static [Relation] {
    static ORDERS: OnceLock<BTreeMap<usize, Vec<Relation>>> = OnceLock::new();
    let all = ORDERS.get_or_init(|| (1..=4).map(|size| (size, partial_orders(size))).collect());
    all.get(&size).map_or(&[], Vec::as_slice)
}

fn partial_orders(size: usize) -> Vec<Relation> {
    let pairs: Vec<(usize, usize)> = (0..size)
        .flat_map(|a| (0..size).map(move |b| (a, b)))
        .filter(|(a, b)| a != b)
        .collect();
    let mut found = Vec::new();
    for bits in 0_u32..1 << pairs.len() {
        let mut relation = vec![0_u8; size];
        for (index, (a, b)) in pairs.iter().enumerate() {
            if bits >> index & 1 == 1 {
                relation[*a] |= 1 << b;
            }
        }
        let is_transitive = (0..size).all(|a| {
            (0..size)
                .filter(|b| relation[a] >> b & 1 == 1)
                .all(|b| relation[b] & !relation[a] == 0)
        });
        if is_transitive && (0..size).all(|a| relation[a] >> a & 1 == 0) {
            found.push(relation);
        }
    }
    found
}

fn sees(relation: &Relation, a: Id, b: Id) -> bool {
    relation[a] >> b & 1 == 1
}

/// Every total order of `size` requests: each one's place.
fn places(size: usize) -> Vec<Vec<usize>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let mut found = Vec::new();
    for shorter in places(size - 1) {
        for at in 0..size {
            let mut longer: Vec<usize> = shorter
                .iter()
                .map(|place| place + usize::from(*place >= at))
                .collect();
            longer.push(at);
            found.push(longer);
        }
    }
    found
}

/// Whether anything explains the history.
pub(crate) fn is_right(history: &History) -> bool {
    let size = history.requests.len();
    let totals = places(size);
    orders(size).iter().any(|relation| {
        contains_known(history, relation)
            && bags_fit(history, relation)
            && totals
                .iter()
                .any(|places| registers_fit(history, relation, places))
    })
}

fn contains_known(history: &History, relation: &Relation) -> bool {
    history.requests.iter().enumerate().all(|(id, request)| {
        let removed = request.writes.iter().flat_map(|(_, write)| match write {
            Write::Remove(names) => names.clone(),
            _ => Vec::new(),
        });
        request
            .after
            .iter()
            .copied()
            .chain(removed)
            .all(|before| sees(relation, id, before))
    })
}

fn bags_fit(history: &History, relation: &Relation) -> bool {
    let requests = &history.requests;
    requests.iter().enumerate().all(|(id, request)| {
        request.reads.iter().all(|(object, value)| match value {
            Value::Bag(names) => bag_fits(history, relation, id, *object, names),
            Value::Register(_) => true,
        })
    })
}

fn bag_fits(
    history: &History,
    relation: &Relation,
    id: Id,
    object: u32,
    names: &BTreeMap<Id, u32>,
) -> bool {
    let writes = |of: Id| {
        let writes = history.requests[of].writes.iter();
        writes.filter(move |(o, _)| *o == object).map(|(_, w)| w)
    };
    let all = 0..history.requests.len();
    let added: BTreeSet<Id> = all
        .clone()
        .filter(|of| writes(*of).any(|write| *write == Write::Add))
        .collect();
    let visible = |of: &Id| sees(relation, id, *of);
    if names.values().any(|count| *count != 1) || !names.keys().all(|name| added.contains(name)) {
        return false;
    }
    let is_gone = |name: Id| {
        all.clone().filter(visible).any(|by| {
            let ended = writes(by).any(|write| match write {
                Write::Remove(names) => names.contains(&name),
                Write::Delete => sees(relation, by, name),
                _ => false,
            });
            let reads = &history.requests[by].reads;
            let missed = reads.iter().any(|(o, value)| {
                *o == object && matches!(value, Value::Bag(held) if !held.contains_key(&name))
            });
            ended || (missed && sees(relation, by, name))
        })
    };
    let can_be_hidden = |name: Id| {
        all.clone().filter(visible).any(|by| {
            writes(by).any(|write| match write {
                Write::Remove(names) => names.contains(&name),
                Write::Delete => by != name && !sees(relation, name, by),
                Write::Hide => by != name,
                Write::Add | Write::Put => false,
            })
        })
    };
    names.keys().all(|name| visible(name) && !is_gone(*name))
        && added
            .iter()
            .filter(|name| visible(name) && !names.contains_key(name))
            .all(|name| can_be_hidden(*name))
}

fn registers_fit(history: &History, relation: &Relation, places: &[usize]) -> bool {
    let size = history.requests.len();
    let extends =
        (0..size).all(|a| (0..size).all(|b| !sees(relation, a, b) || places[b] < places[a]));
    let told: Vec<((u64, u32), Id)> = history
        .requests
        .iter()
        .enumerate()
        .filter_map(|(id, request)| Some((request.order?, id)))
        .collect();
    let as_told = told.iter().all(|(order, a)| {
        told.iter()
            .all(|(other, b)| order >= other || places[*a] < places[*b])
    });
    extends
        && as_told
        && history.requests.iter().enumerate().all(|(id, request)| {
            request.reads.iter().all(|(object, value)| {
                let Value::Register(held) = value else {
                    return true;
                };
                let visible = (0..size).filter(|of| {
                    sees(relation, id, *of)
                        && history.requests[*of]
                            .writes
                            .contains(&(*object, Write::Put))
                });
                visible.max_by_key(|of| places[*of]) == *held
            })
        })
}
