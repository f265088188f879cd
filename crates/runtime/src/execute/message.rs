//! A request that starts once another has committed, as the commit's record keeps it.

use crate::Caller;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tidemill_lattice::{ContentType, Payload};

/// A call that waits for a commit.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) header: MessageHeader,
    pub(crate) input: Payload,
}

/// Whom it calls.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageHeader {
    pub(crate) app: String,
    pub(crate) function: Option<String>,
    pub(crate) flow: Option<tidemill_flow::Flow>,
    pub(crate) tenant: String,
    pub(crate) subject: String,
    pub(crate) trace: String,
    pub(crate) content_type: String,
}

impl Message {
    /// Version 1: a byte 1, the header's length, the header as JSON, the input.
    pub(crate) fn encode(&self) -> Bytes {
        let header = serde_json::to_vec(&self.header).unwrap_or_default();
        let mut out = BytesMut::with_capacity(5 + header.len() + self.input.body.len());
        out.put_u8(1);
        #[expect(clippy::cast_possible_truncation, reason = "a header is a few names")]
        out.put_u32_le(header.len() as u32);
        out.put_slice(&header);
        out.put_slice(&self.input.body);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < 5 || bytes[0] != 1 {
            return None;
        }
        let length = u32::from_le_bytes(bytes[1..5].try_into().ok()?) as usize;
        let _ = bytes.split_to(5);
        if length > bytes.len() {
            return None;
        }
        let header: MessageHeader = serde_json::from_slice(&bytes.split_to(length)).ok()?;
        let content_type = ContentType::parse(&header.content_type).ok()?;
        Some(Self {
            header,
            input: Payload {
                content_type,
                body: bytes,
            },
        })
    }

    pub(crate) fn caller(&self) -> Caller {
        Caller {
            tenant: self.header.tenant.clone(),
            subject: self.header.subject.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_its_encoding_and_damage_is_refused() {
        let message = Message {
            header: MessageHeader {
                app: "shop".into(),
                function: Some("ship".into()),
                flow: None,
                tenant: "default".into(),
                subject: "owner".into(),
                trace: String::new(),
                content_type: "application/json".into(),
            },
            input: Payload {
                content_type: ContentType::Json,
                body: Bytes::from_static(b"[1]"),
            },
        };
        let bytes = message.encode();
        let back = Message::decode(bytes.clone()).unwrap();
        assert_eq!(back.header.function.as_deref(), Some("ship"));
        assert_eq!(back.input, message.input);
        for cut in 0..bytes.len() - 3 {
            assert!(
                Message::decode(bytes.slice(..cut)).is_none(),
                "cut at {cut}"
            );
        }
    }
}
