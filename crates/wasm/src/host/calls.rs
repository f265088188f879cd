//! The interfaces of the request: its context, its log, calls and recorded steps.

use super::{Answer, convert};
use crate::bindings::tidemill::platform::{calls, log, request, steps, types};
use crate::data::{Data, Pending};
use crate::platform::{Level, LogLevel, Step};
use tidemill_problem::{Code, Problem};
use wasmtime::component::Resource;

/// The longest line of a log.
const LINE_BYTES_MAX: usize = 32 << 10;

/// A line of a log, cut where it is too long.
pub(super) fn bounded(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(LINE_BYTES_MAX));
    message
}

impl request::Host for Data {
    fn current(&mut self) -> wasmtime::Result<request::Context> {
        let context = self.platform()?.context();
        Ok(request::Context {
            id: context.id,
            attempt: context.attempt,
            app: context.app,
            function: context.function,
            level: match context.level {
                Level::Causal => request::Level::Causal,
                Level::Eventual => request::Level::Eventual,
            },
            key: context.key,
            tenant: context.caller.tenant,
            subject: context.caller.subject,
            trace: context.trace,
        })
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.platform()?.remaining_ms())
    }
}

impl log::Host for Data {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.platform()?.log(level, bounded(message));
        Ok(())
    }
}

fn shown(
    result: Result<tidemill_lattice::Payload, Problem>,
) -> Result<types::Payload, types::Error> {
    match result {
        Ok(payload) => Ok(convert::to_guest(&payload)),
        Err(problem) => Err(problem.into()),
    }
}

impl calls::Host for Data {
    async fn call(&mut self, name: String, input: types::Payload) -> Answer<types::Payload> {
        let platform = self.platform()?;
        Ok(match convert::from_guest(input) {
            Ok(input) => shown(platform.call(&name, input).await),
            Err(problem) => Err(problem.into()),
        })
    }

    fn spawn(
        &mut self,
        name: String,
        input: types::Payload,
    ) -> wasmtime::Result<Resource<Pending>> {
        let served = self.served;
        let platform = self.platform()?;
        let call = convert::from_guest(input).map(|input| platform.spawn(&name, input));
        Ok(self.table.push(Pending { served, call })?)
    }

    fn enqueue(&mut self, name: String, input: types::Payload) -> Answer<()> {
        let platform = self.platform()?;
        let done = convert::from_guest(input).and_then(|input| platform.enqueue(&name, input));
        Ok(done.map_err(Into::into))
    }
}

impl Data {
    /// The number of a call of the request that is handled now.
    fn pending(&self, pending: &Resource<Pending>) -> wasmtime::Result<Result<u32, Problem>> {
        let pending = self.table.get(pending)?;
        if pending.served == self.served {
            return Ok(pending.call.clone());
        }
        let detail = "the call belongs to an earlier request of this instance";
        Ok(Err(Problem::new(Code::BadRequest, detail)))
    }
}

impl calls::HostPending for Data {
    async fn wait(&mut self, pending: Resource<Pending>) -> Answer<types::Payload> {
        Ok(match self.pending(&pending)? {
            Ok(call) => shown(self.platform()?.wait(call).await),
            Err(problem) => Err(problem.into()),
        })
    }

    fn cancel(&mut self, pending: Resource<Pending>) -> wasmtime::Result<()> {
        if let Ok(call) = self.pending(&pending)? {
            self.platform()?.cancel(call);
        }
        Ok(())
    }

    fn drop(&mut self, pending: Resource<Pending>) -> wasmtime::Result<()> {
        self.table.delete(pending)?;
        Ok(())
    }
}

impl steps::Host for Data {
    async fn recall(&mut self, name: String) -> Answer<steps::Step> {
        Ok(match self.platform()?.recall(&name).await {
            Ok(Step::Recorded(value)) => Ok(steps::Step::Recorded(convert::to_guest(&value))),
            Ok(Step::Fresh(number)) => Ok(steps::Step::Fresh(number)),
            Err(problem) => Err(problem.into()),
        })
    }

    async fn record(
        &mut self,
        name: String,
        number: u32,
        value: types::Payload,
    ) -> Answer<types::Payload> {
        let platform = self.platform()?;
        Ok(match convert::from_guest(value) {
            Ok(value) => shown(platform.record(&name, number, value).await),
            Err(problem) => Err(problem.into()),
        })
    }
}
