//! A backup of a store that runs: one pinned snapshot, read in order, written as a stream.
//!
//! Commits go on meanwhile. The snapshot is held for as long as the stream takes it, at the
//! most for a snapshot's lifetime; memory holds one block.

use std::io::Write;
use std::ops::ControlFlow;

use tidemill_lattice::Writer;

use crate::backup::{Encoder, Head, Summary, WriteError};
use crate::embedded::Inner;
use crate::requests::StoredRequest;
use crate::{Error, scan};

/// Records of requests that are read at a time.
const PAGE_REQUESTS: usize = 1024;

/// Writes everything at the newest complete state. What fails on the way is said in the stream
/// too, as far as the stream takes it.
pub(crate) fn export(
    inner: &Inner,
    writer: Writer,
    out: &mut dyn Write,
) -> Result<Summary, WriteError> {
    let (at, messages) = inner.snapshot_with_messages();
    let snapshot = at.time();
    let mut encoder = Encoder::new(out, Head { snapshot, writer })?;
    let mut stream = Ok(());
    let read = scan::each(inner, b"", None, snapshot, &mut |key, cell| {
        let mut cell = (*cell).clone();
        // Nobody who saw less than the snapshot will write into what is made of this.
        cell.compact(snapshot, snapshot);
        stream = encoder.entry(&key, &cell);
        match &stream {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    stream?;
    if let Err(error) = read {
        let error = explain(inner, error);
        encoder.abandon(&error.to_string())?;
        return Err(error.into());
    }
    for (id, body) in messages {
        encoder.message(id, &body)?;
    }
    let mut after = None;
    loop {
        let page: Result<Vec<StoredRequest>, Error> = {
            let requests = inner.engine.requests(after);
            requests.take(PAGE_REQUESTS).collect()
        };
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                encoder.abandon(&error.to_string())?;
                return Err(error.into());
            }
        };
        let Some(last) = page.last() else {
            return Ok(encoder.finish()?);
        };
        after = Some(last.id);
        // What has taken effect above the snapshot is no part of it.
        for request in page.iter().filter(|request| request.time <= snapshot) {
            encoder.request(request)?;
        }
    }
}

/// A backup that outlived its snapshot can not be helped by running it again.
fn explain(inner: &Inner, error: Error) -> Error {
    if !matches!(error, Error::SnapshotExpired { .. }) {
        return error;
    }
    Error::Io {
        operation: "the backup",
        directory: inner.options.directory.clone(),
        cause: format!(
            "it took longer than a snapshot stays readable ({} s); write it to a faster place, \
             or raise `store.snapshot_lifetime_ms`: {error}",
            inner.options.snapshot_lifetime_us / 1_000_000
        ),
    }
}
