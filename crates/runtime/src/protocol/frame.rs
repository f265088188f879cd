//! Frames and the payloads that travel in them or beside them.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tidemill_lattice::{ContentType, Payload};

/// The protocol version that this node speaks.
pub(crate) const VERSION: u32 = 1;
/// The most that may follow a frame's length.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024 + 64 * 1024;
/// Values of this size and more travel through shared memory.
pub(crate) const SHARED_BYTES_MIN: usize = 64 * 1024;
/// The most that one frame's shared payloads may take together.
const SHARED_TOTAL_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The most payloads that one frame may list.
const PAYLOADS_MAX: usize = 100_000;

/// A frame that breaks the protocol. Its sender is ended.
#[derive(Debug, Error)]
pub(crate) enum ProtocolError {
    /// A length that no frame may have.
    #[error("a frame of {0} bytes, more than {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// The parts are longer than the whole.
    #[error("a frame whose parts do not fit its length")]
    Truncated,
    /// The header is not what its kind asks for.
    #[error("the header of a frame of kind {kind}: {source}")]
    Header {
        /// The frame's kind.
        kind: u8,
        /// Where the JSON is wrong.
        source: serde_json::Error,
    },
    /// A kind that this side does not receive.
    #[error("an unexpected frame of kind {0}")]
    Unexpected(u8),
    /// A payload index that the frame does not have.
    #[error("payload {0} is not in the frame")]
    NoPayload(usize),
    /// A content type that is not one.
    #[error("a payload of an invalid content type")]
    ContentType,
    /// A shared file could not be read.
    #[error("the shared file {name}: {source}")]
    Shared {
        /// The file's name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A step or call that the fragment does not have.
    #[error("{0}")]
    Nonsense(String),
}

/// Frame kinds, node to worker below 16.
pub(crate) mod kind {
    #![allow(
        missing_docs,
        reason = "named and described in docs/worker-protocol.md"
    )]
    pub(crate) const LOAD: u8 = 1;
    pub(crate) const FORK: u8 = 2;
    pub(crate) const RUN: u8 = 3;
    pub(crate) const REPLY: u8 = 4;
    pub(crate) const CANCEL: u8 = 5;
    pub(crate) const STOP: u8 = 6;
    pub(crate) const HELLO: u8 = 16;
    pub(crate) const LOADED: u8 = 17;
    pub(crate) const EXITED: u8 = 18;
    pub(crate) const STATE: u8 = 19;
    pub(crate) const CALL: u8 = 20;
    pub(crate) const WAIT: u8 = 21;
    pub(crate) const ITEM: u8 = 22;
    pub(crate) const LOG: u8 = 23;
    pub(crate) const DONE: u8 = 24;
    pub(crate) const FAILED: u8 = 25;
    pub(crate) const BEGIN: u8 = 26;
    pub(crate) const RECALL: u8 = 27;
    pub(crate) const RECORD: u8 = 28;
}

/// A payload as a header describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PayloadHeader {
    t: String,
    n: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shm: Option<String>,
}

/// A received frame, its header not read yet.
#[derive(Debug)]
pub(crate) struct Frame {
    /// Which frame it is, see [`kind`].
    pub kind: u8,
    header: Bytes,
    body: Bytes,
}

/// Takes one frame off the front of `buffer`, when all of it is there.
///
/// # Errors
/// [`ProtocolError::TooLong`], [`ProtocolError::Truncated`].
pub(crate) fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(ProtocolError::TooLong(length));
    }
    if length < 5 {
        return Err(ProtocolError::Truncated);
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let mut frame = buffer.split_to(length).freeze();
    let kind = frame.get_u8();
    let header_length = frame.get_u32_le() as usize;
    if header_length > frame.len() {
        return Err(ProtocolError::Truncated);
    }
    let header = frame.split_to(header_length);
    Ok(Some(Frame {
        kind,
        header,
        body: frame,
    }))
}

/// Where payloads that travel beside the frames are kept.
pub(crate) trait Shared: Send + Sync {
    /// Makes these bytes reachable by a name, if there is room.
    fn share(&self, bytes: &Bytes) -> Option<String>;
    /// Takes over the file that a worker made.
    ///
    /// # Errors
    /// When it is not there or not of this length.
    fn take(&self, name: &str, length: usize) -> std::io::Result<Bytes>;
}

