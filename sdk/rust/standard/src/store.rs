//! Values in a `wasi:keyvalue` store.

use crate::bindings::wasi::keyvalue::{
    atomics, batch,
    store::{self, Bucket, Error},
};

/// Keys that are set at a time.
const BATCH: u64 = 500;

pub(crate) fn open(bucket: &str) -> Result<Bucket, String> {
    store::open(bucket).map_err(described)
}

fn described(error: Error) -> String {
    match error {
        Error::NoSuchStore => "no such store".to_owned(),
        Error::AccessDenied => "access denied".to_owned(),
        Error::Other(message) => message,
    }
}

pub(crate) fn set(bucket: &str, key: &str, value: &str) -> Result<String, String> {
    let set = open(bucket)?.set(key, value.as_bytes());
    set.map(|()| "set".to_owned()).map_err(described)
}

pub(crate) fn get(bucket: &str, key: &str) -> Result<String, String> {
    let value = open(bucket)?.get(key).map_err(described)?;
    Ok(match value {
        Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        None => "none".to_owned(),
    })
}

pub(crate) fn increment(bucket: &str, key: &str, delta: u64) -> Result<String, String> {
    let sum = atomics::increment(&open(bucket)?, key, delta);
    sum.map(|sum| sum.to_string()).map_err(described)
}

/// Sets so many keys.
pub(crate) fn fill(bucket: &str, count: u64) -> Result<String, String> {
    let opened = open(bucket)?;
    for begin in (0..count).step_by(BATCH as usize) {
        let end = count.min(begin + BATCH);
        let pairs: Vec<(String, Vec<u8>)> = (begin..end).map(|n| (name(n), vec![b'v'])).collect();
        batch::set_many(&opened, &pairs).map_err(described)?;
    }
    Ok(count.to_string())
}

/// A name that sorts as its number does.
fn name(number: u64) -> String {
    let digits = number.to_string();
    ["k", &"00000"[digits.len().min(5)..], &digits].concat()
}

/// One page of keys: how many, the first, the last, and the cursor to go on from.
pub(crate) fn list(bucket: &str, cursor: Option<u64>) -> Result<String, String> {
    let page = open(bucket)?.list_keys(cursor).map_err(described)?;
    let count = page.keys.len().to_string();
    let none = String::new();
    let first = page.keys.first().unwrap_or(&none);
    let last = page.keys.last().unwrap_or(&none);
    let next = page.cursor.map(|cursor| cursor.to_string());
    let next = next.as_deref().unwrap_or("end");
    Ok([&count, first, last, next].join(" "))
}
