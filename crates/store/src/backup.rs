//! The format of a backup: everything that a store holds at one snapshot, as one stream.
//!
//! | part | bytes |
//! |---|---|
//! | head: `TIDEMILL`, version 2, snapshot time, writer, XXH3-64 of these | 8 + 1 + 8 + 4 + 8 |
//! | blocks, see below, the last of them an end or an abandonment | … |
//!
//! | block | bytes |
//! |---|---|
//! | kind: 1 entries, 2 messages, 3 end, 4 abandoned, 5 requests | 1 |
//! | number of the block, from 0 | 8 |
//! | length of the body | 4 |
//! | XXH3-64 of these three | 8 |
//! | body | … |
//! | XXH3-64 of the body | 8 |
//!
//! | body of | holds |
//! |---|---|
//! | entries | key and cell, again and again, each with its length before it; keys ascend through the whole file |
//! | messages | time (8), index (4), body with its length before it, again and again; ids ascend |
//! | requests | id (16) and record as the store keeps it, with its length before it, again and again; ids ascend |
//! | end | keys (8), messages (8), requests (8), XXH3-64 of all body checksums before (8) |
//! | abandoned | why, as text |
//!
//! Fixed numbers are big endian, lengths within bodies LEB128. Nothing follows the last block.
//! Cells are complete through the snapshot, and hold nothing above it. The format does not
//! depend on how a store keeps its data: it stays when that changes.
//!
//! Pure: bytes go to a writer and come from a reader that are handed in, a block at a time.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use tidemill_lattice::{Cell, Key, Time, Writer};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::requests::StoredRequest;
use crate::{Error, MessageId};

const MAGIC: [u8; 8] = *b"TIDEMILL";
const VERSION: u8 = 2;
const HEAD_BYTES: usize = 29;
const BLOCK_HEAD_BYTES: usize = 21;
const CHECKSUM_BYTES: usize = 8;
/// A block is closed when it has so many bytes; one entry may be larger.
const BLOCK_BYTES: usize = 256 * 1024;

const ENTRIES: u8 = 1;
const MESSAGES: u8 = 2;
const END: u8 = 3;
const ABANDONED: u8 = 4;
const REQUESTS: u8 = 5;

/// What a backup says of itself at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Everything committed at or below it is in the backup, and nothing above.
    pub snapshot: Time,
    /// The life of the store that wrote it.
    pub writer: Writer,
}

/// What a whole backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its snapshot and writer.
    pub head: Head,
    /// Keys with something visible at the snapshot.
    pub keys: u64,
    /// Messages pending at the snapshot.
    pub messages: u64,
    /// Requests recorded at the snapshot.
    pub requests: u64,
    /// Its length.
    pub bytes: u64,
}

/// Why a backup could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] Error),
    /// The stream does not take it.
    #[error("the backup could not be written: {0}")]
    Io(#[from] io::Error),
}

/// Why a stream is not a whole backup.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream could not be read.
    #[error("the backup could not be read: {0}")]
    Io(io::Error),
    /// Something else.
    #[error("this is no backup of a Tidemill store; name a file that `store backup` wrote")]
    NotABackup,
    /// Another version wrote it.
    #[error(
        "the backup has format {0}, this version reads {VERSION}; use the version that wrote it, \
         or a newer one"
    )]
    Version(u8),
    /// It ends too early.
    #[error("the backup is cut off after {at_byte} bytes; use another copy, or another backup")]
    Cut {
        /// How much of it is there.
        at_byte: u64,
    },
    /// It is not what was written.
    #[error(
        "the backup is damaged in the block at byte {at_byte}: {cause}; use another copy, or \
         another backup"
    )]
    Damaged {
        /// Where the block begins.
        at_byte: u64,
        /// What is wrong with it.
        cause: String,
    },
    /// The store could not finish it, and said so.
    #[error("the backup was given up: {0}")]
    Abandoned(String),
}

/// Writes a backup.
pub struct Encoder<W> {
    out: W,
    head: Head,
    kind: u8,
    body: Vec<u8>,
    blocks: u64,
    checksums: Xxh3,
    keys: u64,
    messages: u64,
    requests: u64,
    bytes: u64,
}

