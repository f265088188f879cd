//! The writes of a request before it commits: one delta a key, in program order.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_lattice::{Cell, Dot, Key, Op, OpError, Time, Writer};

/// The time of a dot that has none yet. Above every snapshot.
const PROVISIONAL: Time = Time::MAX;

/// Buffered writes. A dot is provisional: (no time yet, tag, number).
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    tag: u32,
    next: u32,
    deltas: BTreeMap<Key, Cell>,
}

impl Buffer {
    /// An empty buffer whose dots carry this tag; a step's is above its caller's.
    #[must_use]
    pub fn new(tag: u32) -> Buffer {
        Buffer {
            tag,
            ..Buffer::default()
        }
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// The delta of a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Cell> {
        self.deltas.get(key)
    }

    /// What a reader of this buffer sees of a key that holds `base` at its snapshot.
    #[must_use]
    pub fn over(&self, base: Option<Arc<Cell>>, key: &Key) -> Option<Arc<Cell>> {
        match (base, self.deltas.get(key)) {
            (base, None) => base,
            (None, Some(delta)) => Some(Arc::new(delta.clone())),
            (Some(mut base), Some(delta)) => {
                Arc::make_mut(&mut base).merge(delta);
                Some(base)
            }
        }
    }

    /// Buffers an operation on a key that the writer sees as `seen` at snapshot `at`, its own
    /// writes included.
    ///
    /// # Errors
    /// [`OpError`] if the operation does not fit; then nothing was buffered.
    pub fn write(
        &mut self,
        key: &Key,
        seen: Option<&Cell>,
        op: &Op,
        at: Time,
    ) -> Result<(), OpError> {
        let (tag, mut next) = (Writer(self.tag), self.next);
        let mut dots = || {
            next += 1;
            Dot::new(PROVISIONAL, tag, next)
        };
        let delta = Cell::delta(seen, op, at, &mut dots)?;
        self.next = next;
        if !delta.is_bottom() {
            self.deltas.entry(key.clone()).or_default().merge(&delta);
        }
        Ok(())
    }

    /// Takes over what a joined step wrote, as this buffer's next writes.
    pub fn absorb(&mut self, step: &Buffer) {
        let (tag, offset) = (Writer(self.tag), self.next);
        for (key, delta) in &step.deltas {
            let mut delta = delta.clone();
            delta.restamp(&|dot| {
                if dot.time == PROVISIONAL && dot.writer.0 == step.tag {
                    Dot::new(PROVISIONAL, tag, offset + dot.sequence)
                } else {
                    dot
                }
            });
            self.deltas.entry(key.clone()).or_default().merge(&delta);
        }
        self.next += step.next;
    }

    /// The deltas as of a commit, by key.
    #[must_use]
    pub fn stamped(&self, time: Time, writer: Writer) -> Vec<(Key, Arc<Cell>)> {
        let stamp = |dot: Dot| {
            if dot.time == PROVISIONAL {
                Dot::new(time, writer, dot.sequence)
            } else {
                dot
            }
        };
        self.deltas
            .iter()
            .map(|(key, delta)| {
                let mut delta = delta.clone();
                delta.restamp(&stamp);
                (key.clone(), Arc::new(delta))
            })
            .collect()
    }

    /// The keys written, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.deltas.keys()
    }

    /// Roughly what it takes on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        let mut encoded = Vec::new();
        self.deltas.iter().fold(8, |sum, (key, delta)| {
            encoded.clear();
            delta.encode(&mut encoded);
            sum + key.as_bytes().len() + encoded.len()
        })
    }
}
