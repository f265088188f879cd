//! `MULTI`, `EXEC`, `DISCARD`: commands that become one causal request.
//!
//! Commands are only queued until `EXEC`. Then they run one after the other on one snapshot and
//! what those before them have written, and all writes are one commit, which others see whole or
//! not at all. Nothing is held open for a client in between, and nothing is validated: two
//! transactions that write the same key merge as the key's type says. `WATCH` is therefore not
//! there.
//!
//! Additions count whatever races with them, since a counter's additions merge. That needs a
//! counter: a register that holds a number becomes one before the transaction takes its snapshot,
//! by a write of its own that changes nothing a client can see.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_lattice::{Cell, Dot, Key, Time, Value, Writer};
use tidemill_store::{PROVISIONAL, Snapshot};

use crate::command::{Command, Run};
use crate::connection::apart;
use crate::door::{Answer, Decide, Door, Reader, Waiting, Write, decided};
use crate::draft::Draft;
use crate::fault::{Fault, Outcome};
use crate::number::integer;
use crate::session::Session;
use crate::{Reply, hashes, strings, values};

/// What the words of one transaction may take, with something for each word.
const QUEUE_BYTES_MAX: usize = 64 << 20;
const WORD_BYTES: usize = 64;
/// So many words are looked at off the threads that serve connections.
const WORDS_WIDE: usize = 1024;
/// How often registers that are counted with are made counters before `EXEC` gives up. It takes
/// somebody who sets them between each of its looks.
const ROUNDS_MAX: usize = 16;
/// Who writes within a transaction, until its commit: no life of a store.
const WRITER: Writer = Writer(u32::MAX);
/// More dots than one key takes in a write of several keys.
const BATCH_DOTS: u32 = 16;

/// The commands of an open transaction.
#[derive(Default)]
pub(crate) struct Queue {
    commands: Vec<Queued>,
    bytes: usize,
    words: usize,
    /// A command could not be queued, so `EXEC` will run none.
    is_broken: bool,
}

struct Queued {
    command: &'static Command,
    words: Vec<Bytes>,
}

pub(crate) fn multi(session: &mut Session, _: &[Bytes]) -> Outcome {
    if session.multi.is_some() {
        return Err(Fault::other("MULTI calls can not be nested"));
    }
    session.multi = Some(Box::default());
    Ok(Reply::ok())
}

pub(crate) fn discard(session: &mut Session, _: &[Bytes]) -> Outcome {
    let open = session.multi.take();
    open.map(|_| Reply::ok())
        .ok_or_else(|| Fault::other("DISCARD without MULTI"))
}

/// Nothing is watched.
pub(crate) fn unwatch(_: &mut Session, _: &[Bytes]) -> Outcome {
    Ok(Reply::ok())
}

/// A command that can not be queued spoils the open transaction, if there is one.
pub(crate) fn spoil(session: &mut Session) {
    if let Some(queue) = &mut session.multi {
        queue.is_broken = true;
    }
}

/// Takes a command into the open transaction; gives its words back where it is to run now.
pub(crate) fn queue(
    session: &mut Session,
    command: &'static Command,
    words: Vec<Bytes>,
) -> Result<Reply, Vec<Bytes>> {
    let Some(queue) = &mut session.multi else {
        return Err(words);
    };
    if matches!(
        command.name,
        "multi" | "exec" | "discard" | "watch" | "reset" | "quit"
    ) {
        return Err(words);
    }
    Ok(queue.take(command, words).unwrap_or_else(|fault| {
        queue.is_broken = true;
        fault.into()
    }))
}

impl Queue {
    fn take(&mut self, command: &'static Command, words: Vec<Bytes>) -> Outcome {
        let name = || command.name.to_uppercase();
        let why = match command.run {
            Run::Absent(why) => {
                return Err(Fault::other(format!("{} is not there: {why}", name())));
            }
            Run::Scan(_) => {
                "it looks through the whole space, and would not see what the transaction has written"
            }
            Run::Local(_) if matches!(command.name, "auth" | "hello") => {
                "it is about the connection; say it before MULTI"
            }
            _ => "",
        };
        if !why.is_empty() {
            let text = format!("{} is not taken inside MULTI: {why}", name());
            return Err(Fault::Other(text));
        }
        self.words += words.len();
        self.bytes += words
            .iter()
            .map(|word| word.len() + WORD_BYTES)
            .sum::<usize>();
        if self.bytes > QUEUE_BYTES_MAX {
            // What came so far is of no use any more.
            self.commands = Vec::new();
            return Err(Fault::other(format!(
                "a transaction may take {QUEUE_BYTES_MAX} bytes; split it into smaller ones"
            )));
        }
        self.commands.push(Queued { command, words });
        Ok(Reply::Simple("QUEUED".into()))
    }
}

