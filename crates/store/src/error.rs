//! What can go wrong in a partition, and what the caller should do next.

use std::path::PathBuf;

use tidemill_lattice::Time;

use crate::MessageId;

/// An error of a store. Cloneable, since one failed write fails every commit of its group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The snapshot was held longer than its lifetime, and what it saw may be folded away.
    #[error(
        "the snapshot at {snapshot} has expired (state is kept from {kept_from}); run the request \
         again on a new snapshot"
    )]
    SnapshotExpired {
        /// The snapshot asked for.
        snapshot: Time,
        /// The lowest time that can still be read.
        kept_from: Time,
    },
    /// The commit names a snapshot that this store has not reached.
    #[error(
        "the commit's snapshot {snapshot} is above the newest complete state {stable}; take \
         snapshots from this store"
    )]
    SnapshotAhead {
        /// The snapshot that the commit names.
        snapshot: Time,
        /// The newest complete state.
        stable: Time,
    },
    /// The message was consumed by an earlier commit, or never sent.
    #[error(
        "message {}/{} is not pending: another commit has consumed it; drop this handling of it",
        .message.0, .message.1
    )]
    Consumed {
        /// The message named by `consumes`.
        message: MessageId,
    },
    /// One commit is larger than a record may be.
    #[error(
        "the commit takes {size_bytes} bytes, the most is {limit_bytes}; split it into smaller ones"
    )]
    TooLarge {
        /// Its encoded size.
        size_bytes: usize,
        /// The most that a record may take.
        limit_bytes: usize,
    },
    /// The disk has less free space than the reserve. Nothing was written; reads go on.
    #[error(
        "{directory} has {free_bytes} bytes free, less than the reserve of {reserve_bytes}; free \
         some space and send the request again"
    )]
    Full {
        /// The store's directory.
        directory: PathBuf,
        /// What is free for this process.
        free_bytes: u64,
        /// What must stay free.
        reserve_bytes: u64,
    },
    /// A read or write of the durable tier failed. A commit that fails so has no effect, now
    /// or after a restart.
    #[error(
        "{operation} failed in {directory}: {cause}; check the disk, then send the request again"
    )]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The store's directory.
        directory: PathBuf,
        /// What the system or the engine said.
        cause: String,
    },
    /// A write failed, and the mark that voids it could not be written either.
    #[error(
        "writing to {directory} failed and could not be undone: {cause}; check the disk and restart, \
         then read what the request would have changed before sending it again"
    )]
    Unknown {
        /// The store's directory.
        directory: PathBuf,
        /// What the system or the engine said.
        cause: String,
    },
    /// An earlier write failed, so the log takes no more of them. Reads go on.
    #[error(
        "the store in {directory} is read-only since a write failed ({cause}); check the disk and \
         restart the node"
    )]
    ReadOnly {
        /// The store's directory.
        directory: PathBuf,
        /// The failure that began it.
        cause: String,
    },
    /// What is on disk is not what was written, and is not served.
    #[error("{directory} is damaged at {place}: {cause}; restore the directory from a backup")]
    Corrupt {
        /// The store's directory.
        directory: PathBuf,
        /// Which record, key or range.
        place: String,
        /// What is wrong there.
        cause: String,
    },
    /// Another process, or another store in this one, has the directory open.
    #[error(
        "{directory} is in use{}; stop that process, or give this one its own directory",
        .pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
    )]
    InUse {
        /// The store's directory.
        directory: PathBuf,
        /// Who holds it, if the lock file tells.
        pid: Option<u32>,
    },
    /// The directory was written by a version that this one does not know.
    #[error(
        "{directory} has format {found}, this version reads {known}; start it with the version that \
         wrote it, or a newer one"
    )]
    Format {
        /// The store's directory.
        directory: PathBuf,
        /// The format found.
        found: u32,
        /// The format known here.
        known: u32,
    },
    /// The store is closing and takes no more commits.
    #[error("the store is closing; send the request again when the node is back")]
    Closed,
}
