//! serde's types as JSON payloads.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, FromPayload, IntoPayload, Payload};

/// A value of serde's as JSON, in and out.
///
/// ```no_run
/// use tidemill_guest::{Error, Json};
///
/// fn sum(Json(numbers): Json<Vec<i64>>) -> Result<Json<i64>, Error> {
///     Ok(Json(numbers.iter().sum()))
/// }
///
/// tidemill_guest::function!(sum);
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromPayload for Json<T> {
    fn from_payload(payload: Payload) -> Result<Json<T>, Error> {
        payload.parse().map(Json)
    }
}

impl<T: Serialize> IntoPayload for Json<T> {
    fn into_payload(self) -> Result<Payload, Error> {
        Payload::json(&self.0)
    }
}

impl Payload {
    /// A value as JSON.
    pub fn json(value: &impl Serialize) -> Result<Payload, Error> {
        let text = serde_json::to_string(value).map_err(|error| {
            Error::new("bad-value", format!("this has no form in JSON: {error}"))
        })?;
        Ok(Payload::raw_json(text))
    }

    /// Reads JSON. A payload of another content type is refused.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if !self.is_json() {
            let message = format!("JSON is expected, this is {}", self.content_type);
            return Err(Error::new("bad-value", message));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::new("bad-value", format!("the JSON does not fit: {error}")))
    }
}
