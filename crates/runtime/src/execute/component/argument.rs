//! The one argument of a component's function, of a call as doors and flows have it
//! (docs/worker-protocol.md, "A fragment").

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use tidemill_lattice::{ContentType, Payload};
use tidemill_problem::{Code, Problem};

/// A whole call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole<'a> {
    #[serde(borrow)]
    args: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    kwargs: Option<BTreeMap<&'a str, &'a RawValue>>,
}

/// The argument of a call: the one that there is; of several a JSON array of them; of named ones
/// a JSON object.
pub(super) fn argument(call: &Payload) -> Result<Payload, Problem> {
    match call.content_type {
        ContentType::Json => Ok(json_argument(call)),
        ContentType::Pickle5 => Err(unreadable()),
        ContentType::OctetStream | ContentType::Other(_) => Ok(call.clone()),
    }
}

fn json_argument(call: &Payload) -> Payload {
    let body = &call.body;
    let begin = body.iter().find(|byte| !byte.is_ascii_whitespace());
    match begin {
        None => Payload::null(),
        Some(b'[') => match serde_json::from_slice::<Vec<&RawValue>>(body) {
            Ok(args) => of_args(call, &args),
            Err(_) => call.clone(),
        },
        Some(b'{') => match serde_json::from_slice::<Whole<'_>>(body) {
            Ok(Whole {
                args: None,
                kwargs: None,
            })
            | Err(_) => call.clone(),
            Ok(Whole { args, kwargs }) => {
                let (args, kwargs) = (args.unwrap_or_default(), kwargs.unwrap_or_default());
                match (args.is_empty(), kwargs.is_empty()) {
                    (_, true) => of_args(call, &args),
                    (true, false) => json(serde_json::to_vec(&kwargs).unwrap_or_default().into()),
                    // Nothing simpler says both.
                    (false, false) => call.clone(),
                }
            }
        },
        Some(_) => call.clone(),
    }
}

fn of_args(call: &Payload, args: &[&RawValue]) -> Payload {
    match args {
        [] => Payload::null(),
        [only] => json(call.body.slice_ref(only.get().as_bytes())),
        several => json(serde_json::to_vec(several).unwrap_or_default().into()),
    }
}

/// The argument of a step that takes what earlier steps gave.
pub(super) fn of_inputs(given: &[&Payload]) -> Result<Payload, Problem> {
    if let [only] = given {
        return match only.content_type {
            ContentType::Pickle5 => Err(unreadable()),
            _ => Ok((*only).clone()),
        };
    }
    let mut all = Vec::with_capacity(given.iter().map(|one| one.body.len() + 1).sum::<usize>() + 2);
    all.push(b'[');
    for (place, one) in given.iter().enumerate() {
        match one.content_type {
            ContentType::Json => {}
            ContentType::Pickle5 => return Err(unreadable()),
            ContentType::OctetStream | ContentType::Other(_) => {
                return Err(Problem::new(
                    Code::BadValue,
                    format!(
                        "a component takes several inputs as one JSON array, and one of them is {}; \
                         have the step before give JSON",
                        one.content_type
                    ),
                ));
            }
        }
        if place > 0 {
            all.push(b',');
        }
        all.extend_from_slice(&one.body);
    }
    all.push(b']');
    Ok(json(all.into()))
}

fn json(body: Bytes) -> Payload {
    Payload::new(ContentType::Json, body)
}

fn unreadable() -> Problem {
    Problem::new(
        Code::BadValue,
        "the argument is a Python pickle, which no component can read; pass what JSON holds, or bytes",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_gets_the_argument_of_the_call() {
        let cases = [
            ("5", "5"),
            ("[5]", "5"),
            ("[ [5] ]", "[5]"),
            ("[1, \"a\"]", "[1,\"a\"]"),
            ("[]", "null"),
            ("", "null"),
            (r#"{"args":[{"a":1}],"kwargs":{}}"#, r#"{"a":1}"#),
            (r#"{"args":[],"kwargs":{"b":2}}"#, r#"{"b":2}"#),
            (r#"{"kwargs":{"b":2}}"#, r#"{"b":2}"#),
            (
                r#"{"args":[1],"kwargs":{"b":2}}"#,
                r#"{"args":[1],"kwargs":{"b":2}}"#,
            ),
            (r#"{"args":[1],"more":2}"#, r#"{"args":[1],"more":2}"#),
            (r#"{}"#, r#"{}"#),
            (r#"{"args":5}"#, r#"{"args":5}"#),
            ("{ broken", "{ broken"),
        ];
        for (call, expected) in cases {
            let given = argument(&Payload::new(ContentType::Json, call)).unwrap();
            assert_eq!(String::from_utf8_lossy(&given.body), expected, "{call}");
        }
        let bytes = Payload::bytes(&b"[5]"[..]);
        assert_eq!(argument(&bytes).unwrap(), bytes);
        let pickle = Payload::new(ContentType::Pickle5, "x");
        assert_eq!(argument(&pickle).unwrap_err().code, Code::BadValue);
    }

    #[test]
    fn several_inputs_become_an_array_if_all_are_json() {
        let (one, two) = (
            Payload::new(ContentType::Json, "1"),
            Payload::new(ContentType::Json, "[2]"),
        );
        assert_eq!(&of_inputs(&[&one, &two]).unwrap().body[..], b"[1,[2]]");
        assert_eq!(of_inputs(&[&two]).unwrap(), two);
        assert_eq!(&of_inputs(&[]).unwrap().body[..], b"[]");
        let bytes = Payload::bytes(&b"x"[..]);
        assert_eq!(of_inputs(&[&one, &bytes]).unwrap_err().code, Code::BadValue);
        assert_eq!(of_inputs(&[&bytes]).unwrap(), bytes);
    }
}
