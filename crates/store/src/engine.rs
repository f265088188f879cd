//! The log and the durable tier in one fjall database. The only room that knows fjall.
//!
//! What fjall promises and this crate builds on: a batch is written to one journal in commit
//! order and comes back after a crash wholly or not at all; a table file is written only after
//! the journal up to it has been synced. So after any crash the database is a prefix of what
//! was written. What it does not promise: that a batch whose write or sync *failed* is gone
//! after a restart. The sequencer voids such a batch with a [`crate::fence`].

mod fault;

use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserKey, UserValue,
};
use tidemill_lattice::{Cell, Key, Time};

use crate::requests::{StoredRequest, due_key, read_due_key};
use crate::sizes::Sizes;
use crate::{Disk, Durability, Error, MessageId, disk::Step, observed::EngineStats};
use fault::{check_files, open_error};

const FORMAT: u32 = 3;
/// The number of the first group of a new log.
pub(crate) const FIRST_GROUP: u64 = 1;

/// One value of the durable tier: a cell complete through a time.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) through: Time,
    pub(crate) cell: Cell,
}

/// What the metadata says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) epoch: u32,
    pub(crate) checkpoint: Time,
    /// The first group of the log that the checkpoint does not cover.
    pub(crate) log_start: u64,
    /// No value of the durable tier is complete through a later time.
    pub(crate) stored_through: Time,
}

/// A change of the durable tier.
pub(crate) enum Change {
    Put(Key, Vec<u8>),
    Forget(Key),
    Post(MessageId, Bytes),
    Unpost(MessageId),
    /// The durable tier is complete through a time; the log is needed from a group on.
    Mark(Time, u64),
    /// No value is complete through a later time.
    StoredThrough(Time),
    /// The record of a request, new or in the place of the one before.
    Record(StoredRequest),
    /// A request is forgotten.
    Unrecord(u128),
    /// A record is not due at this time any more.
    NotDue(u64, u128),
}

pub(crate) struct Engine {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    database: Database,
    log: Keyspace,
    data: Keyspace,
    outbox: Keyspace,
    /// Records of requests by id.
    requests: Keyspace,
    /// When each is due.
    due: Keyspace,
    meta: Keyspace,
}

