//! Ordered reads: the keys in memory and the keys of the durable tier, merged.
//!
//! The keys in memory are listed first: a key that leaves memory afterwards is in the durable
//! tier before it leaves, so none is missed between the two.

use std::ops::ControlFlow;
use std::sync::Arc;

use tidemill_lattice::{Cell, Key, Time};

use crate::embedded::Inner;
use crate::{Error, Page};

/// Keys listed at a time.
const CHUNK: usize = 256;

pub(crate) fn page(
    inner: &Inner,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
    at: Time,
) -> Result<Page, Error> {
    let mut page = Page::default();
    // One more than asked for tells whether there is a next page.
    each(inner, prefix, after, at, &mut |key, cell| {
        if page.entries.len() == limit {
            let last = page.entries.last().map(|(key, _)| key.as_bytes().to_vec());
            page.next = last.or_else(|| after.map(<[u8]>::to_vec));
            return ControlFlow::Break(());
        }
        page.entries.push((key, cell));
        ControlFlow::Continue(())
    })?;
    Ok(page)
}

/// Calls `visit` with every visible key after `after`, in order, until it breaks.
pub(crate) fn each(
    inner: &Inner,
    prefix: &[u8],
    after: Option<&[u8]>,
    at: Time,
    visit: &mut dyn FnMut(Key, Arc<Cell>) -> ControlFlow<()>,
) -> Result<(), Error> {
    inner.pins.check(at)?;
    let mut after = after.map(<[u8]>::to_vec);
    loop {
        let memory = inner.tables.keys_after(prefix, after.as_deref(), CHUNK);
        let stored = inner.engine.keys(prefix, after.as_deref(), CHUNK)?;
        let (keys, complete) = merge(memory, stored);
        for key in keys {
            after = Some(key.as_bytes().to_vec());
            let Some(cell) = inner.read(&key, at, false)? else {
                continue;
            };
            if cell.view(at).is_none() {
                continue;
            }
            inner.pins.check(at)?;
            if visit(key, cell).is_break() {
                return Ok(());
            }
        }
        if complete {
            return inner.pins.check(at);
        }
    }
}

/// Merges two ascending lists of at most [`CHUNK`] keys, up to where both are known, and tells
/// whether that is everything.
fn merge(memory: Vec<Key>, stored: Vec<Key>) -> (Vec<Key>, bool) {
    let end = |keys: &[Key]| {
        if keys.len() < CHUNK {
            None
        } else {
            keys.last().cloned()
        }
    };
    let bound = match (end(&memory), end(&stored)) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let mut keys = memory;
    keys.extend(stored);
    keys.sort_unstable();
    keys.dedup();
    if let Some(bound) = &bound {
        keys.retain(|key| key <= bound);
    }
    (keys, bound.is_none())
}
