//! An owner's side of caches: who subscribes to which keys, and what was pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use tidemill_lattice::{Cell, Key, Time, Writer};

use crate::{Address, Chain, Generation, PartitionId, Stamp};

/// One subscription: an owner's keys for one cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// The owner's generation.
    pub generation: Generation,
    /// Its number there.
    pub number: u64,
}

/// Who subscribes: a compute node's incarnation.
pub(crate) type Subscriber = (Address, Writer);

/// Changes of the keys of one stream.
#[derive(Clone, Debug)]
pub struct Push {
    /// Whose keys.
    pub partition: PartitionId,
    /// The subscriber's incarnation.
    pub subscriber: Writer,
    /// Which stream.
    pub stream: StreamId,
    /// Its place in the stream: one more than the push before.
    pub sequence: u64,
    /// Everything at or below it has been pushed.
    pub through: Time,
    /// The deltas since the push before.
    pub deltas: Vec<(Key, Stamp, Arc<Cell>)>,
}

impl fmt::Display for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} #{} through {}: {}",
            self.partition,
            self.sequence,
            self.through,
            self.deltas.len()
        )
    }
}

/// One stream.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) sequence: u64,
    pub(crate) through: Time,
    keys: BTreeSet<Key>,
}

/// All streams of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    next: u64,
    streams: BTreeMap<Subscriber, Stream>,
}

/// Keys of one stream; more, and it begins anew.
const KEYS_MAX: usize = 1024;

impl Streams {
    /// Adds a key to the subscriber's stream, which is begun anew if it is not the one that the
    /// subscriber knows.
    pub(crate) fn subscribe(
        &mut self,
        subscriber: Subscriber,
        known: Option<StreamId>,
        key: &Key,
        generation: Generation,
        through: Time,
    ) -> Stream {
        let keeps = self
            .streams
            .get(&subscriber)
            .is_some_and(|stream| Some(stream.id) == known && stream.keys.len() < KEYS_MAX);
        if !keeps {
            self.next += 1;
            let id = StreamId {
                generation,
                number: self.next,
            };
            let stream = Stream {
                id,
                sequence: 0,
                through,
                keys: BTreeSet::new(),
            };
            self.streams.insert(subscriber, stream);
        }
        let stream = self
            .streams
            .entry(subscriber)
            .or_insert_with(|| unreachable!("it was made above"));
        stream.keys.insert(key.clone());
        stream.clone()
    }

    /// What each subscriber has not been told yet, through a time.
    pub(crate) fn pushes(
        &mut self,
        partition: PartitionId,
        chains: &BTreeMap<Key, Chain>,
        through: Time,
    ) -> Vec<(Address, Push)> {
        let mut pushes = Vec::new();
        for ((address, subscriber), stream) in &mut self.streams {
            if stream.through >= through {
                continue;
            }
            stream.sequence += 1;
            let mut deltas = Vec::new();
            for key in &stream.keys {
                let chain = chains.get(key).into_iter();
                let new = chain.flat_map(|chain| chain.between(stream.through, through));
                deltas.extend(new.map(|(stamp, _, cell)| (key.clone(), stamp, Arc::clone(cell))));
            }
            stream.through = through;
            let push = Push {
                partition,
                subscriber: *subscriber,
                stream: stream.id,
                sequence: stream.sequence,
                through,
                deltas,
            };
            pushes.push((*address, push));
        }
        pushes
    }

    /// A fold through `line`: streams that have not been told of everything below it end, since
    /// the deltas are no longer apart.
    pub(crate) fn folded(&mut self, line: Time) {
        self.streams.retain(|_, stream| stream.through >= line);
    }
}
