//! Short trains above the estimate, to see whether the path carries more: when, how fast, how large, and what
//! came of them.

use super::ProbeOrder;

/// A train at least: packets, bytes of each, and how long it lasts, ms.
const PACKETS_LEAST: u32 = 5;
const PACKETS_LEAST_START: u32 = 6;
const PACKET_LEAST_BYTES: f64 = 200.0;
const TRAIN_MS: f64 = 15.0;
/// A packet of a train at most, bytes on the wire: fits every path.
const PACKET_MOST_BYTES: f64 = 1_162.0 + 58.0;
/// A long train at least, bytes, while it takes no more than [`OF_RATE_MS`] of the present rate. Long ones begin a
/// chain, look for what a cliff took, and tell a rate from jitter. Others, every few seconds, last [`TRAIN_MS`] and no
/// longer: on a full link each is a queue of as much again, which sound waits in (on 1 Mbit/s, long ones made it 125 ms
/// at the 95th percentile instead of 105, in the simulation).
const TRAIN_BYTES: f64 = 7_200.0;
/// With jitter above this, ms, a short train tells nothing.
const LONG_JITTER_MS: f64 = 10.0;
/// A train takes no more than this much of the present rate: a larger one makes a cliff of its own.
const OF_RATE_MS: f64 = 80.0;
/// The same below [`NARROW`]: there nothing else delays sound as much as a train does, and the 95th percentile of its
/// delay at 300 kbit/s is that of trains (120 ms with 80, 115 with this).
const OF_NARROW_RATE_MS: f64 = 60.0;
/// A rate below this is narrow, bits a second.
const NARROW: f64 = 450_000.0;
/// Packets of a train at most.
const PACKETS_MOST: u32 = 32;
/// What is taken of the measured rate, and what of the asked one it must be to be taken.
const TAKEN: f64 = 0.9;
const ENOUGH: f64 = 0.85;
/// How much above the cap a train asks at most.
const ABOVE_CAP: f64 = 1.2;
/// The same for the trains that follow later.
const ABOVE_CAP_LATER: f64 = 1.05;
/// Pause before the first train after a drain, ms; each failure doubles it.
const PAUSE_MS: f64 = 1_000.0;
/// The same after a first guess that was too high, ms: the path has just shown what it carries, and on a slow one
/// each train is a queue of 70 ms.
const PAUSE_START_MS: f64 = 4_000.0;
/// Pause at most for a minute after a cliff, and otherwise, ms.
const PAUSE_AFTER_CLIFF_MS: f64 = 4_000.0;
const PAUSE_MOST_MS: f64 = 16_000.0;
/// What counts as after a cliff, ms.
const AFTER_CLIFF_MS: f64 = 60_000.0;
/// Pause between trains of a sender that does not use its estimate, ms.
const PAUSE_LIMITED_MS: f64 = 5_000.0;
/// The result of a train is waited for this much longer than two round trips, ms.
const PATIENCE_MS: f64 = 500.0;
/// Trains while it rings: packets, and rates, bits a second, and the pause between, ms.
const RINGING_PACKETS: u32 = 15;
const RINGING_RATES: [f64; 2] = [2e6, 6e6];
const RINGING_PAUSE_MS: f64 = 300.0;

#[derive(Debug, Clone, Copy)]
struct Train {
    cluster: u8,
    asked: f64,
    packets: u32,
    given_up: f64,
    /// Packets whose fate is known.
    known: u32,
    first: Option<(f64, f64)>,
    last: (f64, f64),
    /// Arrived after the first, and of others since the last.
    bytes: f64,
    between: f64,
}

/// What a train showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Result {
    /// Nine tenths of what came through, bits a second.
    pub(super) rate: f64,
    /// It came as fast as it was sent.
    pub(super) taken: bool,
}

/// What a train depends on. Rates in bits a second, times in ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// The estimate.
    pub(super) rate: f64,
    /// What the call could use.
    pub(super) cap: f64,
    /// Trains are welcome now: no queue, no drain.
    pub(super) welcome: bool,
    /// The sender does not use its estimate.
    pub(super) limited: bool,
    /// Round trip.
    pub(super) round_trip: f64,
    /// How much delays vary.
    pub(super) jitter: f64,
}

