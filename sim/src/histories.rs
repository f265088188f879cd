//! From what clients know to what the checker reads.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_causal::Seen;
use tidemill_lattice::Time;

use crate::checker::{History, Request, Value, Write};
use crate::clients::{Clients, Known};
use crate::objects::{Place, observe};

/// What one request saw and did, and what is wrong with it by itself.
struct Told {
    reads: Vec<(u32, Value)>,
    writes: Vec<(u32, Write)>,
    own_missing: Vec<String>,
}

/// The history of a run, and what is wrong already: a step that does not see what the steps
/// before it wrote.
#[must_use]
pub fn history(clients: &Clients) -> (History, Vec<String>) {
    let mut wrong = Vec::new();
    let mut requests = Vec::new();
    for (tag, known) in clients.known.iter().enumerate() {
        let (client, number, child) = known.name;
        let message = if child > 0 { ".m1" } else { "" };
        let label = format!("r{client}.{number}{message}");
        let mut request = Request {
            label,
            after: known.after.clone(),
            session: if child == 0 && !known.is_final {
                known.after.clone()
            } else {
                Vec::new()
            },
            is_final: known.is_final,
            ..Request::default()
        };
        match (&known.answer, &known.eventual) {
            (Some(answer), None) => {
                let told = tell(clients, tag, known, &answer.result, answer.snapshot);
                wrong.extend(told.own_missing);
                request.reads = told.reads;
                request.writes = told.writes;
                request.order = answer.commit.map(|c| (c.time.as_u64(), c.writer.0));
            }
            (Some(answer), Some(write)) => {
                request.writes = vec![write.clone()];
                request.order = answer.commit.map(|c| (c.time.as_u64(), c.writer.0));
            }
            (None, Some(write)) => request.writes = vec![write.clone()],
            (None, None) => {
                let code = known.code.iter().flatten();
                request.writes = code.flat_map(|code| code.possible_writes()).collect();
            }
        }
        requests.push(request);
    }
    for (tag, observation) in &clients.observations {
        let known = &clients.known[*tag];
        let mut told = tell(
            clients,
            *tag,
            known,
            &observation.seen,
            observation.snapshot,
        );
        wrong.extend(told.own_missing);
        // An attempt that runs when another one has committed sees what that one wrote.
        let own = |(_, value): &(u32, Value)| *value == Value::Register(Some(*tag));
        told.reads.retain(|read| !own(read));
        for (_, value) in &mut told.reads {
            if let Value::Bag(names) = value {
                names.remove(tag);
            }
        }
        requests.push(Request {
            label: format!("attempt at {}", requests[*tag].label),
            after: known.after.clone(),
            session: requests[*tag].session.clone(),
            reads: told.reads,
            attempt_at: Some(*tag),
            ..Request::default()
        });
    }
    (History { requests }, wrong)
}

fn tell(clients: &Clients, tag: usize, known: &Known, seen: &[Seen], at: Time) -> Told {
    let mut told = Told {
        reads: Vec::new(),
        writes: Vec::new(),
        own_missing: Vec::new(),
    };
    let mut by_step: BTreeMap<(u32, u32), Vec<Seen>> = BTreeMap::new();
    for each in seen {
        by_step.entry(each.step).or_default().push(each.clone());
    }
    // What the groups before wrote: seen by the later ones, and by no sibling.
    let mut before: BTreeMap<u32, Write> = BTreeMap::new();
    for (group, steps) in (0_u32..).zip(&known.code) {
        let mut wrote = Vec::new();
        for (index, code) in (0_u32..).zip(steps) {
            let Some(seen) = by_step.get(&(group, index)) else {
                continue;
            };
            for ((place, _), seen) in code.edits.iter().zip(seen) {
                read(clients, tag, *place, seen, at, &before, &mut told);
            }
            wrote.extend(code.writes(seen, at));
        }
        before.extend(wrote.iter().cloned());
        told.writes.extend(wrote);
    }
    // Read twice and seen the same: said once.
    let mut once = BTreeSet::new();
    told.reads
        .retain(|(object, value)| once.insert((*object, format!("{value:?}"))));
    told
}

fn read(
    clients: &Clients,
    tag: usize,
    place: Place,
    seen: &Seen,
    at: Time,
    before: &BTreeMap<u32, Write>,
    told: &mut Told,
) {
    for (object, value) in observe(place, seen.cell.as_deref(), at, &clients.digits) {
        let own = before.get(&object);
        match (own, value) {
            (None, value) => told.reads.push((object, value)),
            (Some(Write::Add), Value::Bag(mut names)) => {
                if names.remove(&tag).is_none() {
                    let text = format!(
                        "request {tag} {:?} does not see its own write in {place:?} at {at}",
                        clients.known[tag].name
                    );
                    told.own_missing.push(text);
                }
                told.reads.push((object, Value::Bag(names)));
            }
            (Some(Write::Put), Value::Register(held)) => {
                if held != Some(tag) {
                    let text = format!("request {tag} does not see its own value");
                    told.own_missing.push(text);
                }
            }
            // What it removed itself, or let expire: nothing is said.
            (Some(_), _) => {}
        }
    }
}
