//! What a step gave, as its record holds it: version 1, the length of the content type (2 bytes,
//! little endian), the content type, the bytes.

use bytes::{BufMut, Bytes, BytesMut};
use tidemill_lattice::{ContentType, Payload};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 3;

pub(crate) fn encode(value: &Payload) -> Bytes {
    let content_type = value.content_type.as_str();
    let mut out = BytesMut::with_capacity(HEAD_BYTES + content_type.len() + value.body.len());
    out.put_u8(VERSION);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a content type is at most 255 bytes long"
    )]
    out.put_u16_le(content_type.len() as u16);
    out.put_slice(content_type.as_bytes());
    out.put_slice(&value.body);
    out.freeze()
}

pub(crate) fn decode(mut bytes: Bytes) -> Option<Payload> {
    let [VERSION, low, high] = *bytes.first_chunk::<HEAD_BYTES>()? else {
        return None;
    };
    let end = HEAD_BYTES + usize::from(u16::from_le_bytes([low, high]));
    let content_type = std::str::from_utf8(bytes.get(HEAD_BYTES..end)?).ok()?;
    let content_type = ContentType::parse(content_type).ok()?;
    let body = bytes.split_off(end);
    Some(Payload { content_type, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_and_what_is_cut_before_it_is_refused() {
        for value in [Payload::bytes("abc".to_owned()), Payload::null()] {
            let bytes = encode(&value);
            assert_eq!(decode(bytes.clone()), Some(value.clone()));
            for cut in 0..bytes.len() - value.body.len() {
                assert_eq!(decode(bytes.slice(..cut)), None, "cut at {cut}");
            }
        }
    }
}
