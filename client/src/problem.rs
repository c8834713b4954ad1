//! What can go wrong for a user, in one shape that crosses from the engine to its faces: what happened,
//! what to do next, and the exit code that a script sees.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The exit codes of `landline`; documented in `--help` and in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Everything asked for was done.
    Success,
    /// Something failed for a reason that has no code of its own.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// The message is stored and goes out when the peer is there.
    Stored,
    /// The peer, or the relay, cannot be reached.
    Unreachable,
    /// The other side said no.
    Refused,
    /// Complete, but some source entries were skipped.
    Partial,
    /// A digest did not match, or an identity did not.
    Unverified,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Stored => 3,
            Self::Unreachable => 4,
            Self::Refused => 5,
            Self::Partial => 6,
            Self::Unverified => 7,
        }
    }
}

/// One failure, as a user reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Problem {
    /// How the program ends because of it.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// What to do next, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(next) = &self.next {
            write!(f, "\n  {next}")?;
        }
        Ok(())
    }
}

impl Problem {
    /// A failure without a code of its own.
    pub fn failure(what: impl Into<String>) -> Self {
        Self::new(Exit::Failure, what)
    }

    /// The command line, or what it names, makes no sense.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// The peer or the relay is not there.
    pub fn unreachable(what: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, what)
    }

    /// A key or a digest is not what it should be.
    pub fn unverified(what: impl Into<String>) -> Self {
        Self::new(Exit::Unverified, what)
    }

    /// A failure that ends the program with `exit`.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            next: None,
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// A system call that failed while doing `what`.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::failure(format!("{what}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_happened_and_what_to_do() {
        let problem = Problem::usage("no relay is configured").with_next("say --relay ADDRESS");
        assert_eq!(
            problem.to_string(),
            "no relay is configured\n  say --relay ADDRESS"
        );
        assert_eq!(problem.exit.code(), 2);
        let text = serde_json::to_string(&problem).expect("plain strings");
        assert_eq!(
            serde_json::from_str::<Problem>(&text).expect("just written"),
            problem
        );
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let all = [
            Exit::Success,
            Exit::Failure,
            Exit::Usage,
            Exit::Stored,
            Exit::Unreachable,
            Exit::Refused,
            Exit::Partial,
            Exit::Unverified,
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
