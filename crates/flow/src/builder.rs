//! Builds flows in Rust: `Flow::of("f").then("g")`, `.fan_out(["a", "b"]).fan_in("c")`.
//! Operators of other front ends compile to the same steps in the same order.

use crate::ir::{CallStep, Flow, Input, Step, StepId};

impl Flow {
    /// Begins a flow with one function, called as the flow is called.
    #[must_use]
    pub fn of(function: impl Into<String>) -> Chain {
        Chain::from(function.into())
    }

    /// Begins a flow with several branches, each called as the flow is called.
    #[must_use]
    pub fn all<B: Into<Chain>>(branches: impl IntoIterator<Item = B>) -> Branches {
        let mut all = Branches {
            steps: Vec::new(),
            ends: Vec::new(),
        };
        for branch in branches {
            let end = append(&mut all.steps, branch.into(), Input::Call);
            all.ends.push(end);
        }
        all
    }
}

/// A flow in the making that ends in one step, whose result is the flow's.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Never empty; the last one is the end.
    steps: Vec<CallStep>,
}

impl Chain {
    /// Passes the result on to `next`: a function's name, or a whole chain.
    #[must_use]
    pub fn then(mut self, next: impl Into<Chain>) -> Self {
        let end = Input::Step(self.end());
        append(&mut self.steps, next.into(), end);
        self
    }

    /// Passes the result on to each of `branches`, which may run at the same time.
    #[must_use]
    pub fn fan_out<B: Into<Chain>>(self, branches: impl IntoIterator<Item = B>) -> Branches {
        let head = Input::Step(self.end());
        let mut steps = self.steps;
        let ends = branches
            .into_iter()
            .map(|branch| append(&mut steps, branch.into(), head))
            .collect();
        Branches { steps, ends }
    }

    /// The finished flow, still to be validated.
    #[must_use]
    pub fn build(self) -> Flow {
        let output = self.end();
        Flow::new(self.steps.into_iter().map(Step::Call).collect(), output)
    }

    fn end(&self) -> StepId {
        id_after(&self.steps).saturating_sub(1)
    }
}

impl From<String> for Chain {
    fn from(function: String) -> Self {
        Self {
            steps: vec![CallStep {
                id: 0,
                function,
                inputs: vec![Input::Call],
            }],
        }
    }
}

impl From<&str> for Chain {
    fn from(function: &str) -> Self {
        Self::from(function.to_owned())
    }
}

/// A flow in the making whose branches are still apart.
#[derive(Clone, Debug)]
pub struct Branches {
    steps: Vec<CallStep>,
    ends: Vec<StepId>,
}

impl Branches {
    /// Calls `function` with the branches' results, in order, as positional arguments.
    #[must_use]
    pub fn fan_in(mut self, function: impl Into<String>) -> Chain {
        let inputs = self.ends.into_iter().map(Input::Step).collect();
        let id = id_after(&self.steps);
        self.steps.push(CallStep {
            id,
            function: function.into(),
            inputs,
        });
        Chain { steps: self.steps }
    }
}

/// Adds a chain whose own call is `head`; the answer is its end.
fn append(steps: &mut Vec<CallStep>, chain: Chain, head: Input) -> StepId {
    let first = id_after(steps);
    for mut step in chain.steps {
        step.id = step.id.saturating_add(first);
        for input in &mut step.inputs {
            *input = match *input {
                Input::Call => head,
                Input::Step(id) => Input::Step(id.saturating_add(first)),
            };
        }
        steps.push(step);
    }
    id_after(steps).saturating_sub(1)
}

/// The next free id. More steps than ids are far more than validation lets pass.
fn id_after(steps: &[CallStep]) -> StepId {
    StepId::try_from(steps.len()).unwrap_or(StepId::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_compile_to_the_common_form() {
        let review = Flow::of("clean")
            .fan_out(["mask", "count", "score"])
            .fan_in("combine");
        assert_eq!(
            review.build().to_json(),
            r#"{"version":1,"steps":[{"id":0,"call":"clean","in":["input"]},{"id":1,"call":"mask","in":[0]},{"id":2,"call":"count","in":[0]},{"id":3,"call":"score","in":[0]},{"id":4,"call":"combine","in":[1,2,3]}],"output":4}"#
        );
        assert_eq!(
            Flow::of("f").then("g").build().to_json(),
            r#"{"version":1,"steps":[{"id":0,"call":"f","in":["input"]},{"id":1,"call":"g","in":[0]}],"output":1}"#
        );
    }

    #[test]
    fn branches_may_be_chains_and_may_begin_a_flow() {
        let flow = Flow::all([Flow::of("a").then("b"), "c".into()])
            .fan_in("d")
            .then(Flow::of("e").fan_out(["f", "g"]).fan_in("h"));
        assert_eq!(
            flow.build().to_json(),
            r#"{"version":1,"steps":[{"id":0,"call":"a","in":["input"]},{"id":1,"call":"b","in":[0]},{"id":2,"call":"c","in":["input"]},{"id":3,"call":"d","in":[1,2]},{"id":4,"call":"e","in":[3]},{"id":5,"call":"f","in":[4]},{"id":6,"call":"g","in":[4]},{"id":7,"call":"h","in":[5,6]}],"output":7}"#
        );
    }
}
