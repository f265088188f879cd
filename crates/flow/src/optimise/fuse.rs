//! Rewrite 1: a chain is one hand-off.
//!
//! Where a step is the only taker of the result of the only step it takes, the two gain
//! nothing from being apart: the second cannot start before the first is done, and nobody
//! else waits for either. If their functions share workers, they become one fragment.
//!
//! ```text
//! a ─> b ─> c            [a b c]
//! a ─> b ─> C ─> d       [a b] [C] [d]      C belongs to another group, or is not fusable
//! ```
//!
//! This is always safe: all that comes before the first step came before both, and all
//! that comes after the second came after both.

use super::partition::Partition;

pub(super) fn chains(partition: &mut Partition<'_>) {
    let steps = partition.steps;
    let mut takers = vec![Takers::None; steps.len()];
    for step in steps {
        for source in step.sources() {
            let taker = &mut takers[source as usize];
            *taker = match *taker {
                Takers::None => Takers::One(step.id()),
                Takers::One(only) if only == step.id() => Takers::One(only),
                _ => Takers::Many,
            };
        }
    }
    for step in steps {
        let mut sources = step.sources();
        let Some(first) = sources.next() else {
            continue;
        };
        if sources.all(|other| other == first) && matches!(takers[first as usize], Takers::One(_)) {
            partition.merge(first as usize, step.id() as usize);
        }
    }
}

/// How many steps take a result; one that takes it twice is one.
#[derive(Clone, Copy)]
enum Takers {
    None,
    One(u32),
    Many,
}
