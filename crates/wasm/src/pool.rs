//! The instances of one component with the same grants: those that rest wait for the next call,
//! and those that rest too long end. While nothing is called, not even the code is held.

use crate::component::Component;
use crate::engine::Engine;
use crate::error::{ComponentError, Failure};
use crate::instance::Instance;
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// What an instance is given beside the platform.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
    /// The most memory that it may hold, in bytes.
    pub memory_bytes: u64,
    /// Hosts that it may send HTTP requests to: `host`, `host:port`, or `*.domain`.
    pub hosts: Vec<String>,
}

/// A component's instances.
pub struct Pool {
    engine: Arc<Engine>,
    /// Where the component's bytes are.
    path: PathBuf,
    grants: Arc<Grants>,
    idle_timeout_us: u64,
    code: RwLock<Option<Component>>,
    loading: tokio::sync::Mutex<()>,
    /// The one that rests longest in front.
    resting: Mutex<VecDeque<Resting>>,
    used_us: AtomicU64,
    busy: AtomicUsize,
}

struct Resting {
    instance: Instance,
    since_us: u64,
}

/// An instance that somebody uses. Dropped without being given back, it ends.
pub struct Lease {
    pool: Arc<Pool>,
    instance: Option<Instance>,
    is_fresh: bool,
}

/// Why there is no instance.
#[derive(Debug)]
pub enum NoInstance {
    /// The code cannot be had.
    Component(ComponentError),
    /// The instance did not start.
    Start(Failure),
}

impl Pool {
    /// A pool without instances.
    #[must_use]
    pub fn new(
        engine: &Arc<Engine>,
        path: PathBuf,
        grants: Grants,
        idle_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine: Arc::clone(engine),
            path,
            grants: Arc::new(grants),
            idle_timeout_us: u64::try_from(idle_timeout.as_micros()).unwrap_or(u64::MAX),
            code: RwLock::new(None),
            loading: tokio::sync::Mutex::new(()),
            resting: Mutex::default(),
            used_us: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
        })
    }

    /// The component: held, or from the cache, or compiled.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn component(self: &Arc<Self>, now_us: u64) -> Result<Component, ComponentError> {
        self.used_us.fetch_max(now_us, Ordering::Relaxed);
        if let Some(component) = self.code.read().clone() {
            return Ok(component);
        }
        let _one = self.loading.lock().await;
        if let Some(component) = self.code.read().clone() {
            return Ok(component);
        }
        let (engine, path) = (Arc::clone(&self.engine), self.path.clone());
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(now_us);
        let load = move || {
            let bytes =
                std::fs::read(&path).map_err(|error| ComponentError::Unreadable { path, error })?;
            engine.component(&bytes, now)
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let component =
            loaded.map_err(|error| ComponentError::Invalid(format!("the compiler: {error}")))??;
        *self.code.write() = Some(component.clone());
        let warm = self.engine.warm();
        warm.enlist(self, component.code_bytes());
        Ok(component)
    }

    /// An instance of one's own: one that rests, or with `is_fresh` or where none does a new one.
    ///
    /// # Errors
    /// Where the code cannot be had, the instance not start, or no place is free.
    pub async fn acquire(
        self: &Arc<Self>,
        is_fresh: bool,
        now_us: u64,
    ) -> Result<Lease, NoInstance> {
        // Busy from the beginning: what a busy pool holds is not taken from it.
        self.busy.fetch_add(1, Ordering::Relaxed);
        let mut lease = Lease {
            pool: Arc::clone(self),
            instance: None,
            is_fresh,
        };
        if !is_fresh {
            // The one that rested least: others may end.
            let resting = self.resting.lock().pop_back();
            if let Some(Resting { instance, .. }) = resting {
                self.used_us.fetch_max(now_us, Ordering::Relaxed);
                lease.instance = Some(instance);
                return Ok(lease);
            }
        }
        let component = self.component(now_us).await;
        let component = component.map_err(NoInstance::Component)?;
        loop {
            match component.instantiate(&self.grants).await {
                Ok(instance) => {
                    lease.instance = Some(instance);
                    return Ok(lease);
                }
                Err(Failure::Full) if self.engine.warm().reclaim() => {}
                Err(failure) => return Err(NoInstance::Start(failure)),
            }
        }
    }

    /// Ends what has rested too long, and lets go of the code that nobody uses.
    pub(crate) fn tick(&self, now_us: u64) {
        let limit_us = now_us.saturating_sub(self.idle_timeout_us);
        let ended: Vec<Resting> = {
            let mut resting = self.resting.lock();
            let count = resting
                .iter()
                .take_while(|one| one.since_us < limit_us)
                .count();
            resting.drain(..count).collect()
        };
        drop(ended);
        let is_unused =
            self.busy() + self.resting() == 0 && self.used_us.load(Ordering::Relaxed) < limit_us;
        if is_unused {
            self.forget_code();
        }
    }

    /// Ends what rests and lets go of the code.
    pub(crate) fn empty(&self) {
        let resting = std::mem::take(&mut *self.resting.lock());
        drop(resting);
        self.forget_code();
    }

    fn forget_code(&self) {
        let code = self.code.write().take();
        if let Some(component) = code {
            self.engine.warm().let_go(component.code_bytes());
        }
    }

    /// Whether it holds anything that may have to be let go of.
    pub(crate) fn is_warm(&self) -> bool {
        self.code.read().is_some() || self.resting() + self.busy() > 0
    }

    /// When somebody last asked for an instance.
    pub(crate) fn used_us(&self) -> u64 {
        self.used_us.load(Ordering::Relaxed)
    }

    /// Instances that rest.
    #[must_use]
    pub fn resting(&self) -> usize {
        self.resting.lock().len()
    }

    /// Instances that handle calls.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    pub(crate) fn resting_since_us(&self) -> Option<u64> {
        Some(self.resting.lock().front()?.since_us)
    }

    pub(crate) fn drop_oldest(&self) -> bool {
        let oldest = self.resting.lock().pop_front();
        oldest.is_some()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.forget_code();
    }
}

impl Lease {
    /// The instance: there until it is given back.
    pub fn instance(&mut self) -> Option<&mut Instance> {
        self.instance.as_mut()
    }

    /// Lets the instance rest for the next call, if it can handle one.
    pub fn give_back(mut self, now_us: u64) {
        let Some(instance) = self.instance.take() else {
            return;
        };
        if instance.is_sound() && !self.is_fresh && self.pool.idle_timeout_us > 0 {
            self.pool.resting.lock().push_back(Resting {
                instance,
                since_us: now_us,
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.instance.take());
        self.pool.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
