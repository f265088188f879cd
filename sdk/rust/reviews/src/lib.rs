//! The hot steps of the reviews example, with the same results as its Python functions: `mask`
//! masks the blocked words of a review, `count` counts its words.

mod text;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde_json::{Map, Value};
use text::Blocked;
use tidemill_guest::{Error, Json, state};

tidemill_guest::functions!("mask" => mask, "count" => count);

/// The index of blocked words, with the digest of what it was made from.
static PREPARED: Mutex<Option<(Vec<u8>, Blocked)>> = Mutex::new(None);

/// Masks the blocked words, and adds how many there were.
fn mask(Json(mut review): Json<Map<String, Value>>) -> Result<Json<Map<String, Value>>, Error> {
    let mut prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    let (masked, hits) = text::mask(text_of(&review)?, blocked(&mut prepared)?);
    review.insert("text".to_owned(), masked.into());
    review.insert("masked".to_owned(), hits.into());
    Ok(Json(review))
}

/// Counts each word, and gives how many there were.
fn count(Json(review): Json<Map<String, Value>>) -> Result<Json<usize>, Error> {
    let words = text::words(text_of(&review)?);
    let mut counts = BTreeMap::<&str, i64>::new();
    for word in &words {
        *counts.entry(word).or_default() += 1;
    }
    for (word, count) in counts {
        state::counter(format!("word/{word}")).add(count)?;
    }
    Ok(Json(words.len()))
}

fn text_of(review: &Map<String, Value>) -> Result<&str, Error> {
    let text = review.get("text").and_then(Value::as_str);
    text.ok_or_else(|| Error::new("bad-value", "a review with its text is expected"))
}

/// The index, read and made anew when the digest is another: the state holds a large list, of
/// which a request only reads the digest.
fn blocked(prepared: &mut Option<(Vec<u8>, Blocked)>) -> Result<&Blocked, Error> {
    let digest = held("blocked/digest")?.body;
    let blocked = match prepared.take() {
        Some((of, blocked)) if of == digest => blocked,
        _ => Blocked::new(held("blocked")?.parse::<Vec<String>>()?.iter()),
    };
    Ok(&prepared.insert((digest, blocked)).1)
}

fn held(key: &str) -> Result<tidemill_guest::Payload, Error> {
    let missing = || {
        let message = format!("the state has no {key:?}; run.py sets it before it feeds texts");
        Error::new("not-ready", message)
    };
    state::register(key).get()?.ok_or_else(missing)
}
