//! Clocks, threads, processors and stores: what a benchmark takes from the machine. Knows
//! nothing of what is measured.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use tidemill_lattice::{Clock, Dot, Writer};
use tidemill_store::{Embedded, Options, PROVISIONAL, Store};

/// The wall clock.
#[derive(Clone, Copy, Debug)]
struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the store's wall clock")]
    fn now_micros(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        since_epoch.map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        })
    }

    fn coarse_micros(&self) -> u64 {
        let since_epoch = clock_gettime(ClockId::RealtimeCoarse);
        let seconds = u64::try_from(since_epoch.tv_sec).unwrap_or(0);
        let micros = u64::try_from(since_epoch.tv_nsec).unwrap_or(0) / 1000;
        seconds.saturating_mul(1_000_000).saturating_add(micros)
    }
}

/// What measures time.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits, as a writer of a steady pace does between two bursts.
#[expect(clippy::disallowed_methods, reason = "it paces a writer")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}

/// Waits until this process rests: what a store does behind its callers is not the next side's.
/// A minute at most.
pub(crate) fn rest() {
    const LOOK: Duration = Duration::from_millis(250);
    let begun = now();
    let mut before = cpu_time();
    while begun.elapsed() < Duration::from_mins(1) {
        pause(LOOK);
        let used = cpu_time();
        if used.saturating_sub(before) < LOOK / 20 {
            return;
        }
        before = used;
    }
}

/// The processor time of this process up to now.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Runs `work` with the numbers 0, 1, … on so many threads at once, and gives what they gave.
pub(crate) fn on_threads<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
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

/// How many processors this process may use.
pub(crate) fn cores() -> io::Result<usize> {
    Ok(usize::try_from(sched_getaffinity(None)?.count()).unwrap_or(1))
}

/// Runs `work`, and the threads that it starts, on the first `count` of the processors that this
/// thread may use.
pub(crate) fn on_cores<T>(count: usize, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let all = sched_getaffinity(None)?;
    let mut some = CpuSet::new();
    let allowed = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    allowed.take(count).for_each(|core| some.set(core));
    sched_setaffinity(None, &some)?;
    let done = work();
    sched_setaffinity(None, &all)?;
    done
}

/// A store in a directory of its own, which goes with it.
pub(crate) struct Scratch {
    // Dropped before its directory.
    store: Arc<Embedded>,
    _directory: TempDir,
}

impl Scratch {
    /// The store. A method, so that a closure that uses it takes the directory along.
    pub(crate) fn store(&self) -> &Embedded {
        &self.store
    }

    /// The store, as requests take it.
    pub(crate) fn shared(&self) -> Arc<dyn Store> {
        Arc::<Embedded>::clone(&self.store)
    }
}

/// A new store with so many shards.
pub(crate) fn open(shards: usize) -> io::Result<Scratch> {
    let directory = tempfile::tempdir()?;
    // All that is measured is in memory, also where a map holds it.
    let options = Options {
        memory_bytes: 8 << 30,
        shards,
        ..Options::new(directory.path())
    };
    let store = Embedded::open(options, Arc::new(SystemClock)).map_err(io::Error::other)?;
    Ok(Scratch {
        store: Arc::new(store),
        _directory: directory,
    })
}

/// Dots of a write that has no time yet.
pub(crate) fn provisional() -> impl FnMut() -> Dot {
    let mut next = 0;
    move || {
        next += 1;
        Dot::new(PROVISIONAL, Writer(0), next - 1)
    }
}
