//! One version of an app, ready to run: its functions, their groups of workers,
//! its flows and their plans.

use super::bundles::Bundle;
use super::environment::Environments;
use crate::Instances;
use crate::components::Components;
use crate::level::{DurabilityName, Level};
use crate::manifest::{FunctionKind, FunctionSpec, Manifest, RuntimeKind};
use crate::options::Options;
use crate::worker::{Group, LaunchError, Printed, ProcessSpec, Program, Shop};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemill_flow::{
    DEFAULT_BRANCH_COST_LIMIT_US, Facts, Flow, FlowError, FunctionFacts, Plan, ValidFlow, plan,
};
use tidemill_problem::{Code, Problem};
use tidemill_scheduler::{Observed, PoolPolicy};
use tidemill_wasm::{Grants, NoInstance, Pool, World};

/// How long the first instance of a component may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The number, in plans, of what runs components.
const INSTANCES: u64 = u64::MAX;

/// One version of an app.
pub(crate) struct Version {
    pub(crate) app: Arc<str>,
    /// A content hash of the archive.
    pub(crate) hash: String,
    pub(crate) deployed_ms: u64,
    /// The promises of functions that make none of their own.
    pub(crate) level: Level,
    pub(crate) durability: Option<DurabilityName>,
    pub(crate) functions: BTreeMap<String, Arc<Function>>,
    pub(crate) flows: BTreeMap<String, Arc<Flowing>>,
    pub(crate) groups: Vec<Arc<Group>>,
    /// The instances of its components.
    pub(crate) pools: Vec<Arc<Pool>>,
    /// Rises whenever a function turns cheap or costly, so that plans are made anew.
    costs: AtomicU64,
    _bundle: Bundle,
}

/// A function of a version.
pub(crate) struct Function {
    pub(crate) name: Arc<str>,
    pub(crate) spec: FunctionSpec,
    pub(crate) runs_in: RunsIn,
    /// What it is known by where its runs are counted.
    pub(crate) number: u64,
    /// Runs begun, those that failed included.
    pub(crate) runs: AtomicU64,
    observed: Mutex<Observed>,
    /// The function alone, as a flow of one step.
    pub(crate) alone: Arc<Flowing>,
}

/// What runs a function.
#[derive(Clone)]
pub(crate) enum RunsIn {
    /// Worker processes: the place of their group.
    Workers(usize),
    /// Instances of a component in this process.
    Instances(Arc<Pool>),
}

impl RunsIn {
    /// Functions of one number can share a hand-off. Components are all alike in this: a hand-off
    /// goes from one to the next.
    fn number(&self) -> u64 {
        match self {
            Self::Workers(place) => *place as u64,
            Self::Instances(_) => INSTANCES,
        }
    }
}

/// A flow that was found right, and its plan as of lately.
pub(crate) struct Flowing {
    pub(crate) name: Arc<str>,
    pub(crate) valid: ValidFlow,
    plan: RwLock<(u64, Arc<Plan>)>,
}

/// What a call of a name runs.
#[derive(Clone)]
pub(crate) enum Target {
    Function(Arc<Function>),
    Flow(Arc<Flowing>),
}

impl Target {
    pub(crate) fn name(&self) -> &Arc<str> {
        match self {
            Self::Function(function) => &function.name,
            Self::Flow(flow) => &flow.name,
        }
    }

    pub(crate) fn flowing(&self) -> &Arc<Flowing> {
        match self {
            Self::Function(function) => &function.alone,
            Self::Flow(flow) => flow,
        }
    }

    /// Whether it gives many values.
    pub(crate) fn is_generator(&self) -> bool {
        match self {
            Self::Function(function) => function.spec.kind == FunctionKind::Generator,
            Self::Flow(_) => false,
        }
    }
}

impl Function {
    /// Takes note of a run. True when the function turned cheap or costly by it.
    fn observe(&self, run_us: u64) -> bool {
        let mut observed = self.observed.lock();
        let before = observed.class();
        observed.record(run_us, DEFAULT_BRANCH_COST_LIMIT_US);
        observed.class() != before
    }

    pub(crate) fn mean_us(&self) -> Option<u64> {
        self.observed.lock().mean_us()
    }

