//! The map: fields with values of their own types.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Cell, Compacted, Dot, Time, Value, value::ENTRY_BYTES};

/// Fields, each a [`Cell`] of its own, so that removing a field is a delete of that cell and
/// fields merge apart from one another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// No cell is bottom.
    pub(crate) fields: Arc<BTreeMap<Arc<str>, Cell>>,
}

impl Map {
    /// The field's value at a time; `None` when absent, removed or expired.
    pub fn get(&self, field: &str, at: Time) -> Option<&Value> {
        self.fields.get(field)?.view(at)
    }

    /// The fields that hold a value at a time, ordered by name.
    pub fn iter_at(&self, at: Time) -> impl Iterator<Item = (&str, &Value)> {
        self.fields
            .iter()
            .filter_map(move |(name, cell)| Some((name.as_ref(), cell.view(at)?)))
    }

    /// The field's cell, hidden states included.
    pub(crate) fn cell(&self, field: &str) -> Option<&Cell> {
        self.fields.get(field)
    }

    pub(crate) fn of(field: Arc<str>, cell: Cell) -> Map {
        let fields = if cell.is_bottom() {
            BTreeMap::new()
        } else {
            BTreeMap::from([(field, cell)])
        };
        Map {
            fields: Arc::new(fields),
        }
    }

    pub(crate) fn merge(&mut self, other: &Map) {
        if self.fields.is_empty() {
            self.fields = Arc::clone(&other.fields);
        } else if !Arc::ptr_eq(&self.fields, &other.fields) {
            let fields = Arc::make_mut(&mut self.fields);
            for (field, cell) in other.fields.iter() {
                match fields.get_mut(field) {
                    Some(held) => held.merge(cell),
                    None => {
                        fields.insert(field.clone(), cell.clone());
                    }
                }
            }
        }
    }

    pub(crate) fn restamp(&mut self, map: &dyn Fn(Dot) -> Dot) {
        Arc::make_mut(&mut self.fields)
            .values_mut()
            .for_each(|cell| cell.restamp(map));
    }

    pub(crate) fn compact(&mut self, through: Time, forget: Time) -> Compacted {
        let mut compacted = Compacted::default();
        Arc::make_mut(&mut self.fields).retain(|_, cell| {
            compacted += cell.compact(through, forget);
            !cell.is_bottom()
        });
        compacted
    }

    pub(crate) fn weight_bytes(&self) -> usize {
        self.fields
            .iter()
            .map(|(field, cell)| {
                ENTRY_BYTES + field.len() + size_of::<Cell>() + cell.weight_bytes()
            })
            .sum()
    }
}
