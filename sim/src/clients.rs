//! Those who call: sessions of random requests, retried until they are answered, and everything
//! that a checker has to know of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_causal::{
    Address, Answer, Body, Call, Durability, Envelope, Observation, Outgoing, PartitionId, Refusal,
    RequestId, Seen, Stamp, Step, Token,
};
use tidemill_lattice::{Kind, Time};

use crate::objects::{Code, DIGITS, Edit, Place};
use crate::world::{CLIENTS, What, World};

/// Names a request whatever its birth: client, number, child.
pub type Name = (u32, u32, u32);

/// What is known of a request.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its session: client and number.
    pub session: Option<(usize, u32)>,
    /// Requests of its session that were answered before, or the request that sent it.
    pub after: Vec<usize>,
    /// The code of its steps, by group and step.
    pub code: Vec<Vec<Arc<Code>>>,
    /// Its write, if it is one at level `eventual`.
    pub eventual: Option<(u32, crate::checker::Write)>,
    /// Whether it asked for less than a crash spares.
    pub answer: Option<Answered>,
    /// Its messages.
    pub children: Vec<usize>,
    /// Whether its outcome may stay unknown: its id expired, or its session was lost.
    pub is_given_up: bool,
    /// Whether it read when all was at rest.
    pub is_final: bool,
    /// When it was first sent and when it was answered.
    pub times_us: (u64, u64),
    /// For reports.
    pub name: Name,
}

/// A request's answer.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its commit.
    pub commit: Option<Stamp>,
    /// Its snapshot.
    pub snapshot: Time,
    /// What it saw.
    pub result: Arc<Vec<Seen>>,
}

#[derive(Clone, Debug)]
struct Pending {
    tag: usize,
    body: Body,
    tries: u32,
}

#[derive(Clone, Debug, Default)]
struct Client {
    token: Token,
    session: u32,
    answered: Vec<usize>,
    number: u32,
    pending: Option<Pending>,
    turn: u64,
    is_done: bool,
}

/// All clients and all requests.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    clients: Vec<Client>,
    /// The requests, by tag.
    pub known: Vec<Known>,
    by_name: BTreeMap<Name, usize>,
    /// Whose digit is which in a counter.
    pub digits: BTreeMap<(Place, u32), u32>,
    next_digit: BTreeMap<Place, u32>,
    /// What attempts saw, by tag.
    pub observations: Vec<(usize, Observation)>,
    /// Answers that differ from the first.
    pub contradictions: Vec<String>,
    /// Requests whose session was lost or whose id had expired.
    pub given_up: u64,
}

fn name(id: RequestId) -> Name {
    (id.client, id.number, id.child)
}

impl Clients {
    /// So many clients.
    #[must_use]
    pub fn new(count: u32) -> Clients {
        Clients {
            clients: vec![Client::default(); count as usize],
            ..Clients::default()
        }
    }

    /// Whether every request has its answer.
    #[must_use]
    pub fn are_done(&self) -> bool {
        let is_open = |known: &Known| known.answer.is_none() && !known.is_given_up;
        self.clients.iter().all(|client| client.pending.is_none())
            && !self.known.iter().any(|known| {
                is_open(known)
                    && known.children.is_empty()
                    && known.name.2 > 0
                    && self.parent_committed(known)
            })
    }

    fn parent_committed(&self, known: &Known) -> bool {
        known.after.first().is_some_and(|parent| {
            let answer = self.known.get(*parent).and_then(|p| p.answer.as_ref());
            answer.is_some_and(|answer| answer.commit.is_some())
        })
    }

    /// Takes in what attempts have seen.
    pub fn observed(&mut self, observations: Vec<Observation>) {
        for observation in observations {
            if let Some(tag) = self.by_name.get(&name(observation.id)) {
                self.observations.push((*tag, observation));
            }
        }
    }

    /// An answer leaves a compute node, whether or not it arrives.
    pub fn answered(&mut self, id: RequestId, answer: &Answer) {
        let Answer::Done {
            commit,
            snapshot,
            result,
            ..
        } = answer
        else {
            return;
        };
        let Some(known) = self
            .by_name
            .get(&name(id))
            .and_then(|tag| self.known.get_mut(*tag))
        else {
            return;
        };
        match &known.answer {
            None => {
                known.answer = Some(Answered {
                    commit: *commit,
                    snapshot: *snapshot,
                    result: Arc::clone(result),
                });
            }
            // A request that only reads is not recorded: each attempt answers for itself.
            Some(first) if first.commit.is_none() && commit.is_none() => {}
            Some(first) if first.commit != *commit => {
                let text = format!("{id} was answered {:?} and {commit:?}", first.commit);
                self.contradictions.push(text);
            }
            Some(_) => {}
        }
    }
}

