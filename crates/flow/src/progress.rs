//! Which fragments of a plan may start, as others get done.

use crate::plan::{FragmentId, Plan};

/// How far one run of a plan has come. It knows nothing of results or failures: a run in
/// which a fragment failed is over.
#[derive(Clone, Debug)]
pub struct Progress {
    /// How many fragments each one still waits for.
    waits_for: Vec<usize>,
    takers: Vec<Vec<FragmentId>>,
    is_done: Vec<bool>,
    left: usize,
}

impl Progress {
    /// A run that begins. The second part of the answer is the fragments to start now.
    #[must_use]
    pub fn begin(plan: &Plan) -> (Self, Vec<FragmentId>) {
        let fragments = plan.fragments();
        let mut takers = vec![Vec::new(); fragments.len()];
        for fragment in fragments {
            for earlier in &fragment.after {
                takers[*earlier].push(fragment.id);
            }
        }
        let waits_for: Vec<usize> = fragments
            .iter()
            .map(|fragment| fragment.after.len())
            .collect();
        let ready = (0..fragments.len())
            .filter(|id| waits_for[*id] == 0)
            .collect();
        let is_done = vec![false; fragments.len()];
        (
            Self {
                waits_for,
                takers,
                is_done,
                left: fragments.len(),
            },
            ready,
        )
    }

    /// A fragment is done. The answer is the fragments that may start because of it;
    /// saying so again, or of a fragment that the plan has not, changes nothing.
    pub fn done(&mut self, fragment: FragmentId) -> Vec<FragmentId> {
        match self.is_done.get_mut(fragment) {
            Some(is_done) if !*is_done => *is_done = true,
            _ => return Vec::new(),
        }
        self.left -= 1;
        let mut ready = Vec::new();
        for taker in &self.takers[fragment] {
            self.waits_for[*taker] -= 1;
            if self.waits_for[*taker] == 0 {
                ready.push(*taker);
            }
        }
        ready
    }

    /// Whether every fragment is done.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.left == 0
    }
}
