//! What a run is judged by.

use std::fmt;

/// One run; times of latency in ms, all others in seconds, rates in bits a second.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) video_p50: f64,
    pub(crate) video_p95: f64,
    pub(crate) audio_p95: f64,
    pub(crate) shown: f64,
    pub(crate) stall: f64,
    pub(crate) longest_gap: f64,
    pub(crate) rate_mean: f64,
    pub(crate) late_rate: f64,
    pub(crate) arrived: f64,
    pub(crate) at_cap_after: f64,
    pub(crate) low_again_after: f64,
    pub(crate) back_after: f64,
    pub(crate) share: f64,
    pub(crate) loss: f64,
    /// What was sent, probes aside, as a share of the integral of the estimate.
    pub(crate) sent_of_estimate: f64,
    pub(crate) cliffs: u64,
    pub(crate) decreases: u64,
    pub(crate) probes: (u64, u64),
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "video {:.0}/{:.0} audio p95 {:.0} ms, shown {:.1} %, stalls {:.2} s (gap {:.2}), rate {:.0} (late {:.0}, arrived {:.0}) kbit/s, cap after {:.2} s, lost {:.1} %, cliffs {}, decreases {}, probes {}/{}",
            self.video_p50,
            self.video_p95,
            self.audio_p95,
            100.0 * self.shown,
            self.stall,
            self.longest_gap,
            self.rate_mean / 1e3,
            self.late_rate / 1e3,
            self.arrived / 1e3,
            self.at_cap_after,
            100.0 * self.loss,
            self.cliffs,
            self.decreases,
            self.probes.1,
            self.probes.0,
        )?;
        if self.share > 0.0 {
            write!(f, ", share {:.2}", self.share)?;
        }
        if self.back_after > 0.0 {
            write!(
                f,
                ", < 200 ms after {:.2} s, 90 % after {:.2} s",
                self.low_again_after, self.back_after
            )?;
        }
        Ok(())
    }
}

/// The value below which `share` of them lie; 0 without any.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    values
        .get(index.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}
