//! The engine: one a node.

use crate::bindings::{Function, standard};
use crate::cache::{Cache, EntryId};
use crate::component::{Component, World};
use crate::data::Data;
use crate::error::{ComponentError, EngineError};
use crate::ticker::{Running, Ticker};
use crate::trusted::Trusted;
use crate::warm::Warm;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::SystemTime;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

/// The stack of a guest's own frames.
const GUEST_STACK_BYTES: usize = 1 << 20;
/// The stack of what a guest calls in the host: it polls whatever the call reaches.
const HOST_STACK_BYTES: usize = 3 << 20;
/// What of an instance's memory is kept mapped when its place is used again.
const KEEP_RESIDENT_BYTES: usize = 128 << 10;
/// Tables may have so many elements each: functions that are called by pointer.
const TABLE_ELEMENTS: usize = 100_000;
/// Components that are compiled at the same time; each on several threads.
const COMPILES_MAX: usize = 4;
/// Core instances, memories and tables that one component may be made of.
const PARTS_MAX: u32 = 32;

/// Bounds of an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many instances there may be at a time.
    pub instances_max: u32,
    /// The most memory that any instance may be granted, in bytes.
    pub memory_bytes_max: u64,
    /// The largest component, in bytes.
    pub component_bytes_max: usize,
    /// How much compiled code is held in memory for components that nobody calls just now, in
    /// bytes; a component that has none takes it from the cache.
    pub code_bytes_max: u64,
    /// The most that a guest may hand over at once, its result or what it gives to one call of the
    /// host, in bytes.
    pub transfer_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            instances_max: 1000,
            memory_bytes_max: 4 << 30,
            component_bytes_max: 64 << 20,
            code_bytes_max: 1 << 30,
            transfer_bytes_max: 128 << 20,
        }
    }
}

/// Compiles components and gives their instances places to run.
pub struct Engine {
    pub(crate) engine: wasmtime::Engine,
    linker: Linker<Data>,
    cache: Option<Cache>,
    component_bytes_max: usize,
    pub(crate) transfer_bytes_max: usize,
    ticker: Ticker,
    warm: Warm,
    compiling: Compiling,
}

impl Engine {
    /// Starts an engine. Without a cache each component is compiled when it is made.
    ///
    /// # Errors
    /// Where the machine lacks what it needs.
    pub fn start(options: &Options, cache: Option<Cache>) -> Result<Arc<Self>, EngineError> {
        let unsupported = |error: wasmtime::Error| EngineError::Unsupported(format!("{error:#}"));
        let engine = wasmtime::Engine::new(&config(options)).map_err(unsupported)?;
        let linker = linker(&engine).map_err(unsupported)?;
        let ticker = Ticker::start(&engine)?;
        Ok(Arc::new(Self {
            engine,
            linker,
            cache,
            component_bytes_max: options.component_bytes_max,
            transfer_bytes_max: options.transfer_bytes_max,
            ticker,
            warm: Warm::new(options.code_bytes_max),
            compiling: Compiling::default(),
        }))
    }

    /// Makes a component of bytes: from the cache, or by compiling it, which takes a core for
    /// seconds if it is large.
    ///
    /// # Errors
    /// What is wrong with it, for its author.
    pub fn component(
        self: &Arc<Self>,
        bytes: &[u8],
        now: SystemTime,
    ) -> Result<Component, ComponentError> {
        if bytes.len() > self.component_bytes_max {
            return Err(ComponentError::TooLarge {
                bytes: bytes.len(),
                limit_bytes: self.component_bytes_max,
            });
        }
        let code = match self.cached(bytes, now) {
            Some(code) => code,
            None => self.compile(bytes)?,
        };
        let world = self.world(&code)?;
        Component::new(self, &self.linker, &code, world)
    }

