//! What failed on other threads, so that a run ends with it.

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

/// The first failure and how many there were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(Arc<Mutex<(u64, String)>>);

impl Failures {
    /// Notes a failure, if this is one.
    pub(crate) fn note<T, E: Display>(&self, outcome: Result<T, E>) {
        if let Err(error) = outcome {
            let mut held = self.0.lock();
            if held.0 == 0 {
                held.1 = error.to_string();
            }
            held.0 += 1;
        }
    }

    /// An error if there was one.
    pub(crate) fn check(&self) -> io::Result<()> {
        let held = self.0.lock();
        match held.0 {
            0 => Ok(()),
            count => Err(io::Error::other(format!("{count} failed: {}", held.1))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Failures;

    #[test]
    fn the_first_failure_is_told_and_success_is_none() {
        let failures = Failures::default();
        failures.note(Ok::<(), &str>(()));
        assert!(failures.check().is_ok());
        failures.note(Err::<(), _>("first"));
        failures.note(Err::<(), _>("second"));
        let text = failures.check().expect_err("two failed").to_string();
        assert_eq!(text, "2 failed: first");
    }
}
