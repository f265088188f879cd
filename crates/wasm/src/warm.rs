//! The pools that hold something: code, or instances. Those that hold nothing cost nothing, however
//! many components are deployed, and those that hold code hold no more than a bound together.

use crate::pool::Pool;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The list of them.
pub(crate) struct Warm {
    pools: Mutex<Vec<Weak<Pool>>>,
    code_bytes: AtomicU64,
    code_bytes_max: u64,
}

impl Warm {
    pub(crate) fn new(code_bytes_max: u64) -> Self {
        Self {
            pools: Mutex::default(),
            code_bytes: AtomicU64::new(0),
            code_bytes_max,
        }
    }

    pub(crate) fn code_bytes(&self) -> u64 {
        self.code_bytes.load(Ordering::Relaxed)
    }

    /// A pool holds code of so many bytes from now on.
    pub(crate) fn enlist(&self, pool: &Arc<Pool>, code_bytes: u64) {
        let held = self.code_bytes.fetch_add(code_bytes, Ordering::Relaxed);
        {
            let mut pools = self.pools.lock();
            let own = Arc::downgrade(pool);
            if !pools.iter().any(|one| one.ptr_eq(&own)) {
                pools.push(own);
            }
        }
        if held.saturating_add(code_bytes) > self.code_bytes_max {
            self.make_room(pool);
        }
    }

    /// A pool holds code of so many bytes no more.
    pub(crate) fn let_go(&self, code_bytes: u64) {
        self.code_bytes.fetch_sub(code_bytes, Ordering::Relaxed);
    }

    fn all(&self) -> Vec<Arc<Pool>> {
        let pools = self.pools.lock();
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    /// Forgets those that hold nothing. Whoever begins to hold something enlists afterwards.
    fn prune(&self) {
        let is_warm = |pool: &Weak<Pool>| pool.upgrade().is_some_and(|pool| pool.is_warm());
        self.pools.lock().retain(is_warm);
    }

    /// Empties the pools that were used longest ago until there is room, and an eighth more, so
    /// that not every load has to look for some.
    fn make_room(&self, but: &Arc<Pool>) {
        let mut pools = self.all();
        pools.retain(|pool| !Arc::ptr_eq(pool, but) && pool.busy() == 0);
        pools.sort_by_key(|pool| pool.used_us());
        let enough = self.code_bytes_max - self.code_bytes_max / 8;
        for pool in pools {
            if self.code_bytes() <= enough {
                break;
            }
            pool.empty();
        }
        self.prune();
    }

    pub(crate) fn tick(&self, now_us: u64) {
        let pools = self.all();
        if pools.is_empty() {
            return;
        }
        for pool in pools {
            pool.tick(now_us);
        }
        self.prune();
    }

    /// Ends the instance that has rested longest, wherever it is. False if none rests.
    pub(crate) fn reclaim(&self) -> bool {
        let pools = self.all();
        let longest = pools
            .iter()
            .filter_map(|pool| Some((pool.resting_since_us()?, pool)))
            .min_by_key(|(since_us, _)| *since_us);
        longest.is_some_and(|(_, pool)| pool.drop_oldest())
    }
}
