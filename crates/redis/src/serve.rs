//! Accepts connections and looks after them until the node stops.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::Door;
use crate::connection::Connection;
use crate::door::count;
use crate::session::Session;

/// How long answers may take to be sent once the node stops.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The pause after a failed accept, which mostly means too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `stopping` turns true; then lets commands that have begun be
/// answered for a moment, and cuts off the rest.
pub async fn serve(listener: TcpListener, door: Arc<Door>, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let most = door.options.connections_max.min(Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(most));
    let ended = stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let place = Arc::clone(&places).try_acquire_owned().ok();
                let connection = one(stream, Arc::clone(&door), ended.clone(), place);
                let connection = async move {
                    // A connection that breaks is its client's affair.
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a Redis connection ended early");
                    }
                };
                if let Some(thread) = door.threads.pick() {
                    connections.spawn_on(connection, thread);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a Redis connection could not be accepted; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, rest).await.is_err() {
        tracing::warn!("Redis clients had not taken their answers and are cut off");
    }
}

async fn one(
    stream: TcpStream,
    door: Arc<Door>,
    stopping: watch::Receiver<bool>,
    place: Option<OwnedSemaphorePermit>,
) -> io::Result<()> {
    // It was accepted on another thread than the one it lives on.
    let mut stream = TcpStream::from_std(stream.into_std()?)?;
    let Some(place) = place else {
        count(&door.counts.refused);
        let text = b"-ERR max number of clients reached\r\n";
        return stream.write_all(text).await;
    };
    // Answers are written whole; waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    let id = door.counts.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let addresses = (stream.peer_addr()?, stream.local_addr()?);
    let session = Session::open(&door, id, addresses, place);
    Connection::new(session, stream).run(stopping).await
}
