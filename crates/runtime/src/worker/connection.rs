//! One worker's socket: whole frames in and out.

use crate::protocol::{Frame, Payloads, ProtocolError, put_frame, take_frame};
use bytes::BytesMut;
use serde::Serialize;
use std::io;
use thiserror::Error;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

/// How much a worker may send ahead while the node is sending to it.
const AHEAD_BYTES_MAX: usize = 2 * crate::protocol::FRAME_BYTES_MAX;

/// Why a connection can no longer be used.
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    /// The worker closed it or ended.
    #[error("the worker closed its connection")]
    Closed,
    /// The socket failed.
    #[error("the worker's socket: {0}")]
    Socket(#[from] io::Error),
    /// The worker broke the protocol.
    #[error("the worker broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
}

/// A worker's socket. Receiving may be abandoned at any await; sending may not,
/// which [`Connection::is_whole`] tells.
pub(crate) struct Connection {
    stream: UnixStream,
    incoming: BytesMut,
    outgoing: Vec<u8>,
    whole: bool,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            incoming: BytesMut::with_capacity(8192),
            outgoing: Vec::new(),
            whole: true,
        }
    }

    /// The process at the other end, as the system knows it.
    pub(crate) fn peer(&self) -> Option<i32> {
        self.stream.peer_cred().ok()?.pid()
    }

    /// False once sending was abandoned half way.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The next frame.
    pub(crate) async fn receive(&mut self) -> Result<Frame, ConnectionError> {
        loop {
            if let Some(frame) = take_frame(&mut self.incoming)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(ConnectionError::Closed);
            }
        }
    }

    /// Sends one frame. While the worker does not read, what it sends is taken in,
    /// so that two full buffers cannot block each other for ever.
    pub(crate) async fn send<H: Serialize>(
        &mut self,
        kind: u8,
        header: &H,
        payloads: &Payloads,
    ) -> Result<(), ConnectionError> {
        self.outgoing.clear();
        put_frame(&mut self.outgoing, kind, header, payloads)?;
        self.whole = false;
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match self.stream.try_write(&self.outgoing[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_writable().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.whole = true;
        if self.outgoing.capacity() > 1 << 20 {
            self.outgoing = Vec::new();
        }
        Ok(())
    }

    async fn wait_writable(&mut self) -> Result<(), ConnectionError> {
        let interest = if self.incoming.len() < AHEAD_BYTES_MAX {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::WRITABLE
        };
        let ready = self.stream.ready(interest).await?;
        if ready.is_readable() {
            match self.stream.try_read_buf(&mut self.incoming) {
                Ok(0) => return Err(ConnectionError::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Cancel, kind};
    use serde_json::Value;

    #[tokio::test]
    async fn two_sides_that_send_before_they_read_do_not_block() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut left, mut right) = (Connection::new(left), Connection::new(right));
        let large = "x".repeat(8 << 20);
        let header = Cancel { request: &large };
        let none = Payloads::default();
        let (sent, also) = tokio::join!(
            left.send(kind::LOG, &header, &none),
            right.send(kind::CANCEL, &header, &none)
        );
        sent.unwrap();
        also.unwrap();
        let frame = left.receive().await.unwrap();
        assert_eq!(frame.kind, kind::CANCEL);
        let value: Value = frame.header().unwrap();
        assert_eq!(value["request"].as_str().unwrap().len(), large.len());
        assert_eq!(right.receive().await.unwrap().kind, kind::LOG);
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut left = Connection::new(left);
        right.try_write(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(
            left.receive().await,
            Err(ConnectionError::Protocol(ProtocolError::TooLong(_)))
        ));
    }
}
