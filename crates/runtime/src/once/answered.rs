//! What a record holds of a request that has committed: its answer, and what lists show of it.
//!
//! | part | bytes |
//! |---|---|
//! | version, 1 | 1 |
//! | length of the header | 4, little endian |
//! | header, JSON | … |
//! | the outputs, one after the other | … |

use crate::api::{bytes_as_json, looks_like_bytes};
use crate::once::identity::expired;
use crate::{Output, RequestId, RequestState, RequestSummary, SessionSeen, StreamEvent};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tidemill_lattice::{ContentType, Payload};
use tidemill_problem::Problem;
use tidemill_telemetry::TraceContext;
use tokio::sync::mpsc;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;

/// What a request gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outputs {
    /// A value.
    Value(Payload),
    /// A generator's items.
    Items(Vec<Payload>),
    /// A generator's items that were too many to keep.
    Dropped,
}

/// A request that has committed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answered {
    pub(crate) app: String,
    pub(crate) function: String,
    /// The trace it ran in.
    pub(crate) trace: String,
    pub(crate) key: Option<String>,
    pub(crate) created_us: u64,
    pub(crate) duration_us: u64,
    pub(crate) outputs: Outputs,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Value,
    Items,
    Dropped,
}

#[derive(Serialize, Deserialize)]
struct Header {
    app: String,
    function: String,
    trace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    created_us: u64,
    duration_us: u64,
    kind: Kind,
    /// Content type and length of each output.
    outputs: Vec<(String, usize)>,
}

impl Answered {
    pub(crate) fn encode(&self) -> Bytes {
        let (kind, outputs) = match &self.outputs {
            Outputs::Value(value) => (Kind::Value, std::slice::from_ref(value)),
            Outputs::Items(items) => (Kind::Items, &items[..]),
            Outputs::Dropped => (Kind::Dropped, &[][..]),
        };
        let header = Header {
            app: self.app.clone(),
            function: self.function.clone(),
            trace: self.trace.clone(),
            key: self.key.clone(),
            created_us: self.created_us,
            duration_us: self.duration_us,
            kind,
            outputs: outputs
                .iter()
                .map(|output| (output.content_type.as_str().to_owned(), output.body.len()))
                .collect(),
        };
        let header = serde_json::to_vec(&header).unwrap_or_default();
        let bytes = outputs
            .iter()
            .map(|output| output.body.len())
            .sum::<usize>();
        let mut out = BytesMut::with_capacity(HEAD_BYTES + header.len() + bytes);
        out.put_u8(VERSION);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the header of 64 MiB of items is far below 4 GiB"
        )]
        out.put_u32_le(header.len() as u32);
        out.put_slice(&header);
        for output in outputs {
            out.put_slice(&output.body);
        }
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let head: [u8; HEAD_BYTES] = bytes.get(..HEAD_BYTES)?.try_into().ok()?;
        let [VERSION, length @ ..] = head else {
            return None;
        };
        let length = u32::from_le_bytes(length) as usize;
        let _ = bytes.split_to(HEAD_BYTES);
        if length > bytes.len() {
            return None;
        }
        let header: Header = serde_json::from_slice(&bytes.split_to(length)).ok()?;
        let mut outputs = Vec::with_capacity(header.outputs.len().min(bytes.len() + 1));
        for (content_type, length) in header.outputs {
            if length > bytes.len() {
                return None;
            }
            outputs.push(Payload {
                content_type: ContentType::parse(&content_type).ok()?,
                body: bytes.split_to(length),
            });
        }
        if !bytes.is_empty() {
            return None;
        }
        let outputs = match header.kind {
            Kind::Value => Outputs::Value(outputs.pop()?),
            Kind::Items => Outputs::Items(outputs),
            Kind::Dropped => Outputs::Dropped,
        };
        Some(Self {
            app: header.app,
            function: header.function,
            trace: header.trace,
            key: header.key,
            created_us: header.created_us,
            duration_us: header.duration_us,
            outputs,
        })
    }

    /// The trace it ran in, if it can be read.
    pub(crate) fn trace(&self) -> Option<TraceContext> {
        TraceContext::parse(&self.trace)
    }

    /// As lists show it.
    pub(crate) fn summary(&self, id: RequestId) -> RequestSummary {
        let trace = self.trace().map(|context| context.trace.to_string());
        RequestSummary {
            id: id.to_string(),
            app: self.app.clone(),
            function: self.function.clone(),
            state: RequestState::Succeeded,
            code: None,
            created_ms: self.created_us / 1000,
            #[expect(clippy::cast_precision_loss, reason = "durations are far below 2^52")]
            duration_ms: self.duration_us as f64 / 1000.0,
            trace: trace.unwrap_or_default(),
            key: self.key.clone(),
            meter: None,
        }
    }
}

