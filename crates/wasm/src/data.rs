//! What the engine keeps beside each instance: its WASI, its handles, its bounds, and the
//! platform of the call that it handles.

use crate::engine::Engine;
use crate::error::Failure;
use crate::host::{Cursors, Hooks};
use crate::output::{Output, OutputStream};
use crate::platform::Platform;
use crate::pool::Grants;
use std::sync::Arc;
use tidemill_problem::Problem;
use wasmtime::component::ResourceTable;
use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, StoreContextMut, WasmBacktrace};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// How many handles a guest may hold.
const HANDLES_MAX: usize = 10_000;
/// How the engine's error begins where a guest hands over more than it may; its type is private.
const TOO_MUCH: &str = "too much data is being copied";

/// A call that a guest has begun.
#[expect(unreachable_pub, reason = "generated code names it again")]
pub struct Pending {
    /// Numbers of calls begin anew with each call that the instance handles.
    pub(crate) served: u64,
    /// Its number; or why it could not begin.
    pub(crate) call: Result<u32, Problem>,
}

/// The state beside one instance.
pub(crate) struct Data {
    pub(crate) platform: Option<Box<dyn Platform>>,
    pub(crate) table: ResourceTable,
    pub(crate) outputs: [Output; 2],
    /// How many calls the instance has begun to handle.
    pub(crate) served: u64,
    /// Where lists of keys go on.
    pub(crate) cursors: Cursors,
    grants: Arc<Grants>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    memory: Memory,
    transfer_bytes_max: usize,
}

/// Bounds an instance's memory.
struct Memory {
    bytes: usize,
    bytes_max: usize,
    /// It was refused more.
    is_refused: bool,
}

impl Data {
    pub(crate) fn store(engine: &Engine, grants: &Arc<Grants>) -> Store<Self> {
        let outputs = [
            Output::new(OutputStream::Stdout),
            Output::new(OutputStream::Stderr),
        ];
        let mut wasi = WasiCtx::builder();
        wasi.stdout(outputs[0].clone())
            .stderr(outputs[1].clone())
            .allow_tcp(false)
            .allow_udp(false);
        for (name, value) in &grants.env {
            wasi.env(name, value);
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let data = Self {
            platform: None,
            table,
            outputs,
            served: 0,
            cursors: Cursors::default(),
            grants: Arc::clone(grants),
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks: Hooks::new(Arc::clone(grants)),
            memory: Memory {
                bytes: 0,
                bytes_max: usize::try_from(grants.memory_bytes).unwrap_or(usize::MAX),
                is_refused: false,
            },
            transfer_bytes_max: engine.transfer_bytes_max,
        };
        let mut store = Store::new(&engine.engine, data);
        store.set_hostcall_fuel(engine.transfer_bytes_max);
        store.set_max_component_handles(HANDLES_MAX);
        store.limiter(|data| &mut data.memory);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        store
    }

    /// The platform of the call that is being handled. There is none while an instance starts.
    pub(crate) fn platform(&mut self) -> wasmtime::Result<&mut dyn Platform> {
        match &mut self.platform {
            Some(platform) => Ok(&mut **platform),
            None => Err(wasmtime::Error::msg(
                "the platform can be asked while a call is handled only, not while an instance starts",
            )),
        }
    }

    /// What an error of the engine's is to whoever called.
    pub(crate) fn explain(&self, error: &wasmtime::Error) -> Failure {
        if error.is::<PoolConcurrencyLimitError>() {
            return Failure::Full;
        }
        if self.memory.is_refused {
            return Failure::OutOfMemory {
                limit_bytes: self.memory.bytes_max as u64,
            };
        }
        let root = error.root_cause().to_string();
        if root.starts_with(TOO_MUCH) {
            return Failure::TooMuch {
                limit_bytes: self.transfer_bytes_max as u64,
            };
        }
        if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            return Failure::Trapped {
                reason: format!("it exited with status {}", exit.0),
                backtrace: String::new(),
            };
        }
        let backtrace = error.downcast_ref::<WasmBacktrace>();
        Failure::Trapped {
            reason: root,
            backtrace: backtrace.map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// What the instance is given beside the platform.
    pub(crate) fn grants(&self) -> &Grants {
        &self.grants
    }

    /// The most memory that the instance may hold, in bytes.
    pub(crate) fn memory_bytes_max(&self) -> usize {
        self.memory.bytes_max
    }

    /// Bytes of memory that the instance holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.bytes
    }

    /// Whether the instance was refused memory and went on.
    pub(crate) fn was_refused(&self) -> bool {
        self.memory.is_refused
    }
}

/// A fresh turn for the guest before others have theirs.
pub(crate) fn begin_turn(mut store: StoreContextMut<'_, Data>) {
    store.set_epoch_deadline(1);
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        if bytes > self.bytes_max {
            self.is_refused = true;
            return Ok(false);
        }
        self.bytes = bytes;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.is_refused = true;
        Ok(())
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        // The place that an instance has bounds its tables.
        Ok(true)
    }
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Data {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}
