//! Numbers, dots, texts and payloads as bytes.

use std::sync::Arc;

use bytes::Bytes;

use crate::{ContentType, DecodeError, Dot, Ordinal, Payload, Time, Writer};

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    put_varint(out, count as u128);
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i128) {
    put_varint(out, ((value << 1) ^ (value >> 127)) as u128);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(super) fn put_time(out: &mut Vec<u8>, time: Time) {
    out.extend_from_slice(&time.as_u64().to_le_bytes());
}

/// A time that may be absent.
pub(super) fn put_some_time(out: &mut Vec<u8>, time: Option<Time>) {
    out.push(u8::from(time.is_some()));
    if let Some(time) = time {
        put_time(out, time);
    }
}

pub(super) fn put_dot(out: &mut Vec<u8>, dot: Dot) {
    put_time(out, dot.time);
    put_varint(out, dot.writer.0.into());
    put_varint(out, dot.sequence.into());
}

pub(super) fn put_payload(out: &mut Vec<u8>, payload: &Payload) {
    put_content(out, &payload.content_type, &payload.body);
}

pub(super) fn put_content(out: &mut Vec<u8>, content_type: &ContentType, body: &[u8]) {
    match content_type {
        ContentType::Json => out.push(0),
        ContentType::OctetStream => out.push(1),
        ContentType::Pickle5 => out.push(2),
        ContentType::Other(text) => {
            out.push(3);
            put_bytes(out, text.as_bytes());
        }
    }
    put_bytes(out, body);
}

pub(super) fn put_ordinal(out: &mut Vec<u8>, ordinal: &Ordinal) {
    match ordinal {
        Ordinal::Integer(integer) => {
            out.push(0);
            put_signed(out, (*integer).into());
        }
        Ordinal::Float(float) => {
            out.push(1);
            out.extend_from_slice(&float.to_le_bytes());
        }
        Ordinal::Text(text) => {
            out.push(2);
            put_bytes(out, text.as_bytes());
        }
    }
}

/// Reads bytes from the front.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// The same, where what is read may share them.
    shared: Option<&'a Bytes>,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a Bytes) -> Reader<'a> {
        Reader {
            bytes,
            shared: Some(bytes),
            at: 0,
        }
    }

    /// Copies what it reads.
    pub(super) fn copying(bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            bytes,
            shared: None,
            at: 0,
        }
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (array, _) = rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.at += N;
        Ok(*array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn varint(&mut self) -> Result<u128, DecodeError> {
        let mut value = 0u128;
        for shift in (0..).step_by(7) {
            let byte = self.u8()?;
            let part = u128::from(byte & 0x7f);
            if shift > 126 || (part << shift) >> shift != part {
                return Err(DecodeError::Malformed("a number is too large"));
            }
            value |= part << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::Malformed(
                        "a number is longer than it needs to be",
                    ));
                }
                break;
            }
        }
        Ok(value)
    }

    pub(super) fn number<T: TryFrom<u128>>(&mut self) -> Result<T, DecodeError> {
        T::try_from(self.varint()?).map_err(|_| DecodeError::Malformed("a number is too large"))
    }

    pub(super) fn signed<T: TryFrom<i128>>(&mut self) -> Result<T, DecodeError> {
        let raw = self.varint()?;
        let value = (raw >> 1) as i128 ^ -((raw & 1) as i128);
        T::try_from(value).map_err(|_| DecodeError::Malformed("a number is too large"))
    }

    /// The number of items that follow, each of at least one byte.
    pub(super) fn count(&mut self) -> Result<usize, DecodeError> {
        let count = self.number()?;
        if count > self.remaining() {
            Err(DecodeError::Truncated)
        } else {
            Ok(count)
        }
    }

    pub(super) fn slice(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.count()?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let slice = rest.get(..length).ok_or(DecodeError::Truncated)?;
        self.at += length;
        Ok(slice)
    }

    fn take(&mut self) -> Result<Bytes, DecodeError> {
        let slice = self.slice()?;
        Ok(match self.shared {
            Some(shared) => shared.slice_ref(slice),
            None => Bytes::copy_from_slice(slice),
        })
    }

    pub(super) fn text(&mut self) -> Result<Arc<str>, DecodeError> {
        let bytes = self.slice()?;
        let text = std::str::from_utf8(bytes)
            .map_err(|_| DecodeError::Malformed("a text is not UTF-8"))?;
        Ok(text.into())
    }

    pub(super) fn time(&mut self) -> Result<Time, DecodeError> {
        self.array()
            .map(|raw| Time::from_u64(u64::from_le_bytes(raw)))
    }

    pub(super) fn some_time(&mut self) -> Result<Option<Time>, DecodeError> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.time().map(Some),
            _ => Err(DecodeError::Malformed("neither a time nor none")),
        }
    }

    pub(super) fn dot(&mut self) -> Result<Dot, DecodeError> {
        Ok(Dot {
            time: self.time()?,
            writer: Writer(self.number()?),
            sequence: self.number()?,
        })
    }

    pub(super) fn payload(&mut self) -> Result<Payload, DecodeError> {
        let content_type = match self.u8()? {
            0 => ContentType::Json,
            1 => ContentType::OctetStream,
            2 => ContentType::Pickle5,
            3 => {
                let text = self.text()?;
                match ContentType::parse(&text) {
                    Ok(ContentType::Other(parsed)) if parsed == text => ContentType::Other(text),
                    _ => return Err(DecodeError::Malformed("a content type is not in its form")),
                }
            }
            _ => return Err(DecodeError::Malformed("an unknown content type")),
        };
        Ok(Payload {
            content_type,
            body: self.take()?,
        })
    }

    pub(super) fn ordinal(&mut self) -> Result<Ordinal, DecodeError> {
        match self.u8()? {
            0 => self.signed().map(Ordinal::Integer),
            1 => {
                let float = f64::from_le_bytes(self.array()?);
                match Ordinal::float(float) {
                    Ok(Ordinal::Float(normal)) if normal.to_bits() == float.to_bits() => {
                        Ok(Ordinal::Float(float))
                    }
                    _ => Err(DecodeError::Malformed("a float is not in its form")),
                }
            }
            2 => self.text().map(Ordinal::Text),
            _ => Err(DecodeError::Malformed("an unknown type of ordinal")),
        }
    }
}
