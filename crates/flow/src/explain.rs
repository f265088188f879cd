//! A plan as text, for people and for snapshot tests.

use std::fmt::Write;

use crate::ir::{Input, Step};
use crate::plan::{Fragment, FragmentId, Plan};

impl Plan {
    /// The plan as a tree of fragments and their steps.
    ///
    /// ```text
    /// 3 steps in 2 hand-offs
    /// ├─ f0 on workers A
    /// │  ├─ #0 clean(input)
    /// │  └─ #1 mask(#0) => f1
    /// └─ f1 on workers B, after f0
    ///    └─ #2 score(#1) => result
    /// ```
    ///
    /// `#n` is a step's result, `input` the flow's call; `=>` says where a result goes when
    /// it leaves its fragment. Groups are lettered as they appear.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = format!(
            "{} in {}\n",
            counted(self.steps().len(), "step"),
            counted(self.fragments().len(), "hand-off")
        );
        let mut groups = Vec::new();
        for fragment in self.fragments() {
            let group = groups.iter().position(|known| *known == fragment.group);
            let group = group.unwrap_or_else(|| {
                groups.push(fragment.group);
                groups.len() - 1
            });
            self.explain_fragment(&mut text, fragment, &letters(group));
        }
        text
    }

    fn explain_fragment(&self, text: &mut String, fragment: &Fragment, group: &str) {
        let is_last = fragment.id + 1 == self.fragments().len();
        let (branch, trunk) = if is_last {
            ("└─", "   ")
        } else {
            ("├─", "│  ")
        };
        let after = match list(&fragment.after) {
            names if names.is_empty() => names,
            names => format!(", after {names}"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{branch} f{} on workers {group}{after}", fragment.id);
        for (place, id) in fragment.steps.iter().enumerate() {
            let Some(step) = self.step(*id) else { continue };
            let twig = if place + 1 == fragment.steps.len() {
                "└─"
            } else {
                "├─"
            };
            let inputs: Vec<String> = step.inputs().iter().map(input).collect();
            let call = format!("{}({})", step.function(), inputs.join(", "));
            let _ = writeln!(text, "{trunk}{twig} #{id} {call}{}", self.destination(step));
        }
    }

    fn destination(&self, step: &Step) -> String {
        if step.id() == self.output() {
            return " => result".to_owned();
        }
        let own = self.fragment_of(step.id()).map(|fragment| fragment.id);
        let takes =
            |fragment: &&Fragment| Some(fragment.id) != own && fragment.inputs.contains(&step.id());
        let takers: Vec<FragmentId> = self
            .fragments()
            .iter()
            .filter(takes)
            .map(|fragment| fragment.id)
            .collect();
        if takers.is_empty() {
            String::new()
        } else {
            format!(" => {}", list(&takers))
        }
    }
}

fn input(input: &Input) -> String {
    match input {
        Input::Call => "input".to_owned(),
        Input::Step(id) => format!("#{id}"),
    }
}

fn list(fragments: &[FragmentId]) -> String {
    let names: Vec<String> = fragments.iter().map(|id| format!("f{id}")).collect();
    names.join(", ")
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A, B, … Z, AA, AB, …
fn letters(mut number: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b'A' + u8::try_from(number % 26).unwrap_or(0)));
        if number < 26 {
            return letters.iter().rev().collect();
        }
        number = number / 26 - 1;
    }
}