impl<W: Write> Encoder<W> {
    /// Writes the head.
    ///
    /// # Errors
    /// What the stream says.
    pub fn new(mut out: W, head: Head) -> io::Result<Encoder<W>> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&head.snapshot.as_u64().to_be_bytes());
        bytes.extend_from_slice(&head.writer.0.to_be_bytes());
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        out.write_all(&bytes)?;
        Ok(Encoder {
            out,
            head,
            kind: ENTRIES,
            body: Vec::with_capacity(BLOCK_BYTES),
            blocks: 0,
            checksums: Xxh3::new(),
            keys: 0,
            messages: 0,
            requests: 0,
            bytes: HEAD_BYTES as u64,
        })
    }

    /// Adds a key, above all before it, with its cell complete through the snapshot.
    ///
    /// # Errors
    /// What the stream says.
    pub fn entry(&mut self, key: &Key, cell: &Cell) -> io::Result<()> {
        self.begin(ENTRIES)?;
        let mut encoded = Vec::with_capacity(64);
        cell.encode(&mut encoded);
        put_bytes(&mut self.body, key.as_bytes());
        put_bytes(&mut self.body, &encoded);
        self.keys += 1;
        Ok(())
    }

    /// Adds a pending message, above all before it. Keys come before messages.
    ///
    /// # Errors
    /// What the stream says.
    pub fn message(&mut self, (time, index): MessageId, body: &[u8]) -> io::Result<()> {
        self.begin(MESSAGES)?;
        self.body.extend_from_slice(&time.as_u64().to_be_bytes());
        self.body.extend_from_slice(&index.to_be_bytes());
        put_bytes(&mut self.body, body);
        self.messages += 1;
        Ok(())
    }

    /// Adds the record of a request, above all before it. They come last.
    ///
    /// # Errors
    /// What the stream says.
    pub fn request(&mut self, request: &StoredRequest) -> io::Result<()> {
        self.begin(REQUESTS)?;
        self.body.extend_from_slice(&request.id.to_be_bytes());
        put_bytes(&mut self.body, &request.encode());
        self.requests += 1;
        Ok(())
    }

    /// Writes the end, without which a backup counts as cut off.
    ///
    /// # Errors
    /// What the stream says.
    pub fn finish(mut self) -> io::Result<Summary> {
        self.close()?;
        self.kind = END;
        let checksums = self.checksums.digest();
        for number in [self.keys, self.messages, self.requests, checksums] {
            self.body.extend_from_slice(&number.to_be_bytes());
        }
        self.close()?;
        self.out.flush()?;
        Ok(Summary {
            head: self.head,
            keys: self.keys,
            messages: self.messages,
            requests: self.requests,
            bytes: self.bytes,
        })
    }

    /// Writes why there will be no end.
    ///
    /// # Errors
    /// What the stream says.
    pub fn abandon(mut self, why: &str) -> io::Result<()> {
        self.close()?;
        self.kind = ABANDONED;
        self.body.extend_from_slice(why.as_bytes());
        self.close()?;
        self.out.flush()
    }

    fn begin(&mut self, kind: u8) -> io::Result<()> {
        if self.kind != kind || self.body.len() >= BLOCK_BYTES {
            self.close()?;
        }
        self.kind = kind;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        if self.body.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.body.len()).map_err(io::Error::other)?;
        let mut head = Vec::with_capacity(BLOCK_HEAD_BYTES);
        head.push(self.kind);
        head.extend_from_slice(&self.blocks.to_be_bytes());
        head.extend_from_slice(&length.to_be_bytes());
        let checksum = xxh3_64(&head);
        head.extend_from_slice(&checksum.to_be_bytes());
        let checksum = xxh3_64(&self.body).to_be_bytes();
        self.checksums.update(&checksum);
        self.out.write_all(&head)?;
        self.out.write_all(&self.body)?;
        self.out.write_all(&checksum)?;
        self.blocks += 1;
        self.bytes += (BLOCK_HEAD_BYTES + self.body.len() + CHECKSUM_BYTES) as u64;
        self.body.clear();
        // An entry may have been large; the next ones are not.
        self.body.shrink_to(2 * BLOCK_BYTES);
        Ok(())
    }
}

/// Part of a backup.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// Keys with their cells, in order.
    Entries(Vec<(Key, Cell)>),
    /// Pending messages, in order.
    Messages(Vec<(MessageId, Bytes)>),
    /// Records of requests, in the order of their ids.
    Requests(Vec<StoredRequest>),
}

