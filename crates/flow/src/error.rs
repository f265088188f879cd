//! Why a flow is refused. Each message tells the flow's author what to change.

use thiserror::Error;

use crate::ir::{MAX_INPUTS, MAX_STEPS, StepId};

/// The text is not a flow in JSON.
#[derive(Debug, Error)]
#[error("not a flow: {0}")]
pub struct ParseError(#[from] serde_json::Error);

/// The flow cannot run as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FlowError {
    /// A flow without steps.
    #[error("the flow has no steps: give it at least one")]
    Empty,
    /// More steps than [`MAX_STEPS`].
    #[error("the flow has {steps} steps and may have {MAX_STEPS}: split it into several flows")]
    TooManySteps {
        /// How many it has.
        steps: usize,
    },
    /// Ids do not count up from 0 in the order of the list.
    #[error("step number {place} of the list has id {id}: number the steps from 0 in order")]
    StepNumber {
        /// The step's place in the list, from 0.
        place: usize,
        /// The id that it has.
        id: StepId,
    },
    /// A step without inputs.
    #[error("step {step} ({function}) takes nothing: give it \"input\" or an earlier step")]
    NoInput {
        /// The step.
        step: StepId,
        /// What it calls.
        function: String,
    },
    /// More inputs than [`MAX_INPUTS`].
    #[error(
        "step {step} ({function}) takes {inputs} inputs and may take {MAX_INPUTS}: \
         combine some of them in a step before it"
    )]
    TooManyInputs {
        /// The step.
        step: StepId,
        /// What it calls.
        function: String,
        /// How many it takes.
        inputs: usize,
    },
    /// `"input"` beside other inputs.
    #[error(
        "step {step} ({function}) takes \"input\" beside other inputs: \"input\" is the whole \
         call of the flow with its keyword arguments, so it must be the only one; add a first \
         step that returns the value and take that step's result"
    )]
    InputNotAlone {
        /// The step.
        step: StepId,
        /// What it calls.
        function: String,
    },
    /// A step takes its own result or that of a later or unknown step.
    #[error(
        "step {step} ({function}) takes the result of step {source_step}, which does not come \
         before it: a step takes earlier steps only"
    )]
    NotEarlier {
        /// The step.
        step: StepId,
        /// What it calls.
        function: String,
        /// The step that it refers to.
        source_step: StepId,
    },
    /// The output is no step.
    #[error("the flow's output is step {output}, which it does not have: name one of its steps")]
    NoOutput {
        /// The id given as output.
        output: StepId,
    },
    /// Nobody takes a step's result.
    #[error(
        "nobody takes the result of step {step} ({function}): pass it to a later step, make it \
         the output, or remove it"
    )]
    Unused {
        /// The step.
        step: StepId,
        /// What it calls.
        function: String,
    },
    /// Not a function's name.
    #[error(
        "step {step} calls {function:?}, which is not a function's name: use letters, digits and \
         `_.-`, at most 128, beginning with a letter or `_`"
    )]
    BadName {
        /// The step.
        step: StepId,
        /// What it calls.
        function: String,
    },
    /// The app has no such function.
    #[error(
        "step {step} calls {function}, which this app does not have{}",
        did_you_mean(near)
    )]
    UnknownFunction {
        /// The step.
        step: StepId,
        /// What it calls.
        function: String,
        /// Names the app does have that look alike, nearest first.
        near: Vec<String>,
    },
    /// A generator in a flow of several steps.
    #[error(
        "step {step} calls {function}, a generator: a generator can only be a flow's single step; \
         collect its items in a function that returns them, and call that"
    )]
    Generator {
        /// The step.
        step: StepId,
        /// What it calls.
        function: String,
    },
}

fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => ": deploy it, or correct the name".to_owned(),
        _ => format!(": did you mean {}?", near.join(" or ")),
    }
}
