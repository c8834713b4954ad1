//! The round trip, smoothed as TCP does it (RFC 6298 §2).

use std::time::Duration;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RoundTrip(Option<Known>);

#[derive(Debug, Clone, Copy)]
struct Known {
    latest: Duration,
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    pub(super) fn sample(&mut self, latest: Duration) {
        self.0 = Some(match self.0 {
            None => Known {
                latest,
                smoothed: latest,
                variation: latest / 2,
            },
            Some(known) => Known {
                latest,
                smoothed: (known.smoothed * 7 + latest) / 8,
                variation: (known.variation * 3 + known.smoothed.abs_diff(latest)) / 4,
            },
        });
    }

    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.0.map(|known| known.smoothed)
    }

    /// How long a round trip may take now: in a growing queue the latest says more than the mean.
    pub(super) fn longest(&self) -> Option<Duration> {
        self.0
            .map(|known| known.smoothed.max(known.latest) + known.variation * 4)
    }
}
