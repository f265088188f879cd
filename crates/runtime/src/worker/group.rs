//! The workers of one group of functions: started, assigned, watched, ended. Which
//! worker runs what is the scheduler's decision; this carries it out.

use super::connection::Connection;
use super::launch::{LaunchError, Launcher, Printed, ProcessSpec, Program, Template};
use super::listener::Arrival;
use crate::protocol::{Cancel, Exited, Payloads, kind};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidemill_lattice::Clock;
use tidemill_scheduler::{
    Pool, PoolAction, PoolActions, PoolEvent, PoolPolicy, PoolStats, RefuseReason, Ticket, WorkerId,
};
use tokio::sync::{Notify, oneshot};

/// How long a worker may take to stop a cancelled request by itself.
const CANCEL_GRACE: Duration = Duration::from_millis(500);
/// How long to wait for the news of how a worker ended.
const NEWS_TIMEOUT: Duration = Duration::from_millis(200);

/// What is known of a worker process from outside.
#[derive(Debug)]
pub(crate) struct WorkerInfo {
    pub(crate) id: u64,
    pub(crate) pid: i32,
    group: i32,
    busy: AtomicBool,
    over_memory: AtomicBool,
    exited: Mutex<Option<Exited>>,
    news: Notify,
}

impl WorkerInfo {
    fn kill(&self) {
        super::launch::end_group(self.group);
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid)
            && self.pid != self.group
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    fn interrupt(&self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::USR1);
        }
    }

    /// Memory of the process's own, in bytes: what it shares does not count.
    fn own_bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let mut fields = text.split_ascii_whitespace().skip(1);
        let resident: u64 = fields.next()?.parse().ok()?;
        let shared: u64 = fields.next()?.parse().ok()?;
        Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
    }
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) enum Death {
    OutOfMemory,
    Exited(Option<Exited>),
}

struct Worker {
    info: Arc<WorkerInfo>,
    connection: Connection,
}

struct State {
    pool: Pool,
    idle: HashMap<WorkerId, Worker>,
    waiting: HashMap<Ticket, oneshot::Sender<Result<Worker, RefuseReason>>>,
    known: HashMap<u64, Arc<WorkerInfo>>,
    next_ticket: u64,
    failure: Option<LaunchError>,
}

/// Functions that can run in the same processes, and these processes.
pub(crate) struct Group {
    spec: ProcessSpec,
    memory_bytes: u64,
    launcher: Arc<Launcher>,
    clock: Arc<dyn Clock>,
    printed: Printed,
    worker_ids: Arc<AtomicU64>,
    template: tokio::sync::Mutex<Option<Arc<Template>>>,
    state: Mutex<State>,
    this: Weak<Group>,
}

/// Why there is no worker.
#[derive(Debug)]
pub(crate) enum NoWorker {
    Refused(RefuseReason),
    Launch(LaunchError),
}

/// What groups of a node have in common.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) worker_ids: Arc<AtomicU64>,
}

impl Group {
    pub(crate) fn new(
        shop: &Shop,
        spec: ProcessSpec,
        memory_bytes: u64,
        policy: PoolPolicy,
        printed: Printed,
    ) -> Result<Arc<Self>, tidemill_scheduler::PolicyError> {
        let pool = Pool::new(policy)?;
        Ok(Arc::new_cyclic(|this| Self {
            spec,
            memory_bytes,
            launcher: Arc::clone(&shop.launcher),
            clock: Arc::clone(&shop.clock),
            printed,
            worker_ids: Arc::clone(&shop.worker_ids),
            template: tokio::sync::Mutex::new(None),
            state: Mutex::new(State {
                pool,
                idle: HashMap::new(),
                waiting: HashMap::new(),
                known: HashMap::new(),
                next_ticket: 0,
                failure: None,
            }),
            this: Weak::clone(this),
        }))
    }

    /// Loads the app now, so that a mistake in it shows before it serves.
    pub(crate) async fn prove(&self) -> Result<(), LaunchError> {
        if matches!(self.spec.program, Program::Command(_)) {
            let arrival = self
                .launcher
                .program(&self.spec, 0, &self.printed, Box::new(|_| {}))
                .await?;
            let info = self.info(0, &arrival);
            info.kill();
            return Ok(());
        }
        self.ensure_template().await.map(|_| ())
    }

