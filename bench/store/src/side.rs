//! Sides measured in turns, and what they gave. Knows nothing of what is measured.

use std::collections::BTreeMap;
use std::io;

/// Measures one round: names with their numbers.
pub(crate) type Measure = Box<dyn FnMut() -> io::Result<Vec<(String, f64)>>>;

/// Something that is measured, in rounds.
pub(crate) struct Side(pub(crate) Measure);

/// Numbers by name, one a round.
#[derive(Debug, Default)]
pub(crate) struct Sides(BTreeMap<String, Vec<f64>>);

impl Sides {
    /// As one line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::json!({ "sides": self.0 }).to_string()
    }

    /// By name.
    #[cfg(test)]
    pub(crate) fn values(&self) -> &BTreeMap<String, Vec<f64>> {
        &self.0
    }
}

/// Measures all sides in every round: A B, then B A. `rest` is called before each.
pub(crate) fn in_turns(
    mut sides: Vec<Side>,
    rounds: usize,
    rest: impl Fn(),
    found: &mut Sides,
) -> io::Result<()> {
    for _ in 0..rounds {
        for Side(measure) in &mut sides {
            rest();
            for (name, number) in measure()? {
                found.0.entry(name).or_default().push(number);
            }
        }
        sides.reverse();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Side, Sides, in_turns};
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn sides_take_turns_there_and_back() {
        let step = Rc::new(Cell::new(0.0));
        let side = |name: &'static str| {
            let step = Rc::clone(&step);
            Side(Box::new(move || {
                step.set(step.get() + 1.0);
                Ok(vec![(name.to_owned(), step.get())])
            }))
        };
        let mut found = Sides::default();
        in_turns(vec![side("a"), side("b")], 3, || {}, &mut found).expect("three rounds");
        assert_eq!(found.values()["a"], [1.0, 4.0, 5.0]);
        assert_eq!(found.values()["b"], [2.0, 3.0, 6.0]);
    }
}