/// Reads a backup and checks it on the way.
pub struct Decoder<R> {
    input: R,
    head: Head,
    at_byte: u64,
    blocks: u64,
    checksums: Xxh3,
    last_key: Option<Key>,
    last_message: Option<MessageId>,
    last_request: Option<u128>,
    keys: u64,
    messages: u64,
    requests: u64,
    summary: Option<Summary>,
}

impl<R: Read> Decoder<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// [`ReadError`] if it is not one.
    pub fn new(mut input: R) -> Result<Decoder<R>, ReadError> {
        let mut bytes = take(&mut input, HEAD_BYTES, 0)?;
        let checksum = xxh3_64(&bytes[..HEAD_BYTES - CHECKSUM_BYTES]);
        if bytes.split_to(MAGIC.len()) != MAGIC[..] {
            return Err(ReadError::NotABackup);
        }
        let version = bytes.get_u8();
        let head = Head {
            snapshot: Time::from_u64(bytes.get_u64()),
            writer: Writer(bytes.get_u32()),
        };
        if bytes.get_u64() != checksum {
            return Err(damaged(0, "the checksum of the head is wrong"));
        }
        if version != VERSION {
            return Err(ReadError::Version(version));
        }
        Ok(Decoder {
            input,
            head,
            at_byte: HEAD_BYTES as u64,
            blocks: 0,
            checksums: Xxh3::new(),
            last_key: None,
            last_message: None,
            last_request: None,
            keys: 0,
            messages: 0,
            requests: 0,
            summary: None,
        })
    }

    /// What the backup says of itself.
    pub fn head(&self) -> Head {
        self.head
    }

    /// What the backup holds, once all of it has been read and was right.
    pub fn summary(&self) -> Option<Summary> {
        self.summary
    }

    /// The next part; `None` after the end.
    ///
    /// # Errors
    /// [`ReadError`] if the backup is not whole.
    pub fn block(&mut self) -> Result<Option<Block>, ReadError> {
        if self.summary.is_some() {
            return Ok(None);
        }
        let begin = self.at_byte;
        let (kind, mut body) = self.read_block()?;
        let wrong = |cause: String| ReadError::Damaged {
            at_byte: begin,
            cause,
        };
        match kind {
            ENTRIES => self
                .entries(body)
                .map(|entries| Some(Block::Entries(entries)))
                .map_err(wrong),
            MESSAGES => self
                .read_messages(body)
                .map(|messages| Some(Block::Messages(messages)))
                .map_err(wrong),
            REQUESTS => self
                .read_requests(body)
                .map(|requests| Some(Block::Requests(requests)))
                .map_err(wrong),
            END if body.len() == 32 => {
                let said = [(); 4].map(|()| body.get_u64());
                self.end(said).map_err(wrong)?;
                Ok(None)
            }
            ABANDONED => Err(ReadError::Abandoned(
                String::from_utf8_lossy(&body).into_owned(),
            )),
            other => Err(wrong(format!("its kind is {other}"))),
        }
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// [`ReadError`] if the backup is not whole.
    pub fn check(mut self) -> Result<Summary, ReadError> {
        loop {
            if self.block()?.is_none()
                && let Some(summary) = self.summary
            {
                return Ok(summary);
            }
        }
    }

    fn read_block(&mut self) -> Result<(u8, Bytes), ReadError> {
        let begin = self.at_byte;
        let mut head = take(&mut self.input, BLOCK_HEAD_BYTES, begin)?;
        let checksum = xxh3_64(&head[..BLOCK_HEAD_BYTES - CHECKSUM_BYTES]);
        let (kind, number, length) = (head.get_u8(), head.get_u64(), head.get_u32());
        if head.get_u64() != checksum {
            return Err(damaged(begin, "the checksum of its head is wrong"));
        }
        if number != self.blocks {
            let cause = format!("it is block {number}, not block {}", self.blocks);
            return Err(damaged(begin, cause));
        }
        let at_body = begin + BLOCK_HEAD_BYTES as u64;
        let body = take(&mut self.input, length as usize, at_body)?;
        let at_checksum = at_body + u64::from(length);
        let checksum = take(&mut self.input, CHECKSUM_BYTES, at_checksum)?;
        if xxh3_64(&body).to_be_bytes() != checksum[..] {
            return Err(damaged(begin, "its checksum is wrong"));
        }
        if kind != END {
            self.checksums.update(&checksum);
        }
        self.blocks += 1;
        self.at_byte = at_checksum + CHECKSUM_BYTES as u64;
        Ok((kind, body))
    }

    fn entries(&mut self, mut body: Bytes) -> Result<Vec<(Key, Cell)>, String> {
        let mut entries = Vec::new();
        while !body.is_empty() {
            let key = Key::from_bytes(&take_bytes(&mut body)?).map_err(|e| e.to_string())?;
            let cell = Cell::decode(&take_bytes(&mut body)?).map_err(|e| e.to_string())?;
            let is_late = self.messages > 0 || self.requests > 0;
            if self.last_key.as_ref().is_some_and(|last| *last >= key) || is_late {
                return Err("its keys are out of order".to_owned());
            }
            self.last_key = Some(key.clone());
            self.keys += 1;
            entries.push((key, cell));
        }
        Ok(entries)
    }

    fn read_messages(&mut self, mut body: Bytes) -> Result<Vec<(MessageId, Bytes)>, String> {
        let mut messages = Vec::new();
        while !body.is_empty() {
            if body.len() < 12 {
                return Err("a message is too short".to_owned());
            }
            let id = (Time::from_u64(body.get_u64()), body.get_u32());
            let is_early = self.last_message.is_some_and(|last| last >= id);
            if is_early || id.0 > self.head.snapshot || self.requests > 0 {
                return Err("its messages are out of order".to_owned());
            }
            self.last_message = Some(id);
            self.messages += 1;
            messages.push((id, take_bytes(&mut body)?));
        }
        Ok(messages)
    }

    fn read_requests(&mut self, mut body: Bytes) -> Result<Vec<StoredRequest>, String> {
        let mut requests = Vec::new();
        while !body.is_empty() {
            let id = body
                .try_get_u128()
                .map_err(|_| "a request is too short".to_owned())?;
            let request = StoredRequest::decode(id, &take_bytes(&mut body)?)?;
            let is_early = self.last_request.is_some_and(|last| last >= id);
            if is_early || request.time > self.head.snapshot {
                return Err("its requests are out of order".to_owned());
            }
            self.last_request = Some(id);
            self.requests += 1;
            // The log that it was written with is not there any more.
            requests.push(StoredRequest {
                group: 0,
                ..request
            });
        }
        Ok(requests)
    }

    fn end(&mut self, said: [u64; 4]) -> Result<(), String> {
        let checksums = self.checksums.digest();
        if said != [self.keys, self.messages, self.requests, checksums] {
            return Err("it counts other blocks than these".to_owned());
        }
        let mut more = [0];
        match self.input.read(&mut more) {
            Ok(0) => {}
            Ok(_) => return Err("more follows it".to_owned()),
            Err(e) => return Err(e.to_string()),
        }
        self.summary = Some(Summary {
            head: self.head,
            keys: self.keys,
            messages: self.messages,
            requests: self.requests,
            bytes: self.at_byte,
        });
        Ok(())
    }
}

