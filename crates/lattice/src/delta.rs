//! From an operation to its delta.
//!
//! Pure: what the writer sees goes in, a cell to merge comes out. An operation that changes
//! nothing gives the empty cell and takes no dot.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Cell, Counter, Dot, FIELD_MAX_BYTES, Flag, Log, Map, Max, Min, Multi, Op, OpError, Ordinal,
    PAYLOAD_MAX_BYTES, Payload, Register, Set, Time, Top, Value,
    value::{Dots, Slot},
};

impl Cell {
    /// The delta that `op` is.
    ///
    /// `seen` is the key's cell as the writer sees it at snapshot `at`, its own earlier writes
    /// merged in. Hand in hidden states (deleted, expired) as well. `dots` hands out dots in
    /// program order, above everything seen; one is taken for an operation that changes
    /// something, none for one that does not. Such a one gives the empty cell: removing what is
    /// not there, deleting or expiring an absent key, raising what is raised.
    pub fn delta(
        seen: Option<&Cell>,
        op: &Op,
        at: Time,
        dots: &mut dyn FnMut() -> Dot,
    ) -> Result<Cell, OpError> {
        check(op)?;
        let view = seen.and_then(|cell| cell.view(at));
        if let (Some(view), Some(asked)) = (view, op.kind())
            && view.kind() != asked
        {
            return Err(OpError::WrongKind {
                held: view.kind(),
                asked,
            });
        }
        match op {
            Op::Delete | Op::Expire(_) if view.is_none() => return Ok(Cell::empty()),
            Op::Delete => return Ok(Cell::from_parts(dots(), Vec::new(), Default::default())),
            Op::Expire(end) => {
                return Ok(Cell::from_parts(
                    Dot::ZERO,
                    vec![(dots(), *end)],
                    Default::default(),
                ));
            }
            _ => {}
        }
        let life = seen.and_then(|cell| cell.current_life(at));
        let mut dot = None;
        // A write to an absent key begins a life of its own dot, so the two are one.
        let mut draw = || *dot.get_or_insert_with(&mut *dots);
        Ok(match change(view, op, at, &mut draw)? {
            Some(value) => Cell::of(life.unwrap_or_else(draw), value),
            None => Cell::empty(),
        })
    }
}

/// The part of the value that `op` adds to what is seen; `None` when it adds nothing.
fn change(
    view: Option<&Value>,
    op: &Op,
    at: Time,
    dot: &mut dyn FnMut() -> Dot,
) -> Result<Option<Value>, OpError> {
    Ok(Some(match op {
        Op::RegisterSet(payload) => Value::Register(Register {
            dot: dot(),
            payload: payload.clone(),
        }),
        Op::MultiSet(payload) => {
            let dead = match view {
                Some(Value::Multi(seen)) => seen.live.iter().map(|(dot, _)| *dot).collect(),
                _ => Vec::new(),
            };
            Value::Multi(Multi {
                through: Time::ZERO,
                live: vec![(dot(), payload.clone())],
                dead,
            })
        }
        Op::CounterAdd(addend) => Value::Counter(Counter::of(dot(), *addend)),
        Op::MaxPut(ordinal) => {
            let ordinal = ordinal.checked()?;
            match view {
                Some(Value::Max(seen)) if seen.0 >= ordinal => return Ok(None),
                _ => Value::Max(Max(ordinal)),
            }
        }
        Op::MinPut(ordinal) => {
            let ordinal = ordinal.checked()?;
            match view {
                Some(Value::Min(seen)) if seen.0 <= ordinal => return Ok(None),
                _ => Value::Min(Min(ordinal)),
            }
        }
        Op::FlagRaise if view.is_some() => return Ok(None),
        Op::FlagRaise => Value::Flag(Flag::default()),
        Op::SetAdd(element) => {
            let slot = Slot {
                live: Dots::from_iter([dot()]),
                dead: live(view, element),
            };
            Value::Set(Set::of(element.clone(), slot))
        }
        Op::SetRemove(element) => {
            let dead = live(view, element);
            if dead.is_empty() {
                return Ok(None);
            }
            Value::Set(Set::of(
                element.clone(),
                Slot {
                    live: Dots::new(),
                    dead,
                },
            ))
        }
        Op::LogAppend { value, keep } => Value::Log(Log::of(dot(), value.clone(), *keep)),
        Op::TopPut { score, id, of } => {
            let scores = BTreeMap::from([(id.clone(), score.checked()?)]);
            Value::Top(Top { of: *of, scores })
        }
        Op::MapField { field, op } => return change_field(view, field, op, at, dot),
        Op::MapRemove { field } => return change_field(view, field, &Op::Delete, at, dot),
        Op::Delete | Op::Expire(_) => return Ok(None),
    }))
}

fn change_field(
    view: Option<&Value>,
    field: &Arc<str>,
    op: &Op,
    at: Time,
    dot: &mut dyn FnMut() -> Dot,
) -> Result<Option<Value>, OpError> {
    let seen = match view {
        Some(Value::Map(map)) => map.cell(field),
        _ => None,
    };
    let cell = Cell::delta(seen, op, at, dot).map_err(|error| match error {
        OpError::WrongKind { held, asked } => OpError::FieldKind {
            field: field.clone(),
            held,
            asked,
        },
        other => other,
    })?;
    Ok((!cell.is_bottom()).then(|| Value::Map(Map::of(field.clone(), cell))))
}

/// The dots by which an element is seen in a set.
fn live(view: Option<&Value>, element: &Payload) -> Dots {
    match view {
        Some(Value::Set(set)) => Dots::from_slice(set.live(element)),
        _ => Dots::new(),
    }
}

/// Refuses what no state could make right.
fn check(op: &Op) -> Result<(), OpError> {
    match op {
        Op::RegisterSet(payload)
        | Op::MultiSet(payload)
        | Op::SetAdd(payload)
        | Op::SetRemove(payload) => within("value", payload.body.len(), PAYLOAD_MAX_BYTES),
        Op::MaxPut(ordinal) | Op::MinPut(ordinal) => {
            if let Ordinal::Text(text) = ordinal {
                within("value", text.len(), PAYLOAD_MAX_BYTES)?;
            }
            ordinal.checked().map(drop)
        }
        Op::LogAppend { value, keep } => {
            within("value", value.body.len(), PAYLOAD_MAX_BYTES)?;
            if *keep == Some(0) {
                Err(OpError::ZeroBound("keep"))
            } else {
                Ok(())
            }
        }
        Op::TopPut { score, id, of } => {
            within("id", id.len(), FIELD_MAX_BYTES)?;
            match score.checked()? {
                Ordinal::Text(_) => Err(OpError::NotANumber),
                _ if *of == 0 => Err(OpError::ZeroBound("of")),
                _ => Ok(()),
            }
        }
        Op::MapField { field, op } => {
            within("field", field.len(), FIELD_MAX_BYTES)?;
            match op.kind() {
                Some(kind) if !kind.fits_field() => Err(OpError::NestedMap(kind)),
                _ => check(op),
            }
        }
        Op::MapRemove { field } => within("field", field.len(), FIELD_MAX_BYTES),
        Op::CounterAdd(_) | Op::FlagRaise | Op::Delete | Op::Expire(_) => Ok(()),
    }
}

fn within(what: &'static str, size_bytes: usize, limit_bytes: usize) -> Result<(), OpError> {
    if size_bytes > limit_bytes {
        return Err(OpError::TooLarge {
            what,
            size_bytes,
            limit_bytes,
        });
    }
    Ok(())
}
