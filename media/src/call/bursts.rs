//! How long losses last: runs of packets lost one after the other, measured by their sending times. Copies of
//! sound are placed further apart than that.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Sequence;
use crate::history::Outcome;

/// Runs that count: the newest.
const RUNS: usize = 32;
/// For so long a run counts.
const MEMORY: Duration = Duration::from_secs(20);

/// The newest runs of losses.
#[derive(Debug, Default)]
pub(super) struct Bursts {
    runs: VecDeque<Run>,
}

#[derive(Debug)]
struct Run {
    first: Instant,
    last: Instant,
    newest: Sequence,
}

impl Bursts {
    /// Takes what a report taught, in the order of numbers.
    pub(super) fn on_outcomes(&mut self, outcomes: &[Outcome]) {
        for lost in outcomes.iter().filter(|o| o.arrived_micros.is_none()) {
            let (sequence, at) = (lost.packet.sequence, lost.packet.sent_at);
            match self.runs.back_mut() {
                Some(run) if sequence == run.newest + 1 => {
                    run.newest = sequence;
                    run.last = at;
                }
                _ => self.begin(sequence, at),
            }
        }
    }

    fn begin(&mut self, newest: Sequence, at: Instant) {
        if self.runs.len() == RUNS {
            self.runs.pop_front();
        }
        self.runs.push_back(Run {
            first: at,
            last: at,
            newest,
        });
    }

    /// How long nine of ten runs last at most; zero without any.
    pub(super) fn span(&mut self, now: Instant) -> Duration {
        self.runs
            .retain(|run| now.saturating_duration_since(run.last) <= MEMORY);
        let mut spans: Vec<Duration> = self
            .runs
            .iter()
            .map(|run| run.last.saturating_duration_since(run.first))
            .collect();
        spans.sort();
        let rank = spans.len() * 9 / 10;
        spans
            .get(rank.min(spans.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::SentPacket;
    use crate::packet::{Class, Content};

    #[test]
    fn runs_are_as_long_as_their_sending() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let lost = |sequence, millis| Outcome {
            packet: SentPacket {
                sequence,
                sent_at: at(millis),
                wire_bytes: 100,
                class: Class::Audio,
                content: Content::Report,
                path_epoch: 0,
            },
            arrived_micros: None,
        };
        let mut bursts = Bursts::default();
        assert_eq!(bursts.span(at(0)), Duration::ZERO);
        bursts.on_outcomes(&[lost(1, 0), lost(2, 4), lost(3, 9)]);
        bursts.on_outcomes(&[lost(4, 12), lost(9, 50)]);
        assert_eq!(bursts.span(at(60)), Duration::from_millis(12));
        assert_eq!(bursts.span(at(30_000)), Duration::ZERO);
    }
}