fn damaged(at_byte: u64, cause: impl Into<String>) -> ReadError {
    let cause = cause.into();
    ReadError::Damaged { at_byte, cause }
}

/// Reads so many bytes from `at_byte` on. Takes memory as they come, not as they are announced.
fn take(input: &mut impl Read, count: usize, at_byte: u64) -> Result<Bytes, ReadError> {
    let mut bytes = Vec::with_capacity(count.min(BLOCK_BYTES));
    let read = input.take(count as u64).read_to_end(&mut bytes);
    match read {
        Ok(read) if read == count => Ok(Bytes::from(bytes)),
        Ok(read) => Err(ReadError::Cut {
            at_byte: at_byte + read as u64,
        }),
        Err(e) => Err(ReadError::Io(e)),
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes.len();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(bytes);
}

fn take_bytes(rest: &mut Bytes) -> Result<Bytes, String> {
    let mut length = 0_u64;
    for shift in (0..35).step_by(7) {
        if rest.is_empty() {
            break;
        }
        let byte = rest.get_u8();
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let length = usize::try_from(length).map_err(|e| e.to_string())?;
            if rest.len() < length {
                return Err("a length in it is too large".to_owned());
            }
            return Ok(rest.split_to(length));
        }
    }
    Err("a length in it can not be read".to_owned())
}
