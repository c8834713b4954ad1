//! Latency from the pixels themselves, where a call comes back to where it began: the stamp that a shown picture
//! bears is looked up among those that were captured, on one clock.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::shared::lock;
use crate::Picture;
use crate::capture::stamp;
use crate::stats::{Percentiles, Window};

/// Stamps remembered: four seconds at 30 pictures a second.
const REMEMBERED: usize = 128;

/// The stamps that went out, and how long those that came back took.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    sent: Mutex<VecDeque<(u32, Instant)>>,
    took: Mutex<Window>,
}

impl Stamps {
    /// A picture was captured.
    pub(super) fn on_captured(&self, picture: &Picture, at: Instant) {
        let Some(number) = stamp::read(picture) else {
            return;
        };
        let mut sent = lock(&self.sent);
        if sent.len() == REMEMBERED {
            sent.pop_front();
        }
        sent.push_back((number, at));
    }

    /// A picture was shown.
    pub(super) fn on_shown(&self, picture: &Picture, at: Instant) {
        if let Some(number) = stamp::read(picture)
            && let Some(took) = self.since(number, at)
        {
            lock(&self.took).add_duration(took);
        }
    }

    fn since(&self, number: u32, at: Instant) -> Option<Duration> {
        let sent = lock(&self.sent);
        let (_, captured) = sent.iter().rev().find(|(sent, _)| *sent == number)?;
        Some(at.saturating_duration_since(*captured))
    }

    /// The newest latencies, ms; `None` before the first.
    pub(super) fn latency(&self) -> Option<Percentiles> {
        let took = lock(&self.took).percentiles();
        (took.max > 0.0).then_some(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PictureSize, VideoTime};

    #[test]
    fn what_comes_back_is_measured_and_what_is_strange_is_not() {
        let size = PictureSize::new(320, 180).expect("a size");
        let stamped = |number| {
            let mut picture = Picture::black(size, VideoTime::default());
            stamp::write(&mut picture, number);
            picture
        };
        let start = Instant::now();
        let stamps = Stamps::default();
        assert_eq!(stamps.latency(), None);
        for number in 0..200 {
            stamps.on_captured(&stamped(number), start);
        }
        stamps.on_captured(&Picture::black(size, VideoTime::default()), start);
        stamps.on_shown(&stamped(199), start + Duration::from_millis(40));
        stamps.on_shown(&stamped(3), start + Duration::from_secs(9));
        stamps.on_shown(&stamped(7_777), start + Duration::from_secs(9));
        let latency = stamps.latency().expect("one came back");
        assert_eq!((latency.p50, latency.max), (40.0, 40.0));
    }
}
