//! What one step sees, and where its writes go.

use crate::{Buffer, Request};
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;
use tidemill_lattice::{Cell, Key, Kind, Op, OpError, Time};

/// Why a read or a write was refused.
#[derive(Debug, Error)]
pub enum Error {
    /// The operation does not fit what the key holds.
    #[error("key {}: {source}", key.name_lossy())]
    Operation {
        /// The key written.
        key: Key,
        /// What does not fit.
        source: OpError,
    },
    /// The key holds another type than the one asked for.
    #[error(
        "key {} holds a {held}, not a {asked}; read it as a {held}, or delete it first",
        key.name_lossy()
    )]
    WrongKind {
        /// The key read.
        key: Key,
        /// What it holds.
        held: Kind,
        /// What was asked for.
        asked: Kind,
    },
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] tidemill_store::Error),
}

/// A step's view of state: the snapshot, its ancestors' writes, its own.
pub struct View {
    request: Arc<Request>,
    below: Vec<Arc<Buffer>>,
    own: Arc<Buffer>,
}

impl View {
    pub(crate) fn new(request: Arc<Request>, below: Vec<Arc<Buffer>>, tag: u32) -> Self {
        Self {
            request,
            below,
            own: Arc::new(Buffer::new(tag)),
        }
    }

    /// The request that this is a view of.
    #[must_use]
    pub fn request(&self) -> &Arc<Request> {
        &self.request
    }

    /// The time at which values are seen: expiry is judged by it.
    #[must_use]
    pub fn time(&self) -> Time {
        self.request.time()
    }

    /// What the key holds, deleted and expired cells included (they carry the
    /// incarnation a writer continues from). `None` where it was never written.
    ///
    /// # Errors
    /// [`Error::Store`], with an expired snapshot or a failed disk.
    pub fn read(&self, key: &Key) -> Result<Option<Arc<Cell>>, Error> {
        let mut seen = self.request.read(key)?;
        for buffer in self.below.iter().chain([&self.own]) {
            if let Some(delta) = buffer.get(key) {
                match &mut seen {
                    Some(cell) => Arc::make_mut(cell).merge(delta),
                    None => seen = Some(Arc::new(delta.clone())),
                }
            }
        }
        Ok(seen)
    }

    /// What the key holds if it holds a value of this type; `None` where it holds
    /// nothing.
    ///
    /// # Errors
    /// [`Error::WrongKind`] when it holds another type, else as [`View::read`].
    pub fn read_as(&self, key: &Key, asked: Kind) -> Result<Option<Arc<Cell>>, Error> {
        let Some(cell) = self.read(key)? else {
            return Ok(None);
        };
        match cell.kind(self.time()) {
            None => Ok(None),
            Some(held) if held == asked => Ok(Some(cell)),
            Some(held) => Err(Error::WrongKind {
                key: key.clone(),
                held,
                asked,
            }),
        }
    }

    /// Buffers a write. Later reads of this view and of its descendants see it.
    ///
    /// At the level `eventual` it is sent instead: reads see it once [`Request::settle`] says
    /// so, and what does not fit is told there.
    ///
    /// # Errors
    /// [`Error::Operation`] when the operation does not fit what the key holds; then
    /// nothing was buffered. [`Error::Store`] as for [`View::read`].
    pub fn write(&mut self, key: &Key, op: &Op) -> Result<(), Error> {
        if self.request.send(key, op) {
            return Ok(());
        }
        // What was right for the addition before is right for this one: it sees the same counter.
        if let Op::CounterAdd(addend) = op
            && Arc::get_mut(&mut self.own).is_some_and(|own| own.add_again(key, *addend))
        {
            return Ok(());
        }
        let seen = self.read(key)?;
        let at = self.time();
        let own = Arc::make_mut(&mut self.own);
        let delta =
            Cell::delta(seen.as_deref(), op, at, &mut || own.next_dot()).map_err(|source| {
                Error::Operation {
                    key: key.clone(),
                    source,
                }
            })?;
        own.merge(key.clone(), delta);
        Ok(())
    }

    /// The visible keys that begin with `prefix` (encoded, see [`Key::prefix`]),
    /// in order, after the encoded key `after`, at most `limit`, with their types.
    ///
    /// # Errors
    /// [`Error::Store`] as for [`View::read`].
    pub fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<KeyPage, Error> {
        let snapshot = self.request.snapshot();
        let page = self.request.store().scan(prefix, after, limit, &snapshot)?;
        let at = snapshot.time();
        let mut keys: BTreeMap<Key, Kind> = BTreeMap::new();
        for (key, cell) in page.entries {
            if let Some(kind) = cell.kind(at) {
                keys.insert(key, kind);
            }
        }
        let end = page.next.clone();
        let inside = |key: &Key| {
            after.is_none_or(|after| key.as_bytes() > after)
                && end.as_deref().is_none_or(|end| key.as_bytes() <= end)
        };
        let written: Vec<&Key> = self
            .below
            .iter()
            .chain([&self.own])
            .flat_map(|buffer| buffer.keys_from(prefix))
            .filter(|key| inside(key))
            .collect();
        for key in written {
            match self.read(key)?.and_then(|cell| cell.kind(at)) {
                Some(kind) => keys.insert(key.clone(), kind),
                None => keys.remove(key),
            };
        }
        let mut next = page.next;
        if keys.len() > limit {
            let cut: Vec<Key> = keys.keys().skip(limit).cloned().collect();
            for key in &cut {
                keys.remove(key);
            }
            next = keys.keys().next_back().map(|key| key.as_bytes().to_vec());
        }
        Ok(KeyPage {
            keys: keys.into_iter().collect(),
            next,
        })
    }

    /// The buffers that a child forked now sees, in the order of their tags.
    #[must_use]
    pub fn layers(&self) -> Vec<Arc<Buffer>> {
        let mut layers = self.below.clone();
        if !self.own.is_empty() {
            layers.push(Arc::clone(&self.own));
        }
        layers
    }

    /// The tag of this view's writes; those of a child's steps are above it.
    #[must_use]
    pub fn tag(&self) -> u32 {
        self.own.tag()
    }

    /// Takes over what the steps of a child wrote, given in the order of their
    /// tags, as writes made here and now.
    pub fn join(&mut self, steps: &[Arc<Buffer>]) {
        if steps.iter().any(|step| !step.is_empty()) {
            Arc::make_mut(&mut self.own).absorb(steps);
        }
    }

    /// Ends the step: what it wrote.
    #[must_use]
    pub fn finish(self) -> Arc<Buffer> {
        self.own
    }
}

/// Keys of a scan.
#[derive(Debug, Default)]
pub struct KeyPage {
    /// Keys and the types that they hold, in order.
    pub keys: Vec<(Key, Kind)>,
    /// Where to go on from, when there may be more.
    pub next: Option<Vec<u8>>,
}