/// Starts the clients.
pub fn begin(world: &mut World) {
    for client in 0..world.clients.clients.len() {
        let at_us = 40_000 + world.rng.below(40_000);
        world.put(at_us, What::Client(client, 0));
    }
}

/// A client's timer: the next request, or the same again.
pub fn wake(world: &mut World, client: usize, turn: u64) {
    let state = &mut world.clients.clients[client];
    if state.turn != turn || state.is_done {
        return;
    }
    if state.pending.is_none() {
        if world.is_quiet {
            world.clients.clients[client].is_done = true;
            return;
        }
        make(world, client);
    }
    send(world, client);
}

fn send(world: &mut World, client: usize) {
    let state = &mut world.clients.clients[client];
    state.turn += 1;
    let turn = state.turn;
    let Some(pending) = &mut state.pending else {
        return;
    };
    pending.tries += 1;
    let tries = pending.tries;
    let mut body = pending.body.clone();
    if let Body::Call(call) = &mut body {
        call.is_retry = tries > 1;
    }
    let patience_us = [60_000, 150_000, 400_000][world.rng.index(3)];
    world.put(world.now_us + patience_us, What::Client(client, turn));
    let host = world.rng.index(world.hosts.len());
    send_to(world, client, host, body);
    // Sometimes two at once, on two nodes.
    if tries == 1 && world.profile.faults && world.rng.permille(60) {
        let again = world.clients.clients[client].pending.clone();
        let other = world.rng.index(world.hosts.len());
        if let Some(again) = again {
            send_to(world, client, other, again.body);
        }
    }
}

fn send_to(world: &mut World, client: usize, host: usize, body: Body) {
    let from = CLIENTS + u32::try_from(client).unwrap_or(0);
    let envelope = Envelope {
        from: Address(from),
        epoch: 0,
        time: Time::ZERO,
        body,
    };
    let to = Address(u32::try_from(host).unwrap_or(0));
    world.transmit(from as usize, to, envelope);
}

/// An answer arrives at a client.
pub fn arrive(world: &mut World, client: usize, envelope: Envelope) {
    let Body::Answered { id, answer } = envelope.body else {
        return;
    };
    let Some(tag) = world.clients.by_name.get(&name(id)).copied() else {
        return;
    };
    let Some(state) = world.clients.clients.get_mut(client) else {
        return;
    };
    if state.pending.as_ref().is_none_or(|p| p.tag != tag) {
        return;
    }
    match answer {
        Answer::Done {
            commit,
            snapshot,
            result,
            token,
        } => {
            state.token = token;
            state.answered.push(tag);
            state.pending = None;
            let known = &mut world.clients.known[tag];
            known.times_us.1 = world.now_us;
            // The one that the session has seen.
            known.answer = Some(Answered {
                commit,
                snapshot,
                result,
            });
        }
        Answer::Refused(Refusal::StateLost | Refusal::RequestExpired | Refusal::WrongKind) => {
            state.pending = None;
            state.token = Token::default();
            state.session += 1;
            state.answered.clear();
            world.clients.known[tag].is_given_up = true;
            world.clients.given_up += 1;
        }
        Answer::Refused(_) => return,
    }
    let state = &mut world.clients.clients[client];
    state.turn += 1;
    let turn = state.turn;
    let think_us = world.rng.below(world.profile.think_us);
    world.put(world.now_us + think_us, What::Client(client, turn));
}

// ---- making requests

/// The longest time to live.
const EXPIRY_MAX_US: u64 = 80_000;

const KINDS: [Kind; 4] = [Kind::Counter, Kind::Set, Kind::Register, Kind::Map];

/// Every key there is.
#[must_use]
pub fn places(world: &World) -> Vec<Place> {
    let numbers = 0..world.profile.keys;
    KINDS
        .into_iter()
        .flat_map(|kind| numbers.clone().map(move |number| Place { kind, number }))
        .collect()
}

fn digit(world: &mut World, place: Place, tag: u32) -> Option<u32> {
    if place.kind != Kind::Counter {
        return Some(0);
    }
    let next = world.clients.next_digit.entry(place).or_default();
    if *next >= DIGITS {
        return None;
    }
    let digit = *next;
    *next += 1;
    world.clients.digits.insert((place, digit), tag);
    Some(digit)
}