impl Outputs {
    /// As one payload: items are a list.
    ///
    /// # Errors
    /// `request-expired` where they were not kept.
    pub(crate) fn payload(&self) -> Result<Payload, Problem> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::Items(items) => Ok(list(items)),
            Self::Dropped => Err(dropped()),
        }
    }

    /// As the call that made them would have given them, to a session that has seen this.
    ///
    /// # Errors
    /// `request-expired` where they were not kept.
    pub(crate) fn output(self, session: Option<SessionSeen>) -> Result<Output, Problem> {
        match self {
            Self::Value(value) => Ok(Output::Value(value)),
            Self::Items(items) => Ok(Output::Stream(replay(items, session))),
            Self::Dropped => Err(dropped()),
        }
    }
}

/// A stream of items that are there already.
fn replay(items: Vec<Payload>, session: Option<SessionSeen>) -> mpsc::Receiver<StreamEvent> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for item in items {
            if sender.send(StreamEvent::Item(item)).await.is_err() {
                return;
            }
        }
        let session = session.map(|seen| seen.token());
        let _ = sender.send(StreamEvent::Committed { session }).await;
    });
    receiver
}

fn dropped() -> Problem {
    let mut problem = expired();
    problem.detail = "the request has taken effect, and its items were too many to be kept; it is \
         not run again"
        .to_owned();
    problem
}

/// Items as a JSON list; those that are not JSON in the form of bytes.
pub(crate) fn list(items: &[Payload]) -> Payload {
    let mut list = Vec::with_capacity(items.iter().map(|item| item.body.len() + 1).sum());
    for item in items {
        list.push(if list.is_empty() { b'[' } else { b',' });
        match item.content_type {
            ContentType::Json if !looks_like_bytes(&item.body) => {
                list.extend_from_slice(&item.body);
            }
            _ => list.extend(bytes_as_json(item).to_string().bytes()),
        }
    }
    if list.is_empty() {
        list.push(b'[');
    }
    list.push(b']');
    Payload::new(ContentType::Json, list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(outputs: Outputs) -> Answered {
        Answered {
            app: "shop".into(),
            function: "pay".into(),
            trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            key: Some("k".into()),
            created_us: 5000,
            duration_us: 1500,
            outputs,
        }
    }

    #[test]
    fn an_answer_survives_its_encoding_and_damage_is_refused() {
        let items = vec![
            Payload::new(ContentType::Json, "1"),
            Payload::bytes(vec![0xff, 0]),
            Payload::bytes(Vec::new()),
        ];
        for outputs in [
            Outputs::Value(Payload::bytes("abc".to_owned())),
            Outputs::Items(items),
            Outputs::Items(Vec::new()),
            Outputs::Dropped,
        ] {
            let answered = answered(outputs);
            let bytes = answered.encode();
            assert_eq!(Answered::decode(bytes.clone()), Some(answered));
            for cut in 0..bytes.len() {
                assert_eq!(Answered::decode(bytes.slice(..cut)), None, "cut at {cut}");
            }
            let longer = [&bytes[..], b"x"].concat();
            assert_eq!(Answered::decode(longer.into()), None);
        }
    }

    #[test]
    fn items_are_a_list_and_dropped_ones_say_so() {
        let items = Outputs::Items(vec![
            Payload::new(ContentType::Json, "1"),
            Payload::bytes(vec![1]),
        ]);
        let payload = items.payload().expect("a list");
        assert!(payload.body.starts_with(b"[1,{"), "{payload:?}");
        let empty = Outputs::Items(Vec::new()).payload().expect("a list");
        assert_eq!(&empty.body[..], b"[]");
        let problem = Outputs::Dropped.payload().expect_err("not kept");
        assert!(problem.detail.contains("taken effect"), "{problem}");
    }

    #[test]
    fn a_record_is_shown_as_a_request() {
        let answered = answered(Outputs::Dropped);
        let shown = answered.summary(RequestId(7));
        assert_eq!(shown.state, RequestState::Succeeded);
        assert_eq!((shown.created_ms, shown.key.as_deref()), (5, Some("k")));
        assert_eq!(shown.trace, "0af7651916cd43dd8448eb211c80319c");
    }
}
