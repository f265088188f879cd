//! A component that can run here.

use crate::bindings::FunctionPre;
use crate::data::Data;
use crate::engine::Engine;
use crate::error::{ComponentError, Failure};
use crate::instance::{Exports, Instance};
use crate::pool::Grants;
use std::sync::Arc;
use wasmtime::component::Linker;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// What calls a component answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// `tidemill:platform/function`: a payload in, a payload out.
    Function,
    /// `wasi:http/incoming-handler`: an HTTP request in, a response out, as [`crate::Exchange`]
    /// carries them.
    Http,
}

/// A compiled component with its imports resolved. Cheap to clone.
#[derive(Clone)]
pub struct Component {
    pub(crate) engine: Arc<Engine>,
    pre: Pre,
    code_bytes: u64,
}

#[derive(Clone)]
enum Pre {
    Function(FunctionPre<Data>),
    Http(ProxyPre<Data>),
}

impl Component {
    pub(crate) fn new(
        engine: &Arc<Engine>,
        linker: &Linker<Data>,
        code: &wasmtime::component::Component,
        world: World,
    ) -> Result<Self, ComponentError> {
        let shape = |error: wasmtime::Error| ComponentError::Imports(format!("{error:#}"));
        let instance = linker.instantiate_pre(code).map_err(shape)?;
        let export = |error: wasmtime::Error| ComponentError::World(vec![format!("{error:#}")]);
        let pre = match world {
            World::Function => Pre::Function(FunctionPre::new(instance).map_err(export)?),
            World::Http => Pre::Http(ProxyPre::new(instance).map_err(export)?),
        };
        let image = code.image_range();
        Ok(Self {
            engine: Arc::clone(engine),
            pre,
            code_bytes: image.end.addr().saturating_sub(image.start.addr()) as u64,
        })
    }

    /// What calls it answers.
    #[must_use]
    pub fn world(&self) -> World {
        match self.pre {
            Pre::Function(_) => World::Function,
            Pre::Http(_) => World::Http,
        }
    }

    /// Bytes of its compiled code.
    pub(crate) fn code_bytes(&self) -> u64 {
        self.code_bytes
    }

    /// A new instance: memory of its own, in its first state.
    ///
    /// # Errors
    /// Where its start fails or no place is free.
    pub async fn instantiate(&self, grants: &Arc<Grants>) -> Result<Instance, Failure> {
        let mut store = Data::store(&self.engine, grants);
        let _running = self.engine.running();
        let exports = match &self.pre {
            Pre::Function(pre) => {
                let made = pre.instantiate_async(&mut store).await;
                made.map(Exports::Function)
            }
            Pre::Http(pre) => {
                let made = pre.instantiate_async(&mut store).await;
                made.map(Exports::Http)
            }
        };
        match exports {
            Ok(exports) => Ok(Instance::new(Arc::clone(&self.engine), store, exports)),
            Err(error) => Err(store.data().explain(&error)),
        }
    }
}
