//! The causal protocol between nodes, as pure state machines: an event goes in, actions come out.
//!
//! Transactional causal consistency without votes, validation or aborts. A request reads at one
//! snapshot, buffers its writes, and is decided by one append in the log of its home partition;
//! its deltas travel to the other partitions only once that append is safe, and become visible
//! together when the *stable* time passes the commit's. docs/protocol.md explains the rules one by
//! one and says what goes wrong without each.
//!
//! Two machines make up a cluster: a [`Node`] is a member that stores partitions, a [`Compute`]
//! runs requests and comes and goes without anybody's leave. Both take the time with each event
//! and answer with [`Action`]s; whoever drives them owns the clock, the network and the disk.
//!
//! This crate knows the lattice types. It must not know sockets, files, threads, async runtimes,
//! randomness, or what a function is beyond [`Function`].

mod buffer;
mod cache;
mod canary;
mod chain;
mod compute;
mod config;
mod epoch;
mod ids;
mod log;
mod member;
mod message;
mod node;
mod opening;
mod partition;
mod record;
mod session;
mod standby;
mod streams;
mod wire;

pub use buffer::Buffer;
pub use cache::{Cache, CacheStats, Fill};
pub use canary::{Canaries, Canary};
pub use chain::Chain;
pub use compute::{Compute, Observation};
pub use config::{Config, Now};
pub use epoch::{Epoch, Placed};
pub use ids::{Address, Generation, PartitionId, RequestId, Stamp, Ticket};
pub use log::{LogImage, LogRead, LogWrite};
pub use member::Membership;
pub use message::{
    Action, Answer, Body, Call, CommitRequest, Envelope, Event, Function, Gossip, Refusal, Seen,
    Step, StepOutcome,
};
pub use node::{Node, NodeFacts};
pub use partition::Partition;
pub use record::{Applied, Deltas, Durability, Entry, Outgoing, Record};
pub use session::{Token, TokenState};
pub use standby::Tail;
pub use streams::{Push, StreamId};