impl Engine {
    pub(crate) fn open(
        directory: &Path,
        disk: Arc<dyn Disk>,
        cache_bytes: u64,
        sizes: Sizes,
    ) -> Result<Engine, Error> {
        let fail = |e: fjall::Error| open_error(directory, &e);
        check_files(directory)?;
        let open = || {
            Database::builder(directory.join("engine"))
                .cache_size(cache_bytes)
                .max_journaling_size(sizes.journal_bytes)
                .worker_threads(2)
                .open()
        };
        // It asserts here and there what damaged files do not keep to.
        let database = catch_unwind(AssertUnwindSafe(open))
            .unwrap_or(Err(fjall::Error::Unrecoverable))
            .map_err(fail)?;
        let keyspace = |name, buffer_bytes| {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(buffer_bytes);
            database.keyspace(name, options).map_err(fail)
        };
        let log = keyspace("log", sizes.log_buffer_bytes)?;
        let data = keyspace("data", sizes.buffer_bytes)?;
        let outbox = keyspace("outbox", sizes.buffer_bytes)?;
        let meta = keyspace("meta", sizes.buffer_bytes)?;
        let requests = keyspace("requests", sizes.buffer_bytes)?;
        let due = keyspace("due", sizes.buffer_bytes)?;
        let directory = directory.to_path_buf();
        Ok(Engine {
            directory,
            disk,
            database,
            log,
            data,
            outbox,
            requests,
            due,
            meta,
        })
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Checks the format, and reads what the last life of this store left.
    pub(crate) fn meta(&self) -> Result<Meta, Error> {
        match self.number("format")? {
            None => {
                return Ok(Meta {
                    epoch: 0,
                    checkpoint: Time::ZERO,
                    log_start: FIRST_GROUP,
                    stored_through: Time::ZERO,
                });
            }
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                let found = u32::try_from(format).unwrap_or(u32::MAX);
                return Err(Error::Format {
                    directory: self.directory.clone(),
                    found,
                    known: FORMAT,
                });
            }
        }
        let epoch = self.number("epoch")?.unwrap_or(0);
        let epoch =
            u32::try_from(epoch).map_err(|_| self.corrupt("the epoch", "it is out of range"))?;
        let checkpoint = Time::from_u64(self.number("checkpoint")?.unwrap_or(0));
        let log_start = self.number("log-start")?.unwrap_or(FIRST_GROUP);
        let stored_through = Time::from_u64(self.number("stored-through")?.unwrap_or(0));
        Ok(Meta {
            epoch,
            checkpoint,
            log_start,
            stored_through,
        })
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.meta.get(name).map_err(|e| self.read_error(&e))? else {
            return Ok(None);
        };
        let bytes = <[u8; 8]>::try_from(&*value)
            .map_err(|_| self.corrupt(format!("the field `{name}`"), "it is not 8 bytes long"))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Begins a new life: writes the epoch and drops voided or torn groups with the records
    /// that were written with them, synced.
    pub(crate) fn begin(
        &self,
        epoch: u32,
        drop: &[u64],
        records: &[StoredRequest],
    ) -> Result<(), Error> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "format", u64::from(FORMAT).to_be_bytes());
        batch.insert(&self.meta, "epoch", u64::from(epoch).to_be_bytes());
        for number in drop {
            batch.remove(&self.log, number.to_be_bytes());
        }
        for record in records {
            batch.remove(&self.requests, record.id.to_be_bytes());
            batch.remove(&self.due, due_key(record.due_us, record.id));
        }
        batch
            .commit()
            .map_err(|e| self.write_error("beginning a new epoch", &e))
    }

    /// Whether it may make writers wait, so that its tables can follow.
    pub(crate) fn is_pressed(&self) -> bool {
        // It halts them at four buffers, and slows them down at twenty runs.
        let is_full = |keyspace: &Keyspace| {
            keyspace.sealed_memtable_count() >= 3 || keyspace.tree.l0_run_count() >= 16
        };
        is_full(&self.log) || is_full(&self.requests) || is_full(&self.due)
    }

    /// Appends a group with the records of its requests, and syncs if `durability` asks for it.
    pub(crate) fn append(
        &self,
        number: u64,
        group: Vec<u8>,
        records: &[StoredRequest],
        durability: Durability,
    ) -> Result<(), Error> {
        const OPERATION: &str = "writing the log";
        let injected = |e: io::Error| self.write_error(OPERATION, &fjall::Error::Io(e));
        self.disk.step(Step::BeforeAppend).map_err(injected)?;
        let mode = match durability {
            Durability::Memory => PersistMode::Buffer,
            Durability::Durable => PersistMode::SyncData,
        };
        let mut batch = self.database.batch().durability(Some(mode));
        batch.insert(&self.log, number.to_be_bytes(), group);
        for record in records {
            batch.insert(&self.requests, record.id.to_be_bytes(), record.encode());
            batch.insert(&self.due, due_key(record.due_us, record.id), []);
        }
        batch
            .commit()
            .map_err(|e| self.write_error(OPERATION, &e))?;
        self.disk.step(Step::AfterAppend).map_err(injected)
    }

    /// Applies changes as one batch, without a sync. `operation` is for people.
    pub(crate) fn change(
        &self,
        operation: &'static str,
        changes: Vec<Change>,
    ) -> Result<(), Error> {
        let injected = |e: io::Error| self.write_error(operation, &fjall::Error::Io(e));
        self.disk.step(Step::BeforeCheckpoint).map_err(injected)?;
        let mut batch = self.database.batch();
        for change in changes {
            match change {
                Change::Put(key, value) => batch.insert(&self.data, user_key(&key), value),
                Change::Forget(key) => batch.remove(&self.data, user_key(&key)),
                Change::Post(id, body) => batch.insert(&self.outbox, message_key(id), body),
                Change::Unpost(id) => batch.remove(&self.outbox, message_key(id)),
                Change::Mark(time, log_start) => {
                    batch.insert(&self.meta, "checkpoint", time.as_u64().to_be_bytes());
                    batch.insert(&self.meta, "log-start", log_start.to_be_bytes());
                }
                Change::StoredThrough(time) => {
                    let time = time.as_u64().to_be_bytes();
                    batch.insert(&self.meta, "stored-through", time);
                }
                Change::Record(record) => {
                    batch.insert(&self.requests, record.id.to_be_bytes(), record.encode());
                    batch.insert(&self.due, due_key(record.due_us, record.id), []);
                }
                Change::Unrecord(id) => batch.remove(&self.requests, id.to_be_bytes()),
                Change::NotDue(due_us, id) => batch.remove(&self.due, due_key(due_us, id)),
            }
        }
        batch.commit().map_err(|e| self.write_error(operation, &e))
    }

    /// Removes groups of the log that a checkpoint covers.
    pub(crate) fn trim(&self, groups: impl Iterator<Item = u64>) -> Result<(), Error> {
        let mut batch = self.database.batch();
        for number in groups {
            batch.remove(&self.log, number.to_be_bytes());
        }
        batch
            .commit()
            .map_err(|e| self.write_error("trimming the log", &e))
    }

    /// Has the engine write out what it buffers of the log and of the values, and free it.
    pub(crate) fn give_back_buffers(&self) -> Result<(), Error> {
        for keyspace in [&self.log, &self.data] {
            let rotated = keyspace.rotate_memtable();
            rotated.map_err(|e| self.write_error("emptying the engine's buffers", &e))?;
        }
        Ok(())
    }

    /// Whether the buffers that were given back are written out.
    pub(crate) fn has_written_buffers(&self) -> bool {
        let is_written = |keyspace: &Keyspace| keyspace.sealed_memtable_count() == 0;
        is_written(&self.log) && is_written(&self.data)
    }

    /// Frees them. The engine keeps the newest for readers of before until another buffer is given
    /// back, of any keyspace, after a later write: the smallest does.
    pub(crate) fn free_buffers(&self) -> Result<(), Error> {
        let freed = self
            .meta
            .insert("format", u64::from(FORMAT).to_be_bytes())
            .and_then(|()| self.meta.rotate_memtable());
        freed.map_err(|e| self.write_error("freeing the engine's buffers", &e))?;
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.database
            .persist(PersistMode::SyncData)
            .map_err(|e| self.write_error("syncing the log", &e))
    }

    /// The stored value of a key.
    pub(crate) fn load(&self, key: &Key) -> Result<Option<Stored>, Error> {
        let value = self.data.get(key.as_bytes()).map_err(|e| {
            let error = self.read_error(&e);
            match error {
                Error::Corrupt { cause, .. } => self.corrupt(self.place(key.as_bytes()), cause),
                other => other,
            }
        })?;
        value.map(|value| self.stored(key, &value)).transpose()
    }

    fn stored(&self, key: &Key, value: &[u8]) -> Result<Stored, Error> {
        let place = || self.place(key.as_bytes());
        let Some((through, cell)) = value.split_first_chunk::<8>() else {
            return Err(self.corrupt(place(), "its value is too short"));
        };
        // A copy of its own: a slice would keep the engine's whole block in memory.
        let cell = Cell::decode(&Bytes::copy_from_slice(cell))
            .map_err(|e| self.corrupt(place(), e.to_string()))?;
        Ok(Stored {
            through: Time::from_u64(u64::from_be_bytes(*through)),
            cell,
        })
    }

    /// Up to `limit` encoded keys with this prefix above `after`, in order.
    pub(crate) fn keys(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Key>, Error> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut keys = Vec::new();
        for guard in self
            .data
            .range::<&[u8], _>((from, Bound::Unbounded))
            .take(limit)
        {
            let key = guard.key().map_err(|e| self.read_error(&e))?;
            if !key.starts_with(prefix) {
                break;
            }
            keys.push(self.key(&key)?);
        }
        Ok(keys)
    }

    /// Up to `limit` stored values above `after`, in order of their keys.
    pub(crate) fn values(
        &self,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Stored)>, Error> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_bytes()));
        let mut values = Vec::new();
        for guard in self
            .data
            .range::<&[u8], _>((from, Bound::Unbounded))
            .take(limit)
        {
            let (key, value) = guard.into_inner().map_err(|e| self.read_error(&e))?;
            let key = self.key(&key)?;
            let stored = self.stored(&key, &value)?;
            values.push((key, stored));
        }
        Ok(values)
    }

    /// A key, for people.
    pub(crate) fn place(&self, key: &[u8]) -> String {
        Key::from_bytes(key).map_or_else(
            |_| "the key table".to_owned(),
            |key| format!("key {}/{}/{}", key.tenant(), key.app(), key.name_lossy()),
        )
    }

    fn key(&self, bytes: &[u8]) -> Result<Key, Error> {
        Key::from_bytes(bytes)
            .map_err(|e| self.corrupt("the key table", format!("a key is not one: {e}")))
    }

    /// Every group of the log, in order: its number, its bytes.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Result<(u64, Bytes), Error>> + '_ {
        self.log.iter().map(|guard| {
            let (key, value) = guard.into_inner().map_err(|e| self.read_error(&e))?;
            let number = <[u8; 8]>::try_from(&*key)
                .map_err(|_| self.corrupt("the log", "a group's key has the wrong length"))?;
            Ok((u64::from_be_bytes(number), Bytes::copy_from_slice(&value)))
        })
    }

    /// Messages that were pending at the last checkpoint.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Result<(MessageId, Bytes), Error>> + '_ {
        self.outbox.iter().map(|guard| {
            let (key, value) = guard.into_inner().map_err(|e| self.read_error(&e))?;
            let id = read_message_key(&key).ok_or_else(|| {
                self.corrupt("the outbox", "a message's key has the wrong length")
            })?;
            Ok((id, Bytes::copy_from_slice(&value)))
        })
    }

    /// The record of a request.
    pub(crate) fn request(&self, id: u128) -> Result<Option<StoredRequest>, Error> {
        let value = self.requests.get(id.to_be_bytes());
        let value = value.map_err(|e| self.read_error(&e))?;
        value.map(|value| self.read_request(id, &value)).transpose()
    }

    /// Records of requests above `after`, in the order of their ids.
    pub(crate) fn requests(
        &self,
        after: Option<u128>,
    ) -> impl Iterator<Item = Result<StoredRequest, Error>> + '_ {
        let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.to_be_bytes()));
        let range = self.requests.range((from, Bound::Unbounded));
        range.map(|guard| {
            let (key, value) = guard.into_inner().map_err(|e| self.read_error(&e))?;
            let id = <[u8; 16]>::try_from(&*key)
                .map_err(|_| self.corrupt("the requests", "an id has the wrong length"))?;
            self.read_request(u128::from_be_bytes(id), &value)
        })
    }

    fn read_request(&self, id: u128, value: &[u8]) -> Result<StoredRequest, Error> {
        StoredRequest::decode(id, value)
            .map_err(|cause| self.corrupt(format!("the record of request {id:032x}"), cause))
    }

    /// About how many requests are recorded.
    pub(crate) fn requests_len(&self) -> u64 {
        self.requests.approximate_len() as u64
    }

    /// Up to `limit` records that are due between these times, both included, by due time.
    pub(crate) fn due(
        &self,
        from_us: u64,
        to_us: u64,
        limit: usize,
    ) -> Result<Vec<(u64, u128)>, Error> {
        let range = due_key(from_us, 0)..=due_key(to_us, u128::MAX);
        let keys = self.due.range(range).take(limit).map(|guard| {
            let key = guard.key().map_err(|e| self.read_error(&e))?;
            read_due_key(&key)
                .ok_or_else(|| self.corrupt("the requests", "a due time has the wrong length"))
        });
        keys.collect()
    }

    /// What the engine does and holds. Waits for the journal, should it be written just now.
    pub(crate) fn observe(&self) -> EngineStats {
        let database = &self.database;
        let keyspaces = [
            &self.log,
            &self.data,
            &self.outbox,
            &self.requests,
            &self.due,
            &self.meta,
        ];
        // It fails only where the engine has, and then writes say so.
        let journal_bytes = database.journal_disk_space().unwrap_or(0);
        let sum = |of: fn(&Keyspace) -> u64| keyspaces.iter().map(|keyspace| of(keyspace)).sum();
        let tables_bytes: u64 = sum(Keyspace::disk_space);
        EngineStats {
            disk_bytes: journal_bytes + tables_bytes,
            journal_bytes,
            tables: sum(|keyspace| keyspace.table_count() as u64),
            // The engine counts none. Write buffers are numbered from 0 in each life, and those
            // before the one in use have been written out, or wait for it.
            flushes: sum(|keyspace| {
                let buffer = keyspace.tree.active_memtable().id();
                buffer.saturating_sub(keyspace.sealed_memtable_count() as u64)
            }),
            flushes_waiting: sum(|keyspace| keyspace.sealed_memtable_count() as u64),
            compactions: database.compactions_completed() as u64,
            compactions_running: database.active_compactions() as u64,
            compacting_us: database.time_compacting().as_micros() as u64,
            buffer_bytes: database.write_buffer_size(),
            cache_bytes: database.cache_size(),
        }
    }

    /// Keys and values of the durable tier as they lie there, in order, from either end. What
    /// comes after an error is not told.
    pub(crate) fn raw(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), Error>> + '_ {
        self.data.range::<&[u8], _>(range).map(|guard| {
            let (key, value) = guard.into_inner().map_err(|e| self.read_error(&e))?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
        })
    }

    /// The value of a key of the durable tier as it lies there.
    pub(crate) fn get_raw(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.data.get(key).map_err(|e| self.read_error(&e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Whether key and value are what a store writes.
    pub(crate) fn check_value(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let key = self.key(key)?;
        self.stored(&key, value).map(|_| ())
    }
}

/// The stored form of a cell complete through `through`.
pub(crate) fn encode_stored(through: Time, cell: &Cell) -> Vec<u8> {
    let mut value = Vec::with_capacity(64);
    value.extend_from_slice(&through.as_u64().to_be_bytes());
    cell.encode(&mut value);
    value
}

fn user_key(key: &Key) -> UserKey {
    UserKey::new(key.as_bytes())
}

/// Big endian, so that the order of keys is the order of commits.
fn message_key((time, index): MessageId) -> UserValue {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&time.as_u64().to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    UserValue::new(&key)
}

fn read_message_key(key: &[u8]) -> Option<MessageId> {
    let (time, rest) = key.split_first_chunk::<8>()?;
    let index = <[u8; 4]>::try_from(rest).ok()?;
    let time = Time::from_u64(u64::from_be_bytes(*time));
    Some((time, u32::from_be_bytes(index)))
}