    /// Compiles its component and starts an instance, which stays for the first call.
    async fn prove_component(&self, now_us: u64) -> Result<(), Problem> {
        let RunsIn::Instances(pool) = &self.runs_in else {
            return Ok(());
        };
        let failed = |detail: String| {
            let file = self.spec.component.as_deref().unwrap_or_default();
            Problem::new(
                Code::LoadFailed,
                format!("{file} of {}: {detail}", self.name),
            )
        };
        let component = pool.component(now_us).await;
        let component = component.map_err(|error| failed(error.to_string()))?;
        let is_http = self.spec.kind == FunctionKind::Http;
        if is_http != (component.world() == World::Http) {
            return Err(failed(if is_http {
                "it does not export wasi:http/incoming-handler; leave out kind = \"http\"".into()
            } else {
                "it is of the world of wasi:http; say kind = \"http\"".into()
            }));
        }
        let starting = tokio::time::timeout(START_TIMEOUT, pool.acquire(false, now_us)).await;
        match starting {
            Ok(Ok(lease)) => lease.give_back(now_us),
            Ok(Err(NoInstance::Component(error))) => return Err(failed(error.to_string())),
            Ok(Err(NoInstance::Start(failure))) => {
                let problem = failure.into_problem(&self.name);
                return Err(failed(format!(
                    "an instance does not start: {}",
                    problem.detail
                )));
            }
            Err(_) => {
                return Err(failed(format!(
                    "an instance has not started within {} s",
                    START_TIMEOUT.as_secs()
                )));
            }
        }
        Ok(())
    }

    fn facts(&self) -> FunctionFacts {
        let mut facts = facts(&self.spec, self.runs_in.number());
        facts.mean_cost_us = self
            .observed
            .lock()
            .planning_cost_us(DEFAULT_BRANCH_COST_LIMIT_US);
        facts
    }
}

fn facts(spec: &FunctionSpec, group: u64) -> FunctionFacts {
    let generator = spec.kind == FunctionKind::Generator;
    FunctionFacts {
        group,
        // A retry repeats a whole hand-off, and a limit on runs is kept by hand-off.
        fusable: !generator && spec.retries == 0 && spec.max_concurrency.is_none(),
        generator,
        mean_cost_us: None,
        timeout_ms: spec.timeout_ms,
    }
}

/// What is known of a version's functions, for its flows.
struct Known<'a>(&'a BTreeMap<String, Arc<Function>>);

impl Facts for Known<'_> {
    fn function(&self, name: &str) -> Option<FunctionFacts> {
        self.0.get(name).map(|function| function.facts())
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

impl Flowing {
    fn new(name: Arc<str>, flow: &Flow, known: &dyn Facts) -> Result<Self, FlowError> {
        let valid = flow.validate(known)?;
        let plan = Arc::new(plan(&valid, known));
        Ok(Self {
            name,
            valid,
            plan: RwLock::new((0, plan)),
        })
    }
}

/// What it takes to make a version.
pub(crate) struct Make<'a> {
    pub(crate) manifest: Manifest,
    pub(crate) hash: String,
    pub(crate) deployed_ms: u64,
    /// The unpacked bundle.
    pub(crate) bundle: Bundle,
    pub(crate) python_version: &'a str,
    pub(crate) environments: &'a Environments,
    pub(crate) shop: &'a Shop,
    pub(crate) options: &'a Options,
    pub(crate) next_function: &'a AtomicU64,
    pub(crate) components: &'a Components,
    pub(crate) printed: Printed,
}

/// Functions agree in these when they can share processes.
#[derive(PartialEq, Eq, Hash, Clone)]
struct GroupKey {
    requirements: Vec<String>,
    env: BTreeMap<String, String>,
    secrets: Vec<String>,
    memory_bytes: u64,
    component: Option<String>,
    hosts: Vec<String>,
    idle_timeout_ms: Option<u64>,
}

impl GroupKey {
    fn of(spec: &FunctionSpec) -> Self {
        let sorted = |list: &[String]| {
            let mut list = list.to_vec();
            list.sort();
            list.dedup();
            list
        };
        Self {
            requirements: sorted(&spec.requirements),
            env: spec.env.clone(),
            secrets: sorted(&spec.secrets),
            memory_bytes: spec.memory_bytes,
            component: spec.component.clone(),
            hosts: sorted(&spec.hosts),
            // Workers end together, instances each for itself.
            idle_timeout_ms: spec.component.as_ref().map(|_| spec.idle_timeout_ms),
        }
    }
}