fn edit(world: &mut World, place: Place, tag: u32) -> Edit {
    let removes = world.profile.removes;
    if place.kind != Kind::Register && world.rng.permille(removes) {
        return match world.rng.below(5) {
            0 if place.kind == Kind::Set => Edit::Expire(world.rng.between(1_000, EXPIRY_MAX_US)),
            1 | 2 if place.kind != Kind::Counter => Edit::Clear,
            _ => Edit::Delete,
        };
    }
    match place.kind {
        Kind::Register => Edit::Put,
        Kind::Map if world.rng.permille(200) => Edit::Put,
        _ => digit(world, place, tag).map_or(Edit::Read, Edit::Add),
    }
}

/// Random steps: the keys that are edited are each edited once, those that are read may be read
/// again later.
fn steps(world: &mut World, tag: u32, reads_only: bool) -> Vec<Vec<Arc<Code>>> {
    let all = places(world);
    let mut left = all.clone();
    let groups = 1 + world.rng.index(3);
    let mut code = Vec::new();
    for _ in 0..groups {
        let siblings = 1 + world.rng.index(2);
        let mut group = Vec::new();
        for _ in 0..siblings {
            let mut edits: Vec<(Place, Edit)> = Vec::new();
            for _ in 0..world.rng.between(1, 3) {
                let reads = reads_only || world.rng.permille(400) || left.is_empty();
                let (place, edit) = if reads {
                    (all[world.rng.index(all.len())], Edit::Read)
                } else {
                    let place = left.remove(world.rng.index(left.len()));
                    (place, edit(world, place, tag))
                };
                if !edits.iter().any(|(other, _)| *other == place) {
                    edits.push((place, edit));
                }
            }
            group.push(Arc::new(Code { tag, edits }));
        }
        code.push(group);
    }
    code
}

fn as_steps(world: &mut World, code: &[Vec<Arc<Code>>]) -> Arc<Vec<Vec<Step>>> {
    let mut groups = Vec::new();
    for group in code {
        let mut steps = Vec::new();
        for code in group {
            let is_remote = world.rng.permille(world.profile.remote);
            let place = is_remote
                .then(|| Address(u32::try_from(world.rng.index(world.hosts.len())).unwrap_or(0)));
            steps.push(Step {
                keys: code.edits.iter().map(|(place, _)| place.key()).collect(),
                place,
                code: Arc::clone(code) as Arc<dyn tidemill_causal::Function>,
            });
        }
        groups.push(steps);
    }
    Arc::new(groups)
}

fn enrol(world: &mut World, known: Known) -> usize {
    let tag = world.clients.known.len();
    world.clients.by_name.insert(known.name, tag);
    world.clients.known.push(known);
    tag
}

fn known(world: &World, name: Name) -> Known {
    Known {
        session: None,
        after: Vec::new(),
        code: Vec::new(),
        eventual: None,
        answer: None,
        children: Vec::new(),
        is_given_up: false,
        is_final: false,
        times_us: (world.now_us, 0),
        name,
    }
}

fn make(world: &mut World, client: usize) {
    let number = world.clients.clients[client].number + 1;
    world.clients.clients[client].number = number;
    let state = &world.clients.clients[client];
    let who = u32::try_from(client).unwrap_or(0);
    let mut request = known(world, (who, number, 0));
    request.session = Some((client, state.session));
    request.after = state.answered.clone();
    let token = state.token;
    let id = RequestId {
        birth_us: world.wall_us(),
        client: who,
        number,
        child: 0,
    };
    let tag = enrol(world, request);
    let tag_number = u32::try_from(tag).unwrap_or(0);
    let home = PartitionId(
        u16::try_from(world.rng.below(u64::from(world.profile.partitions))).unwrap_or(0),
    );
    let body = if world.rng.permille(world.profile.eventual) {
        eventual(world, tag, id, token)
    } else {
        None
    };
    let body = match body {
        Some(body) => body,
        None => {
            let reads_only = world.rng.permille(world.profile.read_only);
            let code = steps(world, tag_number, reads_only);
            let messages = if !reads_only && world.rng.permille(world.profile.messages) {
                vec![message(world, tag)]
            } else {
                Vec::new()
            };
            let steps = as_steps(world, &code);
            world.clients.known[tag].code = code;
            Body::Call(Call {
                id,
                home,
                arguments: u64::from(tag_number),
                token,
                durability: world.profile.durability,
                steps,
                messages,
                is_keyed: !reads_only,
                is_retry: false,
            })
        }
    };
    world.clients.clients[client].pending = Some(Pending {
        tag,
        body,
        tries: 0,
    });
    let text = format!(
        "client {client} makes r{who}.{number}: {}",
        shown(world, tag)
    );
    world.log(|| text);
}

