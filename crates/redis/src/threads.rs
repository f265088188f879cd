//! The shards' threads, with connections living on them.
//!
//! Each shard of the store gets a thread with an async runtime of its own, and connections are
//! dealt out among them. A connection writes the keys of its thread's shard by a call; only
//! what belongs to another shard travels.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_store::{Driver, Shard, Sleeper, Turn, Turns};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long a shard sleeps when nobody asks for anything.
const TICK: Duration = Duration::from_millis(500);

thread_local! {
    /// The shard that this thread drives.
    static SHARD: RefCell<Option<Turns>> = const { RefCell::new(None) };
}

/// Shows `work` the shard of this thread, if it drives one. Not to be nested.
pub(crate) fn with<T>(work: impl FnOnce(&mut Shard) -> T) -> Option<T> {
    SHARD.with_borrow(|shard| shard.as_ref()?.with(work))
}

fn turn() -> Option<Turn> {
    SHARD.with_borrow(|shard| Some(shard.as_ref()?.turn()))
}

fn rest() {
    SHARD.with_borrow(|shard| shard.as_ref().map(Turns::rest));
}

/// Drives the shards of a store, and runs connections beside them.
pub struct Threads {
    /// Each until its shard's thread takes it.
    runtimes: Mutex<Vec<Option<Runtime>>>,
    handles: Vec<Handle>,
    next: AtomicUsize,
}

impl Threads {
    /// Runtimes for so many shards; at least one.
    ///
    /// # Errors
    /// What the system says, mostly that there are too many open files.
    pub fn new(shards: usize) -> io::Result<Arc<Threads>> {
        let make = |_| Builder::new_current_thread().enable_all().build();
        let runtimes: Vec<Runtime> = (0..shards.max(1)).map(make).collect::<Result<_, _>>()?;
        Ok(Arc::new(Threads {
            handles: runtimes.iter().map(|each| each.handle().clone()).collect(),
            runtimes: Mutex::new(runtimes.into_iter().map(Some).collect()),
            next: AtomicUsize::new(0),
        }))
    }

    /// Where the next connection lives: one thread after another.
    pub(crate) fn pick(&self) -> Option<&Handle> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.handles.get(next % self.handles.len())
    }
}

impl Driver for Threads {
    fn drive(&self, shard: Turns) {
        let mut runtimes = self.runtimes.lock();
        let runtime = runtimes.get_mut(shard.index()).and_then(Option::take);
        drop(runtimes);
        let Some(runtime) = runtime else {
            // More shards than runtimes: connections reach those by mail.
            return Sleeper.drive(shard);
        };
        let posted = Arc::new(Notify::new());
        let waker = Arc::clone(&posted);
        shard.set_waker(Arc::new(move || waker.notify_one()));
        SHARD.set(Some(shard));
        runtime.block_on(async {
            loop {
                match turn() {
                    Some(Turn::Busy) => tokio::task::yield_now().await,
                    // Meters show what was done, also when nothing more is.
                    Some(Turn::Idle) => {
                        if timeout(TICK, posted.notified()).await.is_err() {
                            rest();
                        }
                    }
                    Some(Turn::Stopped) | None => return,
                }
            }
        });
        // Connections that are left end before their shard does.
        drop(runtime);
        SHARD.take();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Those that no shard took may be dropped from within a runtime, which must not block.
        for runtime in self.runtimes.get_mut().drain(..).flatten() {
            runtime.shutdown_background();
        }
    }
}
