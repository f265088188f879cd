//! Runs code: apps and their versions, worker processes, requests and their limits.
//!
//! A call is a request. It is admitted with one snapshot, becomes a plan of hand-offs
//! to workers, and ends in one commit; see `execute`. This room reaches state through
//! `session` and never through a peer's socket; it must not know HTTP or the command
//! line, and it never opens a pickle.

mod api;
mod app;
mod components;
mod deploy;
mod execute;
mod gate;
mod inner;
mod level;
mod manifest;
mod once;
mod options;
mod protocol;
mod request;
mod requests;
mod rundir;
mod sessions;
mod shm;
mod state;
mod worker;

pub use api::{
    Answer, AppSummary, Archive, Asked, Call, Caller, Deployed, Fetched, FlowSummary,
    FunctionSummary, Output, RequestId, RequestState, RequestSummary, StreamEvent,
};
pub use level::{DurabilityName, Level};
pub use manifest::{Entry, FlowSpec, FunctionKind, FunctionSpec, Manifest, RuntimeKind};
pub use options::{Limits, Options};
pub use sessions::SessionSeen;
pub use state::store_problem;
pub use tidemill_scheduler::AdmissionPolicy;
pub use tidemill_wasm::{Exchange, Head};

use app::{Bundles, Environments};
use components::Components;
use gate::Gate;
use inner::{Deploying, Inner, Names};
use once::Flights;
use parking_lot::{Mutex, RwLock};
use requests::Requests;
use rundir::{RunDirectory, sweep};
use shm::SharedValues;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tidemill_flow::Flow;
use tidemill_lattice::{Cell, Clock, Entropy, Key, Kind, Op, Time};
use tidemill_problem::{Code, Problem};
use tidemill_scheduler::{AdmissionStats, PoolStats};
use tidemill_store::watch::{Wake, Watch, Watched};
use tidemill_store::{Durability, Observed, Stats, Store};
use tidemill_telemetry::Telemetry;
use worker::{Launcher, Listener, Shop};

/// How often pools look at the time, and memory limits are checked.
const TICK: Duration = Duration::from_millis(50);
/// How long a stopping node waits for requests that are running.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The parts with behaviour that a runtime is given.
pub struct Parts {
    /// Where state is.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for identities and secrets.
    pub entropy: Arc<dyn Entropy>,
    /// Where logs, spans and meters go.
    pub telemetry: Arc<Telemetry>,
}

/// A handle to the runtime; cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
    // Ends the ticking with the last handle.
    _ticking: Arc<Ticking>,
}

struct Ticking(tokio::task::AbortHandle);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keys of an app's state.
#[derive(Clone, Debug)]
pub struct StatePage {
    /// Names and types, in order.
    pub keys: Vec<(String, Kind)>,
    /// The name to go on after, when there may be more.
    pub next: Option<String>,
}

/// Instances of an app's components.
#[derive(Clone, Copy, Debug, Default)]
pub struct Instances {
    /// Those that handle calls.
    pub active: usize,
    /// Those that rest.
    pub idle: usize,
}

/// A function that answers HTTP requests.
#[derive(Clone, Debug)]
pub struct Web {
    /// Its name.
    pub function: Arc<str>,
    /// Whether anybody may call it.
    pub is_public: bool,
}

/// What the runtime is doing right now.
#[derive(Clone, Debug)]
pub struct Gauges {
    /// Requests on the list that have not ended.
    pub requests_running: usize,
    /// Requests and limited functions' runs that are in, and that wait for their turn.
    pub admission: AdmissionStats,
    /// Apps deployed.
    pub apps: usize,
    /// Worker processes and those that wait for them, by app.
    pub pools: Vec<(Arc<str>, PoolStats)>,
    /// Instances of components at work and resting, by app, where there are any.
    pub instances: Vec<(Arc<str>, Instances)>,
    /// The store's numbers.
    pub store: Stats,
}

fn io_problem(what: &str, path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(
        Code::StorageFailed,
        format!("{what} {}: {error}", path.display()),
    )
}

