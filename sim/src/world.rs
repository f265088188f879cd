//! A cluster in one thread: hosts, the fabric between them, their disks and clocks.
//!
//! Everything that happens is an event in one queue, ordered by time and then by when it was put
//! there; chance comes from the seed's generator alone. So a seed means the same run each time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt::Write as _;
use std::sync::Arc;

use tidemill_causal::{
    Action, Address, Body, Canaries, Canary, Compute, Config, Envelope, Event, LogWrite, Node, Now,
    PartitionId, Placed, Tail,
};
use tidemill_lattice::{Time, Writer};

use crate::clients::Clients;
use crate::disk::Disk;
use crate::faults::Faults;
use crate::profile::Profile;
use crate::rng::Rng;

/// Clients' addresses begin here.
pub const CLIENTS: u32 = 1000;
/// The Unix time at which every run begins.
const BEGIN_US: u64 = 1_700_000_000_000_000;
/// More events than this are a storm: machines that answer each other without end.
pub const EVENTS_MAX: u64 = 2_000_000;
/// Between two ticks of a machine.
const TICK_US: u64 = 5_000;

/// A place for processes.
#[derive(Debug)]
pub struct Host {
    /// Whether it takes part in storage.
    pub stores: bool,
    /// Counts the processes that ran here.
    pub run: u64,
    /// Whether one runs.
    pub is_up: bool,
    /// Whether it stands still.
    pub is_paused: bool,
    /// The member, if it stores.
    pub node: Option<Node>,
    /// The compute node.
    pub compute: Option<Compute>,
    /// How far its clock is ahead, or behind.
    pub skew_us: i64,
    /// Until when its disk is slow.
    pub slow_until_us: u64,
    parked: Vec<What>,
}

/// Something that happens.
#[derive(Debug)]
pub enum What {
    /// A tick of a process.
    Tick(usize, u64),
    /// A message arrives.
    Arrive(u32, Envelope),
    /// Something that a process asked for is there: for the member, or for the compute node.
    Done(usize, u64, bool, Event),
    /// A log is opened by a process.
    OpenLog(usize, u64, PartitionId, tidemill_causal::Generation),
    /// A log is written, whether or not the process is still there.
    WriteLog(usize, u64, LogWrite),
    /// An epoch is stored.
    Propose(tidemill_causal::Epoch),
    /// A client goes on.
    Client(usize, u64),
    /// A fault begins or ends.
    Fault(crate::faults::Step),
    /// A process begins anew.
    Restart(usize, u64),
}

/// What a run counts.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Messages between hosts, by name: how many, and their bytes.
    pub messages: BTreeMap<&'static str, (u64, u64)>,
    /// Messages between hosts that belong to commits.
    pub commit_messages: (u64, u64),
    /// Faults.
    pub faults: u64,
    /// Members that were evicted.
    pub evictions: u64,
    /// How long homes took to answer a commit, from its leaving to the answer's arrival.
    pub decided_us: Vec<u64>,
    /// How far stable was behind, at gossip times, in microseconds.
    pub staleness_us: Vec<u64>,
}

/// A running cluster.
pub struct World {
    /// The seed's settings.
    pub profile: Profile,
    /// The seeded bugs.
    pub canaries: Canaries,
    /// The protocol's settings.
    pub config: Arc<Config>,
    /// Chance.
    pub rng: Rng,
    /// Microseconds since the beginning.
    pub now_us: u64,
    /// Hosts, by address.
    pub hosts: Vec<Host>,
    /// Stable storage.
    pub disk: Disk,
    /// Those who call.
    pub clients: Clients,
    /// What goes wrong.
    pub faults: Faults,
    /// Links that lose everything, from and to.
    pub cuts: BTreeSet<(u32, u32)>,
    /// What was counted.
    pub counts: Counts,
    /// Whether faults and new requests have ended.
    pub is_quiet: bool,
    /// Whether sizes and staleness are counted as well.
    pub measures: bool,
    trace: Option<String>,
    /// When each attempt's commit left.
    asked_us: BTreeMap<tidemill_causal::Ticket, u64>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: BTreeMap<u64, What>,
    next: u64,
    last_member: u32,
    last_incarnation: u32,
}

