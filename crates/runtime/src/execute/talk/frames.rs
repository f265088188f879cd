//! What a worker's frames about state, items, output and endings do.

use super::Talk;
use crate::StreamEvent;
use crate::execute::Items;
use crate::execute::trouble::{Trouble, error_header, nonsense, problem_from};
use crate::protocol::{
    self, Done, Failed, Frame, Item, Log, OpHeader, Payloads, ProtocolError, Reply, State, kind,
};
use crate::state::{self, Reader};
use crate::worker::ConnectionError;
use serde_json::Value as Json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tidemill_lattice::Payload;
use tidemill_problem::{Code, Problem};
use tidemill_telemetry::{LogLine, SpanKind, Stream};

impl<'a> Talk<'a> {
    pub(super) async fn on_state(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let start_us = self.execution.now_us();
        let header: State = frame.header()?;
        let given = frame.payloads(&header.p, self.shared())?;
        self.apply(&header.ops, &given).await?;
        let Some(seq) = header.seq else { return Ok(()) };
        if let Some(problem) = self.poison.clone() {
            return self.reply_error(seq, &problem).await;
        }
        self.execution
            .used
            .reads
            .fetch_add(header.get.len() as u64, Ordering::Relaxed);
        let mut out = Payloads::default();
        let mut answers = Vec::with_capacity(header.get.len());
        let shared = self.shared();
        let app = Arc::clone(&self.handoff.version.app);
        for get in &header.get {
            let view = self.view(get.s)?;
            let mut reader = Reader {
                app: &app,
                payloads: &given,
                out: &mut out,
                shared,
            };
            match reader.get(view, get) {
                Ok(answer) => answers.push(answer),
                Err(problem) => return self.reply_error(seq, &problem).await,
            }
        }
        let header = Reply {
            re: seq,
            r: Some(Json::Array(answers)),
            p: out.headers(),
            error: None,
        };
        let sent = self.send(kind::REPLY, &header, &out).await;
        let id = self.execution.span_id();
        let name = &self.execution.inner.names.state;
        self.execution.span(
            SpanKind::State,
            name,
            id,
            Some(self.step_span),
            start_us,
            None,
        );
        match sent {
            Err(Trouble::Connection(ConnectionError::Protocol(ProtocolError::TooLong(size)))) => {
                let limit = protocol::FRAME_BYTES_MAX;
                let problem = Problem::new(
                    Code::PayloadTooLarge,
                    format!(
                        "the values read at once take {size} bytes, more than {limit}; read fewer"
                    ),
                );
                self.reply_error(seq, &problem).await
            }
            other => other,
        }
    }

    /// Applies writes. The first that does not fit poisons the request.
    pub(super) async fn apply(
        &mut self,
        ops: &[OpHeader],
        payloads: &[Payload],
    ) -> Result<(), Trouble> {
        self.execution
            .used
            .writes
            .fetch_add(ops.len() as u64, Ordering::Relaxed);
        let app = Arc::clone(&self.handoff.version.app);
        for header in ops {
            let poisoned = self.poison.is_some();
            let view = self.view(header.s)?;
            if poisoned {
                continue;
            }
            let written = state::key(&app, &header.k).and_then(|key| {
                let op = state::op(header, payloads)?;
                view.write(&key, &op)
                    .map_err(|error| state::problem_of(&error))
            });
            if let Err(mut problem) = written {
                if let Some(at) = &header.at {
                    problem.detail = format!("{} (written at {at})", problem.detail);
                }
                self.poison = Some(problem);
            }
        }
        // What the worker is told next, it is told after its writes.
        if let Err(problem) = crate::request::settled(&self.execution.session()).await {
            self.poison.get_or_insert(problem);
        }
        Ok(())
    }

