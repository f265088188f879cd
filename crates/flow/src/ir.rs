//! The common form of a composition, version 1, and its JSON.
//!
//! ```json
//! {"version": 1,
//!  "steps": [{"id": 0, "call": "clean", "in": ["input"]},
//!            {"id": 1, "call": "mask", "in": [0]},
//!            {"id": 2, "call": "count", "in": [0]},
//!            {"id": 3, "call": "combine", "in": [1, 2]}],
//!  "output": 3}
//! ```
//!
//! It must not know which functions exist; that is [`Flow::validate`]'s question.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::ParseError;

/// The version of the form that this crate reads and writes.
pub const VERSION: u32 = 1;
/// The greatest number of steps of a flow.
pub const MAX_STEPS: usize = 1_000;
/// The greatest number of inputs of one step.
pub const MAX_INPUTS: usize = 64;
/// The greatest length of a function's name, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// The place of a step in its flow, from 0.
pub type StepId = u32;

/// A composition of functions: a directed acyclic graph of steps, as its author wrote it.
///
/// Nothing is checked beyond the JSON's shape; see [`Flow::validate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    version: Version,
    /// The steps. Each refers to earlier ones only.
    pub steps: Vec<Step>,
    /// The step whose result is the flow's.
    pub output: StepId,
}

impl Flow {
    /// A flow of these steps, whose result is that of step `output`.
    #[must_use]
    pub fn new(steps: Vec<Step>, output: StepId) -> Self {
        Self {
            version: Version,
            steps,
            output,
        }
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// [`ParseError`] says where the text departs from the form.
    pub fn from_json(json: &str) -> Result<Self, ParseError> {
        Ok(serde_json::from_str(json)?)
    }

    /// Writes the JSON form, in one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a flow has only numbers, strings and lists")
    }
}

/// One step of a flow. Calls are the only kind so far; lookups, choices and joins will
/// be further variants, told apart by the field that names what they do (`call`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawStep", into = "RawStep")]
pub enum Step {
    /// Calls a function of the app.
    Call(CallStep),
}

impl Step {
    /// A step that calls `function`.
    #[must_use]
    pub fn call(id: StepId, function: impl Into<String>, inputs: Vec<Input>) -> Self {
        Self::Call(CallStep {
            id,
            function: function.into(),
            inputs,
        })
    }

    /// The step's place in the flow.
    #[must_use]
    pub fn id(&self) -> StepId {
        match self {
            Self::Call(call) => call.id,
        }
    }

    /// What the step takes, in order.
    #[must_use]
    pub fn inputs(&self) -> &[Input] {
        match self {
            Self::Call(call) => &call.inputs,
        }
    }

    /// The function that does the step's work.
    #[must_use]
    pub fn function(&self) -> &str {
        match self {
            Self::Call(call) => &call.function,
        }
    }

    /// The earlier steps whose results this one takes; a step taken twice comes twice.
    pub fn sources(&self) -> impl Iterator<Item = StepId> + '_ {
        self.inputs().iter().filter_map(|input| match input {
            Input::Call => None,
            Input::Step(id) => Some(*id),
        })
    }

    /// Whether the step takes the flow's own call.
    #[must_use]
    pub fn takes_call(&self) -> bool {
        self.inputs().contains(&Input::Call)
    }
}

/// A step that calls a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallStep {
    /// The step's place in the flow.
    pub id: StepId,
    /// The function's name; a method is `Class.method`.
    pub function: String,
    /// What the function is called with.
    pub inputs: Vec<Input>,
}

/// Where an argument of a step comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// `"input"`: the whole call of the flow, positional and keyword arguments unchanged.
    /// Legal only as the sole input of a step.
    Call,
    /// The result of an earlier step, as one positional argument.
    Step(StepId),
}

/// Whether `name` can name a function: `[A-Za-z_][A-Za-z0-9_.-]{0,127}`.
#[must_use]
pub fn is_function_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= MAX_NAME_BYTES
        && bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// What a step looks like in JSON, whatever its kind: kinds are told apart here rather than
/// by trying each, so that the error names the field at fault.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    id: StepId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call: Option<String>,
    #[serde(rename = "in")]
    inputs: Vec<Input>,
}

impl TryFrom<RawStep> for Step {
    type Error = String;

    fn try_from(raw: RawStep) -> Result<Self, String> {
        match raw.call {
            Some(function) => Ok(Self::call(raw.id, function, raw.inputs)),
            None => Err(format!(
                "step {} does nothing: give it `call`, a function's name",
                raw.id
            )),
        }
    }
}

impl From<Step> for RawStep {
    fn from(step: Step) -> Self {
        match step {
            Step::Call(CallStep {
                id,
                function,
                inputs,
            }) => Self {
                id,
                call: Some(function),
                inputs,
            },
        }
    }
}

/// The form's version: a field that can hold only the one this crate knows, so that a
/// later form is refused by its version and not by the first field that is new in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            VERSION => Ok(Self),
            other => Err(de::Error::custom(format!(
                "flow version {other} is not known here: this node reads version {VERSION}, \
                 so upgrade the node or use an older SDK"
            ))),
        }
    }
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Call => serializer.serialize_str("input"),
            Self::Step(id) => serializer.serialize_u32(*id),
        }
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;

        impl de::Visitor<'_> for InputVisitor {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"input\" or the id of an earlier step")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                match text {
                    "input" => Ok(Input::Call),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Input, E> {
                StepId::try_from(number)
                    .map(Input::Step)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_any(InputVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVIEW: &str = r#"{"version":1,"steps":[{"id":0,"call":"clean","in":["input"]},{"id":1,"call":"mask","in":[0]},{"id":2,"call":"count","in":[0]},{"id":3,"call":"Model.score","in":[0]},{"id":4,"call":"combine","in":[1,2,3]}],"output":4}"#;

    #[test]
    fn the_json_form_goes_there_and_back_unchanged() {
        let flow = Flow::from_json(REVIEW).unwrap();
        assert_eq!(flow.steps[0].inputs(), [Input::Call]);
        assert_eq!(flow.steps[4].sources().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(flow.to_json(), REVIEW);
    }

    #[test]
    fn what_departs_from_the_form_is_refused_and_named() {
        for (json, says) in [
            (
                r#"{"version":2,"stages":[]}"#,
                "flow version 2 is not known here",
            ),
            (r#"{"steps":[],"output":0}"#, "missing field `version`"),
            (
                r#"{"version":1,"steps":[],"output":0,"x":1}"#,
                "unknown field `x`",
            ),
            (
                r#"{"version":1,"steps":[{"id":7,"in":[]}],"output":0}"#,
                "step 7 does nothing",
            ),
            (
                r#"{"version":1,"steps":[{"id":0,"call":"f","in":["inptu"]}],"output":0}"#,
                "invalid value: string \"inptu\", expected \"input\" or the id of an earlier step",
            ),
            (
                r#"{"version":1,"steps":[{"id":0,"call":"f","in":[-1]}],"output":0}"#,
                "earlier step",
            ),
            (
                r#"{"version":1,"steps":[{"id":0,"call":"f","in":[],"lookup":1}],"output":0}"#,
                "unknown field `lookup`",
            ),
        ] {
            let error = Flow::from_json(json).unwrap_err().to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    #[test]
    fn names_are_those_of_the_manifest() {
        for good in ["f", "_f", "Class.method", "a-b_c.d9", &"x".repeat(128)] {
            assert!(is_function_name(good), "{good}");
        }
        for bad in ["", "9f", ".f", "-f", "a b", "é", "a/b", &"x".repeat(129)] {
            assert!(!is_function_name(bad), "{bad}");
        }
    }
}
