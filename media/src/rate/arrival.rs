//! Packets in groups: what left together is judged together, so that the pacing of a frame is no trend. The rule
//! is that of Google's congestion control (draft-ietf-rmcat-gcc-02 §5.2).

/// Packets that left within this many milliseconds of the first are one group.
const GROUP_MS: f64 = 5.0;
/// Packets that arrive within this gap, closer than they left, were held together on the way: one burst.
const BURST_GAP_MS: f64 = 5.0;
/// A burst is no longer than this.
const BURST_MS: f64 = 100.0;

#[derive(Debug, Clone, Copy)]
struct Group {
    first_send: f64,
    last_send: f64,
    first_arrival: f64,
    last_arrival: f64,
}

/// How much later one group arrived after another than it left after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Delta {
    /// The difference, ms.
    pub(super) ms: f64,
    /// When the later group had arrived, ms of the receiver's clock.
    pub(super) arrival: f64,
}

/// Puts packets into groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    current: Option<Group>,
    previous: Option<Group>,
}

impl Groups {
    /// A packet: when it left (ms of the sender's clock) and arrived (ms of the receiver's). The first packet of a
    /// new group closes the one before, and gives its difference to the one before that.
    pub(super) fn on_packet(&mut self, send: f64, arrival: f64) -> Option<Delta> {
        let Some(current) = &mut self.current else {
            self.current = Some(Group::new(send, arrival));
            return None;
        };
        if send < current.first_send {
            return None; // overtaken
        }
        if current.takes(send, arrival) {
            current.last_send = current.last_send.max(send);
            current.last_arrival = current.last_arrival.max(arrival);
            return None;
        }
        let closed = *current;
        let delta = self.previous.map(|previous| closed.since(&previous));
        self.previous = Some(closed);
        self.current = Some(Group::new(send, arrival));
        delta
    }
}

impl Group {
    const fn new(send: f64, arrival: f64) -> Self {
        Self {
            first_send: send,
            last_send: send,
            first_arrival: arrival,
            last_arrival: arrival,
        }
    }

    fn takes(&self, send: f64, arrival: f64) -> bool {
        let arrival_gap = arrival - self.last_arrival;
        let send_gap = send - self.last_send;
        let burst = arrival_gap <= BURST_GAP_MS
            && arrival_gap < send_gap
            && arrival - self.first_arrival < BURST_MS;
        burst || send - self.first_send <= GROUP_MS
    }

    fn since(&self, before: &Self) -> Delta {
        Delta {
            ms: (self.last_arrival - before.last_arrival) - (self.last_send - before.last_send),
            arrival: self.last_arrival,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_together_is_one_group() {
        let mut groups = Groups::default();
        for (send, arrival) in [(0.0, 100.0), (2.0, 103.0), (4.0, 107.0), (33.0, 133.0)] {
            assert_eq!(groups.on_packet(send, arrival), None);
        }
        let delta = groups.on_packet(66.0, 170.0).expect("two groups closed");
        // The last of the first group left at 4 and arrived at 107: 29 ms later left the next, 26 it arrived.
        assert_eq!(
            delta,
            Delta {
                ms: -3.0,
                arrival: 133.0
            }
        );
    }

    #[test]
    fn what_was_held_together_is_one_group() {
        let mut groups = Groups::default();
        groups.on_packet(0.0, 100.0);
        groups.on_packet(20.0, 160.0);
        // Left 10 ms apart, came 1 ms apart: one burst.
        assert_eq!(
            groups.on_packet(30.0, 161.0),
            None,
            "belongs to the second group"
        );
        let delta = groups.on_packet(60.0, 162.0);
        assert_eq!(delta, None, "and so does this");
        let delta = groups.on_packet(80.0, 180.0).expect("closed");
        assert_eq!(delta.ms, 62.0 - 60.0);
    }

    #[test]
    fn what_overtook_is_of_the_group_that_it_overtook() {
        let mut groups = Groups::default();
        groups.on_packet(0.0, 100.0);
        groups.on_packet(20.0, 150.0);
        assert_eq!(groups.on_packet(10.0, 151.0), None, "overtaken: skipped");
        assert_eq!(groups.on_packet(40.0, 90.0), None, "overtook");
        let delta = groups.on_packet(60.0, 170.0).expect("closed");
        assert_eq!((delta.ms, delta.arrival), (10.0, 150.0));
    }
}