    pub(crate) fn stats(&self) -> PoolStats {
        self.state.lock().pool.stats()
    }

    /// A worker of one's own, when there is one.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Lease, NoWorker> {
        let mut waiting = {
            let mut state = self.state.lock();
            state.next_ticket += 1;
            let ticket = Ticket(state.next_ticket);
            let (sender, receiver) = oneshot::channel();
            state.waiting.insert(ticket, sender);
            let now_us = self.clock.now_micros();
            self.handle(&mut state, PoolEvent::Request { ticket, now_us });
            Waiting {
                group: self,
                ticket,
                receiver,
            }
        };
        match (&mut waiting.receiver).await {
            Ok(Ok(worker)) => Ok(Lease {
                group: Arc::clone(self),
                worker: Some(worker),
            }),
            Ok(Err(RefuseReason::StartFailed)) => {
                let failure = self.state.lock().failure.clone();
                Err(failure.map_or(
                    NoWorker::Refused(RefuseReason::StartFailed),
                    NoWorker::Launch,
                ))
            }
            Ok(Err(why)) => Err(NoWorker::Refused(why)),
            Err(_) => Err(NoWorker::Refused(RefuseReason::Draining)),
        }
    }

    /// Lets the pool see that time passes, and ends workers above their memory limit.
    pub(crate) fn tick(&self) {
        let mut state = self.state.lock();
        let now_us = self.clock.now_micros();
        if state
            .pool
            .next_tick_us()
            .is_some_and(|due_us| due_us <= now_us)
        {
            self.handle(&mut state, PoolEvent::Tick { now_us });
        }
    }

    /// Starts the workers that are kept always.
    pub(crate) fn warm(&self) {
        let mut state = self.state.lock();
        let now_us = self.clock.now_micros();
        self.handle(&mut state, PoolEvent::Tick { now_us });
    }

    /// Ends busy workers that hold more memory than they may.
    pub(crate) fn watch_memory(&self) {
        let busy: Vec<Arc<WorkerInfo>> = {
            let state = self.state.lock();
            state
                .known
                .values()
                .filter(|info| info.busy.load(Ordering::Relaxed))
                .cloned()
                .collect()
        };
        for info in busy {
            if info
                .own_bytes()
                .is_some_and(|bytes| bytes > self.memory_bytes)
            {
                info.over_memory.store(true, Ordering::Release);
                info.kill();
            }
        }
    }

    /// Takes no new requests; idle workers end now, busy ones when they are done.
    pub(crate) fn drain(&self) {
        let mut state = self.state.lock();
        self.handle(&mut state, PoolEvent::Drain);
    }

    fn info(&self, id: u64, arrival: &Arrival) -> Arc<WorkerInfo> {
        Arc::new(WorkerInfo {
            id,
            pid: arrival.pid,
            group: arrival.group,
            busy: AtomicBool::new(false),
            over_memory: AtomicBool::new(false),
            exited: Mutex::new(None),
            news: Notify::new(),
        })
    }

    fn handle(&self, state: &mut State, event: PoolEvent) {
        let actions = state.pool.handle(event);
        self.perform(state, actions);
    }

    fn perform(&self, state: &mut State, actions: PoolActions) {
        for action in actions {
            match action {
                PoolAction::Assign { ticket, worker } => self.assign(state, ticket, worker),
                PoolAction::Start => self.start(),
                PoolAction::Stop { worker } => {
                    state.idle.remove(&worker);
                    if let Some(info) = state.known.remove(&worker.0) {
                        info.kill();
                    }
                    let now_us = self.clock.now_micros();
                    self.handle(state, PoolEvent::Gone { worker, now_us });
                }
                PoolAction::Refuse { ticket, why } => {
                    if let Some(sender) = state.waiting.remove(&ticket) {
                        let _ = sender.send(Err(why));
                    }
                }
            }
        }
    }

    fn assign(&self, state: &mut State, ticket: Ticket, worker: WorkerId) {
        let Some(there) = state.idle.remove(&worker) else {
            return;
        };
        there.info.busy.store(true, Ordering::Relaxed);
        let back = match state.waiting.remove(&ticket) {
            Some(sender) => match sender.send(Ok(there)) {
                Ok(()) => return,
                Err(Ok(worker)) => worker,
                Err(Err(_)) => return,
            },
            None => there,
        };
        back.info.busy.store(false, Ordering::Relaxed);
        state.idle.insert(worker, back);
        let now_us = self.clock.now_micros();
        self.handle(state, PoolEvent::Released { worker, now_us });
    }

    fn start(&self) {
        let Some(group) = self.this.upgrade() else {
            return;
        };
        let id = self.worker_ids.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::spawn(async move {
            let launched = group.launch(id).await;
            let mut state = group.state.lock();
            let now_us = group.clock.now_micros();
            match launched {
                Ok(worker) => {
                    state.failure = None;
                    state.known.insert(id, Arc::clone(&worker.info));
                    state.idle.insert(WorkerId(id), worker);
                    group.handle(
                        &mut state,
                        PoolEvent::Ready {
                            worker: WorkerId(id),
                            now_us,
                        },
                    );
                }
                Err(error) => {
                    tracing::warn!(app = %group.spec.app, %error, "a worker did not start");
                    state.failure = Some(error);
                    group.handle(&mut state, PoolEvent::StartFailed { now_us });
                }
            }
        });
    }

    async fn launch(&self, id: u64) -> Result<Worker, LaunchError> {
        let arrival = if matches!(self.spec.program, Program::Command(_)) {
            let ended = self.on_ended();
            self.launcher
                .program(&self.spec, id, &self.printed, ended)
                .await?
        } else {
            let template = self.ensure_template().await?;
            self.launcher.fork(&template, id).await?
        };
        Ok(Worker {
            info: self.info(id, &arrival),
            connection: arrival.connection,
        })
    }

    async fn ensure_template(&self) -> Result<Arc<Template>, LaunchError> {
        let mut slot = self.template.lock().await;
        if let Some(template) = slot.as_ref().filter(|template| template.is_alive()) {
            return Ok(Arc::clone(template));
        }
        let ended = self.on_ended();
        let template = self
            .launcher
            .template(&self.spec, &self.printed, ended)
            .await?;
        let template = Arc::new(template);
        *slot = Some(Arc::clone(&template));
        Ok(template)
    }

    fn on_ended(&self) -> super::launch::Ended {
        let group = Weak::clone(&self.this);
        Box::new(move |exited| {
            if let Some(group) = group.upgrade() {
                group.ended(exited);
            }
        })
    }

    /// A worker process has ended: an idle one leaves the pool; whoever holds a busy
    /// one finds out by its socket and reads the news.
    fn ended(&self, exited: Exited) {
        let mut state = self.state.lock();
        let worker = WorkerId(exited.worker);
        if let Some(info) = state.known.get(&exited.worker) {
            *info.exited.lock() = Some(exited);
            info.news.notify_one();
        }
        if state.idle.remove(&worker).is_some() {
            self.forget(&mut state, worker);
        }
    }

    fn forget(&self, state: &mut State, worker: WorkerId) {
        state.known.remove(&worker.0);
        let now_us = self.clock.now_micros();
        self.handle(state, PoolEvent::Gone { worker, now_us });
    }

    fn give_back(&self, worker: Worker, replace: bool) {
        let id = WorkerId(worker.info.id);
        worker.info.busy.store(false, Ordering::Relaxed);
        let mut state = self.state.lock();
        let ended = worker.info.exited.lock().is_some();
        state.idle.insert(id, worker);
        let now_us = self.clock.now_micros();
        if ended {
            state.idle.remove(&id);
            self.forget(&mut state, id);
        } else if replace {
            self.handle(&mut state, PoolEvent::Retired { worker: id, now_us });
        } else {
            self.handle(&mut state, PoolEvent::Released { worker: id, now_us });
        }
    }

    /// Asks a worker to drop a request that nobody waits for; ends it if it does not.
    async fn wind_down(self: Arc<Self>, mut worker: Worker, request: String) {
        worker.info.interrupt();
        let header = Cancel { request: &request };
        let finished = async {
            worker
                .connection
                .send(kind::CANCEL, &header, &Payloads::default())
                .await?;
            loop {
                let frame = worker.connection.receive().await?;
                if matches!(frame.kind, kind::DONE | kind::FAILED) {
                    return Ok::<(), super::connection::ConnectionError>(());
                }
            }
        };
        match tokio::time::timeout(CANCEL_GRACE, finished).await {
            Ok(Ok(())) => self.give_back(worker, false),
            Ok(Err(_)) | Err(_) => {
                worker.info.kill();
                self.forget(&mut self.state.lock(), WorkerId(worker.info.id));
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for info in self.state.get_mut().known.values() {
            info.kill();
        }
    }
}

/// A place in the queue; leaving it is noticed.
struct Waiting<'a> {
    group: &'a Arc<Group>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Result<Worker, RefuseReason>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        if state.waiting.remove(&self.ticket).is_some() {
            self.group.handle(
                &mut state,
                PoolEvent::GiveUp {
                    ticket: self.ticket,
                },
            );
            return;
        }
        drop(state);
        // Assigned, perhaps, and not taken.
        if let Ok(Ok(worker)) = self.receiver.try_recv() {
            self.group.give_back(worker, false);
        }
    }
}