/// Runs the open transaction. What comes back waits for its commit.
pub(crate) async fn exec(session: &mut Session) -> Result<Waiting, Fault> {
    let queue = session.multi.take();
    let queue = queue.ok_or_else(|| Fault::other("EXEC without MULTI"))?;
    if queue.is_broken {
        return Err(Fault::Store(
            "EXECABORT Transaction discarded because of previous errors.".to_owned(),
        ));
    }
    let locals: Vec<Option<Outcome>> = queue
        .commands
        .iter()
        .map(|queued| match queued.command.run {
            Run::Local(run) => Some(run(session, &queued.words)),
            _ => None,
        })
        .collect();
    let door = Arc::clone(&session.door);
    let is_wide = queue.words > WORDS_WIDE;
    let queue = Arc::new(*queue);
    for _ in 0..ROUNDS_MAX {
        let (door, queue) = (Arc::clone(&door), Arc::clone(&queue));
        let attempt = {
            let door = Arc::clone(&door);
            move || attempt(&door, &queue)
        };
        let attempt = if is_wide {
            apart(attempt).await?
        } else {
            attempt()?
        };
        match attempt {
            Attempt::Run(ran) => return Ok(ran.commit(&door, locals)),
            Attempt::Count(registers) => {
                for (key, decide) in registers {
                    // What does not fit is told by the transaction itself.
                    drop(door.update(key, decide).await);
                }
            }
        }
    }
    Err(Fault::other(
        "a key that the transaction counts with is being set all the time; send it again",
    ))
}

/// What came of a look at the snapshot.
enum Attempt {
    /// These hold a number and are no counters yet.
    Count(Vec<(Key, Decide)>),
    Run(Ran),
}

/// A transaction that has run and is not committed.
struct Ran {
    snapshot: Snapshot,
    deltas: BTreeMap<Key, Cell>,
    /// Of the commands that are not the connection's own.
    answers: Vec<Result<Answer, Fault>>,
}

fn attempt(door: &Door, queue: &Queue) -> Result<Attempt, Fault> {
    let reader = door.reader();
    let mut registers = Vec::new();
    for queued in &queue.commands {
        registers.extend(register_of(&reader, queued)?);
    }
    if !registers.is_empty() {
        return Ok(Attempt::Count(registers));
    }
    let now = reader.at().next();
    let mut running = Running {
        reader,
        now,
        next: 0,
    };
    let mut answers = Vec::with_capacity(queue.commands.len());
    for queued in &queue.commands {
        if !matches!(queued.command.run, Run::Local(_)) {
            answers.push(running.run(queued));
        }
    }
    let mut deltas = std::mem::take(&mut running.reader.written);
    for delta in deltas.values_mut() {
        delta.restamp(&|dot: Dot| match dot {
            Dot { time, writer, .. } if time == now && writer == WRITER => {
                Dot::new(PROVISIONAL, Writer(0), dot.sequence)
            }
            seen => seen,
        });
    }
    Ok(Attempt::Run(Ran {
        snapshot: running.reader.snapshot(),
        deltas,
        answers,
    }))
}

/// Where a command counts with a register, what makes it a counter of the same number.
fn register_of(reader: &Reader<'_>, queued: &Queued) -> Result<Option<(Key, Decide)>, Fault> {
    let (door, words) = (reader.door, &queued.words);
    let zero = Bytes::from_static(b"0");
    let (word, name) = match (queued.command.name, words.get(1), words.get(2)) {
        ("incr" | "incrby" | "decr" | "decrby", Some(name), _) => (None, name),
        ("hincrby", Some(name), Some(field)) => (Some(field.clone()), name),
        _ => return Ok(None),
    };
    let Ok(key) = door.key(name) else {
        return Ok(None);
    };
    let cell = reader.cell(&key)?;
    let field = word
        .as_ref()
        .and_then(|word| std::str::from_utf8(word).ok());
    if !is_number(
        values::held(cell.as_deref(), reader.at()),
        field,
        reader.at(),
    ) {
        return Ok(None);
    }
    let write = match &word {
        None => strings::incrby(door, &[Bytes::new(), name.clone(), zero]),
        Some(field) => hashes::hincrby(door, &[Bytes::new(), name.clone(), field.clone(), zero]),
    };
    let Ok(Write::One { decide, .. }) = write else {
        return Ok(None);
    };
    let field = field.map(str::to_owned);
    let guarded: Decide = Box::new(move |draft| {
        if is_number(draft.held(), field.as_deref(), draft.at()) {
            decide(draft)
        } else {
            Ok(Reply::Null.into())
        }
    });
    Ok(Some((key, guarded)))
}

