//! What is done once in a request, however often that is run.

use crate::{
    Error, FromPayload, IntoPayload,
    bindings::tidemill::platform::steps::{self, Step},
};

/// Does something once in a request: an e-mail, a payment. What it gave is recorded before this
/// returns, and a later attempt of the request gets what was recorded. An error is not recorded:
/// the next attempt tries again.
///
/// A name may come again in one request: its first step, its second and so on are told apart, so
/// they have to come in the same order in every attempt.
///
/// ```no_run
/// # use tidemill_guest::{Error, Payload, step};
/// # fn charge() -> Result<Payload, Error> { Ok(Payload::null()) }
/// # fn order() -> Result<(), Error> {
/// let receipt = step("charge", charge)?;
/// # Ok(())
/// # }
/// ```
pub fn step<T, F>(name: &str, action: F) -> Result<T, Error>
where
    T: FromPayload + IntoPayload,
    F: FnOnce() -> Result<T, Error>,
{
    let value = match steps::recall(name)? {
        Step::Recorded(value) => value,
        Step::Fresh(number) => steps::record(name, number, &action()?.into_payload()?)?,
    };
    T::from_payload(value)
}
