//! One connection: commands in, answers out, in order.
//!
//! Writes of this thread's shard are made at once and shown together, with those of other connections
//! that have commands by then; others are handed to their shards without waiting for one another. A
//! read waits for the connection's earlier writes and so sees them. Nothing is read from a
//! client that does not take its answers: no command runs while more than the allowed bytes wait.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemill_store::{Error, Told};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

use crate::command::{self, Command, Run, Unknown};
use crate::door::{Waiting, Write};
use crate::fault::Fault;
use crate::multi;
use crate::reply::Writing;
use crate::session::Session;
use crate::{Limits, Parser, Protocol, ProtocolError, Reply, threads};

/// Answers of one connection that may wait for their commits.
const PENDING_MAX: usize = 1024;
/// Commands that are looked over before the first of them runs.
const AHEAD: usize = 16;
/// Commands run before others on this thread get their turn.
const COMMANDS_A_TURN: usize = 128;
/// A command of more words looks at so many keys that others on this thread should not wait.
const WORDS_MAX: usize = 1024;
/// Room made for one read from the socket.
const READ_BYTES: usize = 16 * 1024;
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Input that a connection keeps its room for, however large a command was before.
const INPUT_KEPT_BYTES: usize = 64 * 1024;

/// An answer in its place.
enum Pending {
    Ready(Reply),
    /// Of a write that was made on this thread and is not safe yet.
    Written(Reply),
    Waiting(Waiting),
}