impl Runtime {
    /// Starts a runtime: apps deployed before serve at once, their workers start
    /// when they are called.
    ///
    /// # Errors
    /// `storage-failed` where a directory cannot be made or an app not be read.
    pub async fn start(options: Options, parts: Parts) -> Result<Self, Problem> {
        let shared_base = Path::new("/dev/shm");
        let temporary = std::env::temp_dir();
        let shared_base = if shared_base.is_dir() {
            shared_base
        } else {
            &temporary
        };
        sweep(shared_base);
        sweep(&temporary);
        let make = |base: &Path| {
            RunDirectory::make(base, &*parts.entropy)
                .map_err(|error| io_problem("cannot make a directory in", base, &error))
        };
        let run_directories = [make(shared_base)?, make(&temporary)?];
        let [values, sockets] = run_directories.each_ref().map(RunDirectory::path);
        let shared = values.join("values");
        let shared = SharedValues::open(shared.clone(), options.limits.shared_bytes)
            .map_err(|error| io_problem("cannot make", &shared, &error))?;
        let path = sockets.join("workers.sock");
        let listener = Listener::bind(path.clone())
            .map_err(|error| io_problem("cannot listen on", &path, &error))?;
        let launcher = Launcher {
            listener,
            shared_directory: shared.directory().to_owned(),
            python: options.python.clone(),
            sdk: options.sdk_directory.clone(),
            entropy: Arc::clone(&parts.entropy),
        };
        let gate = Gate::new(options.admission, Arc::clone(&parts.clock))
            .map_err(|error| Problem::new(Code::BadRequest, error.to_string()))?;
        let shop = Shop {
            launcher: Arc::new(launcher),
            clock: Arc::clone(&parts.clock),
            worker_ids: Arc::new(AtomicU64::new(0)),
        };
        let components = Components::new(&options, &*parts.entropy);
        let inner = Arc::new(Inner {
            tokens: Arc::new(sessions::tokens(options.session_secret, &*parts.entropy)),
            requests: Requests::new(options.limits.requests_kept, options.limits.results_bytes),
            in_flight: Mutex::new(Flights::new()),
            environments: Environments::new(
                options.directory.join("environments"),
                options.python.clone(),
            ),
            bundles: Bundles::new(options.directory.join("apps")),
            run_directories,
            options,
            store: parts.store,
            clock: parts.clock,
            entropy: parts.entropy,
            telemetry: parts.telemetry,
            shared: Arc::new(shared),
            apps: RwLock::new(BTreeMap::new()),
            working: Mutex::default(),
            shop,
            python_version: tokio::sync::OnceCell::new(),
            deploying: Deploying::default(),
            gate,
            components,
            next_function: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            names: Names::default(),
        });
        let ticking = tokio::spawn(tick(Arc::downgrade(&inner))).abort_handle();
        let runtime = Self {
            inner,
            _ticking: Arc::new(Ticking(ticking)),
        };
        runtime.restore().await?;
        runtime.inner.bundles.sweep();
        runtime.resend()?;
        Ok(runtime)
    }

    /// Refuses new calls, gives running ones a moment, and ends all workers.
    pub async fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        let finished = async {
            while self.inner.requests.running() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(STOP_GRACE, finished).await;
        self.inner.bundles.keep();
        let apps = std::mem::take(&mut *self.inner.apps.write());
        self.inner.working.lock().clear();
        for app in apps.values() {
            app.current().retire();
        }
        for directory in &self.inner.run_directories {
            directory.remove();
        }
    }

    /// Requests on the list, the newest first.
    #[must_use]
    pub fn requests(
        &self,
        app: Option<&str>,
        state: Option<RequestState>,
        limit: usize,
    ) -> Vec<RequestSummary> {
        self.inner
            .requests
            .list(self.inner.clock.now_micros(), app, state, limit)
    }

    /// One request, on the list or recorded.
    #[must_use]
    pub fn request(&self, id: RequestId) -> Option<RequestSummary> {
        let inner = &self.inner;
        let listed = inner.requests.summary(id, inner.clock.now_micros());
        listed.or_else(|| Some(inner.answered(id)?.summary(id)))
    }

    /// The result of a request that was submitted, or that is recorded.
    #[must_use]
    pub fn fetch(&self, id: RequestId) -> Option<Fetched> {
        let inner = &self.inner;
        let listed = inner.requests.fetch(id, inner.clock.now_micros());
        if !matches!(listed, None | Some(Fetched::Forgotten)) {
            return listed;
        }
        let recorded = inner.answered(id);
        let payload = recorded.map(|answered| answered.outputs.payload());
        payload.map(Fetched::Ended).or(listed)
    }

    /// Cancels a request. `None`: it is not known; `false`: it had ended.
    #[must_use]
    pub fn cancel(&self, id: RequestId) -> Option<bool> {
        self.inner.requests.cancel(id)
    }

    /// All apps, by name.
    #[must_use]
    pub fn apps(&self) -> Vec<AppSummary> {
        self.inner
            .apps
            .read()
            .values()
            .map(|app| deploy::summary(&app.current()))
            .collect()
    }

    /// One app.
    ///
    /// # Errors
    /// `unknown-app`, with near names.
    pub fn app(&self, name: &str) -> Result<AppSummary, Problem> {
        self.inner
            .version(name)
            .map(|version| deploy::summary(&version))
    }

    /// The function of an app that answers HTTP requests under the app's own paths. It is called
    /// with an [`Exchange`]'s payload, and gives one.
    ///
    /// # Errors
    /// `unknown-app`, `unknown-function`.
    pub fn web(&self, app: &str) -> Result<Web, Problem> {
        let version = self.inner.version(app)?;
        let mut functions = version.functions.values();
        let found = functions.find(|function| function.spec.kind == FunctionKind::Http);
        let function = found.ok_or_else(|| {
            let detail = format!("the app {app} has no function of the kind http");
            Problem::new(Code::UnknownFunction, detail)
        })?;
        Ok(Web {
            function: Arc::clone(&function.name),
            is_public: function.spec.public,
        })
    }

