//! Answers, and how they are written.
//!
//! A command says what it means (a map, a set, nothing); the connection's protocol says how that
//! is spelled. RESP2 has neither maps nor sets nor one null, and gets arrays instead.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The protocol of every connection until `HELLO 3`.
    #[default]
    Resp2,
    /// With maps, sets, doubles, booleans and one null.
    Resp3,
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A short text, such as `OK`.
    Simple(Cow<'static, str>),
    /// An error: its code, a space, and what is wrong.
    Error(String),
    /// An integer.
    Integer(i64),
    /// Bytes.
    Bulk(Bytes),
    /// Nothing, where a value was asked for.
    Null,
    /// Answers in order.
    Array(Vec<Reply>),
    /// Names with values; an array of twice as many in RESP2.
    Map(Vec<(Reply, Reply)>),
    /// Answers in no order; an array in RESP2.
    Set(Vec<Reply>),
    /// A number with a fraction; bytes in RESP2.
    Double(f64),
    /// Yes or no; 1 or 0 in RESP2.
    Boolean(bool),
}

impl Reply {
    /// `OK`
    #[must_use]
    pub const fn ok() -> Reply {
        Reply::Simple(Cow::Borrowed("OK"))
    }

    /// Bytes.
    pub fn bulk(bytes: impl Into<Bytes>) -> Reply {
        Reply::Bulk(bytes.into())
    }

