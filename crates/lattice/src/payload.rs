//! Opaque values: a content type and bytes. The platform never opens the bytes.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;

const CONTENT_TYPE_MAX_BYTES: usize = 255;

/// What the bytes of a [`Payload`] are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentType {
    /// `application/json`
    Json,
    /// `application/octet-stream`
    OctetStream,
    /// `application/x-tidemill-pickle5`: Python's pickle, protocol 5. A node never opens it.
    Pickle5,
    /// Any other, as given, its type in lower case and with its parameters. Made by
    /// [`ContentType::parse`], which keeps it distinct from the ones above.
    Other(Arc<str>),
}

/// Text that cannot be a content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentTypeError {
    /// Nothing but white space.
    #[error("the content type is empty: name one, such as application/json")]
    Empty,
    /// Longer than 255 bytes.
    #[error("the content type has {0} bytes: use at most {CONTENT_TYPE_MAX_BYTES}")]
    TooLong(usize),
    /// A control character or one outside ASCII.
    #[error("the content type has a character outside printable ASCII: remove it")]
    Character,
    /// No `type/subtype`.
    #[error("the content type is not of the form type/subtype")]
    Form,
}

impl ContentType {
    /// The content type as text.
    pub fn as_str(&self) -> &str {
        match self {
            ContentType::Json => "application/json",
            ContentType::OctetStream => "application/octet-stream",
            ContentType::Pickle5 => "application/x-tidemill-pickle5",
            ContentType::Other(text) => text,
        }
    }

    /// Reads a content type (RFC 9110, 8.3). Type and subtype compare without regard to case;
    /// parameters are kept, except that `charset=utf-8` says nothing new about JSON.
    pub fn parse(text: &str) -> Result<ContentType, ContentTypeError> {
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() {
            return Err(ContentTypeError::Empty);
        }
        if text.len() > CONTENT_TYPE_MAX_BYTES {
            return Err(ContentTypeError::TooLong(text.len()));
        }
        if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(ContentTypeError::Character);
        }
        let (essence, parameters) = match text.split_once(';') {
            Some((essence, parameters)) => (essence.trim_end(), parameters.trim()),
            None => (text, ""),
        };
        let essence = essence.to_ascii_lowercase();
        match essence.split_once('/') {
            Some((class, subtype)) if is_token(class) && is_token(subtype) => {}
            _ => return Err(ContentTypeError::Form),
        }
        if parameters.is_empty() {
            return Ok(match essence.as_str() {
                "application/json" => ContentType::Json,
                "application/octet-stream" => ContentType::OctetStream,
                "application/x-tidemill-pickle5" => ContentType::Pickle5,
                _ => ContentType::Other(essence.into()),
            });
        }
        if essence == "application/json" && is_utf8_charset(parameters) {
            return Ok(ContentType::Json);
        }
        let text = format!("{essence}; {parameters}");
        if text.len() > CONTENT_TYPE_MAX_BYTES {
            return Err(ContentTypeError::TooLong(text.len()));
        }
        Ok(ContentType::Other(text.into()))
    }
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_utf8_charset(parameters: &str) -> bool {
    parameters.split_once('=').is_some_and(|(name, value)| {
        name.eq_ignore_ascii_case("charset")
            && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    })
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ContentType {
    type Err = ContentTypeError;

    fn from_str(text: &str) -> Result<ContentType, ContentTypeError> {
        ContentType::parse(text)
    }
}

/// A value that the platform carries and does not open. Equal when content type and bytes are:
/// two JSON texts of one meaning but different spelling are two payloads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Payload {
    /// What the bytes are.
    pub content_type: ContentType,
    /// The bytes.
    pub body: Bytes,
}

impl Payload {
    /// A payload of these parts.
    pub fn new(content_type: ContentType, body: impl Into<Bytes>) -> Payload {
        Payload {
            content_type,
            body: body.into(),
        }
    }

    /// A JSON value, in serde_json's compact form.
    pub fn json(value: &serde_json::Value) -> Payload {
        Payload::new(ContentType::Json, value.to_string())
    }

    /// Plain bytes.
    pub fn bytes(body: impl Into<Bytes>) -> Payload {
        Payload::new(ContentType::OctetStream, body)
    }

    /// JSON's `null`.
    pub fn null() -> Payload {
        Payload::new(ContentType::Json, Bytes::from_static(b"null"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_read_without_regard_to_case() {
        for text in [
            "application/json",
            " Application/JSON ",
            "application/json; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/json;",
        ] {
            assert_eq!(ContentType::parse(text), Ok(ContentType::Json), "{text}");
        }
        for kind in [
            ContentType::Json,
            ContentType::OctetStream,
            ContentType::Pickle5,
        ] {
            assert_eq!(ContentType::parse(kind.as_str()), Ok(kind));
        }
        let other = ContentType::parse("Text/Plain ;charset=latin-1").unwrap();
        assert_eq!(other.as_str(), "text/plain; charset=latin-1");
        assert_eq!(ContentType::parse(other.as_str()), Ok(other));
        let json = ContentType::parse("application/json; profile=x").unwrap();
        assert_eq!(json.as_str(), "application/json; profile=x");
    }

    #[test]
    fn what_is_no_content_type_is_refused() {
        assert_eq!(ContentType::parse("  "), Err(ContentTypeError::Empty));
        assert_eq!(ContentType::parse("text"), Err(ContentTypeError::Form));
        assert_eq!(ContentType::parse("text/"), Err(ContentTypeError::Form));
        assert_eq!(
            ContentType::parse("te xt/plain"),
            Err(ContentTypeError::Form)
        );
        assert_eq!(
            ContentType::parse("text/plain\r\nx: y"),
            Err(ContentTypeError::Character)
        );
        assert_eq!(
            ContentType::parse("text/pläin"),
            Err(ContentTypeError::Character)
        );
        let long = format!("text/{}", "x".repeat(300));
        assert_eq!(
            ContentType::parse(&long),
            Err(ContentTypeError::TooLong(305))
        );
        // One byte is added between type and parameters: the limit holds for the result.
        let edge = format!("text/x;{}", "y".repeat(248));
        assert_eq!(edge.len(), 255);
        assert_eq!(
            ContentType::parse(&edge),
            Err(ContentTypeError::TooLong(256))
        );
    }
}