    /// Registers a flow beside an app's own, until the app is deployed anew or the
    /// node stops.
    ///
    /// # Errors
    /// `unknown-app`, `bad-flow`.
    pub fn register_flow(&self, app: &str, name: &str, flow: &Flow) -> Result<(), Problem> {
        let app = self.inner.app(app)?;
        let flowing = app.current().flowing(name, flow)?;
        app.register(name.to_owned(), flowing);
        Ok(())
    }

    /// What a key of an app holds now: the time of the snapshot, and the cell at it.
    ///
    /// # Errors
    /// `bad-key`, `storage-failed`.
    pub fn state_get(&self, app: &str, key: &str) -> Result<Option<(Time, Arc<Cell>)>, Problem> {
        let key = state::key(app, key)?;
        let session = tidemill_session::Request::begin(0, Arc::clone(&self.inner.store));
        let view = session.view(Vec::new(), 0);
        let cell = view.read(&key).map_err(|error| state::problem_of(&error))?;
        Ok(cell.map(|cell| (view.time(), cell)))
    }

    /// The keys of an app that begin with `prefix`, after the name `after`.
    ///
    /// # Errors
    /// `storage-failed`.
    pub fn state_list(
        &self,
        app: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<StatePage, Problem> {
        let session = tidemill_session::Request::begin(0, Arc::clone(&self.inner.store));
        let view = session.view(Vec::new(), 0);
        let (keys, next) = state::list(&view, app, prefix, after, limit)?;
        Ok(StatePage { keys, next })
    }

    /// Watches a key of an app, or (not `whole`) the keys that begin so. `wake` is called from
    /// a thread that must not wait.
    ///
    /// # Errors
    /// `bad-key`.
    pub fn state_watch(
        &self,
        app: &str,
        name: &str,
        whole: bool,
        wake: Wake,
    ) -> Result<Watch, Problem> {
        let what = if whole {
            Watched::Key(state::key(app, name)?)
        } else {
            // The shortest key tells whether the app's name is one.
            state::key(app, "-")?;
            Watched::Prefix(Key::prefix(state::TENANT, app, name))
        };
        Ok(self.inner.store.watch(what, wake))
    }

    /// Writes several keys of an app in one commit, and gives its time. At the level `eventual`
    /// each is written for itself, and the time is the greatest.
    ///
    /// # Errors
    /// `bad-key`, `wrong-type`, `bad-value`, `storage-full`, `storage-failed`; then
    /// nothing was written, but at the level `eventual`, where the other writes stand.
    pub async fn state_commit(
        &self,
        app: &str,
        writes: Vec<(String, Op)>,
        asked: &Asked,
    ) -> Result<Time, Problem> {
        if !tidemill_lattice::is_name(app) {
            return Err(Problem::new(
                Code::BadKey,
                format!("{app:?} is not the name of an app"),
            ));
        }
        let names = writes.iter().map(|(name, _)| state::key(app, name));
        let keys: Vec<Key> = names.collect::<Result<_, _>>()?;
        let store = Arc::clone(&self.inner.store);
        let durability = asked.durability.unwrap_or(self.inner.options.durability);
        let session = match asked.level.unwrap_or_default() {
            Level::Causal => tidemill_session::Request::begin(0, store),
            Level::Eventual => tidemill_session::Request::begin_eventual(0, store, durability),
        };
        let mut view = session.view(Vec::new(), 0);
        for (key, (_, op)) in keys.iter().zip(&writes) {
            view.write(key, op)
                .map_err(|error| state::problem_of(&error))?;
        }
        request::settled(&session).await?;
        let buffers = [view.finish()];
        let committed = request::commit(&session, &buffers, durability, Default::default());
        committed.await.map(|committed| committed.time)
    }

    /// Numbers for those who watch.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let apps = self.inner.apps.read();
        let pools = apps.values().flat_map(|app| {
            let version = app.current();
            version
                .groups
                .iter()
                .map(|group| (Arc::clone(&version.app), group.stats()))
                .collect::<Vec<_>>()
        });
        let instances = apps.values().filter_map(|app| {
            let version = app.current();
            let all = version.instances();
            (all.active + all.idle > 0).then(|| (Arc::clone(&version.app), all))
        });
        Gauges {
            instances: instances.collect(),
            requests_running: self.inner.requests.running(),
            admission: self.inner.gate.stats(),
            apps: apps.len(),
            pools: pools.collect(),
            store: self.inner.store.stats(),
        }
    }

    /// The inside of the store.
    #[must_use]
    pub fn observe(&self) -> Observed {
        self.inner.store.observe()
    }

    /// How safe commits are before they are answered.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.inner.options.durability
    }
}

async fn tick(inner: std::sync::Weak<Inner>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        // Components that nobody calls take no time here, however many there are.
        let versions: Vec<_> = inner.working.lock().values().cloned().collect();
        for version in versions {
            version.tick();
        }
        inner.components.tick(inner.clock.now_micros());
    }
}
