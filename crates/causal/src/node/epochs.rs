//! Entering an epoch: partitions that leave, partitions that come.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemill_lattice::Writer;

use crate::message::{Action, Body};
use crate::node::deliver::Delivery;
use crate::node::{Node, tail_of};
use crate::opening::{Opening, Stage};
use crate::record::Applied;
use crate::standby::Tail;
use crate::{Canary, Epoch, Generation, LogRead, LogWrite, Partition, PartitionId};

impl Node {
    /// Begins an epoch in which this process is a member.
    pub(super) fn enter(&mut self, epoch: &Arc<Epoch>, skipped: bool) {
        self.note(format!("enters epoch {}", epoch.number));
        self.floor_least = self.config.floor_least(self.now);
        self.unsettled.clear();
        for id in (0..self.config.partitions).map(PartitionId) {
            let mine = epoch.owner(id).is_some_and(|owner| owner == self.me);
            // In an epoch that was missed somebody else may have opened it.
            if !mine || skipped {
                self.close(id);
            }
            if !mine {
                self.opening.remove(&id);
            } else if let Some(partition) = self.own.get_mut(&id) {
                // The standby may be another one: what it does not have goes to stable storage.
                partition.log.standby = 0;
                partition.log.sent = 0;
                partition.urgent = partition.log.end();
                if partition.log.flushed < partition.log.end() {
                    self.unsettled.insert(id, partition.log.end());
                }
            } else if let Some(opening) = self.opening.get_mut(&id)
                && opening.partition().is_some()
                && !skipped
            {
                // Its log is known; homes may have moved, so they are asked again.
                if matches!(opening.stage, Stage::Redoing { .. }) {
                    let Some(partition) = opening.partition().cloned() else {
                        continue;
                    };
                    opening.stage = Stage::Writing(Box::new(partition));
                    opening.written(self.config.partitions);
                }
            } else {
                self.open(id, epoch.number);
            }
        }
    }

    fn open(&mut self, id: PartitionId, epoch: u64) {
        let generation = Generation {
            epoch,
            member: self.me.member,
        };
        self.standby.seal(id, generation);
        self.opening.insert(id, Opening::new(id, generation));
    }

    /// Stops serving a partition. What is safe goes on being delivered; a commit that is not holds
    /// the frontier until the new owner has opened the log, since only then it is certain what
    /// became of it.
    pub(super) fn close(&mut self, id: PartitionId) {
        let opened = self.opening.remove(&id);
        let opened = opened.and_then(|opening| opening.partition().cloned());
        for partition in self.own.remove(&id).into_iter().chain(opened) {
            self.note(format!("closes {id}"));
            self.unsettled.remove(&id);
            let me = self.me.member;
            let known = partition.known.values().filter(|known| !known.is_safe);
            let stamps: BTreeSet<_> = known
                .map(|known| known.record.stamp)
                .filter(|stamp| stamp.writer == me && self.holds.contains_key(stamp))
                .collect();
            if self.config.canaries.has(Canary::HoldDroppedOnMove) {
                self.holds.retain(|stamp, _| !stamps.contains(stamp));
            } else if !stamps.is_empty() {
                self.orphans.entry(id).or_default().extend(stamps);
            }
            self.standby.keep(id, tail_of(&partition));
        }
    }

    pub(super) fn log_opened(&mut self, id: PartitionId, generation: Generation, read: LogRead) {
        let Some(epoch) = self.membership.epoch().cloned() else {
            return;
        };
        let own_tail = self.standby.tail(id).cloned();
        let (end, writer) = (read.end(), read.generation);
        self.note(format!("reads {id} up to {end}, written by {writer}"));
        let no_seal = self.config.canaries.has(Canary::NoSeal);
        if let Some(opening) = self.opening.get_mut(&id)
            && opening.generation == generation
        {
            opening.fenced(read, own_tail, &epoch);
            if no_seal && let Stage::Sealing { todo, .. } = &mut opening.stage {
                todo.clear();
            }
        }
    }

