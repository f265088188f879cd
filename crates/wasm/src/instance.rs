//! An instance: it handles one call at a time.

use crate::bindings::Function;
use crate::bindings::tidemill::platform::types;
use crate::data::{Data, begin_turn};
use crate::engine::Engine;
use crate::error::Failure;
use crate::exchange::Exchange;
use crate::host::convert;
use crate::platform::Platform;
use std::sync::Arc;
use tidemill_lattice::Payload;
use wasmtime::{AsContextMut, Store};
use wasmtime_wasi_http::p2::bindings::Proxy;

/// An instance of a component.
pub struct Instance {
    engine: Arc<Engine>,
    store: Store<Data>,
    exports: Exports,
    /// It has trapped, or a call was left in the middle.
    is_spent: bool,
}

/// What can be called.
pub(crate) enum Exports {
    Function(Function),
    Http(Proxy),
}

impl Instance {
    pub(crate) fn new(engine: Arc<Engine>, store: Store<Data>, exports: Exports) -> Self {
        Self {
            engine,
            store,
            exports,
            is_spent: false,
        }
    }

    /// Handles a call; `platform` answers whatever the guest asks meanwhile and is given back.
    /// Of an HTTP component input and result are an [`Exchange`]'s payload.
    ///
    /// Dropping the future stops the guest, and the instance is of no more use.
    pub async fn call(
        &mut self,
        platform: Box<dyn Platform>,
        input: Payload,
    ) -> (Option<Box<dyn Platform>>, Result<Payload, Failure>) {
        let data = self.store.data_mut();
        let lines = platform.lines();
        for output in &data.outputs {
            output.open(Arc::clone(&lines));
        }
        data.served += 1;
        data.platform = Some(platform);
        begin_turn(self.store.as_context_mut());
        let running = self.engine.running();
        self.is_spent = true;
        let result = match &self.exports {
            Exports::Function(function) => call_function(&mut self.store, function, input).await,
            Exports::Http(proxy) => call_http(&mut self.store, proxy, input).await,
        };
        drop(running);
        self.is_spent = matches!(
            result,
            Err(Failure::Trapped { .. } | Failure::OutOfMemory { .. } | Failure::TooMuch { .. })
        );
        let data = self.store.data_mut();
        for output in &data.outputs {
            output.close();
        }
        (data.platform.take(), result)
    }

    /// Whether it can handle another call.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.is_spent && !self.store.data().was_refused()
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }
}

async fn call_function(
    store: &mut Store<Data>,
    function: &Function,
    input: Payload,
) -> Result<Payload, Failure> {
    let input = convert::to_guest(&input);
    let called = function.call_handle(&mut *store, &input).await;
    match called {
        Ok(Ok(output)) => convert::from_guest(output)
            .map_err(|error| Failure::Nonsense(format!("its result: {error}"))),
        Ok(Err(types::Error { code, message })) => Err(Failure::Returned { code, message }),
        Err(error) => Err(store.data().explain(&error)),
    }
}

async fn call_http(
    store: &mut Store<Data>,
    proxy: &Proxy,
    input: Payload,
) -> Result<Payload, Failure> {
    use wasmtime_wasi_http::WasiHttpView;
    use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
    let nonsense = |error: &dyn std::fmt::Display| Failure::Nonsense(error.to_string());
    let mut request = Exchange::request(&input).map_err(|error| nonsense(&error))?;
    let trace = store
        .data_mut()
        .platform()
        .map(|platform| platform.context().trace);
    if let Some(trace) = trace.ok().and_then(|trace| trace.parse().ok()) {
        // Its place in the trace, to hand on to whatever it calls.
        request.headers_mut().insert("traceparent", trace);
    }
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request);
    let request = request.map_err(|error| nonsense(&error))?;
    let out = http.new_response_outparam(sender);
    let out = out.map_err(|error| nonsense(&error))?;
    let handling = proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut *store, request, out);
    match Exchange::gather(handling, receiver).await {
        Ok(Some(Ok(response))) => Ok(response),
        Ok(Some(Err(error))) => Err(nonsense(&error)),
        Ok(None) => Err(nonsense(&"it gave no response")),
        Err(error) => Err(store.data().explain(&error)),
    }
}
