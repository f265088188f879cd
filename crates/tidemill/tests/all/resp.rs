//! The Redis door of a node: bytes exactly as a test wants them, and a client that others wrote.

use crate::support::Node;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the node on this directory serves its Redis door.
pub(crate) fn address(data: &Path) -> String {
    let text = std::fs::read(data.with_extension("ready")).expect("ready");
    let ready: Value = serde_json::from_slice(&text).expect("written whole");
    ready["redis"].as_str().expect("an address").to_owned()
}

/// A command as clients write it.
pub(crate) fn command<T: AsRef<[u8]>>(words: &[T]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        out.extend(format!("${}\r\n", word.len()).as_bytes());
        out.extend(word);
        out.extend(b"\r\n");
    }
    out
}

/// A connection that says what it is told to.
pub(crate) struct Raw(BufReader<TcpStream>);

impl Raw {
    pub(crate) fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::with_capacity(4096, stream)))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// One line of an answer, without its end.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        if self.0.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.strip_suffix(b"\r\n").unwrap_or(&line);
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    /// Sends words and reads an answer of one line.
    pub(crate) fn ask<T: AsRef<[u8]>>(&mut self, words: &[T]) -> io::Result<String> {
        self.send(&command(words))?;
        self.line()
    }

    /// Reads bytes and does not keep them.
    pub(crate) fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())
    }

    /// Sets how long bytes may take to be sent.
    pub(crate) fn patience(&self, time: Duration) {
        let stream = self.0.get_ref();
        stream.set_write_timeout(Some(time)).expect("a socket");
        stream.set_read_timeout(Some(time)).expect("a socket");
    }
}

/// A connection of the client library `redis`, with the node's token.
pub(crate) fn client(node: &Node, protocol: &str) -> ::redis::Connection {
    try_client(&address(&node.data), &node.token, protocol).expect("connected")
}

/// The same by address and token.
pub(crate) fn try_client(
    address: &str,
    token: &str,
    protocol: &str,
) -> ::redis::RedisResult<::redis::Connection> {
    let url = format!("redis://:{token}@{address}/?protocol={protocol}");
    let connection = ::redis::Client::open(url)?.get_connection_with_timeout(PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    Ok(connection)
}
