//! The socket that workers connect to, and who is expected there.

use super::connection::Connection;
use crate::protocol::{Hello, VERSION, kind};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// How long a new connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A worker that has said hello.
pub(crate) struct Arrival {
    pub(crate) connection: Connection,
    pub(crate) pid: i32,
    /// The process group that ends with it.
    pub(crate) group: i32,
}

type Expected = Arc<Mutex<HashMap<String, oneshot::Sender<Arrival>>>>;

/// Accepts workers; each must repeat a secret that it was given, once.
pub(crate) struct Listener {
    path: PathBuf,
    expected: Expected,
    accepting: tokio::task::AbortHandle,
}

impl Listener {
    pub(crate) fn bind(path: PathBuf) -> io::Result<Self> {
        let socket = UnixListener::bind(&path)?;
        let expected = Expected::default();
        let accepting = tokio::spawn(accept(socket, Arc::clone(&expected))).abort_handle();
        Ok(Self {
            path,
            expected,
            accepting,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the worker that says hello with this token, until the receiver is dropped.
    pub(crate) fn expect(&self, token: String) -> oneshot::Receiver<Arrival> {
        let (sender, receiver) = oneshot::channel();
        let mut expected = self.expected.lock();
        expected.retain(|_, sender| !sender.is_closed());
        expected.insert(token, sender);
        receiver
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(socket: UnixListener, expected: Expected) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(greet(Connection::new(stream), Arc::clone(&expected)));
            }
            Err(error) => {
                // Out of descriptors, most likely: others may close theirs.
                tracing::warn!(%error, "cannot accept a worker");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn greet(mut connection: Connection, expected: Expected) {
    let frame = match tokio::time::timeout(HELLO_TIMEOUT, connection.receive()).await {
        Ok(Ok(frame)) if frame.kind == kind::HELLO => frame,
        Ok(Ok(frame)) => {
            tracing::warn!(kind = frame.kind, "a worker did not say hello first");
            return;
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a worker left before its hello");
            return;
        }
        Err(_) => {
            tracing::warn!("a worker did not say hello in time");
            return;
        }
    };
    let hello: Hello = match frame.header() {
        Ok(hello) => hello,
        Err(error) => {
            tracing::warn!(%error, "a worker's hello");
            return;
        }
    };
    if hello.protocol != VERSION {
        tracing::warn!(
            protocol = hello.protocol,
            "a worker speaks another protocol version"
        );
        return;
    }
    let sender = expected.lock().remove(&hello.token);
    match sender {
        Some(sender) => {
            // This process is sent signals later, so its own word is not enough.
            let pid = connection.peer().unwrap_or(hello.pid);
            let _ = sender.send(Arrival {
                connection,
                pid,
                group: pid,
            });
        }
        None => tracing::warn!(pid = hello.pid, "a worker with an unknown token"),
    }
}