    pub(super) fn log_fenced(&mut self, id: PartitionId, generation: Generation) {
        if self
            .own
            .get(&id)
            .is_some_and(|p| p.generation == generation)
        {
            self.close(id);
            self.out.push(Action::ReadEpoch);
        }
        if let Some(opening) = self.opening.get_mut(&id)
            && opening.generation == generation
        {
            opening.stage = Stage::Overtaken;
            self.out.push(Action::ReadEpoch);
        }
    }

    pub(super) fn log_written(&mut self, id: PartitionId, generation: Generation, end: usize) {
        let Some(partition) = self.logged(id) else {
            return;
        };
        if partition.generation != generation {
            return;
        }
        partition.log.writing = None;
        partition.written_as = generation;
        if let Some(position) = partition.log.imaging.take() {
            partition.log.cut(position);
        }
        let mark = partition.flushed(end);
        if let Some(mark) = mark {
            self.membership.note_mark(id, mark);
        }
        if self.unsettled.get(&id).is_some_and(|needed| end >= *needed) {
            self.unsettled.remove(&id);
        }
        let partitions = self.config.partitions;
        if let Some(opening) = self.opening.get_mut(&id)
            && opening.partition().is_some_and(|p| end >= p.urgent)
        {
            opening.written(partitions);
        }
    }

    /// Begins the writes that are due.
    pub(super) fn drive_logs(&mut self) {
        let now_us = self.now.monotonic_us;
        let opening = self.opening.values_mut().filter_map(|opening| {
            let writes = matches!(opening.stage, Stage::Writing(_));
            opening.partition_mut().map(|partition| (partition, writes))
        });
        let own = self.own.values_mut().map(|partition| (partition, false));
        let lazy_us = self.config.lazy_flush_us;
        for (partition, must_write) in own.chain(opening) {
            let log = &mut partition.log;
            let is_due = partition.urgent > log.flushed
                || (log.end() > log.flushed && now_us >= log.written_at_us + lazy_us);
            if log.writing.is_some() || !(is_due || must_write) {
                continue;
            }
            log.writing = Some(log.end());
            log.written_at_us = now_us;
            self.out.push(Action::WriteLog(LogWrite {
                partition: partition.id,
                generation: partition.generation,
                from: log.flushed,
                entries: log.from(log.flushed),
                image: None,
            }));
        }
    }

    /// Takes the next step of each opening that has all it was waiting for.
    pub(super) fn advance_openings(&mut self) {
        let canaries = self.config.canaries;
        let mut done = Vec::new();
        let mut observed = Vec::new();
        for (id, opening) in &mut self.opening {
            if opening.assemble(canaries)
                && let Some(partition) = opening.partition()
            {
                observed.push(partition.greatest_time());
            }
            if opening.is_done() {
                done.push(*id);
            }
        }
        for time in observed {
            self.clock.observe(time);
        }
        for id in done {
            if let Some(opening) = self.opening.remove(&id)
                && let Stage::Redoing { partition, .. } = opening.stage
            {
                self.begin_serving(*partition);
            }
        }
    }

    fn begin_serving(&mut self, mut partition: Partition) {
        let (id, mark) = (partition.id, partition.mark());
        self.note(format!("serves {id} from mark {mark}"));
        // The old owner may have died between a record and its deliveries.
        let redeliver = !self.config.canaries.has(Canary::NoRedelivery);
        let mut owed = Vec::new();
        for known in partition.known.values_mut() {
            let record = &known.record;
            known.is_delivered = record.stamp.time <= mark || !redeliver;
            if !known.is_delivered {
                let applied = record.deltas.iter().filter_map(|(to, _)| {
                    let applied = record.for_partition(id, *to)?;
                    Some(((record.stamp, *to), Delivery::new(record.id, applied, true)))
                });
                owed.extend(applied);
                known.is_delivered = record.deltas.is_empty();
            }
        }
        self.own.insert(id, partition);
        for ((stamp, to), delivery) in owed {
            self.deliveries
                .entry((stamp, to))
                .and_modify(|delivery| delivery.is_gate = true)
                .or_insert(delivery);
        }
        self.retry_deliveries();
    }

