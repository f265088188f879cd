//! Clock, threads and a store: what the benchmark takes from the machine. Knows nothing of what is
//! measured.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tidemill_lattice::Clock;
use tidemill_store::{Embedded, Options, Store};

/// The wall clock.
struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the store's wall clock")]
    fn now_micros(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        since_epoch.map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        })
    }
}

/// What measures time.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Runs `work` with the numbers 0, 1, … on so many threads at once, and gives what they gave.
pub(crate) fn on_threads<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        // A panic on a thread is a panic here.
        ended
            .map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// A store on a directory that goes with it.
pub(crate) struct Opened {
    store: Arc<dyn Store>,
    _directory: TempDir,
}

impl Opened {
    /// An empty one, with the defaults of a node.
    pub(crate) fn new() -> io::Result<Opened> {
        let directory = tempfile::tempdir()?;
        let options = Options::new(directory.path().join("state"));
        let store = Embedded::open(options, Arc::new(SystemClock)).map_err(io::Error::other)?;
        Ok(Opened {
            store: Arc::new(store),
            _directory: directory,
        })
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
}
