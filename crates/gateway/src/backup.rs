//! A backup of the node's store as a streamed answer.
//!
//! The store writes it on a thread that may block; the client takes it as fast as it can. What
//! is in it and how one sees that it is whole is the store's affair.

use crate::routes::Context;
use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use futures_util::stream;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use tidemill_problem::{Code, Problem};
use tidemill_store::backup::WriteError;
use tokio::sync::{mpsc, watch};

/// What lies between the store and the connection, at the most.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS: usize = 4;

type Chunk = Result<Bytes, io::Error>;

/// The stream's end at the store.
struct Pipe {
    chunks: mpsc::Sender<Chunk>,
    stopping: watch::Receiver<bool>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if *self.stopping.borrow() {
            return Err(io::Error::other("the node is stopping"));
        }
        let chunk = Bytes::copy_from_slice(bytes);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.chunks.blocking_send(Ok(chunk)).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `GET /v1/store/backup`
pub(crate) fn stream(context: &Context<'_>) -> Result<Response, Problem> {
    let stopping = context.state.stopping.clone();
    if *stopping.borrow() {
        let detail = "the node is stopping: back it up when it is back";
        return Err(Problem::new(Code::ShuttingDown, detail));
    }
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let store = Arc::clone(&context.state.store);
    tokio::task::spawn_blocking(move || {
        let pipe = Pipe {
            chunks: chunks.clone(),
            stopping,
        };
        let mut out = BufWriter::with_capacity(CHUNK_BYTES, pipe);
        let outcome = store.backup(&mut out);
        // What is left in the buffer after a failure belongs to no whole block.
        let (_pipe, _rest) = out.into_parts();
        match outcome {
            Ok(_) => {}
            // The stream itself says why.
            Err(WriteError::Store(error)) => tracing::warn!(%error, "a backup was given up"),
            Err(WriteError::Io(error)) => {
                tracing::debug!(%error, "a backup was not taken to its end");
                drop(chunks.blocking_send(Err(error)));
            }
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
