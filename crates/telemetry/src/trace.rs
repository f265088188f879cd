//! Trace identities as the W3C Trace Context recommendation writes them.
//! This module parses and prints; it draws no identities.

use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A trace: never zero in a valid context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub u128);

/// A span within a trace: never zero in a valid context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(pub u64);

/// A text that is not an identity of the asked length in lower-case hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a trace identity: lower-case hexadecimal digits, not all zero")
    }
}

impl std::error::Error for ParseIdError {}

/// Exactly `digits` lower-case hexadecimal digits (the recommendation forbids
/// upper case, and `from_str_radix` alone would take a sign).
fn hex(text: &str, digits: usize) -> Option<u128> {
    let valid = text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !valid {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

/// Writes `N` hexadecimal digits at once: identities are written several times a call.
fn digits<const N: usize>(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let mut text = [0; N];
    hex::encode_to_slice(bytes, &mut text).map_err(|_| fmt::Error)?;
    f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        digits::<32>(f, &self.0.to_be_bytes())
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        digits::<16>(f, &self.0.to_be_bytes())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TraceId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match hex(text, 32) {
            Some(id) if id != 0 => Ok(Self(id)),
            _ => Err(ParseIdError),
        }
    }
}

impl FromStr for SpanId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match hex(text, 16).and_then(|id| u64::try_from(id).ok()) {
            Some(id) if id != 0 => Ok(Self(id)),
            _ => Err(ParseIdError),
        }
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where in a trace something happens: what the `traceparent` header carries
/// (W3C Trace Context, level 1, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The whole trace.
    pub trace: TraceId,
    /// The span that is the parent of what comes next.
    pub span: SpanId,
    /// Whether the caller asked for recording.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. `None` for anything the recommendation calls
    /// invalid: version `ff`, identities of zero, wrong lengths, upper case.
    /// A later version is read by its first four fields.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim_matches([' ', '\t']).split('-');
        let version = fields.next()?;
        let version_number = hex(version, 2)?;
        let trace = fields.next()?.parse().ok()?;
        let span = fields.next()?.parse().ok()?;
        let flags = hex(fields.next()?, 2)?;
        if version == "ff" || (version_number == 0 && fields.next().is_some()) {
            return None;
        }
        Some(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }
}

impl FromStr for TraceContext {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::parse(text).ok_or(ParseIdError)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.fmt(f)?;
        f.write_str("-")?;
        self.span.fmt(f)?;
        f.write_str(if self.sampled { "-01" } else { "-00" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_recommendation_goes_through() {
        let context = TraceContext::parse(EXAMPLE).expect("the example is valid");
        assert_eq!(context.trace.0, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(context.span.0, 0xb7ad_6b71_6920_3331);
        assert!(context.sampled);
        assert_eq!(context.to_string(), EXAMPLE);
        let unsampled = EXAMPLE.replace("-01", "-00");
        assert!(!TraceContext::parse(&unsampled).expect("valid").sampled);
    }

    #[test]
    fn a_later_version_is_read_by_its_first_fields() {
        let later = format!("cc{}-what-the-future-brings", &EXAMPLE[2..]);
        let context = TraceContext::parse(&later).expect("later versions are accepted");
        assert_eq!(context.to_string(), EXAMPLE);
    }

    #[test]
    fn what_the_recommendation_forbids_is_refused() {
        let zero_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let zero_span = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        let upper = EXAMPLE.replace('a', "A");
        let extended = format!("{EXAMPLE}-00");
        let ff = format!("ff{}", &EXAMPLE[2..]);
        let signed = EXAMPLE.replace("-b7ad", "-+7ad");
        let bad = [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            zero_trace,
            zero_span,
            &upper,
            &extended,
            &ff,
            &signed,
        ];
        for text in bad {
            assert_eq!(TraceContext::parse(text), None, "{text:?} was accepted");
        }
    }
}
