//! A partition in a directory of this machine.
//!
//! It puts the parts together: the directory's lock, the engine, the tables, the pins, and the
//! sequencer's thread. Reads are answered here, on the caller's thread.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tidemill_lattice::{Cell, Clock, Key, Time, Writer};

use crate::engine::Engine;
use crate::fence::Fence;
use crate::lock::DirectoryLock;
use crate::sequencer::{Ask, Queue, Queued, Sequencer};
use crate::tables::{Found, Tables};
use crate::{
    Commit, Committed, Disk, Done, Error, MessageId, Page, Pins, Snapshot, Stats, Store,
    SystemDisk, Update, recovery, scan,
};

/// How an [`Embedded`] store runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it keeps everything. Created if it is not there.
    pub directory: PathBuf,
    /// How long a snapshot stays readable, in microseconds.
    pub snapshot_lifetime_us: u64,
    /// Above so many bytes of versions in memory, clean keys leave for the durable tier.
    pub memory_bytes: u64,
    /// The engine's cache of blocks, in bytes.
    pub cache_bytes: u64,
    /// A checkpoint begins after so many bytes of log.
    pub checkpoint_bytes: u64,
    /// A checkpoint begins after so many microseconds, if anything was logged.
    pub checkpoint_us: u64,
    /// Commits are refused when less space than this would stay free on the disk.
    pub reserve_bytes: u64,
    /// The disk below.
    pub disk: Arc<dyn Disk>,
}

impl Options {
    /// The defaults for a directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Options {
        const MEBIBYTE: u64 = 1024 * 1024;
        Options {
            directory: directory.into(),
            snapshot_lifetime_us: 10 * 60 * 1_000_000,
            memory_bytes: 512 * MEBIBYTE,
            cache_bytes: 64 * MEBIBYTE,
            checkpoint_bytes: 16 * MEBIBYTE,
            checkpoint_us: 10 * 1_000_000,
            reserve_bytes: 64 * MEBIBYTE,
            disk: Arc::new(SystemDisk),
        }
    }
}

/// Numbers that the sequencer counts and everybody reads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) commits_per_flush: [AtomicU64; 8],
    pub(crate) log_bytes: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint: AtomicU64,
    pub(crate) read_only: AtomicBool,
}

/// What readers and the sequencer share. The lock is the last to go.
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) engine: Engine,
    pub(crate) tables: Tables,
    pub(crate) pins: Arc<Pins>,
    pub(crate) pending: Mutex<BTreeMap<MessageId, Bytes>>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) wake: Condvar,
    pub(crate) counters: Counters,
    _lock: DirectoryLock,
}

impl Inner {
    /// A key as of `at`. The caller checks the pin afterwards.
    pub(crate) fn read(&self, key: &Key, at: Time, keep: bool) -> Result<Option<Arc<Cell>>, Error> {
        let ticket = match self.tables.get(key, at) {
            Found::Here(cell) => return Ok(cell),
            Found::Cold(ticket) => ticket,
        };
        // A key missing from memory is clean: the durable tier has every commit to it that a
        // live snapshot can see, and no other, since only folded bases are stored.
        let Some(stored) = self.engine.load(key)? else {
            return Ok(None);
        };
        let cell = Arc::new(stored.cell);
        let budget = self.options.memory_bytes;
        if keep && self.tables.bytes() <= budget + budget / 8 {
            self.tables
                .offer(key, Arc::clone(&cell), stored.through, ticket);
        }
        Ok((!cell.is_bottom()).then_some(cell))
    }
}

/// A store in a directory. Dropping it answers what is queued, syncs, and releases the
/// directory.
pub struct Embedded {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
    writer: Writer,
}

impl Embedded {
    /// Queues something for the sequencer.
    fn ask(&self, ask: Ask, done: Done) {
        let mut queue = self.inner.queue.lock();
        if queue.closing {
            drop(queue);
            return done(Err(Error::Closed));
        }
        queue.commits.push(Queued { ask, done });
        let idle = queue.idle;
        drop(queue);
        if idle {
            self.inner.wake.notify_one();
        }
    }

