//! Adding once more to a delta that is its writer's own is what a further operation comes to.

use proptest::prelude::*;
use tidemill_lattice::{Cell, Dot, Kind, Op, Time, Writer};

use crate::world::{commit_time, history, run, state_at};

/// A writer's delta, and what it sees, after these operations at a snapshot.
struct Own {
    seen: Cell,
    delta: Cell,
    snapshot: Time,
    dots: u32,
}

impl Own {
    /// As a request's buffer takes a write.
    fn write(&mut self, op: &Op) {
        let (snapshot, dots) = (self.snapshot, &mut self.dots);
        let mut view = self.seen.clone();
        view.merge(&self.delta);
        let mut draw = || {
            *dots += 1;
            Dot::new(Time::MAX, Writer(7), *dots)
        };
        if let Ok(part) = Cell::delta(Some(&view), op, snapshot, &mut draw) {
            self.delta.merge(&part);
            self.delta.gather();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn adding_again_is_a_further_addition(
        steps in prop_oneof![
            3 => history(vec![Kind::Counter]),
            1 => history(vec![Kind::Counter, Kind::Register]),
        ],
        addend in prop_oneof![3 => -5i64..6, 1 => any::<i64>()],
    ) {
        let (last, before) = steps.split_last().expect("a history has a step");
        let snapshot = commit_time(before.len() as u64);
        let seen = state_at(&run(before), snapshot);
        let mut own = Own { seen, delta: Cell::empty(), snapshot, dots: 0 };
        last.ops.iter().for_each(|op| own.write(op));
        let mut again = own.delta.clone();
        if again.add_again(addend) {
            own.write(&Op::CounterAdd(addend));
        }
        prop_assert_eq!(again, own.delta);
    }
}

#[test]
fn it_is_one_addend_until_that_is_full() {
    let mut own = Own {
        seen: Cell::empty(),
        delta: Cell::empty(),
        snapshot: Time::ZERO,
        dots: 0,
    };
    assert!(!own.delta.add_again(1), "there is nothing to add to");
    own.write(&Op::CounterAdd(i64::MAX - 1));
    let weight_bytes = own.delta.weight_bytes();
    assert!(own.delta.add_again(1));
    assert!(!own.delta.add_again(1), "the sum does not fit");
    assert_eq!(own.delta.weight_bytes(), weight_bytes);
    own.write(&Op::Delete);
    assert!(!own.delta.add_again(-1), "it is gone");
}