    pub(super) async fn on_item(&mut self, frame: &Frame) -> Result<(), Trouble> {
        let header: Item = frame.header()?;
        let item = frame.payloads(&header.p, self.shared())?.into_iter().next();
        let item = item.ok_or(ProtocolError::NoPayload(0))?;
        self.execution
            .used
            .bytes_out
            .fetch_add(item.body.len() as u64, Ordering::Relaxed);
        match self.handoff.items {
            Items::Collect => {
                self.collected_bytes += item.body.len() + 64;
                self.check_size(self.collected_bytes, "the items")?;
                self.collected.push(item);
            }
            Items::Stream(to) => {
                self.streamed = true;
                self.execution.has_streamed.store(true, Ordering::Relaxed);
                self.keep_item(&item);
                let send = to.send(StreamEvent::Item(item));
                match tokio::time::timeout_at(self.deadline, send).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => {
                        let detail = "the caller stopped reading";
                        return Err(Trouble::Stopped(Problem::new(Code::Cancelled, detail)));
                    }
                    Err(_) => self.clock().await?,
                }
            }
        }
        Ok(())
    }

    /// Keeps an item that leaves, for who asks for the same request again.
    fn keep_item(&mut self, item: &Payload) {
        if self.execution.key.is_none() || self.execution.has_dropped_items() {
            return;
        }
        self.collected_bytes += item.body.len() + 64;
        if self.collected_bytes > self.execution.inner.options.limits.payload_bytes {
            self.collected = Vec::new();
            return self.execution.drop_items();
        }
        self.collected.push(item.clone());
    }

    pub(super) fn check_size(&self, bytes: usize, what: &str) -> Result<(), Trouble> {
        let limit = self.execution.inner.options.limits.payload_bytes;
        if bytes <= limit {
            return Ok(());
        }
        Err(Trouble::Stopped(Problem::new(
            Code::PayloadTooLarge,
            format!(
                "{what} of {} take {bytes} bytes, more than {limit}",
                self.function().name
            ),
        )))
    }

    pub(super) fn on_log(&self, log: &Log) {
        let place = self
            .handoff
            .fragment
            .steps
            .iter()
            .position(|step| *step == log.step);
        let function = place.map_or(self.function(), |place| &self.handoff.functions[place]);
        let stream = match log.stream.as_str() {
            "stderr" => Stream::Stderr,
            "log" => Stream::Log,
            _ => Stream::Stdout,
        };
        self.execution.inner.telemetry.logs.push(LogLine {
            sequence: 0,
            time_us: self.execution.now_us(),
            app: Arc::clone(&self.handoff.version.app),
            function: Arc::clone(&function.name),
            request: self.execution.id.0,
            stream,
            level: log.level.clone(),
            logger: log.logger.clone(),
            text: log.text.clone(),
        });
    }

    pub(super) async fn on_done(&mut self, frame: &Frame) -> Result<Vec<Payload>, Trouble> {
        let done: Done = frame.header()?;
        let given = frame.payloads(&done.p, self.shared())?;
        self.apply(&done.ops, &given).await?;
        self.meter(done.cpu_us, done.rss_bytes);
        if let Some(lease) = self.lease.take() {
            lease.release(done.dirty, done.rss_bytes);
        }
        let outputs: Option<Vec<Payload>> = done
            .outputs
            .iter()
            .map(|index| given.get(*index).cloned())
            .collect();
        let outputs = outputs
            .filter(|outputs| outputs.len() == self.handoff.fragment.outputs.len())
            .ok_or_else(|| nonsense("the outputs are not those asked for"))?;
        for output in &outputs {
            self.check_size(output.body.len(), "the result")?;
        }
        Ok(outputs)
    }

    pub(super) fn on_failed(&mut self, frame: &Frame) -> Result<Trouble, Trouble> {
        let failed: Failed = frame.header()?;
        let given = frame.payloads(&failed.p, self.shared())?;
        self.meter(failed.cpu_us, failed.rss_bytes);
        if let Some(lease) = self.lease.take() {
            lease.release(failed.dirty, failed.rss_bytes);
        }
        let steps = &self.handoff.fragment.steps;
        if let Some(place) = steps.iter().position(|step| *step == failed.step) {
            self.current = place;
        }
        // The write that did not fit is why, whatever the function made of it.
        if let Some(problem) = self.poison.take() {
            return Ok(Trouble::Failed(problem));
        }
        Ok(Trouble::Failed(problem_from(failed.error, &given)))
    }

    pub(super) async fn reply_error(&mut self, seq: u64, problem: &Problem) -> Result<(), Trouble> {
        let mut payloads = Payloads::default();
        let error = error_header(problem, &mut payloads, self.shared());
        let header = Reply {
            re: seq,
            r: None,
            p: payloads.headers(),
            error: Some(error),
        };
        self.send(kind::REPLY, &header, &payloads).await
    }
}
