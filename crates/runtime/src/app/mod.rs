//! Apps: what was deployed, unpacked and made ready to run. Knows workers and
//! flows; must not know requests or state.

mod archive;
mod bundles;
mod environment;
mod version;

pub(crate) use archive::{read_manifest, unpack};
pub(crate) use bundles::Bundles;
pub(crate) use environment::{Environments, python_version};
pub(crate) use version::{Flowing, Function, Make, RunsIn, Target, Version, load_failed};

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

/// How many flows that no manifest names an app may have at a time.
const LOOSE_FLOWS_MAX: usize = 1000;

/// One app: the version that serves, and flows registered beside it.
pub(crate) struct App {
    current: RwLock<Arc<Version>>,
    loose: Mutex<LooseFlows>,
}

#[derive(Default)]
struct LooseFlows {
    by_name: HashMap<String, Arc<Flowing>>,
    order: std::collections::VecDeque<String>,
}

impl App {
    pub(crate) fn new(version: Arc<Version>) -> Self {
        Self {
            current: RwLock::new(version),
            loose: Mutex::default(),
        }
    }

    pub(crate) fn current(&self) -> Arc<Version> {
        Arc::clone(&self.current.read())
    }

    /// Lets a new version serve. Requests that are running end on the old one.
    pub(crate) fn replace(&self, version: Arc<Version>) -> Arc<Version> {
        // Loose flows were checked against the old version's functions.
        *self.loose.lock() = LooseFlows::default();
        std::mem::replace(&mut *self.current.write(), version)
    }

    pub(crate) fn register(&self, name: String, flow: Arc<Flowing>) {
        let mut loose = self.loose.lock();
        if loose.by_name.insert(name.clone(), flow).is_none() {
            loose.order.push_back(name);
        }
        while loose.order.len() > LOOSE_FLOWS_MAX {
            if let Some(oldest) = loose.order.pop_front() {
                loose.by_name.remove(&oldest);
            }
        }
    }

    pub(crate) fn loose(&self, name: &str) -> Option<Arc<Flowing>> {
        self.loose.lock().by_name.get(name).cloned()
    }
}
