//! Handles: more than one may hold, of a request that is over, and such as nobody gave.

use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};

use tidemill_guest::{Payload, bindings::tidemill::platform::calls};

use crate::store;

/// The handle of a call that an earlier request of this instance began.
static KEPT: AtomicU32 = AtomicU32::new(0);

/// Opens buckets without end, and closes none.
pub(crate) fn hoard() -> Result<String, String> {
    loop {
        mem::forget(store::open("default")?);
    }
}

/// Begins calls without end, and waits for none.
pub(crate) fn hoard_calls() -> Result<String, String> {
    loop {
        mem::forget(calls::spawn("get", &Payload::raw_json("\"default a\"")));
    }
}

/// Begins a call, and keeps its handle for the next request.
pub(crate) fn keep() -> Result<String, String> {
    let call = calls::spawn("get", &Payload::raw_json("\"default a\""));
    KEPT.store(call.take_handle(), Ordering::Relaxed);
    Ok("kept".to_owned())
}

/// Begins a call of its own, which has the number of the one that was kept, and asks for the one
/// that was kept.
pub(crate) fn kept() -> Result<String, String> {
    mem::forget(calls::spawn("get", &Payload::raw_json("\"default a\"")));
    let handle = KEPT.load(Ordering::Relaxed);
    // SAFETY: a handle that this instance was given and has not dropped.
    let call = unsafe { calls::Pending::from_handle(handle) };
    call.cancel();
    waited(&call)
}

/// Asks for a call by a handle that nobody gave.
pub(crate) fn forge(handle: u32) -> Result<String, String> {
    // SAFETY: there is none: the host has to see that the handle is none.
    let call = mem::ManuallyDrop::new(unsafe { calls::Pending::from_handle(handle) });
    waited(&call)
}

/// Asks for a call by the handle of a bucket.
pub(crate) fn confuse() -> Result<String, String> {
    let bucket = store::open("default")?;
    forge(bucket.take_handle())
}

fn waited(call: &calls::Pending) -> Result<String, String> {
    match call.wait() {
        Ok(_) => Ok("waited".to_owned()),
        Err(error) => Err([error.code.as_str(), ": ", &error.message].concat()),
    }
}
