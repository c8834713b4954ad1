//! When a stream gets a frame that needs nothing the other side lacks, and how: requests are merged, and a
//! hostile or unlucky peer cannot have more than a few a second.

use std::time::{Duration, Instant};

use crate::FrameNumber;

/// The least time between two key frames that the other side or a loss asks for: at 2.5 Mbit/s a key frame is
/// a quarter of what passes in it.
const LEAST_INTERVAL: Duration = Duration::from_millis(500);

/// What to ask of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// A key frame.
    Key,
    /// Something decodable for who has this frame.
    Recovery(FrameNumber),
}

/// The state of one stream's refreshes.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    /// When the last one was ordered.
    ordered_at: Option<Instant>,
    /// The last key frame, and when it was handed over.
    key: Option<(FrameNumber, Instant)>,
    /// An order is out that no picture has answered.
    open: bool,
    /// The order after this one must be for a key frame: recovery was tried.
    tried_recovery: bool,
    /// Requests of the other side so far, merged ones too.
    pub(super) requested: u64,
}

impl Refresh {
    /// Something wants a refresh. `last_good` is the last frame that the other side decoded, if references to
    /// it may serve.
    pub(super) fn want(
        &mut self,
        now: Instant,
        round_trip: Duration,
        last_good: Option<FrameNumber>,
    ) -> Option<Order> {
        self.requested += 1;
        let wait = LEAST_INTERVAL.max(2 * round_trip);
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        if since(self.ordered_at).is_some_and(|since| since < wait) {
            return None;
        }
        if since(self.key.map(|(_, at)| at)).is_some_and(|since| since < wait) {
            return None;
        }
        self.ordered_at = Some(now);
        self.open = true;
        match last_good {
            Some(frame) if !self.tried_recovery => {
                self.tried_recovery = true;
                Some(Order::Recovery(frame))
            }
            _ => Some(Order::Key),
        }
    }

    /// A key frame is wanted whatever was before (the network is back, a stream begins).
    pub(super) fn force(&mut self, now: Instant) {
        self.ordered_at = Some(now);
        self.open = true;
    }

    /// A picture was encoded.
    pub(super) fn on_picture(&mut self, now: Instant, number: FrameNumber, key: bool) {
        if key {
            self.key = Some((number, now));
            self.tried_recovery = false;
        }
        self.open = false;
    }

    /// The other side decoded `frame`: it is well, if that came after the last order.
    pub(super) fn on_decoded(&mut self, well: bool) {
        if well && !self.open {
            self.tried_recovery = false;
        }
    }

    /// The last key frame.
    pub(super) fn last_key(&self) -> Option<FrameNumber> {
        self.key.map(|(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    #[test]
    fn requests_are_merged_and_bounded() {
        let start = Instant::now();
        let mut refresh = Refresh::default();
        let mut orders = Vec::new();
        for i in 0..100 {
            let now = start + Duration::from_millis(20 * i);
            if let Some(order) = refresh.want(now, ROUND_TRIP, Some(7)) {
                orders.push(order);
                refresh.on_picture(now, 8 + i, order == Order::Key);
            }
        }
        // Two seconds of asking; recovery is tried once, until something is decoded.
        assert_eq!(
            orders,
            [
                Order::Recovery(7),
                Order::Key,
                Order::Recovery(7),
                Order::Key
            ]
        );
        assert_eq!(refresh.requested, 100);
    }

    #[test]
    fn a_key_frame_on_its_way_answers_a_request() {
        let start = Instant::now();
        let mut refresh = Refresh::default();
        refresh.force(start);
        refresh.on_picture(start, 3, true);
        let soon = start + Duration::from_millis(300);
        assert_eq!(refresh.want(soon, ROUND_TRIP, None), None);
        let later = start + Duration::from_millis(501);
        assert_eq!(refresh.want(later, ROUND_TRIP, None), Some(Order::Key));
        assert_eq!(refresh.last_key(), Some(3));
    }
}
