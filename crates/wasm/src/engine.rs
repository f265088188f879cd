//! The engine: one a node.

use crate::bindings::{Function, standard};
use crate::cache::{Cache, EntryId};
use crate::component::{Component, World};
use crate::data::Data;
use crate::error::{ComponentError, EngineError};
use crate::pool::Pool;
use crate::ticker::{Running, Ticker};
use crate::trusted::Trusted;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            instances_max: 1000,
            memory_bytes_max: 4 << 30,
            component_bytes_max: 64 << 20,
        }
    }
}

/// Compiles components and gives their instances places to run.
pub struct Engine {
    pub(crate) engine: wasmtime::Engine,
    linker: Linker<Data>,
    cache: Option<Cache>,
    component_bytes_max: usize,
    ticker: Ticker,
    pools: Mutex<Vec<Weak<Pool>>>,
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
            ticker,
            pools: Mutex::default(),
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
        let component =
            wasmtime::component::Component::from_binary(&self.engine, bytes).map_err(invalid)?;
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

    pub(crate) fn enlist(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// Ends the instance that has rested longest, wherever it is. False if none rests.
    pub(crate) fn reclaim(&self) -> bool {
        let pools: Vec<Arc<Pool>> = self.pools.lock().iter().filter_map(Weak::upgrade).collect();
        let longest = pools
            .iter()
            .filter_map(|pool| Some((pool.resting_since_us()?, pool)))
            .min_by_key(|(since_us, _)| *since_us);
        longest.is_some_and(|(_, pool)| pool.drop_oldest())
    }

    /// A guest runs as long as this is held.
    pub(crate) fn running(&self) -> Running {
        self.ticker.run()
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
        .total_stacks(instances)
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