impl World {
    /// A cluster at its beginning.
    #[must_use]
    pub fn new(seed: u64, profile: Profile, canaries: Canaries, traced: bool) -> World {
        let mut rng = Rng::new(seed);
        let hosts = profile.members + profile.executors;
        let executors = (0..hosts).map(Address).collect();
        let config = Arc::new(Config {
            partitions: profile.partitions,
            fold_us: profile.fold_us,
            mark_us: profile.mark_us,
            push_us: profile.push_us,
            lease_us: profile.lease_us,
            retention_us: profile.retention_us,
            image_entries: profile.image_entries,
            executors,
            canaries,
            ..Config::default()
        });
        let first: Vec<(u32, u32)> = (0..profile.members).map(|at| (at + 1, at)).collect();
        let mut world = World {
            disk: Disk::new(&first, rng.bits()),
            clients: Clients::new(profile.clients),
            faults: Faults::default(),
            canaries,
            config,
            rng,
            now_us: 0,
            hosts: Vec::new(),
            cuts: BTreeSet::new(),
            counts: Counts::default(),
            is_quiet: false,
            measures: false,
            trace: traced.then(String::new),
            asked_us: BTreeMap::new(),
            queue: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            next: 0,
            last_member: profile.members,
            last_incarnation: 10_000,
            profile,
        };
        for at in 0..hosts {
            world.add_host(at < world.profile.members);
        }
        for (member, address) in first {
            world.begin(address as usize, Some(Writer(member)), BTreeMap::new());
        }
        for at in world.profile.members..hosts {
            world.begin(at as usize, None, BTreeMap::new());
        }
        world
    }

    /// Adds an empty host and answers its place.
    pub fn add_host(&mut self, stores: bool) -> usize {
        let skew_us = i64::try_from(self.profile.skew_us).unwrap_or(0);
        let skew_us =
            i64::try_from(self.rng.below(2 * self.profile.skew_us + 1)).unwrap_or(0) - skew_us;
        self.hosts.push(Host {
            stores,
            run: 0,
            is_up: false,
            is_paused: false,
            node: None,
            compute: None,
            skew_us,
            slow_until_us: 0,
            parked: Vec::new(),
        });
        self.hosts.len() - 1
    }

    /// A name that no member has had.
    pub fn new_member(&mut self) -> Writer {
        self.last_member += 1;
        Writer(self.last_member)
    }

    /// Starts a process on a host.
    pub fn begin(&mut self, at: usize, member: Option<Writer>, tails: BTreeMap<PartitionId, Tail>) {
        self.last_incarnation += 1;
        let incarnation = Writer(self.last_incarnation);
        let address = Address(u32::try_from(at).unwrap_or(0));
        let config = Arc::clone(&self.config);
        let host = &mut self.hosts[at];
        host.run += 1;
        host.is_up = true;
        host.is_paused = false;
        host.parked.clear();
        host.compute = Some(Compute::new(address, incarnation, Arc::clone(&config)));
        host.node = member.map(|member| Node::new(Placed { member, address }, config, tails));
        let run = host.run;
        let jitter_us = self.rng.below(TICK_US);
        self.put(self.now_us + jitter_us, What::Tick(at, run));
    }

    /// Puts an event into the queue.
    pub fn put(&mut self, at_us: u64, what: What) {
        self.next += 1;
        self.queue.push(Reverse((at_us, self.next)));
        self.waiting.insert(self.next, what);
    }