    pub(super) fn retry_openings(&mut self) {
        let now_us = self.now.monotonic_us;
        let retry_us = self.config.retry_us;
        let Some(epoch) = self.membership.epoch().cloned() else {
            return;
        };
        let no_redo = self.config.canaries.has(Canary::NoRedo);
        let mut sends = Vec::new();
        for (id, opening) in &mut self.opening {
            if now_us < opening.retry_at_us {
                continue;
            }
            opening.retry_at_us = now_us + retry_us;
            let generation = opening.generation;
            match &mut opening.stage {
                Stage::Fencing => self.out.push(Action::OpenLog {
                    partition: *id,
                    generation,
                }),
                Stage::Sealing { todo, .. } => {
                    let seal = |member: &Writer| {
                        let seal = Body::Seal {
                            partition: *id,
                            generation,
                        };
                        epoch.address_of(*member).map(|address| (address, seal))
                    };
                    sends.extend(todo.iter().filter_map(seal));
                }
                Stage::Redoing { partition, todo } => {
                    if no_redo {
                        todo.clear();
                    }
                    let above = partition.mark();
                    let redo = |home: &PartitionId| {
                        let redo = Body::Redo {
                            home: *home,
                            partition: *id,
                            above,
                        };
                        epoch.owner(*home).map(|owner| (owner.address, redo))
                    };
                    sends.extend(todo.iter().filter_map(redo));
                }
                Stage::Writing(_) | Stage::Overtaken => {}
            }
        }
        for (to, body) in sends {
            self.send(to, body);
        }
    }

    pub(super) fn seal(&mut self, from: crate::Address, id: PartitionId, generation: Generation) {
        self.standby.seal(id, generation);
        let older = |partition: &Partition| partition.generation < generation;
        if self.own.get(&id).is_some_and(older)
            || self
                .opening
                .get(&id)
                .is_some_and(|o| o.generation < generation)
        {
            self.close(id);
        }
        let tail = self.standby.tail(id).cloned();
        let body = Body::Sealed {
            partition: id,
            generation,
            member: self.me.member,
            tail,
        };
        self.send(from, body);
    }

    pub(super) fn sealed(
        &mut self,
        id: PartitionId,
        generation: Generation,
        member: Writer,
        tail: Option<Tail>,
    ) {
        if let Some(opening) = self.opening.get_mut(&id)
            && opening.generation == generation
        {
            opening.sealed(member, tail);
        }
    }

    /// Answers what a home owes to a partition that is being opened.
    pub(super) fn redo(
        &mut self,
        from: crate::Address,
        home: PartitionId,
        partition: PartitionId,
        above: tidemill_lattice::Time,
    ) {
        let ready = match self.opening.get(&home) {
            // What is in its log is being written: until then nothing of it is safe.
            Some(opening) => matches!(opening.stage, Stage::Redoing { .. }),
            None => true,
        };
        if let Some(log) = self.logged(home)
            && ready
        {
            let applied = log.owed(partition, above);
            let body = Body::Redone {
                home,
                partition,
                applied,
            };
            self.send(from, body);
        }
    }

    pub(super) fn redone(&mut self, home: PartitionId, id: PartitionId, applied: &[Applied]) {
        if let Some(opening) = self.opening.get_mut(&id)
            && let Stage::Redoing { partition, todo } = &mut opening.stage
        {
            for each in applied {
                partition.apply(each);
                self.clock.observe(each.stamp.time);
            }
            todo.remove(&home);
        }
    }

    pub(super) fn retry_orphans(&mut self) {
        let now_us = self.now.monotonic_us;
        if self.orphans.is_empty() || now_us < self.orphans_us {
            return;
        }
        self.orphans_us = now_us + self.config.retry_us;
        let partitions: Vec<PartitionId> = self.orphans.keys().copied().collect();
        for partition in partitions {
            self.send_to_owner(partition, Body::IsOpen { partition });
        }
    }

    pub(super) fn tell_open(&mut self, to: crate::Address, partition: PartitionId) {
        if self.logged(partition).is_some() {
            self.send(to, Body::Open { partition });
        }
    }

    /// The new owner of a partition has its log: whatever is in it is delivered before the new
    /// owner publishes in this epoch, and whatever is not never will be.
    pub(super) fn release_orphans(&mut self, partition: PartitionId) {
        for stamp in self.orphans.remove(&partition).unwrap_or_default() {
            self.holds.remove(&stamp);
        }
    }
}
