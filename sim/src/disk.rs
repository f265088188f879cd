//! Stable storage that all hosts share: logs with fences, and the epochs.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_causal::{Address, Epoch, Generation, LogRead, LogWrite, PartitionId, Placed};
use tidemill_lattice::{Time, Writer};

/// Logs and epochs.
#[derive(Clone, Debug)]
pub struct Disk {
    logs: BTreeMap<PartitionId, (Generation, LogRead)>,
    epochs: Vec<Arc<Epoch>>,
}

impl Disk {
    /// Empty logs and a first epoch.
    #[must_use]
    pub fn new(members: &[(u32, u32)], salt: u64) -> Disk {
        let placed = |(member, address): &(u32, u32)| Placed {
            member: Writer(*member),
            address: Address(*address),
        };
        let first = Epoch {
            number: 1,
            members: members.iter().map(placed).collect(),
            salt,
            loss: 0,
            floor: Time::ZERO,
        };
        Disk {
            logs: BTreeMap::new(),
            epochs: vec![Arc::new(first)],
        }
    }

    /// Fences a log; `None` if a greater generation has.
    pub fn open(&mut self, partition: PartitionId, generation: Generation) -> Option<LogRead> {
        let (fence, read) = self.logs.entry(partition).or_default();
        if *fence > generation {
            return None;
        }
        *fence = generation;
        Some(read.clone())
    }

    /// Writes to a log; answers the position after it, or `None` if it is fenced.
    pub fn write(&mut self, write: &LogWrite) -> Option<usize> {
        let (fence, read) = self.logs.entry(write.partition).or_default();
        if *fence != write.generation {
            return None;
        }
        read.write(write);
        Some(read.end())
    }

    /// The newest epoch.
    #[must_use]
    pub fn epoch(&self) -> &Arc<Epoch> {
        &self.epochs[self.epochs.len() - 1]
    }

    /// Stores an epoch if its number is the next. Answers whether it was.
    pub fn propose(&mut self, epoch: Epoch) -> bool {
        let is_next = epoch.number == self.epoch().number + 1 && !epoch.members.is_empty();
        if is_next {
            self.epochs.push(Arc::new(epoch));
        }
        is_next
    }
}