/// A worker for as long as one hand-off takes.
pub(crate) struct Lease {
    group: Arc<Group>,
    worker: Option<Worker>,
}

impl Lease {
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self
            .worker
            .as_mut()
            .expect("held until the lease ends")
            .connection
    }

    fn id(&self) -> WorkerId {
        WorkerId(
            self.worker
                .as_ref()
                .expect("held until the lease ends")
                .info
                .id,
        )
    }

    /// The worker waits for a call of its own: others may have its place meanwhile.
    pub(crate) fn set_blocked(&self, blocked: bool) {
        let worker = self.id();
        let event = if blocked {
            PoolEvent::Blocked { worker }
        } else {
            PoolEvent::Unblocked { worker }
        };
        self.group.handle(&mut self.group.state.lock(), event);
    }

    /// The hand-off is over and the worker can take another.
    pub(crate) fn release(mut self, replace: bool, rss_bytes: u64) {
        if let Some(worker) = self.worker.take() {
            // What the worker says that it holds includes what it shares; only when that is
            // above the limit is it worth asking the system for the rest.
            let limit = self.group.memory_bytes;
            let over =
                rss_bytes > limit && worker.info.own_bytes().is_some_and(|bytes| bytes > limit);
            self.group.give_back(worker, replace || over);
        }
    }

    /// The worker's socket broke: makes sure that it has ended, and finds out how.
    pub(crate) async fn bury(mut self) -> Death {
        let Some(worker) = self.worker.take() else {
            return Death::Exited(None);
        };
        let info = Arc::clone(&worker.info);
        drop(worker);
        let _ = tokio::time::timeout(NEWS_TIMEOUT, info.news.notified()).await;
        info.kill();
        self.group
            .forget(&mut self.group.state.lock(), WorkerId(info.id));
        if info.over_memory.load(Ordering::Acquire) {
            return Death::OutOfMemory;
        }
        let exited = info.exited.lock().take();
        Death::Exited(exited)
    }

    /// Ends the worker at once.
    pub(crate) fn kill(mut self) {
        if let Some(worker) = self.worker.take() {
            worker.info.kill();
            self.group
                .forget(&mut self.group.state.lock(), WorkerId(worker.info.id));
        }
    }

    /// Leaves a request that is still running in the worker.
    pub(crate) fn abandon(mut self, request: &str) {
        if let Some(worker) = self.worker.take() {
            if worker.connection.is_whole() {
                let group = Arc::clone(&self.group);
                tokio::spawn(group.wind_down(worker, request.to_owned()));
            } else {
                worker.info.kill();
                self.group
                    .forget(&mut self.group.state.lock(), WorkerId(worker.info.id));
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.info.kill();
            self.group
                .forget(&mut self.group.state.lock(), WorkerId(worker.info.id));
        }
    }
}
