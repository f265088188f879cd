//! The engine alone: the same component, called by wasmtime with nothing between.

use std::io;

use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Store};

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "tidemill:platform/function",
    exports: { default: async },
});

use tidemill::platform::{request, types};

/// What the component asks for before it handles anything: its name.
struct Host;

impl types::Host for Host {}

impl request::Host for Host {
    fn current(&mut self) -> request::Context {
        request::Context {
            id: "0".repeat(32),
            attempt: 1,
            app: "bench".to_owned(),
            function: "echo".to_owned(),
            level: request::Level::Causal,
            key: None,
            tenant: "default".to_owned(),
            subject: "bench".to_owned(),
            trace: "0".repeat(55),
        }
    }

    fn remaining_ms(&mut self) -> u64 {
        0
    }
}

/// The component, compiled and linked.
pub(crate) struct Raw {
    engine: Engine,
    pre: FunctionPre<Host>,
}

/// An instance of it.
pub(crate) struct Warm {
    store: Store<Host>,
    function: Function,
}

impl Raw {
    /// With the settings of a node: a pool of places, and interruption by epochs.
    pub(crate) fn new(component: &[u8]) -> io::Result<Self> {
        let made = || -> wasmtime::Result<Self> {
            let mut config = Config::new();
            config
                .epoch_interruption(true)
                .concurrency_support(false)
                .allocation_strategy(InstanceAllocationStrategy::pooling());
            let engine = Engine::new(&config)?;
            let component = Component::from_binary(&engine, component)?;
            let mut linker = Linker::<Host>::new(&engine);
            request::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
            types::add_to_linker::<_, HasSelf<Host>>(&mut linker, |host| host)?;
            linker.define_unknown_imports_as_traps(&component)?;
            let pre: InstancePre<Host> = linker.instantiate_pre(&component)?;
            Ok(Self {
                engine,
                pre: FunctionPre::new(pre)?,
            })
        };
        made().map_err(|error| io::Error::other(format!("{error:#}")))
    }

    pub(crate) async fn instance(&self) -> io::Result<Warm> {
        let mut store = Store::new(&self.engine, Host);
        store.set_epoch_deadline(u64::MAX / 2);
        let function = self.pre.instantiate_async(&mut store).await;
        let function = function.map_err(|error| io::Error::other(format!("{error:#}")))?;
        Ok(Warm { store, function })
    }
}

impl Warm {
    pub(crate) async fn call(&mut self, body: &[u8]) -> io::Result<usize> {
        let input = types::Payload {
            content_type: "application/octet-stream".to_owned(),
            body: body.to_vec(),
        };
        let called = self.function.call_handle(&mut self.store, &input).await;
        match called {
            Ok(Ok(output)) => Ok(output.body.len()),
            Ok(Err(error)) => Err(io::Error::other(error.message)),
            Err(error) => Err(io::Error::other(format!("{error:#}"))),
        }
    }
}
