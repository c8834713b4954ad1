//! The numbers that a call tells of itself each second (`--json`), and what follows from them.

use media::stats::Snapshot;

use crate::programs::json;
use crate::report::Spread;

/// Queues are looked at from so long after the beginning on: the percentiles are those of the newest 20 s, ms.
const SETTLED: u64 = 20_000;

/// The numbers of one side, each second.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Numbers(Vec<Snapshot>);

/// What was sent in a stretch of a call, kbit/s on the wire, all headers included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sent {
    /// Pictures, their resends and parity.
    pub video: f64,
    /// Of those, resends.
    pub resent: f64,
    /// Of those, parity.
    pub parity: f64,
    /// Sound and its copies.
    pub audio: f64,
    /// Packets of sound ÷ s.
    pub sounds: f64,
    /// Copies of sound ÷ packets of sound.
    pub copies: f64,
    /// Payload that the sound's encoder was asked for at the end, kbit/s.
    pub audio_payload: f64,
    /// Probes.
    pub probes: f64,
}

/// The stage of a pipeline whose queue grew most.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth {
    /// Its name.
    pub stage: String,
    /// Median wait (of the 95th percentiles) in the last third of the call less that in the first, ms.
    pub millis: f64,
    /// The same of what waits, pieces.
    pub pieces: f64,
}

impl Numbers {
    /// Of the lines that a side printed.
    pub fn of(lines: &[String]) -> Self {
        let snapshot = |line: &String| {
            let mut event = json(line)?;
            let step = &mut event["step"];
            let stats = (step["step"] == "stats").then(|| step["stats"].take())?;
            serde_json::from_value(stats).ok()
        };
        Self(lines.iter().filter_map(snapshot).collect())
    }

    #[cfg(test)]
    pub(super) fn made(snapshots: Vec<Snapshot>) -> Self {
        Self(snapshots)
    }

    /// The last ones.
    pub fn last(&self) -> Option<&Snapshot> {
        self.0.last()
    }

    /// What was sent from `from` to `until`, ms since the call began.
    pub fn sent(&self, from: u64, until: u64) -> Option<Sent> {
        let first = self.0.iter().find(|s| s.elapsed_millis >= from)?;
        let last = self.0.iter().rev().find(|s| s.elapsed_millis <= until)?;
        let millis = last.elapsed_millis.checked_sub(first.elapsed_millis)?;
        if millis == 0 {
            return None;
        }
        let each = |of: fn(&Snapshot) -> u64| of(last).saturating_sub(of(first)) as f64;
        let rate = |of: fn(&Snapshot) -> u64| each(of) * 8.0 / millis as f64;
        let sounds = each(|s| s.sound_out.packets_sent);
        Some(Sent {
            video: rate(|s| s.network.video_bytes),
            resent: rate(|s| s.network.resent_bytes),
            parity: rate(|s| s.network.parity_bytes),
            audio: rate(|s| s.network.audio_bytes),
            sounds: sounds * 1e3 / millis as f64,
            copies: each(|s| s.sound_out.copies_sent) / sounds.max(1.0),
            audio_payload: f64::from(last.sound_out.target_bits_per_sec) / 1e3,
            probes: rate(|s| s.network.probe_bytes),
        })
    }

    /// How long sound waited for jitter from `from` to `until` (ms since the call began), and how long it was to wait:
    /// means, ms.
    pub fn buffered(&self, from: u64, until: u64) -> Option<(f64, f64)> {
        let first = self.0.iter().find(|s| s.elapsed_millis >= from)?;
        let last = self.0.iter().rev().find(|s| s.elapsed_millis <= until)?;
        let (first, last) = (&first.sound_in, &last.sound_in);
        let samples = last
            .jitter_buffer_emitted_count
            .checked_sub(first.jitter_buffer_emitted_count)
            .filter(|samples| *samples > 0)? as f64;
        let mean = |first: f64, last: f64| (last - first) * 1e3 / samples;
        Some((
            mean(first.jitter_buffer_delay, last.jitter_buffer_delay),
            mean(
                first.jitter_buffer_target_delay,
                last.jitter_buffer_target_delay,
            ),
        ))
    }

