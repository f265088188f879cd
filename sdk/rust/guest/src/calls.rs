//! Calls to other functions and flows: `name` in the own app, `app/name` in another.

use crate::{
    Error, IntoPayload, Payload,
    bindings::tidemill::platform::calls::{self, Pending},
};

/// Calls a function as part of this request, and waits for what it gives.
///
/// It sees what has been written here so far, and what it writes joins that.
///
/// ```no_run
/// # use tidemill_guest::{Error, Payload, call};
/// # fn order(cart: Payload) -> Result<(), Error> {
/// let price = call("price", cart)?;
/// # Ok(())
/// # }
/// ```
pub fn call(name: &str, input: impl IntoPayload) -> Result<Payload, Error> {
    calls::call(name, &input.into_payload()?)
}

/// Begins a call that runs beside this one.
///
/// ```no_run
/// # use tidemill_guest::{Error, Payload, spawn};
/// # fn order(cart: Payload) -> Result<(), Error> {
/// let price = spawn("price", cart.clone())?;
/// let stock = spawn("stock", cart)?;
/// let (price, stock) = (price.wait()?, stock.wait()?);
/// # Ok(())
/// # }
/// ```
pub fn spawn(name: &str, input: impl IntoPayload) -> Result<Call, Error> {
    let pending = calls::spawn(name, &input.into_payload()?);
    Ok(Call { pending })
}

/// Begins a new request once this one has committed: exactly then, exactly once, and never if this
/// one fails.
pub fn enqueue(name: &str, input: impl IntoPayload) -> Result<(), Error> {
    calls::enqueue(name, &input.into_payload()?)
}

/// A call that [`spawn`] began. One that nobody waits for is waited for at the function's end, and
/// fails it if it failed.
#[must_use = "what it gives, and what it writes, comes with `wait`"]
pub struct Call {
    pending: Pending,
}

impl Call {
    /// Waits for what it gives.
    pub fn wait(self) -> Result<Payload, Error> {
        self.pending.wait()
    }

    /// Asks it to stop. If it does, [`wait`](Call::wait) gives `cancelled`.
    pub fn cancel(&self) {
        self.pending.cancel();
    }
}