impl Make<'_> {
    /// Makes the version: environments installed, groups ready to start, flows
    /// checked. Starts no process.
    pub(crate) async fn version(self) -> Result<Version, Problem> {
        let app: Arc<str> = self.manifest.app.as_str().into();
        let mut by_group: Vec<(GroupKey, Vec<&FunctionSpec>)> = Vec::new();
        let mut places = HashMap::new();
        for spec in &self.manifest.functions {
            let key = GroupKey::of(spec);
            let place = *places.entry(key.clone()).or_insert_with(|| {
                by_group.push((key, Vec::new()));
                by_group.len() - 1
            });
            by_group[place].1.push(spec);
        }
        let (mut groups, mut pools) = (Vec::new(), Vec::new());
        let mut functions = BTreeMap::new();
        for (key, specs) in &by_group {
            let runs_in = if let Some(component) = &key.component {
                let pool = self.pool(key, component)?;
                pools.push(Arc::clone(&pool));
                RunsIn::Instances(pool)
            } else {
                groups.push(self.group(key, specs).await?);
                RunsIn::Workers(groups.len() - 1)
            };
            for spec in specs {
                let number = self.next_function.fetch_add(1, Ordering::Relaxed);
                let function = function(spec, runs_in.clone(), number)?;
                functions.insert(spec.name.clone(), Arc::new(function));
            }
        }
        let mut flows = BTreeMap::new();
        for spec in &self.manifest.flows {
            let flowing = Flowing::new(spec.name.as_str().into(), &spec.flow, &Known(&functions))
                .map_err(|error| bad_flow(&spec.name, &error))?;
            flows.insert(spec.name.clone(), Arc::new(flowing));
        }
        Ok(Version {
            app,
            hash: self.hash,
            deployed_ms: self.deployed_ms,
            level: self.manifest.level,
            durability: self.manifest.durability,
            functions,
            flows,
            groups,
            pools,
            costs: AtomicU64::new(0),
            _bundle: self.bundle,
        })
    }

    /// What the processes or instances of a group have in their environment.
    fn environment(&self, key: &GroupKey) -> Result<BTreeMap<String, String>, Problem> {
        let mut env = key.env.clone();
        for name in &key.secrets {
            env.insert(name.clone(), self.options.secret(name)?);
        }
        Ok(env)
    }

    fn pool(&self, key: &GroupKey, component: &str) -> Result<Arc<Pool>, Problem> {
        let grants = Grants {
            env: self.environment(key)?.into_iter().collect(),
            memory_bytes: key.memory_bytes,
            hosts: key.hosts.clone(),
        };
        let path = self.bundle.path().join(component);
        let idle_timeout = Duration::from_millis(key.idle_timeout_ms.unwrap_or_default());
        let engine = self.components.engine()?;
        Ok(Pool::new(&engine, path, grants, idle_timeout))
    }

    async fn group(&self, key: &GroupKey, specs: &[&FunctionSpec]) -> Result<Arc<Group>, Problem> {
        let packages = self
            .environments
            .ensure(self.python_version, &key.requirements)
            .await?;
        let program = match &self.manifest.runtime {
            RuntimeKind::Python { .. } => Program::Python,
            RuntimeKind::Command { command } => Program::Command(command.clone()),
            RuntimeKind::Wasm => {
                let detail = "an app of the runtime wasm has functions without a component";
                return Err(Problem::new(Code::BadManifest, detail));
            }
        };
        let spec = ProcessSpec {
            app: self.manifest.app.clone(),
            version: self.hash.clone(),
            program,
            entry: self.manifest.entry.clone(),
            functions: specs.iter().map(|spec| spec.name.clone()).collect(),
            root: self.bundle.path().to_owned(),
            packages,
            env: self.environment(key)?,
        };
        let min_workers = specs.iter().map(|spec| spec.min_workers).max().unwrap_or(0) as usize;
        let idle_ms = specs
            .iter()
            .map(|spec| spec.idle_timeout_ms)
            .max()
            .unwrap_or(0);
        let policy = PoolPolicy {
            min_workers,
            max_workers: self.options.workers_max.max(min_workers),
            max_processes: self
                .options
                .processes_max
                .max(self.options.workers_max)
                .max(min_workers),
            max_waiting: self.options.waiting_max,
            idle_timeout_us: idle_ms.saturating_mul(1000),
            ..PoolPolicy::default()
        };
        Group::new(
            self.shop,
            spec,
            key.memory_bytes,
            policy,
            Arc::clone(&self.printed),
        )
        .map_err(|error| Problem::new(Code::BadManifest, error.to_string()))
    }
}

