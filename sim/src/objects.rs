//! The keys of a simulated cluster, what programs do to them, and how a value tells which writes
//! it is made of.
//!
//! Every write carries its request's number: as a set's element, as a register's value, as one
//! digit of a counter's sum.

use std::collections::BTreeMap;

use tidemill_causal::{Function, Seen};
use tidemill_lattice::{Cell, ContentType, Key, Kind, Op, Payload, Time, Value};

use crate::checker;

/// Digits of a counter's sum are this many bits wide, so that an addend that counts twice or
/// three times does not touch the next digit.
const DIGIT_BITS: u32 = 2;
/// Digits that fit an addend.
pub const DIGITS: u32 = 30;

/// A key of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What the key holds.
    pub kind: Kind,
    /// Which of this kind.
    pub number: u32,
}

/// What a program does to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Nothing: it only reads.
    Read,
    /// Adds its number: to a set, to a map's set, or as this digit to a counter.
    Add(u32),
    /// Sets the register, or a map's register, to its number.
    Put,
    /// Removes what it sees in a set.
    Clear,
    /// Deletes the key if it is there.
    Delete,
    /// Lets the key expire so many microseconds after the snapshot, if it is there.
    Expire(u64),
}

/// The code of one step.
#[derive(Clone, Debug)]
pub struct Code {
    /// The request's number.
    pub tag: u32,
    /// What it does, by key, in the order that the step names its keys.
    pub edits: Vec<(Place, Edit)>,
}

impl Place {
    /// The key.
    ///
    /// # Panics
    /// Never: the names are right.
    #[must_use]
    pub fn key(self) -> Key {
        Key::new("sim", "app", format!("{}{}", self.kind, self.number)).expect("a name of ours")
    }

    /// The checker's objects: one, or a map's two fields, a set and a register.
    fn object(self, field: u32) -> u32 {
        (self.kind as u32) * 1000 + self.number * 2 + field
    }
}

fn payload(tag: u32) -> Payload {
    Payload::new(ContentType::OctetStream, tag.to_be_bytes().to_vec())
}

fn tag_of(payload: &Payload) -> usize {
    let bytes: [u8; 4] = payload.body.as_ref().try_into().unwrap_or([0xff; 4]);
    u32::from_be_bytes(bytes) as usize
}

const SET_FIELD: &str = "set";
const REGISTER_FIELD: &str = "register";

fn in_map(field: &str, op: Op) -> Op {
    Op::MapField {
        field: field.into(),
        op: Box::new(op),
    }
}

fn value(cell: Option<&Cell>, at: Time) -> Option<&Value> {
    cell.and_then(|cell| cell.view(at))
}

/// The set that a key or a map's field holds.
fn elements(value: Option<&Value>, at: Time) -> Vec<Payload> {
    match value {
        Some(Value::Set(set)) => set.iter().cloned().collect(),
        Some(Value::Map(map)) => elements(map.get(SET_FIELD, at), at),
        _ => Vec::new(),
    }
}

impl Code {
    /// The operations of one edit, given what was seen.
    fn ops(&self, edit: Edit, kind: Kind, cell: Option<&Cell>, at: Time) -> Vec<Op> {
        let seen = value(cell, at);
        let tag = payload(self.tag);
        match (edit, kind) {
            (Edit::Add(digit), Kind::Counter) => {
                vec![Op::CounterAdd(1 << (DIGIT_BITS * digit.min(DIGITS)))]
            }
            (Edit::Add(_), Kind::Map) => vec![in_map(SET_FIELD, Op::SetAdd(tag))],
            (Edit::Add(_), _) => vec![Op::SetAdd(tag)],
            (Edit::Put, Kind::Map) => vec![in_map(REGISTER_FIELD, Op::RegisterSet(tag))],
            (Edit::Put, _) => vec![Op::RegisterSet(tag)],
            (Edit::Clear, Kind::Map) => elements(seen, at)
                .into_iter()
                .map(|element| in_map(SET_FIELD, Op::SetRemove(element)))
                .collect(),
            (Edit::Clear, _) => elements(seen, at).into_iter().map(Op::SetRemove).collect(),
            (Edit::Delete, _) if seen.is_some() => vec![Op::Delete],
            (Edit::Expire(after_us), _) if seen.is_some() => {
                let end = Time::from_micros(at.micros() + after_us);
                vec![Op::Expire(Some(end))]
            }
            (Edit::Read | Edit::Delete | Edit::Expire(_), _) => Vec::new(),
        }
    }

