//! Values on their way in and out, and errors.

use crate::{Error, Payload, Scalar};

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

/// What a handler may take and what may be read from a payload.
pub trait FromPayload: Sized {
    /// Reads it, or says with `bad-value` why it is not of this type.
    fn from_payload(payload: Payload) -> Result<Self, Error>;
}

/// What a handler may return and what may be written as a payload.
pub trait IntoPayload {
    /// The payload, or why this value has none.
    fn into_payload(self) -> Result<Payload, Error>;
}

impl Payload {
    /// A payload of any content type.
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Payload {
        Payload {
            content_type: content_type.into(),
            body: body.into(),
        }
    }

    /// Bytes: `application/octet-stream`.
    pub fn bytes(body: impl Into<Vec<u8>>) -> Payload {
        Payload::new(BYTES, body)
    }

    /// Text for people: `text/plain`.
    pub fn text(text: impl Into<String>) -> Payload {
        Payload::new(TEXT, text.into())
    }

    /// A text that is JSON already. It is not checked.
    pub fn raw_json(text: impl Into<String>) -> Payload {
        Payload::new(JSON, text.into())
    }

    /// JSON's `null`: what a function gives that has nothing to say.
    pub fn null() -> Payload {
        Payload::raw_json("null")
    }

    /// Whether the content type is JSON's, with or without parameters.
    pub fn is_json(&self) -> bool {
        let essence = self.content_type.split(';').next().unwrap_or("");
        essence.trim_end().eq_ignore_ascii_case(JSON)
    }

    /// The body as it is, if it is UTF-8. Of a JSON text that is its source, with its quotes.
    pub fn as_text(&self) -> Result<&str, Error> {
        std::str::from_utf8(&self.body)
            .map_err(|_| Error::new("bad-value", "the body is no text in UTF-8"))
    }
}

impl FromPayload for Payload {
    fn from_payload(payload: Payload) -> Result<Payload, Error> {
        Ok(payload)
    }
}

impl IntoPayload for Payload {
    fn into_payload(self) -> Result<Payload, Error> {
        Ok(self)
    }
}

/// The body, whatever its content type.
impl FromPayload for Vec<u8> {
    fn from_payload(payload: Payload) -> Result<Vec<u8>, Error> {
        Ok(payload.body)
    }
}

/// As [`Payload::bytes`].
impl IntoPayload for Vec<u8> {
    fn into_payload(self) -> Result<Payload, Error> {
        Ok(Payload::bytes(self))
    }
}

/// For a function that takes nothing: whatever it was given is ignored.
impl FromPayload for () {
    fn from_payload(_: Payload) -> Result<(), Error> {
        Ok(())
    }
}

/// As [`Payload::null`].
impl IntoPayload for () {
    fn into_payload(self) -> Result<Payload, Error> {
        Ok(Payload::null())
    }
}

impl Error {
    /// An error with a code of the platform's or one of your own, and a sentence for people.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Error {
        Error {
            code: code.into(),
            message: message.into(),
        }
    }
}

impl From<i64> for Scalar {
    fn from(number: i64) -> Scalar {
        Scalar::Integer(number)
    }
}

impl From<f64> for Scalar {
    fn from(number: f64) -> Scalar {
        Scalar::Decimal(number)
    }
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Scalar {
        Scalar::Text(text.to_owned())
    }
}

impl From<String> for Scalar {
    fn from(text: String) -> Scalar {
        Scalar::Text(text)
    }
}