    fn cached(&self, bytes: &[u8], now: SystemTime) -> Option<wasmtime::component::Component> {
        let cache = self.cache.as_ref()?;
        let code = cache.get(&EntryId::of(bytes, &self.engine), now)?;
        match Trusted::checked(&code).load(&self.engine) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(%error, "compiled code of the cache does not fit; compiling anew");
                None
            }
        }
    }

    fn compile(&self, bytes: &[u8]) -> Result<wasmtime::component::Component, ComponentError> {
        if is_core_module(bytes) {
            return Err(ComponentError::CoreModule);
        }
        let invalid = |error: wasmtime::Error| ComponentError::Invalid(format!("{error:#}"));
        // `Component::new` would take the text format, too.
        let compiling = self.compiling.begin();
        let component =
            wasmtime::component::Component::from_binary(&self.engine, bytes).map_err(invalid)?;
        drop(compiling);
        if let Some(cache) = &self.cache {
            let code = component.serialize().map_err(invalid)?;
            cache.put(&EntryId::of(bytes, &self.engine), &code);
        }
        Ok(component)
    }

    fn world(&self, component: &wasmtime::component::Component) -> Result<World, ComponentError> {
        let shape = component.component_type();
        let names: Vec<String> = shape
            .exports(&self.engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        let is_http = |name: &String| name.starts_with("wasi:http/incoming-handler@0.2.");
        if names.iter().any(|name| name == "handle") {
            Ok(World::Function)
        } else if names.iter().any(is_http) {
            Ok(World::Http)
        } else {
            Err(ComponentError::World(names))
        }
    }

    /// Ends instances that have rested too long, and lets go of code that nobody has used for as
    /// long. Takes no time for components that hold neither.
    pub fn tick(&self, now_us: u64) {
        self.warm.tick(now_us);
    }

    /// Bytes of compiled code that are held for the next calls.
    #[must_use]
    pub fn code_bytes(&self) -> u64 {
        self.warm.code_bytes()
    }

    pub(crate) fn warm(&self) -> &Warm {
        &self.warm
    }

    /// A guest runs as long as this is held.
    pub(crate) fn running(&self) -> Running {
        self.ticker.run()
    }
}

/// Compiles that are going on: few at a time, since each may take a hundred times its component's
/// memory.
#[derive(Default)]
struct Compiling {
    count: Mutex<usize>,
    ended: Condvar,
}

/// A compile goes on as long as this is held.
struct OneCompile<'a>(&'a Compiling);

impl Compiling {
    /// Waits for a turn, on a thread that may wait.
    fn begin(&self) -> OneCompile<'_> {
        let mut count = self.count.lock();
        self.ended
            .wait_while(&mut count, |count| *count >= COMPILES_MAX);
        *count += 1;
        OneCompile(self)
    }
}

impl Drop for OneCompile<'_> {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.ended.notify_one();
    }
}

/// A core module begins with version 1, a component with version 13 in layer 1.
fn is_core_module(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm\x01\0\0\0")
}

fn config(options: &Options) -> Config {
    let memory_bytes = usize::try_from(options.memory_bytes_max).unwrap_or(usize::MAX);
    let instances = options.instances_max;
    let mut pool = PoolingAllocationConfig::default();
    // Instances of several parts take several places; most have one memory and two tables.
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(3))
        // An instantiation that finds no place has taken a stack to find that out.
        .total_stacks(instances.saturating_mul(2))
        .max_core_instances_per_component(PARTS_MAX)
        .max_memories_per_component(PARTS_MAX)
        .max_tables_per_component(PARTS_MAX)
        .max_memory_size(memory_bytes.min(4 << 30))
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(16 << 10)
        .async_stack_keep_resident(64 << 10);
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // A guest's calls wait on its stack; it does not run several at a time.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(GUEST_STACK_BYTES + HOST_STACK_BYTES)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Data>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Function::add_to_linker::<_, HasSelf<Data>>(&mut linker, |data| data)?;
    standard::Imports::add_to_linker::<_, HasSelf<Data>>(&mut linker, |data| data)?;
    Ok(linker)
}