/// Whether a register is there, in the field or without one, that holds a number.
fn is_number(held: Option<&Value>, field: Option<&str>, at: Time) -> bool {
    let value = match (held, field) {
        (Some(Value::Map(map)), Some(field)) => map.get(field, at),
        (held, None) => held,
        (_, Some(_)) => None,
    };
    matches!(value, Some(Value::Register(register)) if integer(&register.get().body).is_some())
}

/// A transaction while it runs.
struct Running<'a> {
    reader: Reader<'a>,
    /// The time of its writes until the commit gives them theirs: above all that it sees. Unlike
    /// [`PROVISIONAL`] it is near, so that what is set to expire does so in the future.
    now: Time,
    /// The place of the next write among those of the transaction.
    next: u32,
}

impl Running<'_> {
    fn run(&mut self, queued: &Queued) -> Result<Answer, Fault> {
        let words = &queued.words;
        match (queued.command.run, &words[..]) {
            (Run::Read(_), [_, name, ..])
                if matches!(queued.command.name, "xrange" | "xrevrange")
                    && self
                        .reader
                        .written
                        .contains_key(&self.reader.door.key(name)?) =>
            {
                Err(Fault::other(
                    "the ids of entries that a transaction adds are made when it commits; read \
                     them after EXEC",
                ))
            }
            (Run::Read(run), _) => run(&self.reader, words).map(Answer::Reply),
            // Whatever the key will hold then, it ends: as MSET does it.
            (Run::Write(_), [_, name, value]) if queued.command.name == "set" => {
                let words = [Bytes::from_static(b"mset"), name.clone(), value.clone()];
                self.write(strings::mset(self.reader.door, &words)?)
            }
            (Run::Write(run), [_, names @ ..]) if names.len() > 1 && is_delete(queued) => {
                let mut count = 0;
                for name in names {
                    let words = [Bytes::from_static(b"del"), name.clone()];
                    if let Answer::Reply(Reply::Integer(deleted)) =
                        self.write(run(self.reader.door, &words)?)?
                    {
                        count += deleted;
                    }
                }
                Ok(Reply::Integer(count).into())
            }
            (Run::Write(run), _) => self.write(run(self.reader.door, words)?),
            (Run::Local(_) | Run::Scan(_) | Run::Absent(_) | Run::Exec, _) => {
                Err(Fault::other("it is not taken inside MULTI"))
            }
        }
    }

    fn write(&mut self, write: Write) -> Result<Answer, Fault> {
        match write {
            Write::One { key, decide } => {
                let seen = self.reader.cell(&key)?;
                let at = self.reader.at();
                let (now, next) = (self.now, &mut self.next);
                let mut dots = || {
                    *next += 1;
                    Dot::new(now, WRITER, *next - 1)
                };
                let (delta, outcome) = decided(decide, Draft::new(seen.as_deref(), at, &mut dots));
                if let Some(delta) = delta {
                    self.wrote(key, delta);
                }
                outcome
            }
            Write::Many(prepare) => {
                let batch = prepare(&self.reader)?;
                let (now, first) = (self.now, self.next);
                for (key, mut delta) in batch.deltas {
                    delta.restamp(&|dot: Dot| match dot.time {
                        PROVISIONAL => Dot::new(now, WRITER, first + dot.sequence),
                        _ => dot,
                    });
                    self.wrote(key, delta);
                }
                // Each of its keys counts its dots from zero.
                self.next += BATCH_DOTS;
                Ok(batch.reply.into())
            }
        }
    }

    fn wrote(&mut self, key: Key, delta: Cell) {
        match self.reader.written.entry(key) {
            Entry::Vacant(entry) => drop(entry.insert(delta)),
            Entry::Occupied(mut entry) => entry.get_mut().merge(&delta),
        }
    }
}

fn is_delete(queued: &Queued) -> bool {
    matches!(queued.command.name, "del" | "unlink")
}

impl Ran {
    /// Commits what was written. The answers go out together, once that is as safe as asked.
    fn commit(self, door: &Door, locals: Vec<Option<Outcome>>) -> Waiting {
        let answers = self.answers;
        let answer = move |time: Time| {
            let mut answers = answers.into_iter();
            let replies = locals.into_iter().map(|local| match local {
                Some(outcome) => outcome.unwrap_or_else(Reply::from),
                None => match answers.next() {
                    Some(Ok(answer)) => answer.into_reply(time),
                    Some(Err(fault)) => fault.into(),
                    None => Reply::Null,
                },
            });
            Reply::Array(replies.collect())
        };
        door.commit_all(&self.snapshot, self.deltas.into_iter().collect(), answer)
    }
}
