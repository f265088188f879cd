//! Values in a `wasi:keyvalue` store.

use crate::Answer;
use wasi::keyvalue::{
    atomics, batch as many,
    store::{self, Bucket, Error},
};

wit_bindgen::generate!({ world: "storing", generate_all });

fn open() -> Result<Bucket, String> {
    store::open("").map_err(describe)
}

#[allow(clippy::needless_pass_by_value)]
fn describe(error: Error) -> String {
    match error {
        Error::NoSuchStore => "no such store".to_owned(),
        Error::AccessDenied => "access denied".to_owned(),
        Error::Other(message) => message,
    }
}

/// Counts a visit, and notes the count beside what was noted before.
pub(crate) fn count() -> Result<Answer, String> {
    let bucket = open()?;
    let visits = atomics::increment(&bucket, "visits", 1).map_err(describe)?;
    let before = bucket.get("noted").map_err(describe)?;
    let before = String::from_utf8(before.unwrap_or_default()).map_err(|_| "no text was noted")?;
    let noted = visits.to_string();
    bucket.set("noted", noted.as_bytes()).map_err(describe)?;
    if !bucket.exists("noted").map_err(describe)? {
        return Err("what was set does not exist".to_owned());
    }
    let keys = bucket.list_keys(None).map_err(describe)?.keys;
    if !keys.iter().any(|key| key == "noted") {
        return Err("what was set is not listed".to_owned());
    }
    Ok(Answer::text(
        200,
        format!("visits {visits}, before [{before}]"),
    ))
}

/// Sets two values, gets them with one that is not there, deletes one, and gets all again.
pub(crate) fn batch() -> Result<Answer, String> {
    let bucket = open()?;
    let pairs = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.into()));
    many::set_many(&bucket, &pairs).map_err(describe)?;
    let set = get(&bucket)?;
    many::delete_many(&bucket, &["a".to_owned()]).map_err(describe)?;
    let deleted = get(&bucket)?;
    bucket.delete("b").map_err(describe)?;
    Ok(Answer::text(200, format!("{set}\n{deleted}")))
}

fn get(bucket: &Bucket) -> Result<String, String> {
    let keys = ["a", "absent", "b"].map(str::to_owned);
    let found = many::get_many(bucket, &keys).map_err(describe)?;
    let show = |found: &Option<(String, Vec<u8>)>| match found {
        Some((key, value)) => format!("{key}={}", String::from_utf8_lossy(value)),
        None => "none".to_owned(),
    };
    Ok(found.iter().map(show).collect::<Vec<_>>().join(" "))
}