impl Frame {
    /// Reads the header as the type that this kind has.
    ///
    /// # Errors
    /// [`ProtocolError::Header`].
    pub(crate) fn header<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ProtocolError> {
        serde_json::from_slice(&self.header).map_err(|source| ProtocolError::Header {
            kind: self.kind,
            source,
        })
    }

    /// The payloads that a header lists.
    ///
    /// # Errors
    /// [`ProtocolError`] for lengths that do not add up, a content type that is not
    /// one, or a shared file that is not there.
    pub(crate) fn payloads(
        &self,
        list: &[PayloadHeader],
        shared: &dyn Shared,
    ) -> Result<Vec<Payload>, ProtocolError> {
        if list.len() > PAYLOADS_MAX {
            return Err(ProtocolError::Truncated);
        }
        // Said before anything is read: a file may have holes, and so be larger than all memory.
        let shared_bytes = list.iter().filter(|item| item.shm.is_some());
        let total = shared_bytes.fold(0_usize, |sum, item| sum.saturating_add(item.n));
        let largest = list.iter().map(|item| item.n).max().unwrap_or(0);
        if largest > FRAME_BYTES_MAX || total > SHARED_TOTAL_BYTES_MAX {
            return Err(ProtocolError::TooLong(largest.max(total)));
        }
        let mut rest = self.body.clone();
        list.iter()
            .map(|item| {
                let body = match &item.shm {
                    Some(name) => {
                        shared
                            .take(name, item.n)
                            .map_err(|source| ProtocolError::Shared {
                                name: name.clone(),
                                source,
                            })?
                    }
                    None if item.n > rest.len() => return Err(ProtocolError::Truncated),
                    None => rest.split_to(item.n),
                };
                Ok(Payload {
                    content_type: content_type(&item.t)?,
                    body,
                })
            })
            .collect()
    }
}

fn content_type(short: &str) -> Result<ContentType, ProtocolError> {
    match short {
        "j" => Ok(ContentType::Json),
        "b" => Ok(ContentType::OctetStream),
        "p" => Ok(ContentType::Pickle5),
        other => ContentType::parse(other).map_err(|_| ProtocolError::ContentType),
    }
}

fn short(content_type: &ContentType) -> String {
    match content_type {
        ContentType::Json => "j".to_owned(),
        ContentType::OctetStream => "b".to_owned(),
        ContentType::Pickle5 => "p".to_owned(),
        other @ ContentType::Other(_) => other.as_str().to_owned(),
    }
}

/// Collects the payloads of a frame to send.
#[derive(Default)]
pub(crate) struct Payloads {
    headers: Vec<PayloadHeader>,
    bodies: Vec<Bytes>,
    length: usize,
}

impl Payloads {
    /// Adds a payload and gives its index. Large ones are shared if there is room.
    pub(crate) fn push(&mut self, payload: &Payload, shared: &dyn Shared) -> usize {
        let n = payload.body.len();
        let shm = if n >= SHARED_BYTES_MIN {
            shared.share(&payload.body)
        } else {
            None
        };
        if shm.is_none() {
            self.length += n;
            self.bodies.push(payload.body.clone());
        }
        self.headers.push(PayloadHeader {
            t: short(&payload.content_type),
            n,
            shm,
        });
        self.headers.len() - 1
    }

    /// The list for the header's `p`.
    #[must_use]
    pub(crate) fn headers(&self) -> &[PayloadHeader] {
        &self.headers
    }
}

/// Writes a frame to the end of `out`.
///
/// # Errors
/// [`ProtocolError::TooLong`] when it would not be taken by the other side, and
/// [`ProtocolError::Header`] for a header that is not JSON.
pub(crate) fn put_frame<H: Serialize>(
    out: &mut Vec<u8>,
    kind: u8,
    header: &H,
    payloads: &Payloads,
) -> Result<(), ProtocolError> {
    let start = out.len();
    out.extend_from_slice(&[0; 9]);
    serde_json::to_writer(&mut *out, header)
        .map_err(|source| ProtocolError::Header { kind, source })?;
    let header_length = out.len() - start - 9;
    let length = 5 + header_length + payloads.length;
    if length > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(ProtocolError::TooLong(length));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "both are below FRAME_BYTES_MAX"
    )]
    let (length, header_length) = (length as u32, header_length as u32);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4] = kind;
    out[start + 5..start + 9].copy_from_slice(&header_length.to_le_bytes());
    for body in &payloads.bodies {
        out.extend_from_slice(body);
    }
    Ok(())
}