    /// Adds a line to the trace.
    pub fn log(&mut self, line: impl FnOnce() -> String) {
        let now_us = self.now_us;
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{:>9.3} {}", now_us as f64 / 1000.0, line());
        }
    }

    /// The trace so far.
    pub fn take_trace(&mut self) -> String {
        self.trace.take().unwrap_or_default()
    }

    /// Runs until a time.
    pub fn run_until(&mut self, until_us: u64) {
        while let Some(Reverse((at_us, _))) = self.queue.peek() {
            if *at_us > until_us || self.counts.events > EVENTS_MAX {
                break;
            }
            let Some(Reverse((at_us, number))) = self.queue.pop() else {
                break;
            };
            self.now_us = at_us;
            if let Some(what) = self.waiting.remove(&number) {
                self.counts.events += 1;
                self.happen(what);
            }
        }
        self.now_us = until_us;
    }

    /// A host's time.
    #[must_use]
    pub fn clock(&self, at: usize) -> Now {
        let wall_us = BEGIN_US + self.now_us;
        let wall_us = wall_us.saturating_add_signed(self.hosts[at].skew_us);
        let step_us = self.profile.clock_step_us;
        Now {
            monotonic_us: self.now_us + 1,
            wall_us: wall_us / step_us * step_us,
        }
    }

    /// The true Unix time.
    #[must_use]
    pub fn wall_us(&self) -> u64 {
        BEGIN_US + self.now_us
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Client(client, turn) => crate::clients::wake(self, client, turn),
            What::Fault(step) => crate::faults::happen(self, step),
            What::Arrive(to, envelope) if to >= CLIENTS => {
                crate::clients::arrive(self, (to - CLIENTS) as usize, envelope);
            }
            What::Propose(epoch) => {
                let text = format!(
                    "epoch {} of {:?} salt {} loss {}",
                    epoch.number,
                    epoch.members.iter().map(|p| p.member.0).collect::<Vec<_>>(),
                    epoch.salt,
                    epoch.loss
                );
                if self.disk.propose(epoch) {
                    self.log(|| text);
                }
            }
            What::WriteLog(at, run, write) => {
                let (partition, generation) = (write.partition, write.generation);
                let event = match self.disk.write(&write) {
                    Some(end) => Event::LogWritten {
                        partition,
                        generation,
                        end,
                    },
                    None => Event::LogFenced {
                        partition,
                        generation,
                    },
                };
                self.on_host(at, run, What::Done(at, run, true, event));
            }
            What::OpenLog(at, run, partition, generation) => {
                let event = match self.disk.open(partition, generation) {
                    Some(read) => Event::LogOpened {
                        partition,
                        generation,
                        read,
                    },
                    None => Event::LogFenced {
                        partition,
                        generation,
                    },
                };
                self.on_host(at, run, What::Done(at, run, true, event));
            }
            What::Restart(at, run) => {
                if self.hosts[at].run == run {
                    crate::faults::rejoin(self, at);
                }
            }
            What::Tick(at, run) | What::Done(at, run, _, _) => self.on_host(at, run, what),
            What::Arrive(to, _) => {
                // Bound to whatever process runs there when it arrives.
                let at = to as usize;
                if let Some(host) = self.hosts.get(at) {
                    let run = host.run;
                    self.on_host(at, run, what);
                }
            }
        }
    }

    /// Something for a process: dropped if it is gone, kept if it stands still.
    fn on_host(&mut self, at: usize, run: u64, what: What) {
        let host = &mut self.hosts[at];
        if !host.is_up || host.run != run {
            return;
        }
        if host.is_paused {
            host.parked.push(what);
            return;
        }
        match what {
            What::Tick(..) => {
                self.put(self.now_us + TICK_US, What::Tick(at, run));
                self.handle(at, true, Event::Tick);
                self.handle(at, false, Event::Tick);
                self.measure(at);
            }
            What::Arrive(_, envelope) => {
                if let Body::Decided { ticket, .. } = &envelope.body
                    && let Some(asked_us) = self.asked_us.remove(ticket)
                {
                    self.counts.decided_us.push(self.now_us - asked_us);
                }
                let both = matches!(envelope.body, Body::Stale);
                let for_compute = envelope.body.is_for_compute();
                if both {
                    self.handle(at, true, Event::Message(envelope.clone()));
                    self.handle(at, false, Event::Message(envelope));
                } else {
                    self.handle(at, !for_compute, Event::Message(envelope));
                }
            }
            What::Done(_, _, for_node, event) => self.handle(at, for_node, event),
            _ => {}
        }
    }

    /// Lets a host that stood still go on: it finds what has come meanwhile, all at once.
    pub fn resume(&mut self, at: usize) {
        let parked = {
            let host = &mut self.hosts[at];
            host.is_paused = false;
            std::mem::take(&mut host.parked)
        };
        for what in parked {
            let delay_us = self.rng.below(2_000);
            self.put(self.now_us + delay_us, what);
        }
    }

    fn handle(&mut self, at: usize, for_node: bool, event: Event) {
        let now = self.clock(at);
        let host = &mut self.hosts[at];
        let run = host.run;
        let actions = if for_node {
            match &mut host.node {
                Some(node) => node.handle(now, event),
                None => return,
            }
        } else {
            let Some(compute) = &mut host.compute else {
                return;
            };
            let actions = compute.handle(now, event);
            let seen = compute.take_observations();
            self.clients.observed(seen);
            actions
        };
        for action in actions {
            self.act(at, run, for_node, action);
        }
    }

    fn act(&mut self, at: usize, run: u64, for_node: bool, action: Action) {
        match action {
            Action::Send { to, envelope } => self.transmit(at, to, envelope),
            Action::ReadEpoch => {
                let delay_us = self.rng.between(500, 4_000);
                // Read on arrival there; told on arrival back: one delay stands for both.
                let event = Event::Epoch(Arc::clone(self.disk.epoch()));
                self.put(self.now_us + delay_us, What::Done(at, run, for_node, event));
            }
            Action::Propose(epoch) => {
                let delay_us = self.rng.between(500, 3_000);
                self.put(self.now_us + delay_us, What::Propose(epoch));
            }
            Action::OpenLog {
                partition,
                generation,
            } => {
                let delay_us = self.disk_us(at);
                let open = What::OpenLog(at, run, partition, generation);
                self.put(self.now_us + delay_us, open);
            }
            Action::WriteLog(write) => {
                let delay_us = self.disk_us(at);
                self.put(self.now_us + delay_us, What::WriteLog(at, run, write));
            }
            Action::Rejoin => {
                self.counts.evictions += 1;
                let delay_us = self.rng.between(5_000, 60_000);
                self.put(self.now_us + delay_us, What::Restart(at, run));
            }
            Action::Note(text) => self.log(|| format!("@{at} {text}")),
        }
    }

    fn disk_us(&mut self, at: usize) -> u64 {
        let (least, most) = self.profile.disk_us;
        let usual_us = self.rng.between(least, most);
        if self.hosts[at].slow_until_us > self.now_us {
            usual_us * 20
        } else {
            usual_us
        }
    }

    /// Puts a message on the wire.
    pub fn transmit(&mut self, from: usize, to: Address, envelope: Envelope) {
        match &envelope.body {
            Body::Answered { id, answer } => self.clients.answered(*id, answer),
            Body::Commit(request) if self.measures => {
                self.asked_us.entry(request.ticket).or_insert(self.now_us);
            }
            _ => {}
        }
        if from == to.0 as usize {
            self.put(self.now_us, What::Arrive(to.0, envelope));
            return;
        }
        let from = u32::try_from(from).unwrap_or(0);
        if from < CLIENTS {
            self.count(to, &envelope.body);
        }
        if self.trace.is_some() && !matches!(envelope.body, Body::Gossip(_)) {
            let text = format!(
                "@{from} -> {to} {} (epoch {})",
                envelope.body, envelope.epoch
            );
            self.log(|| text);
        }
        if self.cuts.contains(&(from, to.0)) {
            return;
        }
        let quiet = self.is_quiet;
        let profile = &self.profile;
        let (drop, double, late) = match quiet {
            true => (0, 0, 0),
            false => (profile.drop, profile.double, profile.late),
        };
        let (wire_us, late_us) = (profile.wire_us, profile.late_us);
        let copies = 1 + u64::from(double > 0 && self.rng.permille(double));
        for _ in 0..copies {
            if drop > 0 && self.rng.permille(drop) {
                continue;
            }
            let mut delay_us = self.rng.between(wire_us.0, wire_us.1);
            if late > 0 && self.rng.permille(late) {
                delay_us += self.rng.below(late_us);
            }
            self.put(self.now_us + delay_us, What::Arrive(to.0, envelope.clone()));
        }
    }

    fn count(&mut self, to: Address, body: &Body) {
        if !self.measures || to.0 >= CLIENTS {
            return;
        }
        let bytes = body.wire_bytes() as u64;
        let (count, sum) = self.counts.messages.entry(body.name()).or_default();
        *count += 1;
        *sum += bytes;
        if body.is_of_commit() {
            self.counts.commit_messages.0 += 1;
            self.counts.commit_messages.1 += bytes;
        }
    }

    fn measure(&mut self, at: usize) {
        if !self.measures || self.now_us < 200_000 || self.is_quiet {
            return;
        }
        if let Some(node) = &self.hosts[at].node {
            let stable = node.facts().stable;
            if stable > Time::ZERO {
                self.counts
                    .staleness_us
                    .push(self.wall_us().saturating_sub(stable.micros()));
            }
        }
    }

    /// Whether every host runs, agrees on the epoch and has nothing left to recover.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let epoch = self.disk.epoch();
        self.hosts.iter().all(|host| {
            if !host.is_up || host.is_paused {
                return !host.stores && !host.is_paused;
            }
            let Some(node) = &host.node else {
                return !host.stores;
            };
            let facts = node.facts();
            facts.epoch == epoch.number
                && facts.is_ready
                && facts.unsafe_entries == 0
                && node.membership().is_settled()
        })
    }

    /// Whether a bug is switched on.
    #[must_use]
    pub fn has(&self, canary: Canary) -> bool {
        self.canaries.has(canary)
    }
}
