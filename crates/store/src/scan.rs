//! Ordered reads: the keys that only memory has and the keys of the durable tier, merged.
//!
//! Those in memory are listed first: a key leaves that list after it has come to the durable
//! tier, so none is missed between the two.

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
        let views = inner.views.iter();
        let mut lists: Vec<Vec<Key>> = views
            .map(|view| view.unstored_after(prefix, after.as_deref(), CHUNK))
            .collect();
        lists.push(inner.engine.keys(prefix, after.as_deref(), CHUNK)?);
        let (keys, complete) = merge(lists);
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

/// Merges ascending lists of at most [`CHUNK`] keys, up to where all are known, and tells
/// whether that is everything.
fn merge(lists: Vec<Vec<Key>>) -> (Vec<Key>, bool) {
    let cut = lists.iter().filter(|keys| keys.len() >= CHUNK);
    let bound = cut.filter_map(|keys| keys.last()).min().cloned();
    let mut keys: Vec<Key> = lists.into_iter().flatten().collect();
    keys.sort_unstable();
    keys.dedup();
    if let Some(bound) = &bound {
        keys.retain(|key| key <= bound);
    }
    (keys, bound.is_none())
}