    /// What the step did, for the checker.
    #[must_use]
    pub fn writes(&self, seen: &[Seen], at: Time) -> Vec<(u32, checker::Write)> {
        let mut writes = Vec::new();
        for ((place, edit), seen) in self.edits.iter().zip(seen) {
            let cell = seen.cell.as_deref();
            if self.ops(*edit, place.kind, cell, at).is_empty() {
                continue;
            }
            let names = || elements(value(cell, at), at).iter().map(tag_of).collect();
            let write = match edit {
                Edit::Add(_) => checker::Write::Add,
                Edit::Put => checker::Write::Put,
                Edit::Clear => checker::Write::Remove(names()),
                Edit::Delete => checker::Write::Delete,
                Edit::Expire(_) | Edit::Read => checker::Write::Hide,
            };
            match (place.kind, edit) {
                (Kind::Map, Edit::Put) => writes.push((place.object(1), write)),
                (Kind::Map, Edit::Add(_) | Edit::Clear) => writes.push((place.object(0), write)),
                (Kind::Map, _) => {
                    // The register of a map that was deleted may be empty or hold a later value,
                    // so what is said of it is only said of the set.
                    writes.push((place.object(0), write));
                }
                _ => writes.push((place.object(0), write)),
            }
        }
        writes
    }

    /// What the step may have done, where nobody knows what it saw.
    #[must_use]
    pub fn possible_writes(&self) -> Vec<(u32, checker::Write)> {
        let write = |(place, edit): &(Place, Edit)| {
            let write = match edit {
                Edit::Read => return None,
                Edit::Add(_) => checker::Write::Add,
                Edit::Put => checker::Write::Put,
                Edit::Clear | Edit::Delete | Edit::Expire(_) => checker::Write::Hide,
            };
            let field = u32::from(place.kind == Kind::Map && *edit == Edit::Put);
            Some((place.object(field), write))
        };
        self.edits.iter().filter_map(write).collect()
    }
}

impl Function for Code {
    fn run(&self, seen: &[Seen], at: Time) -> Vec<(Key, Op)> {
        let mut out = Vec::new();
        for ((place, edit), seen) in self.edits.iter().zip(seen) {
            let ops = self.ops(*edit, place.kind, seen.cell.as_deref(), at);
            out.extend(ops.into_iter().map(|op| (seen.key.clone(), op)));
        }
        out
    }
}

/// A write at level `eventual`.
#[must_use]
pub fn eventual_op(tag: u32, place: Place, digit: u32) -> (Op, (u32, checker::Write)) {
    let (edit, write) = match place.kind {
        Kind::Register => (Edit::Put, checker::Write::Put),
        _ => (Edit::Add(digit), checker::Write::Add),
    };
    let code = Code {
        tag,
        edits: Vec::new(),
    };
    let ops = code.ops(edit, place.kind, None, Time::ZERO);
    let op = ops.into_iter().next().unwrap_or(Op::FlagRaise);
    (op, (place.object(0), write))
}

/// What a cell tells the checker: the objects and their values at a snapshot. `digits` says whose
/// digit is which in a counter. Maps' registers are left out, see [`Code::writes`].
#[must_use]
pub fn observe(
    place: Place,
    cell: Option<&Cell>,
    at: Time,
    digits: &BTreeMap<(Place, u32), u32>,
) -> Vec<(u32, checker::Value)> {
    let seen = value(cell, at);
    let bag = match (place.kind, seen) {
        (Kind::Register, Some(Value::Register(register))) => {
            let held = checker::Value::Register(Some(tag_of(register.get())));
            return vec![(place.object(0), held)];
        }
        (Kind::Register, _) => {
            return vec![(place.object(0), checker::Value::Register(None))];
        }
        (Kind::Counter, Some(Value::Counter(counter))) => {
            let mut bag = BTreeMap::new();
            let mut rest = u128::try_from(counter.value()).unwrap_or(u128::MAX);
            for digit in 0.. {
                if rest == 0 {
                    break;
                }
                let count = u32::try_from(rest & ((1 << DIGIT_BITS) - 1)).unwrap_or(0);
                if count > 0 {
                    let tag = digits.get(&(place, digit)).copied().unwrap_or(u32::MAX);
                    bag.insert(tag as usize, count);
                }
                rest >>= DIGIT_BITS;
            }
            bag
        }
        (_, seen) => elements(seen, at)
            .iter()
            .map(|element| (tag_of(element), 1))
            .collect(),
    };
    vec![(place.object(0), checker::Value::Bag(bag))]
}