/// A command that has come, or why what has come is none.
type Ahead = Result<(Result<&'static Command, Unknown>, Vec<Bytes>), ProtocolError>;

pub(crate) struct Connection {
    session: Session,
    stream: TcpStream,
    parser: Parser,
    input: BytesMut,
    /// Whether the input's room has been larger than a connection keeps.
    is_input_large: bool,
    /// Commands that come next.
    ahead: VecDeque<Ahead>,
    output: BytesMut,
    pending: VecDeque<(Protocol, Pending)>,
    /// Something was written on this thread that nobody else may see yet.
    is_unpublished: bool,
    /// A commit of several keys is on its way: a write after it must be stamped after it.
    is_committing: bool,
    /// The command run last, and how many ran since that was told.
    last: (&'static str, u64),
}

impl Connection {
    pub(crate) fn new(session: Session, stream: TcpStream) -> Self {
        let limits = limits(&session);
        Self {
            session,
            stream,
            parser: Parser::new(limits),
            input: BytesMut::new(),
            is_input_large: false,
            ahead: VecDeque::new(),
            output: BytesMut::new(),
            pending: VecDeque::new(),
            is_unpublished: false,
            is_committing: false,
            last: ("", 0),
        }
    }

    /// Serves until the client goes, asks to, breaks the protocol, or the node stops.
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> io::Result<()> {
        loop {
            self.commands().await?;
            self.session.note(std::mem::take(&mut self.last));
            self.settle().await?;
            self.flush().await?;
            if self.session.is_closing {
                return self.stream.shutdown().await;
            }
            self.give_back_room();
            // What is half there may be large: grow as fast as it comes, not as it says.
            let room = self.input.len().clamp(READ_BYTES, READ_BYTES_MAX);
            self.input.reserve(room);
            let read = tokio::select! {
                read = self.stream.read_buf(&mut self.input) => read?,
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
            };
            if read == 0 {
                return Ok(());
            }
            self.is_input_large |= self.input.len() > INPUT_KEPT_BYTES;
        }
    }

    /// One large command must not hold its room for the connection's life.
    fn give_back_room(&mut self) {
        if self.is_input_large && self.input.len() <= INPUT_KEPT_BYTES {
            self.input = BytesMut::from(&self.input[..]);
            self.is_input_large = false;
        }
    }

    /// Runs the commands that have come.
    async fn commands(&mut self) -> io::Result<()> {
        let mut turn = 0;
        while !self.session.is_closing {
            if self.ahead.is_empty() {
                self.look_ahead();
            }
            match self.ahead.pop_front() {
                Some(Ok((command, arguments))) => self.execute(command, arguments).await?,
                None => break,
                Some(Err(error)) => {
                    self.answer(Reply::Error(error.to_string())).await?;
                    self.session.is_closing = true;
                }
            }
            if self.pending.len() >= PENDING_MAX {
                self.settle().await?;
            }
            self.flush_surplus().await?;
            turn += 1;
            if turn % COMMANDS_A_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Takes a few of the commands that have come, and has their keys brought near.
    fn look_ahead(&mut self) {
        // What comes after `AUTH` may be larger than what may come before.
        let most = if self.session.is_authenticated {
            AHEAD
        } else {
            1
        };
        while self.ahead.len() < most {
            match self.parser.next(&mut self.input) {
                Ok(Some(words)) => self.ahead.push_back(Ok((command::find(&words), words))),
                Ok(None) => break,
                Err(error) => {
                    self.ahead.push_back(Err(error));
                    break;
                }
            }
        }
        if self.ahead.len() > 1 {
            let keys = self.ahead.iter().filter_map(|ahead| match ahead {
                Ok((Ok(command), words)) if command.is_of_one_key() => words.get(1),
                _ => None,
            });
            self.session.door.prefetch(keys);
        }
    }

    async fn execute(
        &mut self,
        command: Result<&'static Command, Unknown>,
        arguments: Vec<Bytes>,
    ) -> io::Result<()> {
        self.last.1 += 1;
        let command = match command {
            Ok(command) => command,
            Err(Unknown::Hostile) => {
                // A browser that was made to speak to this port sends HTTP.
                tracing::warn!("an HTTP request came to the Redis door; the connection is closed");
                self.session.is_closing = true;
                return Ok(());
            }
            Err(Unknown::Name(text)) => {
                multi::spoil(&mut self.session);
                return self.answer(Reply::Error(text)).await;
            }
        };
        if !self.session.is_authenticated && !command.is_open() {
            let text = "NOAUTH Authentication required.".to_owned();
            return self.answer(Reply::Error(text)).await;
        }
        let arguments = match multi::queue(&mut self.session, command, arguments) {
            Ok(reply) => return self.answer(reply).await,
            Err(arguments) => arguments,
        };
        self.last.0 = command.name;
        match self.start(command, arguments).await? {
            Ok(pending) => match pending {
                Pending::Ready(reply) => self.answer(reply).await,
                // In memory it is as safe as it will be.
                Pending::Written(reply) if self.session.door.reads_newest() => {
                    self.answer(reply).await
                }
                waiting => {
                    self.pending.push_back((self.session.protocol, waiting));
                    Ok(())
                }
            },
            Err(fault) => self.answer(fault.into()).await,
        }
    }

    /// Starts a command.
    async fn start(
        &mut self,
        command: &'static Command,
        arguments: Vec<Bytes>,
    ) -> io::Result<Result<Pending, Fault>> {
        let door = Arc::clone(&self.session.door);
        let is_wide = arguments.len() > WORDS_MAX;
        Ok(match command.run {
            Run::Local(run) => {
                self.session.note(std::mem::take(&mut self.last));
                let outcome = run(&mut self.session, &arguments);
                let limits = limits(&self.session);
                self.parser.set_limits(limits);
                outcome.map(Pending::Ready)
            }
            Run::Read(run) if command.is_of_one_key() && !is_wide && door.reads_newest() => {
                if !self.pending.is_empty() {
                    self.settle().await?;
                }
                run(&door.newest(), &arguments).map(Pending::Ready)
            }
            Run::Read(run) if !is_wide => {
                self.settle().await?;
                run(&door.reader(), &arguments).map(Pending::Ready)
            }
            Run::Read(run) | Run::Scan(run) => {
                self.settle().await?;
                let scan = move || run(&door.reader(), &arguments);
                apart(scan).await.map(Pending::Ready)
            }
            Run::Write(run) => match run(&door, &arguments) {
                Err(fault) => Err(fault),
                Ok(Write::One { key, decide }) => {
                    if std::mem::take(&mut self.is_committing) {
                        self.settle().await?;
                    }
                    Ok(match door.write_here(&key, decide) {
                        Ok(reply) => {
                            self.is_unpublished = true;
                            Pending::Written(reply)
                        }
                        Err(decide) => Pending::Waiting(door.update(key, decide)),
                    })
                }
                Ok(Write::Many(prepare)) => {
                    self.settle().await?;
                    self.is_committing = true;
                    let begin = move || {
                        let reader = door.reader();
                        prepare(&reader)
                            .map(|batch| Pending::Waiting(door.commit(&reader.snapshot(), batch)))
                    };
                    if is_wide { apart(begin).await } else { begin() }
                }
            },
            Run::Exec => {
                self.settle().await?;
                self.is_committing = true;
                let waiting = multi::exec(&mut self.session).await;
                waiting.map(Pending::Waiting)
            }
            Run::Absent(why) => Err(Fault::Other(format!(
                "{} is not there: {why}",
                command.name.to_uppercase()
            ))),
        })
    }

    /// Puts an answer in its place.
    async fn answer(&mut self, reply: Reply) -> io::Result<()> {
        let protocol = self.session.protocol;
        if self.pending.is_empty() {
            return self.write(protocol, reply).await;
        }
        self.pending.push_back((protocol, Pending::Ready(reply)));
        Ok(())
    }

    /// Writes an answer, and waits for the client where it is more than may wait.
    async fn write(&mut self, protocol: Protocol, reply: Reply) -> io::Result<()> {
        let enough_bytes = self.session.door.options.output_bytes_max;
        let mut writing = Writing::begin(protocol, reply, &mut self.output);
        while writing.go_on(&mut self.output, enough_bytes) {
            self.flush().await?;
        }
        self.flush_surplus().await
    }

    /// Shows what was written on this thread to everybody, and waits until it is safe.
    async fn publish(&mut self) -> Result<(), Fault> {
        if !std::mem::take(&mut self.is_unpublished) {
            return Ok(());
        }
        // Who else has commands by now writes too: what all of them wrote is shown in one go.
        tokio::task::yield_now().await;
        let flushed = threads::with(|shard| {
            let waiting = match shard.flush() {
                Told::Now => None,
                Told::Later(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    // A connection that has gone needs no answer.
                    shard.when_logged(ticket, move |logged| drop(sender.send(logged)));
                    Some(receiver)
                }
            };
            (waiting, shard.last())
        });
        // Where the shard is gone nobody takes snapshots either.
        let Some((waiting, through)) = flushed else {
            return Ok(());
        };
        if let Some(logged) = waiting {
            logged.await.unwrap_or(Err(Error::Closed))?;
        }
        let (sender, receiver) = oneshot::channel();
        threads::with(|shard| {
            // Not what others have written since: that may wait for another sync.
            shard.when_stable(through, move || {
                let _ = sender.send(());
            });
        });
        let _ = receiver.await;
        Ok(())
    }

    /// Waits for every answer that is still to come.
    async fn settle(&mut self) -> io::Result<()> {
        let published = self.publish().await;
        while let Some((protocol, pending)) = self.pending.pop_front() {
            let reply = match pending {
                Pending::Ready(reply) => reply,
                Pending::Written(reply) => match &published {
                    Ok(()) => reply,
                    Err(fault) => fault.clone().into(),
                },
                Pending::Waiting(waiting) => match waiting.await {
                    Ok(reply) => reply,
                    Err(_) => lost().into(),
                },
            };
            self.write(protocol, reply).await?;
        }
        Ok(())
    }

    async fn flush_surplus(&mut self) -> io::Result<()> {
        if self.output.len() > self.session.door.options.output_bytes_max {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            // What is told must be seen. Answers that wait for more than that are not here.
            let _ = self.publish().await;
            self.stream.write_all(&self.output).await?;
            self.output.clear();
            // One large answer must not hold its room for the connection's life.
            if self.output.capacity() > 2 * self.session.door.options.output_bytes_max {
                self.output = BytesMut::new();
            }
        }
        Ok(())
    }
}

fn limits(session: &Session) -> Limits {
    if session.is_authenticated {
        session.door.options.limits
    } else {
        Limits::unauthenticated()
    }
}

/// Runs what takes long off the threads that serve connections.
pub(crate) async fn apart<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let outcome = tokio::task::spawn_blocking(run).await;
    outcome.unwrap_or_else(|_| Err(lost()))
}

fn lost() -> Fault {
    Fault::other(
        "the answer was lost; read what the command would have changed, then send it again",
    )
}