/// Orders trains and reads their results.
#[derive(Debug)]
pub(super) struct Prober {
    cluster: u8,
    train: Option<Train>,
    due: f64,
    pause: f64,
    /// The next train is one of the start, or follows one that was taken.
    chain: bool,
    cliff: Option<f64>,
    /// How many of the trains of ringing were sent; `None`: it does not ring.
    ringing: Option<usize>,
    /// Trains sent, and taken.
    pub(super) sent: u64,
    pub(super) taken: u64,
}

impl Prober {
    /// The first train is due at `due`.
    pub(super) const fn new(due: f64) -> Self {
        Self {
            cluster: 0,
            train: None,
            due,
            pause: PAUSE_MS,
            chain: true,
            cliff: None,
            ringing: None,
            sent: 0,
            taken: 0,
        }
    }

    /// The trains of ringing, instead of all others.
    pub(super) fn ring(&mut self, now: f64) {
        self.ringing = Some(0);
        self.due = now;
    }

    /// It rings no longer.
    pub(super) fn answered(&mut self, now: f64) {
        self.ringing = None;
        self.due = now;
        self.chain = true;
    }

    /// The capacity fell; or, if `start`, the first guess was too high: then there is nothing to come back.
    pub(super) fn on_cliff(&mut self, now: f64, start: bool) {
        self.train = None;
        self.chain = false;
        if start {
            self.pause = PAUSE_START_MS;
        } else {
            self.cliff = Some(now);
            self.pause = PAUSE_MS;
        }
        self.due = now + self.pause;
    }

    /// Pictures flow again after a drain.
    pub(super) fn on_drained(&mut self, now: f64) {
        self.due = self.due.max(now + self.pause);
    }

    /// When a train may be due.
    pub(super) fn due(&self) -> f64 {
        match &self.train {
            Some(train) => train.given_up,
            None => self.due,
        }
    }

    /// The train that is due, if one is.
    pub(super) fn take(&mut self, now: f64, around: Around) -> Option<ProbeOrder> {
        if self.train.is_some_and(|train| now >= train.given_up) {
            self.train = None;
            self.failed(now);
        }
        if self.train.is_some() || now < self.due {
            return None;
        }
        if let Some(rung) = self.ringing {
            let asked = *RINGING_RATES.get(rung)?;
            self.ringing = Some(rung + 1);
            self.due = now + RINGING_PAUSE_MS;
            let bytes = f64::from(RINGING_PACKETS) * PACKET_MOST_BYTES;
            return Some(self.order(now, asked, bytes, RINGING_PACKETS, around.round_trip));
        }
        if !around.welcome || around.rate >= 0.98 * around.cap {
            return None;
        }
        let above = if self.chain {
            ABOVE_CAP
        } else {
            ABOVE_CAP_LATER
        };
        let asked = (2.0 * around.rate).min(above * around.cap);
        let least = if self.chain {
            PACKETS_LEAST_START
        } else {
            PACKETS_LEAST
        };
        let of_rate = if around.rate < NARROW {
            OF_NARROW_RATE_MS
        } else {
            OF_RATE_MS
        };
        let long = self.chain || self.after_cliff(now) || around.jitter > LONG_JITTER_MS;
        let bytes = (if long { TRAIN_BYTES } else { 0.0 })
            .max(asked * TRAIN_MS / 8_000.0)
            .min(around.rate * of_rate / 8_000.0);
        let packets = (bytes / PACKET_MOST_BYTES).ceil() as u32;
        let packets = packets.clamp(least, PACKETS_MOST);
        let bytes = bytes
            .max(f64::from(packets) * PACKET_LEAST_BYTES)
            .min(f64::from(packets) * PACKET_MOST_BYTES);
        if around.limited {
            self.pause = PAUSE_LIMITED_MS;
        }
        Some(self.order(now, asked, bytes, packets, around.round_trip))
    }

