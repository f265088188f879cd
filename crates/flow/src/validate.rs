//! Checks a flow against its rules and the app's functions, once, so that nothing after
//! it needs to fail.

use crate::error::FlowError;
use crate::facts::{Facts, FunctionFacts};
use crate::ir::{Flow, Input, MAX_INPUTS, MAX_STEPS, Step, StepId, is_function_name};

/// How many near names an error offers.
const MAX_NEAR: usize = 3;
/// How alike (Jaro-Winkler, 0 to 1) a name must be to be offered.
const NEAR_ENOUGH: f64 = 0.8;

/// A flow that keeps the rules: ids count up from 0, steps take earlier steps only, every
/// step's result is used, sizes are bounded, functions exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidFlow {
    flow: Flow,
    facts: Vec<FunctionFacts>,
}

impl ValidFlow {
    /// The flow as it was written.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The steps, each at the index of its id.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.flow.steps
    }

    /// The step whose result is the flow's.
    #[must_use]
    pub fn output(&self) -> StepId {
        self.flow.output
    }

    /// What is known of each step's function: from `facts`, and from when the flow was
    /// validated for a function that has left since.
    pub(crate) fn facts_now(&self, facts: &dyn Facts) -> Vec<FunctionFacts> {
        let steps = self.flow.steps.iter().zip(&self.facts);
        steps
            .map(|(step, then)| facts.function(step.function()).unwrap_or(*then))
            .collect()
    }
}

impl Flow {
    /// Checks that the flow can run.
    ///
    /// # Errors
    /// [`FlowError`]: the first rule that the flow breaks, and what to change.
    pub fn validate(&self, facts: &dyn Facts) -> Result<ValidFlow, FlowError> {
        match self.steps.len() {
            0 => return Err(FlowError::Empty),
            steps if steps > MAX_STEPS => return Err(FlowError::TooManySteps { steps }),
            _ => {}
        }
        for (place, step) in self.steps.iter().enumerate() {
            if usize::try_from(step.id()) != Ok(place) {
                return Err(FlowError::StepNumber {
                    place,
                    id: step.id(),
                });
            }
            check_inputs(step)?;
        }
        self.check_use()?;
        let mut known = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            known.push(check_function(step, self.steps.len(), facts)?);
        }
        Ok(ValidFlow {
            flow: self.clone(),
            facts: known,
        })
    }

    /// Every step is the output or taken by a later one; since steps take earlier ones
    /// only, each then reaches the output.
    fn check_use(&self) -> Result<(), FlowError> {
        if !self.steps.iter().any(|step| step.id() == self.output) {
            return Err(FlowError::NoOutput {
                output: self.output,
            });
        }
        // Later steps first, so that a step counts as used only by steps that are used,
        // and a dead chain is named by its end.
        let mut used = vec![false; self.steps.len()];
        used[self.output as usize] = true;
        for step in self.steps.iter().rev() {
            if !used[step.id() as usize] {
                return Err(FlowError::Unused {
                    step: step.id(),
                    function: step.function().into(),
                });
            }
            for source in step.sources() {
                used[source as usize] = true;
            }
        }
        Ok(())
    }
}

fn check_inputs(step: &Step) -> Result<(), FlowError> {
    let inputs = step.inputs();
    let (id, function) = (step.id(), || step.function().to_owned());
    if inputs.is_empty() {
        return Err(FlowError::NoInput {
            step: id,
            function: function(),
        });
    }
    if inputs.len() > MAX_INPUTS {
        return Err(FlowError::TooManyInputs {
            step: id,
            function: function(),
            inputs: inputs.len(),
        });
    }
    if inputs.len() > 1 && inputs.contains(&Input::Call) {
        return Err(FlowError::InputNotAlone {
            step: id,
            function: function(),
        });
    }
    match step.sources().find(|source| *source >= id) {
        Some(source_step) => Err(FlowError::NotEarlier {
            step: id,
            function: function(),
            source_step,
        }),
        None => Ok(()),
    }
}

fn check_function(
    step: &Step,
    steps: usize,
    facts: &dyn Facts,
) -> Result<FunctionFacts, FlowError> {
    let function = step.function();
    if !is_function_name(function) {
        return Err(FlowError::BadName {
            step: step.id(),
            function: function.to_owned(),
        });
    }
    let Some(known) = facts.function(function) else {
        return Err(FlowError::UnknownFunction {
            step: step.id(),
            function: function.to_owned(),
            near: near_names(function, facts.names()),
        });
    };
    if known.generator && steps > 1 {
        return Err(FlowError::Generator {
            step: step.id(),
            function: function.to_owned(),
        });
    }
    Ok(known)
}

fn near_names(name: &str, names: Vec<String>) -> Vec<String> {
    let mut scored: Vec<(f64, String)> = names
        .into_iter()
        .map(|other| (strsim::jaro_winkler(name, &other), other))
        .filter(|(score, _)| *score >= NEAR_ENOUGH)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored
        .into_iter()
        .take(MAX_NEAR)
        .map(|(_, other)| other)
        .collect()
}