    /// Opens a directory: takes its lock, recovers what the last life left, begins a new
    /// epoch, and starts the sequencer. `clock` is the wall clock.
    ///
    /// # Errors
    /// [`Error::InUse`] if another store has it open; [`Error::Corrupt`] if what is there is
    /// damaged; [`Error::Format`] if a newer version wrote it; [`Error::Io`] otherwise.
    pub fn open(options: Options, clock: Arc<dyn Clock>) -> Result<Embedded, Error> {
        let lock = DirectoryLock::take(&options.directory)?;
        let (mut fence, void) =
            Fence::open(&options.directory).map_err(|e| fence_error(&options, &e))?;
        let engine = Engine::open(
            &options.directory,
            Arc::clone(&options.disk),
            options.cache_bytes,
        )?;
        let tables = Tables::new();
        let recovered = recovery::recover(&engine, &tables, void)?;
        engine.begin(recovered.writer.0, &recovered.drop)?;
        if void.is_some() {
            fence.clear().map_err(|e| fence_error(&options, &e))?;
        }
        let pins = Pins::new(recovered.stable, options.snapshot_lifetime_us);
        let counters = Counters::default();
        counters
            .checkpoint
            .store(recovered.checkpoint.as_u64(), Ordering::Relaxed);
        let writer = recovered.writer;
        let inner = Arc::new(Inner {
            pending: Mutex::new(recovered.pending.clone()),
            options,
            clock,
            engine,
            tables,
            pins,
            queue: Mutex::default(),
            wake: Condvar::new(),
            counters,
            _lock: lock,
        });
        let sequencer = Sequencer::new(Arc::clone(&inner), recovered, fence);
        let thread = start(sequencer).map_err(|e| Error::Io {
            operation: "starting the sequencer's thread",
            directory: inner.options.directory.clone(),
            cause: e.to_string(),
        })?;
        Ok(Embedded {
            inner,
            thread: Some(thread),
            writer,
        })
    }

    /// The writer of this life of the store: an epoch, one above the last life's.
    #[must_use]
    pub fn writer(&self) -> Writer {
        self.writer
    }

    /// Makes the durable tier complete through the low water and trims the log behind it.
    /// Blocks until done; for tests, backups and orderly stops. The store does it by itself
    /// as the log grows.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`] or [`Error::ReadOnly`] if it can not be written.
    pub fn checkpoint(&self) -> Result<Time, Error> {
        let (sender, receiver) = mpsc::sync_channel(1);
        {
            let mut queue = self.inner.queue.lock();
            if queue.closing {
                return Err(Error::Closed);
            }
            queue.checkpoints.push(sender);
        }
        self.inner.wake.notify_one();
        receiver.recv().map_err(|_| Error::Closed)?
    }
}

fn start(sequencer: Sequencer) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("store-sequencer".to_owned())
        .spawn(move || sequencer.run())
}

fn fence_error(options: &Options, error: &std::io::Error) -> Error {
    Error::Io {
        operation: "opening the fence file",
        directory: options.directory.clone(),
        cause: error.to_string(),
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.inner.queue.lock().closing = true;
        self.inner.wake.notify_one();
        let Some(thread) = self.thread.take() else {
            return;
        };
        // Dropped from a `done`: the sequencer can not wait for itself, and ends on its own.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the sequencer ended in a panic");
        }
    }
}

impl Store for Embedded {
    fn snapshot(&self) -> Snapshot {
        self.inner.pins.pin(self.inner.clock.now_micros())
    }

    fn read_at(&self, key: &Key, at: &Snapshot) -> Result<Option<Arc<Cell>>, Error> {
        let cell = self.inner.read(key, at.time(), true);
        self.inner.pins.check(at.time())?;
        cell
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        at: &Snapshot,
    ) -> Result<Page, Error> {
        scan::page(&self.inner, prefix, after, limit, at.time())
    }

    fn commit(&self, commit: Commit, done: Done) {
        if commit.is_empty() {
            return done(Ok(Committed {
                time: commit.snapshot,
                messages: Vec::new(),
            }));
        }
        let held = match self
            .inner
            .pins
            .hold(commit.snapshot, self.inner.clock.now_micros())
        {
            Ok(held) => held,
            Err(error) => return done(Err(error)),
        };
        self.ask(Ask::Commit(commit, held), done);
    }

    fn update(&self, update: Update, done: Done) {
        self.ask(Ask::Update(update), done);
    }

    fn apply(
        &self,
        prefix: &[u8],
        at: &Snapshot,
        each: &mut dyn FnMut(&Key, &Cell) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        scan::each(&self.inner, prefix, None, at.time(), &mut |key, cell| {
            each(&key, &cell)
        })
    }

    fn pending_messages(&self) -> Result<Vec<(MessageId, Bytes)>, Error> {
        let pending = self.inner.pending.lock();
        Ok(pending
            .iter()
            .map(|(id, body)| (*id, body.clone()))
            .collect())
    }

    fn stats(&self) -> Stats {
        let inner = &*self.inner;
        let counters = &inner.counters;
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let now_us = inner.clock.now_micros();
        Stats {
            keys: inner.tables.keys(),
            bytes: inner.tables.bytes(),
            commits: number(&counters.commits),
            flushes: number(&counters.flushes),
            syncs: number(&counters.syncs),
            commits_per_flush: counters.commits_per_flush.each_ref().map(number),
            log_bytes: number(&counters.log_bytes),
            checkpoints: number(&counters.checkpoints),
            checkpoint: Time::from_u64(number(&counters.checkpoint)),
            oldest_pin_us: inner.pins.oldest_age_us(now_us),
            low_water: inner.pins.low_water(now_us),
            stable: inner.pins.stable(),
            messages_pending: inner.pending.lock().len() as u64,
            conflicts_dropped: inner.tables.conflicts(),
            read_only: counters.read_only.load(Ordering::Relaxed),
        }
    }
}
