//! The clock by which running guests give others their turn: a thread that raises the engine's
//! epoch while guests run, and sleeps while none does.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use wasmtime::{Engine, EngineWeak};

/// How long a guest may compute before others have their turn.
const TICK: Duration = Duration::from_millis(5);
/// After so many ticks without a guest the thread sleeps. Calls that come one by one should not
/// each have to wake it.
const IDLE_TICKS: u32 = 100;

/// Raises the epoch of an engine while guests run.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    running: AtomicUsize,
    sleeps: AtomicBool,
    stops: Mutex<bool>,
    wake: Condvar,
}

/// A guest runs as long as this is held.
pub(crate) struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ticker {
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            running: AtomicUsize::new(0),
            sleeps: AtomicBool::new(false),
            stops: Mutex::new(false),
            wake: Condvar::new(),
        });
        let (engine, own) = (engine.weak(), Arc::clone(&shared));
        // A timer of the async runtime would not do: a guest that computes without end on each
        // of its threads would keep it from firing.
        let thread = std::thread::Builder::new()
            .name("wasm-epoch".into())
            .spawn(move || own.run(&engine))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A guest begins to run.
    pub(crate) fn run(&self) -> Running {
        // Both sides write, then read what the other writes: one of them sees it.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.sleeps.load(Ordering::SeqCst) {
            let _stops = self.shared.stops.lock();
            self.shared.wake.notify_one();
        }
        Running(Arc::clone(&self.shared))
    }
}

impl Shared {
    fn run(&self, engine: &EngineWeak) {
        let mut idle_ticks = 0;
        let mut stops = self.stops.lock();
        while !*stops {
            if self.running.load(Ordering::Relaxed) > 0 {
                idle_ticks = 0;
            } else {
                idle_ticks += 1;
            }
            if idle_ticks > IDLE_TICKS {
                self.sleeps.store(true, Ordering::SeqCst);
                if self.running.load(Ordering::SeqCst) == 0 {
                    self.wake.wait(&mut stops);
                }
                self.sleeps.store(false, Ordering::SeqCst);
                idle_ticks = 0;
                continue;
            }
            self.wake.wait_for(&mut stops, TICK);
            let Some(engine) = engine.upgrade() else {
                return;
            };
            engine.increment_epoch();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.shared.stops.lock() = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