    /// Bytes that are known from the start.
    #[must_use]
    pub const fn text(text: &'static str) -> Reply {
        Reply::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// A count.
    #[must_use]
    pub fn count(count: usize) -> Reply {
        Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Bytes, or nothing.
    pub(crate) fn maybe(bytes: Option<Bytes>) -> Reply {
        bytes.map_or(Reply::Null, Reply::Bulk)
    }

    /// An array of bytes.
    pub(crate) fn bulks(all: impl IntoIterator<Item = Bytes>) -> Reply {
        Reply::Array(all.into_iter().map(Reply::Bulk).collect())
    }

    /// Writes the answer.
    pub fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        let is_new = protocol == Protocol::Resp3;
        match self {
            Reply::Simple(text) => line(out, b'+', text.as_bytes()),
            Reply::Error(text) => line(out, b'-', text.as_bytes()),
            Reply::Integer(value) => line(out, b':', value.to_string().as_bytes()),
            Reply::Bulk(bytes) => bulk(out, bytes),
            Reply::Null if is_new => out.put_slice(b"_\r\n"),
            Reply::Null => out.put_slice(b"$-1\r\n"),
            Reply::Array(all) => items(out, b'*', all, protocol),
            Reply::Set(all) => items(out, if is_new { b'~' } else { b'*' }, all, protocol),
            Reply::Map(pairs) => {
                let (mark, count) = if is_new { (b'%', 1) } else { (b'*', 2) };
                line(out, mark, (pairs.len() * count).to_string().as_bytes());
                for (name, value) in pairs {
                    name.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            Reply::Double(value) if is_new => line(out, b',', double(*value).as_bytes()),
            Reply::Double(value) => bulk(out, double(*value).as_bytes()),
            Reply::Boolean(value) if is_new => line(out, b'#', if *value { b"t" } else { b"f" }),
            Reply::Boolean(value) => line(out, b':', if *value { b"1" } else { b"0" }),
        }
    }
}

fn items(out: &mut BytesMut, mark: u8, all: &[Reply], protocol: Protocol) {
    line(out, mark, all.len().to_string().as_bytes());
    for reply in all {
        reply.encode(protocol, out);
    }
}

/// An answer that is written a piece at a time: values are shared until their turn comes, so an
/// answer that names one value many times takes no more memory than its client has read.
pub(crate) struct Writing {
    protocol: Protocol,
    /// What is still to come, innermost last.
    open: Vec<std::vec::IntoIter<Reply>>,
}

impl Writing {
    /// Writes the beginning of an answer; the whole of it, unless it has parts.
    pub(crate) fn begin(protocol: Protocol, reply: Reply, out: &mut BytesMut) -> Self {
        let mut writing = Self {
            protocol,
            open: Vec::new(),
        };
        writing.put(reply, out);
        writing
    }

    fn put(&mut self, reply: Reply, out: &mut BytesMut) {
        let is_new = self.protocol == Protocol::Resp3;
        let (mark, count, parts) = match reply {
            Reply::Array(parts) => (b'*', parts.len(), parts),
            Reply::Set(parts) => (if is_new { b'~' } else { b'*' }, parts.len(), parts),
            Reply::Map(pairs) => {
                let count = pairs.len();
                let parts = pairs.into_iter().flat_map(<[Reply; 2]>::from).collect();
                let (mark, each) = if is_new { (b'%', 1) } else { (b'*', 2) };
                (mark, count * each, parts)
            }
            whole => return whole.encode(self.protocol, out),
        };
        line(out, mark, count.to_string().as_bytes());
        self.open.push(parts.into_iter());
    }

    /// Goes on until `out` holds more than so many bytes; tells whether more is to come.
    pub(crate) fn go_on(&mut self, out: &mut BytesMut, enough_bytes: usize) -> bool {
        while let Some(parts) = self.open.last_mut() {
            if out.len() > enough_bytes {
                return true;
            }
            match parts.next() {
                Some(part) => self.put(part, out),
                None => {
                    self.open.pop();
                }
            }
        }
        false
    }
}

fn double(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if value.is_nan() {
        return "nan".to_owned();
    }
    value.to_string()
}

/// A line break inside would end the answer early and let its text pose as another one.
fn line(out: &mut BytesMut, mark: u8, text: &[u8]) {
    out.put_u8(mark);
    if text.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        let clean = text.iter().map(|byte| match byte {
            b'\r' | b'\n' => b' ',
            other => *other,
        });
        out.extend(clean);
    } else {
        out.put_slice(text);
    }
    out.put_slice(b"\r\n");
}

fn bulk(out: &mut BytesMut, bytes: &[u8]) {
    line(out, b'$', bytes.len().to_string().as_bytes());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        reply.encode(protocol, &mut out);
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn each_answer_is_spelled_as_the_protocol_has_it() {
        let pair = vec![(Reply::text("a"), Reply::Integer(-1))];
        for (reply, old, new) in [
            (Reply::ok(), "+OK\r\n", "+OK\r\n"),
            (
                Reply::Error("ERR a\r\n+OK".into()),
                "-ERR a  +OK\r\n",
                "-ERR a  +OK\r\n",
            ),
            (
                Reply::bulk("a\r\nb"),
                "$4\r\na\r\nb\r\n",
                "$4\r\na\r\nb\r\n",
            ),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (
                Reply::Map(pair),
                "*2\r\n$1\r\na\r\n:-1\r\n",
                "%1\r\n$1\r\na\r\n:-1\r\n",
            ),
            (
                Reply::Set(vec![Reply::Null]),
                "*1\r\n$-1\r\n",
                "~1\r\n_\r\n",
            ),
            (Reply::Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (Reply::Double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n"),
            (Reply::Boolean(true), ":1\r\n", "#t\r\n"),
            (Reply::Array(Vec::new()), "*0\r\n", "*0\r\n"),
        ] {
            assert_eq!(written(&reply, Protocol::Resp2), old);
            assert_eq!(written(&reply, Protocol::Resp3), new);
        }
    }

    #[test]
    fn an_answer_in_pieces_is_the_same_and_no_longer_than_asked() {
        let value = Bytes::from_static(&[b'x'; 100]);
        let inner = Reply::Set(vec![Reply::Null, Reply::Array(Vec::new())]);
        let pairs = vec![(Reply::text("a"), inner), (Reply::Null, Reply::ok())];
        let many = vec![Reply::Bulk(value); 50];
        let reply = Reply::Array(vec![Reply::Map(pairs), Reply::Array(many), Reply::Null]);
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let (mut all, mut out) = (String::new(), BytesMut::new());
            let mut writing = Writing::begin(protocol, reply.clone(), &mut out);
            loop {
                let has_more = writing.go_on(&mut out, 64);
                assert!(out.len() <= 64 + 110, "{}", out.len());
                all.push_str(std::str::from_utf8(&out).expect("text"));
                out.clear();
                if !has_more {
                    break;
                }
            }
            assert_eq!(all, written(&reply, protocol));
        }
    }
}