    fn order(
        &mut self,
        now: f64,
        asked: f64,
        bytes: f64,
        packets: u32,
        round_trip: f64,
    ) -> ProbeOrder {
        self.cluster = self.cluster.wrapping_add(1);
        self.sent += 1;
        self.train = Some(Train {
            cluster: self.cluster,
            asked,
            packets,
            given_up: now + bytes * 8_000.0 / asked + 2.0 * round_trip + PATIENCE_MS,
            known: 0,
            first: None,
            last: (0.0, 0.0),
            bytes: 0.0,
            between: 0.0,
        });
        ProbeOrder {
            cluster: self.cluster,
            bytes: bytes as u32,
            packets: packets as u16,
            bits_per_sec: asked as u64,
        }
    }

    /// The fate of a packet is known; of a train if `cluster` says so. Packets come in the order of their numbers.
    pub(super) fn on_packet(
        &mut self,
        cluster: Option<u8>,
        send: f64,
        arrival: Option<f64>,
        bytes: f64,
    ) {
        let Some(train) = &mut self.train else { return };
        if cluster != Some(train.cluster) {
            if arrival.is_some() && train.first.is_some() {
                train.between += bytes;
            }
            return;
        }
        train.known += 1;
        let Some(arrival) = arrival else { return };
        if train.first.is_none() {
            train.first = Some((send, arrival));
            train.last = (send, arrival);
            return;
        }
        train.bytes += bytes + train.between;
        train.between = 0.0;
        train.last = (train.last.0.max(send), train.last.1.max(arrival));
    }

    /// What the train under way showed, once that is known. `random`: share of packets lost whatever we do.
    pub(super) fn result(&mut self, now: f64, random: f64) -> Option<Result> {
        let train = self.train.filter(|train| train.known >= train.packets)?;
        self.train = None;
        let first = train.first.unwrap_or(train.last);
        let span = (train.last.0 - first.0).max(train.last.1 - first.1);
        if span <= 0.0 || train.bytes <= 0.0 {
            self.failed(now);
            return None;
        }
        let rate = TAKEN * train.bytes * 8_000.0 / span / (1.0 - random);
        let taken = rate > ENOUGH * train.asked;
        if self.ringing.is_some() {
            // Its trains have their own times.
        } else if taken {
            self.taken += 1;
            self.chain = true;
            self.pause = PAUSE_MS;
            self.due = now;
        } else {
            self.failed(now);
        }
        Some(Result {
            rate: rate.min(train.asked),
            taken,
        })
    }

    /// The capacity fell not long ago, and may be back.
    fn after_cliff(&self, now: f64) -> bool {
        self.cliff.is_some_and(|cliff| now - cliff < AFTER_CLIFF_MS)
    }

    fn failed(&mut self, now: f64) {
        let most = if self.after_cliff(now) {
            PAUSE_AFTER_CLIFF_MS
        } else {
            PAUSE_MOST_MS
        };
        self.chain = false;
        self.due = now + self.pause;
        self.pause = (2.0 * self.pause).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AROUND: Around = Around {
        rate: 1e6,
        cap: 3e6,
        welcome: true,
        limited: false,
        round_trip: 50.0,
        jitter: 1.0,
    };

    /// Sends the train at the rate asked, over a link of `capacity`.
    fn deliver(prober: &mut Prober, now: f64, order: ProbeOrder, capacity: f64) -> Option<Result> {
        let each = f64::from(order.bytes) / f64::from(order.packets);
        let slower = capacity.min(order.bits_per_sec as f64);
        for index in 0..order.packets {
            let send = now + f64::from(index) * each * 8_000.0 / order.bits_per_sec as f64;
            let arrival = now + 25.0 + f64::from(index) * each * 8_000.0 / slower;
            prober.on_packet(Some(order.cluster), send, Some(arrival), each);
        }
        prober.result(now + 100.0, 0.0)
    }

    #[test]
    fn trains_double_until_the_cap() {
        let mut prober = Prober::new(0.0);
        let order = prober.take(0.0, AROUND).expect("due");
        assert_eq!(order.bits_per_sec, 2_000_000);
        assert!(order.packets >= 6 && order.bytes == 7_200);
        assert_eq!(prober.take(1.0, AROUND), None, "one at a time");
        let result = deliver(&mut prober, 0.0, order, 1e9).expect("known");
        assert!(result.taken && (result.rate / 1.8e6 - 1.0).abs() < 0.01);
        let around = Around {
            rate: result.rate,
            ..AROUND
        };
        let order = prober.take(100.0, around).expect("at once");
        assert_eq!(order.bits_per_sec, 3_600_000);
        let around = Around {
            rate: 3e6,
            ..AROUND
        };
        deliver(&mut prober, 100.0, order, 1e9).expect("known");
        assert_eq!(prober.take(200.0, around), None, "at the cap");
    }

    #[test]
    fn failures_double_the_pause() {
        let mut prober = Prober::new(0.0);
        let mut now = 0.0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let order = prober.take(now, AROUND).expect("due");
            let result = deliver(&mut prober, now, order, 1e6).expect("known");
            assert!(!result.taken && result.rate < 1e6);
            pauses.push(prober.due() - now - 100.0);
            now = prober.due();
        }
        assert_eq!(pauses[..5], [1e3, 2e3, 4e3, 8e3, 16e3]);
        assert_eq!(pauses[7], 16e3);
        prober.on_cliff(now, false);
        now = prober.due();
        for _ in 0..5 {
            let order = prober.take(now, AROUND).expect("due");
            deliver(&mut prober, now, order, 1e6).expect("known");
            assert!(prober.due() - now - 100.0 <= 4e3);
            now = prober.due();
        }
    }

