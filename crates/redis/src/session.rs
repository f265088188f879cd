//! What the door knows of one connection, and what others may see of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::multi::Queue;
use crate::{Door, Protocol};

/// What `CLIENT LIST` shows of a connection.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) connected_us: u64,
    pub(crate) active_us: AtomicU64,
    pub(crate) shown: Mutex<Shown>,
}

/// What a client has said of itself, and did last.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    pub(crate) name: Bytes,
    pub(crate) library: Bytes,
    pub(crate) library_version: Bytes,
    pub(crate) command: &'static str,
    pub(crate) protocol: Protocol,
}

/// One connection's own state.
pub(crate) struct Session {
    pub(crate) door: Arc<Door>,
    pub(crate) client: Arc<Client>,
    pub(crate) protocol: Protocol,
    pub(crate) is_authenticated: bool,
    /// The transaction that `MULTI` has opened.
    pub(crate) multi: Option<Box<Queue>>,
    /// The connection ends after this answer.
    pub(crate) is_closing: bool,
    /// Its place among the connections that may be open at a time.
    place: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// A new connection, listed until it is dropped.
    pub(crate) fn open(
        door: &Arc<Door>,
        id: u64,
        (peer, local): (SocketAddr, SocketAddr),
        place: OwnedSemaphorePermit,
    ) -> Session {
        let now_us = door.clock.now_micros();
        let client = Arc::new(Client {
            id,
            peer,
            local,
            connected_us: now_us,
            active_us: AtomicU64::new(now_us),
            shown: Mutex::default(),
        });
        door.clients.lock().insert(id, Arc::clone(&client));
        Session {
            door: Arc::clone(door),
            client,
            protocol: Protocol::Resp2,
            is_authenticated: door.options.password.is_none(),
            multi: None,
            is_closing: false,
            place: Some(place),
        }
    }

    /// Notes that commands ran, and which one was the last.
    pub(crate) fn note(&self, (command, count): (&'static str, u64)) {
        if count > 0 {
            self.door
                .counts
                .commands
                .fetch_add(count, Ordering::Relaxed);
            let now_us = self.door.clock.now_micros();
            self.client.active_us.store(now_us, Ordering::Relaxed);
            self.client.shown.lock().command = command;
        }
    }

    /// Changes the protocol of the answers to come.
    pub(crate) fn speak(&mut self, protocol: Protocol) {
        self.protocol = protocol;
        self.client.shown.lock().protocol = protocol;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever sees that the connection is gone may have its place.
        drop(self.place.take());
        self.door.clients.lock().remove(&self.client.id);
    }
}
