//! What `max`, `min` and `top` compare.

use std::{cmp::Ordering, fmt, hash, sync::Arc};

use serde_json::Value as Json;

use crate::OpError;

/// A number or a text, totally ordered: numbers come before texts; an integer and a float compare
/// exactly by value, and where they are equal the integer comes first, so that a merge has one
/// answer.
#[derive(Clone, Debug)]
pub enum Ordinal {
    /// An integer.
    Integer(i64),
    /// A finite float, as [`Ordinal::float`] makes it.
    Float(f64),
    /// A text, ordered by its bytes.
    Text(Arc<str>),
}

impl Ordinal {
    /// A finite float; minus zero becomes zero.
    pub fn float(value: f64) -> Result<Ordinal, OpError> {
        // Adding zero turns minus zero into zero and leaves the rest.
        if value.is_finite() {
            Ok(Ordinal::Float(value + 0.0))
        } else {
            Err(OpError::NotANumber)
        }
    }

    /// The same ordinal in its one form, or the refusal of a float that is not finite.
    pub(crate) fn checked(&self) -> Result<Ordinal, OpError> {
        match self {
            Ordinal::Float(value) => Ordinal::float(*value),
            other => Ok(other.clone()),
        }
    }

    /// Whether this is a number.
    pub const fn is_number(&self) -> bool {
        !matches!(self, Ordinal::Text(_))
    }

    /// From a JSON number or string. A number that is no 64-bit integer is read as a float.
    pub fn from_json(value: &Json) -> Result<Ordinal, OpError> {
        match value {
            Json::String(text) => Ok(Ordinal::Text(text.as_str().into())),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Ok(Ordinal::Integer(integer)),
                (None, Some(float)) => Ordinal::float(float),
                (None, None) => Err(OpError::NotANumber),
            },
            _ => Err(OpError::NotANumber),
        }
    }

    /// As a JSON number or string.
    pub fn to_json(&self) -> Json {
        match self {
            Ordinal::Integer(integer) => Json::from(*integer),
            Ordinal::Float(float) => Json::from(*float),
            Ordinal::Text(text) => Json::from(text.as_ref()),
        }
    }
}

impl From<i64> for Ordinal {
    fn from(value: i64) -> Ordinal {
        Ordinal::Integer(value)
    }
}

impl From<&str> for Ordinal {
    fn from(value: &str) -> Ordinal {
        Ordinal::Text(value.into())
    }
}

/// 2^63, the first float above every i64.
const INTEGER_END: f64 = 9_223_372_036_854_775_808.0;

fn compare(integer: i64, float: f64) -> Ordering {
    if float >= INTEGER_END || float.is_nan() {
        return Ordering::Less;
    }
    if float < -INTEGER_END {
        return Ordering::Greater;
    }
    // In range, so the conversion of the whole part is exact.
    let whole = float.trunc();
    integer.cmp(&(whole as i64)).then(if float < whole {
        Ordering::Greater
    } else {
        Ordering::Less
    })
}

impl Ord for Ordinal {
    fn cmp(&self, other: &Ordinal) -> Ordering {
        use Ordinal::{Float, Integer, Text};
        match (self, other) {
            (Integer(a), Integer(b)) => a.cmp(b),
            (Float(a), Float(b)) => a.total_cmp(b),
            (Text(a), Text(b)) => a.cmp(b),
            (Integer(a), Float(b)) => compare(*a, *b),
            (Float(a), Integer(b)) => compare(*b, *a).reverse(),
            (Text(_), _) => Ordering::Greater,
            (_, Text(_)) => Ordering::Less,
        }
    }
}

impl PartialOrd for Ordinal {
    fn partial_cmp(&self, other: &Ordinal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ordinal {
    fn eq(&self, other: &Ordinal) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ordinal {}

impl hash::Hash for Ordinal {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Ordinal::Integer(integer) => integer.hash(state),
            Ordinal::Float(float) => float.to_bits().hash(state),
            Ordinal::Text(text) => text.hash(state),
        }
    }
}

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ordinal::Integer(integer) => integer.fmt(f),
            Ordinal::Float(float) => float.fmt(f),
            Ordinal::Text(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_total_and_exact() {
        let ascending = [
            Ordinal::Float(f64::MIN),
            Ordinal::Float(-1.0e19),
            Ordinal::Integer(i64::MIN),
            Ordinal::Float(-9_223_372_036_854_775_808.0),
            Ordinal::Float(-1.5),
            Ordinal::Integer(-1),
            Ordinal::Float(-0.5),
            Ordinal::Integer(0),
            Ordinal::Float(0.0),
            Ordinal::Float(0.5),
            Ordinal::Integer(1),
            Ordinal::Float(1.0),
            Ordinal::Integer((1 << 53) + 1),
            Ordinal::Float(9_007_199_254_740_994.0),
            Ordinal::Integer(i64::MAX),
            Ordinal::Float(9_223_372_036_854_775_808.0),
            Ordinal::Float(f64::MAX),
            Ordinal::from(""),
            Ordinal::from("1"),
            Ordinal::from("a"),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn floats_have_one_form() {
        assert_eq!(Ordinal::float(-0.0).unwrap(), Ordinal::Float(0.0));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Ordinal::float(bad), Err(OpError::NotANumber));
        }
    }

    #[test]
    fn json_goes_both_ways() {
        for text in ["1", "-3", "1.0", "\"a\"", "1e300", "18446744073709551615"] {
            let json: Json = serde_json::from_str(text).unwrap();
            let ordinal = Ordinal::from_json(&json).unwrap();
            assert_eq!(
                Ordinal::from_json(&ordinal.to_json()),
                Ok(ordinal),
                "{text}"
            );
        }
        assert!(Ordinal::from_json(&Json::Null).is_err());
        assert!(Ordinal::from_json(&Json::from(true)).is_err());
    }
}
