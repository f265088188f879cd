//! Clock, randomness and a runtime without doors: what the benchmark takes from the machine.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tidemill_lattice::{Clock, DrawnAhead, Entropy};
use tidemill_runtime::{Options, Parts, Runtime};
use tidemill_store::{Durability, Embedded};
use tidemill_telemetry::Telemetry;

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the node's wall clock")]
    fn now_micros(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        since_epoch.map_or(0, |time| {
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        })
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the node's randomness")]
    fn fill(&self, bytes: &mut [u8]) {
        // Identities that repeat would spoil nothing that is measured.
        let _ = getrandom::fill(bytes);
    }
}

/// What measures time.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A runtime on this directory, with the defaults of a node, which answers for `memory`.
pub(crate) async fn runtime(directory: &Path) -> io::Result<Runtime> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = tidemill_store::Options::new(directory.join("state"));
    let store = Embedded::open(options, Arc::clone(&clock)).map_err(io::Error::other)?;
    let mut options = Options::new(directory.join("runtime"));
    options.durability = Durability::Memory;
    options.session_secret = Some([7; 32]);
    let parts = Parts {
        store: Arc::new(store),
        clock,
        entropy: Arc::new(DrawnAhead::new(SystemEntropy)),
        telemetry: Arc::new(Telemetry::default()),
    };
    Runtime::start(options, parts)
        .await
        .map_err(|problem| io::Error::other(problem.detail))
}

/// The process's resident memory, in bytes.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages
        .map(|pages| pages * 4096)
        .ok_or_else(|| io::Error::other("/proc/self/statm is not understood"))
}