    /// The stage whose wait grew most from the first third of a call to its last.
    pub fn growth(&self) -> Option<Growth> {
        let settled: Vec<_> = self
            .0
            .iter()
            .filter(|s| s.elapsed_millis >= SETTLED)
            .collect();
        let third = settled.len() / 3;
        if third == 0 {
            return None;
        }
        let (first, last) = (&settled[..third], &settled[settled.len() - third..]);
        let median =
            |snapshots: &[&Snapshot], stage: usize, of: fn(&media::stats::Stage) -> f64| {
                let figures: Vec<f64> = snapshots
                    .iter()
                    .filter_map(|snapshot| snapshot.stages.get(stage).map(of))
                    .collect();
                Spread::of(&figures).map_or(0.0, |spread| spread.median)
            };
        let stages = &settled.last()?.stages;
        let growths = stages.iter().enumerate().map(|(index, stage)| {
            let grown = |of| median(last, index, of) - median(first, index, of);
            Growth {
                stage: stage.name.clone(),
                millis: grown(|stage| stage.oldest_millis),
                pieces: grown(|stage| stage.queue as f64),
            }
        });
        growths.max_by(|one, two| one.millis.total_cmp(&two.millis))
    }

    /// Each stage's wait at the end (95th percentile, ms) and what it dropped, as text.
    pub fn stages(&self) -> String {
        let stages = self.last().map_or(&[][..], |last| &last.stages);
        let text: Vec<_> = stages
            .iter()
            .filter(|stage| stage.passed > 0)
            .map(|stage| {
                format!(
                    "{} {:.1} + {:.1} ms, {} dropped",
                    stage.name, stage.oldest_millis, stage.time.p95, stage.dropped
                )
            })
            .collect();
        text.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use media::stats::Stage;

    use super::*;

    fn snapshot(second: u64, wait: f64) -> Snapshot {
        let mut snapshot = Snapshot {
            elapsed_millis: second * 1_000,
            ..Snapshot::default()
        };
        snapshot.network.video_bytes = second * 250_000;
        snapshot.network.audio_bytes = second * 8_000;
        snapshot.sound_out.packets_sent = second * 50;
        snapshot.sound_out.copies_sent = second * 25;
        let stage = |name: &str, oldest_millis| Stage {
            name: name.to_owned(),
            oldest_millis,
            ..Stage::default()
        };
        snapshot.stages = vec![stage("steady", 3.0), stage("grows", wait)];
        snapshot
    }

    #[test]
    fn rates_are_those_of_the_stretch() {
        let numbers = Numbers::made((0..60).map(|at| snapshot(at, 0.0)).collect());
        let sent = numbers.sent(30_000, 50_000).expect("numbers");
        assert_eq!((sent.video, sent.audio), (2_000.0, 64.0));
        assert_eq!((sent.sounds, sent.copies), (50.0, 0.5));
        assert_eq!(Numbers::default().sent(0, 1_000), None);
        assert_eq!(numbers.sent(59_000, 60_000), None);
    }

    #[test]
    fn a_queue_that_grows_is_named() {
        let numbers = Numbers::made((0..80).map(|at| snapshot(at, at as f64)).collect());
        let growth = numbers.growth().expect("numbers");
        assert_eq!(growth.stage, "grows");
        assert_eq!(growth.millis, 40.0);
        assert_eq!(Numbers::default().growth(), None);
    }

    #[test]
    fn lines_of_numbers_are_found_among_others() {
        let stats = serde_json::to_value(snapshot(3, 0.0)).expect("JSON");
        let line = serde_json::json!({
            "event": "call", "number": 1, "step": { "step": "stats", "stats": stats },
        });
        let lines = ["ready".to_owned(), line.to_string(), "{}".to_owned()];
        let numbers = Numbers::of(&lines);
        assert_eq!(numbers.last().map(|s| s.elapsed_millis), Some(3_000));
    }
}
