//! What the runtime's parts share.

use crate::app::{App, Bundles, Environments, Target, Version};
use crate::components::Components;
use crate::gate::Gate;
use crate::once::Flights;
use crate::options::Options;
use crate::requests::Requests;
use crate::rundir::RunDirectory;
use crate::shm::SharedValues;
use crate::worker::Shop;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use tidemill_lattice::{Clock, Entropy};
use tidemill_problem::{Code, Problem};
use tidemill_session::Tokens;
use tidemill_store::Store;
use tidemill_telemetry::Telemetry;

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) shared: Arc<SharedValues>,
    pub(crate) apps: RwLock<BTreeMap<String, Arc<App>>>,
    /// The versions that serve and that worker processes run, by app.
    pub(crate) working: Mutex<BTreeMap<Arc<str>, Arc<Version>>>,
    pub(crate) requests: Requests,
    /// Requests with a key that are on their way.
    pub(crate) in_flight: Mutex<Flights>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) shop: Shop,
    pub(crate) environments: Environments,
    pub(crate) bundles: Arc<Bundles>,
    /// The interpreter's version, once it was asked.
    pub(crate) python_version: tokio::sync::OnceCell<String>,
    pub(crate) deploying: Deploying,
    pub(crate) gate: Arc<Gate>,
    /// What runs WebAssembly.
    pub(crate) components: Components,
    /// The number of the next function that is deployed.
    pub(crate) next_function: AtomicU64,
    pub(crate) stopping: AtomicBool,
    pub(crate) names: Names,
    pub(crate) run_directories: [RunDirectory; 2],
}

/// Whose turn it is to deploy: of one app one at a time, so that the last one to begin is the last
/// one to serve; different apps beside each other.
#[derive(Default)]
pub(crate) struct Deploying(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Deploying {
    /// Waits for the app's turn, which lasts as long as this is held.
    pub(crate) async fn turn(&self, app: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(app).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(app.to_owned(), Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

/// Names of spans that are the same for every request.
pub(crate) struct Names {
    pub(crate) state: Arc<str>,
    pub(crate) handoff: Arc<str>,
    pub(crate) commit: Arc<str>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            state: "state".into(),
            handoff: "handoff".into(),
            commit: "commit".into(),
        }
    }
}

impl Inner {
    pub(crate) fn app(&self, name: &str) -> Result<Arc<App>, Problem> {
        let apps = self.apps.read();
        apps.get(name).cloned().ok_or_else(|| {
            Problem::new(
                Code::UnknownApp,
                format!("there is no app {name:?} on this node"),
            )
            .suggest(near(name, apps.keys().map(String::as_str)))
        })
    }

    pub(crate) fn version(&self, app: &str) -> Result<Arc<Version>, Problem> {
        self.app(app).map(|app| app.current())
    }

    /// What a name of an app means: a function, a flow, or a flow registered beside it.
    pub(crate) fn target(&self, version: &Version, name: &str) -> Result<Target, Problem> {
        if let Some(target) = version.target(name) {
            return Ok(target);
        }
        let app = self.app(&version.app)?;
        if let Some(flow) = app.loose(name) {
            return Ok(Target::Flow(flow));
        }
        let names = version.functions.keys().chain(version.flows.keys());
        Err(Problem::new(
            Code::UnknownFunction,
            format!("the app {} has no function or flow {name:?}", version.app),
        )
        .suggest(near(name, names.map(String::as_str))))
    }
}

/// Names close to a mistyped one, the closest first.
pub(crate) fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = known
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(score, _)| *score > 0.75)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
        .into_iter()
        .take(3)
        .map(|(_, other)| other.to_owned())
        .collect()
}
