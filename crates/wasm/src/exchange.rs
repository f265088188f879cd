//! HTTP requests and responses as payloads, so that a call of an HTTP component is a call like
//! any other: recorded, repeated, answered once.
//!
//! The body of such a payload: the length of the head (32 bits, little endian), the head as JSON,
//! the body. Header values are texts of which each character is a byte (ISO 8859-1).

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full, Limited};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::time::Duration;
use thiserror::Error;
use tidemill_lattice::{ContentType, PAYLOAD_MAX_BYTES, Payload};
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// The content type of such a payload.
pub const EXCHANGE_CONTENT_TYPE: &str = "application/x-tidemill-http";

/// How long the rest of a response may take once its handler has returned.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// A request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// All but the body.
    pub head: Head,
    /// The body.
    pub body: Bytes,
}

/// The head of a request, with `method` and `uri`, or of a response, with `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Such as `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Scheme, host, path and query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Such as 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Names and values, in order.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// Why a payload is no exchange, or a response no payload.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// Not of this form.
    #[error("an HTTP component is called by HTTP, under /http/; its input is no HTTP request")]
    Form,
    /// A part that HTTP does not have so.
    #[error("it is no HTTP message: {0}")]
    Part(#[from] http::Error),
    /// The component gave an error instead of a response.
    #[error("it answered with the error {0}")]
    Answered(String),
    /// No end of the body.
    #[error("it did not finish its response: {0}")]
    Body(String),
}

impl Exchange {
    /// As a payload.
    #[must_use]
    pub fn to_payload(&self) -> Payload {
        let head = serde_json::to_vec(&self.head).unwrap_or_default();
        let mut bytes = BytesMut::with_capacity(4 + head.len() + self.body.len());
        bytes.put_u32_le(u32::try_from(head.len()).unwrap_or(u32::MAX));
        bytes.put_slice(&head);
        bytes.put_slice(&self.body);
        let content_type = ContentType::Other(EXCHANGE_CONTENT_TYPE.into());
        Payload::new(content_type, bytes.freeze())
    }

    /// Of a payload.
    ///
    /// # Errors
    /// [`ExchangeError::Form`].
    pub fn from_payload(payload: &Payload) -> Result<Self, ExchangeError> {
        if payload.content_type.as_str() != EXCHANGE_CONTENT_TYPE {
            return Err(ExchangeError::Form);
        }
        let bytes = &payload.body;
        let length = bytes.first_chunk::<4>().ok_or(ExchangeError::Form)?;
        let end = (u32::from_le_bytes(*length) as usize).saturating_add(4);
        let head = bytes.get(4..end).ok_or(ExchangeError::Form)?;
        Ok(Self {
            head: serde_json::from_slice(head).map_err(|_| ExchangeError::Form)?,
            body: bytes.slice(end..),
        })
    }

    /// The headers' names and values as a head has them.
    #[must_use]
    pub fn headers(map: &HeaderMap) -> Vec<(String, String)> {
        let text = |value: &HeaderValue| {
            value
                .as_bytes()
                .iter()
                .map(|byte| char::from(*byte))
                .collect()
        };
        map.iter()
            .map(|(name, value)| (name.as_str().to_owned(), text(value)))
            .collect()
    }

    /// The headers that a head names.
    ///
    /// # Errors
    /// [`ExchangeError::Part`].
    pub fn header_map(head: &Head) -> Result<HeaderMap, ExchangeError> {
        let mut map = HeaderMap::new();
        for (name, value) in &head.headers {
            let name = HeaderName::try_from(name).map_err(http::Error::from)?;
            let bytes: Option<Vec<u8>> =
                value.chars().map(|char| u8::try_from(char).ok()).collect();
            let bytes = bytes.ok_or(ExchangeError::Form)?;
            let value = HeaderValue::from_bytes(&bytes).map_err(http::Error::from)?;
            map.append(name, value);
        }
        Ok(map)
    }

    /// The request that a payload holds.
    pub(crate) fn request(
        payload: &Payload,
    ) -> Result<http::Request<HyperOutgoingBody>, ExchangeError> {
        let exchange = Self::from_payload(payload)?;
        let mut request = http::Request::builder()
            .method(exchange.head.method.as_deref().unwrap_or("GET"))
            .uri(exchange.head.uri.as_deref().unwrap_or("/"))
            .body(
                Full::new(exchange.body)
                    .map_err(|never| match never {})
                    .boxed_unsync(),
            )?;
        *request.headers_mut() = Self::header_map(&exchange.head)?;
        Ok(request)
    }

    /// Lets a component handle a request and collects its response: while it writes, since what
    /// is written waits for a reader. `None` where it answered nothing.
    pub(crate) async fn gather(
        handling: impl Future<Output = wasmtime::Result<()>>,
        receiver: oneshot::Receiver<Result<http::Response<HyperOutgoingBody>, ErrorCode>>,
    ) -> wasmtime::Result<Option<Result<Payload, ExchangeError>>> {
        let collecting = async {
            match receiver.await {
                Ok(Ok(response)) => Some(collect(response).await),
                Ok(Err(code)) => Some(Err(ExchangeError::Answered(format!("{code:?}")))),
                Err(_) => None,
            }
        };
        tokio::pin!(handling, collecting);
        let collected = tokio::select! {
            biased;
            handled = &mut handling => {
                handled?;
                None
            }
            collected = &mut collecting => Some(collected),
        };
        match collected {
            // The rest of the handler belongs to the request, too.
            Some(collected) => handling.await.map(|()| collected),
            None => match tokio::time::timeout(REST_TIMEOUT, collecting).await {
                Ok(collected) => Ok(collected),
                Err(_) => Ok(Some(Err(ExchangeError::Body(
                    "the handler returned before it finished the body".into(),
                )))),
            },
        }
    }
}

async fn collect(response: http::Response<HyperOutgoingBody>) -> Result<Payload, ExchangeError> {
    let (parts, body) = response.into_parts();
    let collected = Limited::new(body, PAYLOAD_MAX_BYTES).collect().await;
    let body = collected.map_err(|error| ExchangeError::Body(error.to_string()))?;
    let head = Head {
        status: Some(parts.status.as_u16()),
        headers: Exchange::headers(&parts.headers),
        ..Head::default()
    };
    let exchange = Exchange {
        head,
        body: body.to_bytes(),
    };
    Ok(exchange.to_payload())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_being_a_payload_and_damage_is_refused() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.append("x-a", HeaderValue::from_static("2"));
        let exchange = Exchange {
            head: Head {
                method: Some("POST".into()),
                uri: Some("http://h/p?q".into()),
                status: None,
                headers: Exchange::headers(&headers),
            },
            body: Bytes::from_static(b"body"),
        };
        let payload = exchange.to_payload();
        assert_eq!(Exchange::from_payload(&payload).unwrap(), exchange);
        assert_eq!(Exchange::header_map(&exchange.head).unwrap(), headers);
        for cut in 0..payload.body.len() - 4 {
            let mut damaged = payload.clone();
            damaged.body = damaged.body.slice(..cut);
            assert!(Exchange::from_payload(&damaged).is_err(), "cut at {cut}");
        }
        assert!(Exchange::from_payload(&Payload::null()).is_err());
    }
}
