//! Calls, as far as they are decided and not heard or seen: who rings, who answers, what ends a call, what
//! survives a lost connection. Pure; [`Line`] is one side's telephone line, and the engine does what it says.

mod choice;
mod exchange;
mod line;
#[cfg(test)]
mod two_lines;

use serde::{Deserialize, Serialize};

use crate::wire::end_code;
use crate::{Exit, Problem};

pub(crate) use choice::is_source;
pub use choice::{MediaChoice, streams};
pub use exchange::{Input, Output};
pub use line::Line;

/// Why a call ended, or did not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody hung up.
    HungUp,
    /// The callee said no.
    Declined,
    /// The callee has another call.
    Busy,
    /// The caller gave up.
    Cancelled,
    /// Nobody answered in time.
    NoAnswer,
    /// Nothing at the callee takes calls.
    Unavailable,
    /// The two programs have no version in common, or one knows no calls.
    Unsupported,
    /// Microphone, camera or encoder could not go on.
    Failed,
    /// Nothing was heard of the other side for too long.
    Lost,
    /// A program was ended.
    Shutdown,
    /// The other side could not be reached.
    Unreachable,
}

impl Cause {
    /// As it is told to the other side.
    pub const fn code(self) -> u16 {
        match self {
            Self::HungUp => end_code::HANGUP,
            Self::Declined => end_code::DECLINED,
            Self::Busy => end_code::BUSY,
            Self::Cancelled => end_code::CANCELLED,
            Self::NoAnswer => end_code::TIMEOUT,
            Self::Unavailable => end_code::UNAVAILABLE,
            Self::Unsupported => end_code::UNSUPPORTED,
            Self::Failed => end_code::FAILED,
            Self::Lost | Self::Unreachable => end_code::LOST,
            Self::Shutdown => end_code::SHUTDOWN,
        }
    }

    /// As the other side told it.
    pub const fn of_code(code: u16) -> Self {
        match code {
            end_code::DECLINED => Self::Declined,
            end_code::BUSY => Self::Busy,
            end_code::CANCELLED => Self::Cancelled,
            end_code::TIMEOUT => Self::NoAnswer,
            end_code::UNAVAILABLE => Self::Unavailable,
            end_code::UNSUPPORTED => Self::Unsupported,
            end_code::FAILED => Self::Failed,
            end_code::LOST | end_code::UNKNOWN => Self::Lost,
            end_code::SHUTDOWN => Self::Shutdown,
            _ => Self::HungUp,
        }
    }
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub cause: Cause,
    /// The other side ended it.
    pub by_them: bool,
    /// In words, if there are any; the other side's are not to be trusted.
    pub reason: String,
    /// Why the other side could not be reached.
    pub problem: Option<Problem>,
}

impl End {
    /// One that we make.
    pub fn ours(cause: Cause) -> Self {
        Self {
            cause,
            by_them: false,
            reason: String::new(),
            problem: None,
        }
    }

    /// The same, with words.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// What a person reads of it; nothing where all went as somebody wished. `label` names the other side.
    pub fn problem(&self, label: &str, answered: bool) -> Option<Problem> {
        if let Some(problem) = &self.problem {
            return Some(problem.clone());
        }
        let reason = crate::contacts::printable(&self.reason, " ");
        let words = |text: String| {
            if reason.is_empty() {
                text
            } else {
                format!("{text}: {reason}")
            }
        };
        let refused = |text: String| Some(Problem::new(Exit::Refused, words(text)));
        match (self.cause, self.by_them) {
            (Cause::HungUp, _) => None,
            (Cause::Cancelled | Cause::Declined | Cause::Shutdown, false) => None,
            (Cause::Declined, true) => refused(format!("{label} declined the call")),
            (Cause::Busy, _) => refused(format!("{label} is in another call")),
            (Cause::Cancelled, true) => refused(format!("{label} gave up before an answer")),
            (Cause::NoAnswer, _) => Some(
                Problem::new(Exit::Refused, format!("{label} did not answer"))
                    .with_next("`landline chat` leaves a message"),
            ),
            (Cause::Unavailable, _) => Some(
                Problem::new(Exit::Refused, format!("{label} takes no calls now")).with_next(
                    "calls ring where `landline answer` runs; `landline chat` leaves a message",
                ),
            ),
            (Cause::Unsupported, _) => Some(
                Problem::failure(format!("{label} has a landline that knows no such calls"))
                    .with_next("use the same version on both sides"),
            ),
            (Cause::Failed, true) => {
                Some(Problem::failure(words(format!("{label} could not go on"))))
            }
            (Cause::Failed, false) => Some(Problem::failure(words(
                "the call could not go on".to_owned(),
            ))),
            (Cause::Shutdown, true) => {
                (!answered).then(|| Problem::unreachable(format!("{label} went offline")))
            }
            (Cause::Lost | Cause::Unreachable, _) => Some(Problem::unreachable(words(format!(
                "the line to {label} was lost"
            )))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_cross_the_wire() {
        for cause in [
            Cause::HungUp,
            Cause::Declined,
            Cause::Busy,
            Cause::Cancelled,
            Cause::NoAnswer,
            Cause::Unavailable,
            Cause::Unsupported,
            Cause::Failed,
            Cause::Lost,
            Cause::Shutdown,
        ] {
            assert_eq!(Cause::of_code(cause.code()), cause);
        }
        assert_eq!(Cause::of_code(u16::MAX), Cause::HungUp);
    }

    #[test]
    fn a_refusal_has_its_exit_code_and_no_control_characters() {
        let end = End {
            by_them: true,
            ..End::ours(Cause::Declined).because("later\u{1b}[2J")
        };
        let problem = end.problem("Bob", false).expect("a problem");
        assert_eq!(problem.exit, Exit::Refused);
        assert!(!problem.what.contains('\u{1b}'), "{problem}");
        assert_eq!(End::ours(Cause::HungUp).problem("Bob", true), None);
    }
}
