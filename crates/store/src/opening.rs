//! Opening a directory: recovery, then the parts of a store put together and its threads started.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, ThreadId};

use parking_lot::{Condvar, Mutex};
use tidemill_lattice::Clock;

use crate::embedded::{Counters, Embedded, Inner, SLOTS};
use crate::engine::Engine;
use crate::fence::Fence;
use crate::frontier::Frontier;
use crate::lock::DirectoryLock;
use crate::loss::Losses;
use crate::mailbox::{Mail, Mailbox};
use crate::owner::Owner;
use crate::recovery::{self, Recovered};
use crate::sequencer::Sequencer;
use crate::shard::Shard;
use crate::sizes::Sizes;
use crate::space::Space;
use crate::stable::Unstable;
use crate::turns::{self, Slot, Turns};
use crate::verify::corrupt_fence;
use crate::{Error, Options, Pins};

/// The threads of a store.
pub(crate) struct Threads {
    sequencer: JoinHandle<()>,
    shards: Vec<JoinHandle<()>>,
}

/// See [`Embedded::open`].
pub(crate) fn open(options: Options, clock: Arc<dyn Clock>) -> Result<Embedded, Error> {
    let lock = DirectoryLock::take(&options.directory)?;
    let (mut fence, void) =
        Fence::open(&options.directory).map_err(|e| fence_error(&options, &e))?;
    // Where that can not be known, little is assumed.
    let free_bytes = options.disk.free_bytes(&options.directory).unwrap_or(0);
    let sizes = Sizes::for_free(free_bytes);
    let options = Options {
        checkpoint_bytes: options.checkpoint_bytes.min(sizes.checkpoint_bytes),
        reserve_bytes: options.reserve_bytes.max(sizes.reserve_bytes),
        ..options
    };
    let engine = Engine::open(
        &options.directory,
        Arc::clone(&options.disk),
        options.cache_bytes,
        sizes,
    )?;
    let mut owners = recovery::owners(options.shards.clamp(1, SLOTS as usize));
    let recovered = recovery::recover(&engine, &mut owners, void)?;
    engine.begin(recovered.writer.0, &recovered.drop, &recovered.voided)?;
    if void.is_some() {
        fence.clear().map_err(|e| fence_error(&options, &e))?;
    }
    let inner = assemble(options, clock, engine, lock, &owners, &recovered)?;
    let writer = recovered.writer;
    let shards = owners.into_iter().enumerate();
    let slots = shards.map(|(index, owner)| {
        let shard = Shard::new(index, Arc::clone(&inner), owner, writer);
        Arc::new(Mutex::new(Some(shard)))
    });
    let slots = inner.slots.get_or_init(|| slots.collect());
    let sequencer = Sequencer::new(Arc::clone(&inner), recovered, fence);
    let sequencer = Arc::new(Mutex::new(sequencer));
    let threads = start(&inner, &sequencer, slots).map_err(|e| {
        for slot in slots {
            drop(slot.lock().take());
        }
        Error::Io {
            operation: "starting the store's threads",
            directory: inner.options.directory.clone(),
            cause: e.to_string(),
        }
    })?;
    Ok(Embedded::new(inner, sequencer, threads, writer))
}

/// What all threads share.
fn assemble(
    options: Options,
    clock: Arc<dyn Clock>,
    engine: Engine,
    lock: DirectoryLock,
    owners: &[Owner],
    recovered: &Recovered,
) -> Result<Arc<Inner>, Error> {
    let pins = Pins::new(recovered.floor, options.snapshot_lifetime_us);
    let counters = Counters::default();
    counters
        .checkpoint
        .store(recovered.checkpoint.as_u64(), Ordering::Relaxed);
    let space = Space::new(
        options.directory.clone(),
        Arc::clone(&options.disk),
        options.reserve_bytes,
    );
    let losses = Losses::open(
        &options.directory,
        Arc::clone(&options.disk),
        recovered.reach,
    )?;
    Ok(Arc::new(Inner {
        pending: Mutex::new(recovered.pending.clone()),
        views: owners
            .iter()
            .map(|owner| Arc::clone(owner.view()))
            .collect(),
        mailboxes: owners.iter().map(|_| Mailbox::default()).collect(),
        slots: OnceLock::new(),
        // One slot more, for the sequencer.
        frontier: Frontier::new(recovered.floor, owners.len() + 1),
        options,
        clock,
        engine,
        pins,
        queue: Mutex::default(),
        wake: Condvar::new(),
        space,
        losses,
        backlog: AtomicU64::new(0),
        // Opening has synced what it found.
        synced_through: AtomicU64::new(recovered.floor.as_u64()),
        unstable: Unstable::default(),
        voided_from: AtomicU64::new(u64::MAX),
        counters,
        cause: Mutex::default(),
        watchers: Arc::default(),
        _lock: lock,
    }))
}

fn start(
    inner: &Arc<Inner>,
    sequencer: &Arc<Mutex<Sequencer>>,
    slots: &[Slot],
) -> std::io::Result<Threads> {
    let mut threads = Vec::with_capacity(slots.len());
    for (index, slot) in slots.iter().enumerate() {
        let driver = Arc::clone(&inner.options.driver);
        let turns = Turns::new(index, Arc::clone(inner), Arc::clone(slot));
        let thread = thread::Builder::new().name(format!("store-shard-{index}"));
        threads.push(thread.spawn(move || {
            turns::begin_driving();
            driver.drive(turns);
        })?);
    }
    let thread = thread::Builder::new().name("store-log".to_owned());
    let sequencer = Arc::clone(sequencer);
    Ok(Threads {
        sequencer: thread.spawn(move || Sequencer::run(&sequencer))?,
        shards: threads,
    })
}

fn fence_error(options: &Options, error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::InvalidData {
        return corrupt_fence(&options.directory, error);
    }
    Error::Io {
        operation: "opening the fence file",
        directory: options.directory.clone(),
        cause: error.to_string(),
    }
}

impl Threads {
    pub(crate) fn has(&self, id: ThreadId) -> bool {
        let mut all = self.shards.iter().chain([&self.sequencer]);
        all.any(|thread| thread.thread().id() == id)
    }

    /// Ends them in the order in which they need each other.
    pub(crate) fn end(self, inner: &Inner) {
        for mailbox in &inner.mailboxes {
            mailbox.close();
        }
        for shard in 0..inner.mailboxes.len() {
            // What was asked before is with the log after this; a shard that is gone asks nothing.
            drop(inner.call(shard, |_| ()));
        }
        inner.queue.lock().closing = true;
        inner.wake.notify_one();
        if self.sequencer.join().is_err() {
            tracing::error!("the log's thread ended in a panic");
        }
        for mailbox in &inner.mailboxes {
            drop(mailbox.post(Mail::Stop));
        }
        for shard in self.shards {
            if shard.join().is_err() {
                tracing::error!("a shard's thread ended in a panic");
            }
        }
    }
}