    #[test]
    fn a_slow_path_gets_small_trains() {
        let mut prober = Prober::new(0.0);
        let around = Around {
            rate: 3e5,
            ..AROUND
        };
        let order = prober.take(0.0, around).expect("due");
        assert!(order.bytes <= 3_000 && order.packets >= 5, "{order:?}");
        assert!(order.bytes >= 200 * u32::from(order.packets));
    }

    #[test]
    fn trains_are_short_unless_length_tells_something() {
        let mut prober = Prober::new(0.0);
        let first = prober.take(0.0, AROUND).expect("due");
        deliver(&mut prober, 0.0, first, 1e6).expect("known");
        let now = prober.due();
        let later = prober.take(now, AROUND).expect("due");
        assert_eq!((first.bytes, later.bytes), (7_200, 3_750));
        deliver(&mut prober, now, later, 1e6).expect("known");
        let now = prober.due();
        let jitter = Around {
            jitter: 20.0,
            ..AROUND
        };
        let order = prober.take(now, jitter).expect("due");
        assert_eq!(order.bytes, 7_200);
        prober.on_cliff(now, false);
        let order = prober.take(prober.due(), AROUND).expect("due");
        assert_eq!(order.bytes, 7_200, "the capacity may be back");
    }

    #[test]
    fn a_train_that_vanishes_is_given_up() {
        let mut prober = Prober::new(0.0);
        prober.take(0.0, AROUND).expect("due");
        let given_up = prober.due();
        assert!(given_up < 1_000.0);
        assert_eq!(prober.take(given_up, AROUND), None);
        assert!(prober.take(prober.due(), AROUND).is_some());
    }

    #[test]
    fn no_train_into_a_queue() {
        let mut prober = Prober::new(0.0);
        let around = Around {
            welcome: false,
            ..AROUND
        };
        assert_eq!(prober.take(0.0, around), None);
    }

    #[test]
    fn ringing_has_two_trains() {
        let mut prober = Prober::new(0.0);
        prober.ring(0.0);
        let order = prober.take(0.0, AROUND).expect("first");
        assert_eq!((order.bits_per_sec, order.packets), (2_000_000, 15));
        let result = deliver(&mut prober, 0.0, order, 5e6).expect("known");
        assert!(result.taken);
        assert_eq!(prober.take(299.0, AROUND), None);
        let order = prober.take(300.0, AROUND).expect("second");
        assert_eq!(order.bits_per_sec, 6_000_000);
        let result = deliver(&mut prober, 300.0, order, 5e6).expect("known");
        assert!(!result.taken && (result.rate / 4.5e6 - 1.0).abs() < 0.01);
        assert_eq!(prober.take(900.0, AROUND), None);
        prober.answered(1_000.0);
        assert!(prober.take(1_000.0, AROUND).is_some());
    }
}