fn function(spec: &FunctionSpec, runs_in: RunsIn, number: u64) -> Result<Function, Problem> {
    let name: Arc<str> = spec.name.as_str().into();
    let known = BTreeMap::from([(spec.name.clone(), facts(spec, runs_in.number()))]);
    let alone = Flowing::new(
        Arc::clone(&name),
        &Flow::of(spec.name.as_str()).build(),
        &known,
    )
    .map_err(|error| bad_flow(&spec.name, &error))?;
    Ok(Function {
        name,
        spec: spec.clone(),
        runs_in,
        number,
        runs: AtomicU64::new(0),
        observed: Mutex::new(Observed::new()),
        alone: Arc::new(alone),
    })
}

fn bad_flow(name: &str, error: &FlowError) -> Problem {
    Problem::new(Code::BadFlow, format!("flow {name}: {error}"))
}

impl Version {
    /// Loads the app in every group, so that mistakes show before it serves.
    pub(crate) async fn prove(&self, now_us: u64) -> Result<(), Problem> {
        for function in self.functions.values() {
            function.prove_component(now_us).await?;
        }
        for group in &self.groups {
            group.prove().await.map_err(|error| load_failed(&error))?;
        }
        Ok(())
    }

    /// The group that runs a fragment of a plan.
    pub(crate) fn group(&self, number: u64) -> Option<&Arc<Group>> {
        self.groups.get(usize::try_from(number).ok()?)
    }

    /// The function or flow of this name.
    pub(crate) fn target(&self, name: &str) -> Option<Target> {
        match self.functions.get(name) {
            Some(function) => Some(Target::Function(Arc::clone(function))),
            None => self
                .flows
                .get(name)
                .map(|flow| Target::Flow(Arc::clone(flow))),
        }
    }

    /// Checks a flow that no manifest names.
    pub(crate) fn flowing(&self, name: &str, flow: &Flow) -> Result<Arc<Flowing>, Problem> {
        Flowing::new(name.into(), flow, &Known(&self.functions))
            .map(Arc::new)
            .map_err(|error| bad_flow(name, &error))
    }

    /// How to run a flow, by what is known of its functions now.
    pub(crate) fn plan(&self, flow: &Flowing) -> Arc<Plan> {
        let costs = self.costs.load(Ordering::Relaxed);
        {
            let planned = flow.plan.read();
            if planned.0 == costs || flow.valid.steps().len() == 1 {
                return Arc::clone(&planned.1);
            }
        }
        let fresh = Arc::new(plan(&flow.valid, &Known(&self.functions)));
        *flow.plan.write() = (costs, Arc::clone(&fresh));
        fresh
    }

    /// Takes note of how long a function ran.
    pub(crate) fn observe(&self, function: &Function, run_us: u64) {
        if function.observe(run_us) {
            self.costs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The instances of its components.
    pub(crate) fn instances(&self) -> Instances {
        let mut all = Instances::default();
        for pool in &self.pools {
            all.active += pool.busy();
            all.idle += pool.resting();
        }
        all
    }

    /// Lets its workers see that time passes.
    pub(crate) fn tick(&self) {
        for group in &self.groups {
            group.tick();
            group.watch_memory();
        }
    }

    /// Lets go of the workers; requests that are running end as they would.
    pub(crate) fn retire(&self) {
        for group in &self.groups {
            group.drain();
        }
    }
}

/// What to tell of an app that does not load.
pub(crate) fn load_failed(error: &LaunchError) -> Problem {
    let mut problem = Problem::new(
        Code::LoadFailed,
        format!("the app could not be loaded: {error}"),
    );
    if let LaunchError::Load(header) = error {
        problem.exception = Some(Box::new(tidemill_problem::Exception {
            kind: header.kind.clone().unwrap_or_else(|| "Error".to_owned()),
            message: header.message.clone(),
            traceback: header.traceback.clone().unwrap_or_default(),
            pickle: None,
        }));
    }
    problem
}
