//! A connection that stays open, and bytes exactly as a test wants them.

use crate::support::{Node, Reply};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One connection to a node, kept alive from request to request.
pub(crate) struct Wire {
    reader: BufReader<TcpStream>,
    head: String,
}

impl Wire {
    /// Connects; no answer is waited for longer than a minute.
    pub(crate) fn open(node: &Node) -> io::Result<Self> {
        Self::open_to(&node.address, &node.token)
    }

    /// The same by address and token.
    pub(crate) fn open_to(address: &str, token: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            reader: BufReader::new(stream),
            head: format!("Host: localhost\r\nAuthorization: Bearer {token}\r\n"),
        })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// A request with the token and a body of JSON, as bytes.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> String {
        let head = &self.head;
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\n{head}Content-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    }

    /// Sends a request and reads its answer.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        let request = self.request(method, path, body);
        self.send(request.as_bytes())?;
        self.answer()
    }

    /// Reads one answer that says how long it is.
    pub(crate) fn answer(&mut self) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        let mut length = 0;
        loop {
            let start = bytes.len();
            if self.reader.read_until(b'\n', &mut bytes)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&bytes[start..]).to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let start = bytes.len();
        bytes.resize(start + length, 0);
        self.reader.read_exact(&mut bytes[start..])?;
        Ok(Reply::parse(&bytes))
    }

    /// Sets how long an answer may take.
    pub(crate) fn patience(&self, time: Duration) {
        let stream = self.reader.get_ref();
        stream.set_read_timeout(Some(time)).expect("a socket");
    }

    /// Reads up to so many bytes and gives how many came.
    pub(crate) fn read_some(&mut self, bytes: usize) -> usize {
        let mut buffer = vec![0; bytes];
        self.reader.read(&mut buffer).unwrap_or(0)
    }
}

/// Lets this process open as many files as it may: tests open many connections.
pub(crate) fn many_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("up to the maximum");
}