/// A request's program, for traces.
fn shown(world: &World, tag: usize) -> String {
    let known = &world.clients.known[tag];
    let step = |code: &Arc<Code>| {
        let edits = code.edits.iter();
        let edits = edits.map(|(place, edit)| format!("{edit:?} {}{}", place.kind, place.number));
        edits.collect::<Vec<_>>().join(", ")
    };
    let group = |group: &Vec<Arc<Code>>| {
        let steps: Vec<String> = group.iter().map(step).collect();
        steps.join(" | ")
    };
    let groups: Vec<String> = known.code.iter().map(group).collect();
    let child = known.children.first().map(|child| shown(world, *child));
    let sends = child.map_or_else(String::new, |child| format!(" sends [{child}]"));
    format!("{}{sends}", groups.join(" >> "))
}

fn eventual(world: &mut World, tag: usize, id: RequestId, token: Token) -> Option<Body> {
    let all = places(world);
    let place = all[world.rng.index(all.len())];
    let tag_number = u32::try_from(tag).unwrap_or(0);
    let digit = match place.kind {
        Kind::Map => return None,
        _ => digit(world, place, tag_number)?,
    };
    let (op, write) = crate::objects::eventual_op(tag_number, place, digit);
    world.clients.known[tag].eventual = Some(write);
    Some(Body::Write {
        id,
        key: place.key(),
        op,
        token,
        durability: world.profile.durability,
    })
}

fn message(world: &mut World, parent: usize) -> Outgoing {
    let (client, number, _) = world.clients.known[parent].name;
    let mut request = known(world, (client, number, 1));
    request.after = vec![parent];
    let tag = enrol(world, request);
    let code = steps(world, u32::try_from(tag).unwrap_or(0), false);
    let steps = as_steps(world, &code);
    world.clients.known[tag].code = code;
    world.clients.known[parent].children.push(tag);
    let home = world.rng.below(u64::from(world.profile.partitions));
    Outgoing {
        home: PartitionId(u16::try_from(home).unwrap_or(0)),
        steps,
    }
}

/// When everything that was told to expire has: a hybrid time in microseconds.
#[must_use]
pub fn all_expired_us(world: &World) -> u64 {
    let answers = world
        .clients
        .known
        .iter()
        .filter_map(|known| known.answer.as_ref());
    let latest = answers.map(|answer| answer.snapshot.max(answer.commit.unwrap_or_default().time));
    latest.fold(Time::ZERO, Time::max).micros() + EXPIRY_MAX_US
}

/// Lets every host read every key, after everything that was answered.
pub fn read_all(world: &mut World, round: u32) {
    let all = places(world);
    let answered: Vec<usize> = (0..world.clients.known.len())
        .filter(|tag| {
            let known = &world.clients.known[*tag];
            known.answer.is_some() && !known.is_final
        })
        .collect();
    let time = answered
        .iter()
        .filter_map(|tag| world.clients.known[*tag].answer.as_ref())
        .map(|answer| answer.snapshot.max(answer.commit.unwrap_or_default().time))
        .fold(Time::ZERO, Time::max);
    for host in 0..world.hosts.len() {
        let client = world.clients.clients.len();
        world.clients.clients.push(Client::default());
        let who = u32::try_from(client).unwrap_or(0);
        let mut request = known(world, (who, round, 0));
        request.after.clone_from(&answered);
        request.is_final = true;
        let tag = enrol(world, request);
        let edits = all.iter().map(|place| (*place, Edit::Read)).collect();
        let code = vec![vec![Arc::new(Code {
            tag: u32::try_from(tag).unwrap_or(0),
            edits,
        })]];
        let remote = std::mem::replace(&mut world.profile.remote, 0);
        let steps = as_steps(world, &code);
        world.profile.remote = remote;
        world.clients.known[tag].code = code;
        let loss = world.disk.epoch().loss;
        let body = Body::Call(Call {
            id: RequestId {
                birth_us: world.wall_us(),
                client: who,
                number: round,
                child: 0,
            },
            home: PartitionId(0),
            arguments: 0,
            token: Token { time, loss },
            durability: Durability::Durable,
            steps,
            messages: Vec::new(),
            is_keyed: false,
            is_retry: false,
        });
        world.clients.clients[client].pending = Some(Pending {
            tag,
            body: body.clone(),
            tries: 1,
        });
        send_to(world, client, host, body);
        let turn = world.clients.clients[client].turn;
        world.put(world.now_us + 300_000, What::Client(client, turn));
    }
}
