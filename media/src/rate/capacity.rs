//! How much arrived, how much was sent, what short bursts prove, and the mean of the capacities at which
//! decreases happened.

use std::collections::VecDeque;

use crate::{FrameNumber, StreamId};

/// Window of the rate of arrivals, ms; it grows until it has [`WINDOW_PACKETS`], to at most [`WINDOW_MOST_MS`].
const WINDOW_MS: f64 = 150.0;
const WINDOW_PACKETS: usize = 8;
const WINDOW_MOST_MS: f64 = 500.0;
/// A window shorter than this says nothing, ms.
const WINDOW_LEAST_MS: f64 = 20.0;
/// Packets remembered at most: half a second of 80 Mbit/s.
const MAX_PACKETS: usize = 4_096;
/// A burst needs so many packets to prove something.
const BURST_PACKETS: u32 = 5;
/// A proof counts for this long, ms, in full for the first part, then less by [`BURST_DECAY`] a second.
const BURST_MS: f64 = 5_000.0;
const BURST_FULL_MS: f64 = 2_000.0;
const BURST_DECAY: f64 = 0.25;
/// A burst that arrived this much slower than it was sent met the capacity.
const BURST_LIMITED: f64 = 1.1;
/// Proofs remembered at most: five seconds of frames at 60 a second.
const MAX_BURSTS: usize = 320;
/// Weight of a new capacity in the mean.
const LINK_WEIGHT: f64 = 0.05;
/// Bounds of the normalised deviation, kbit/s.
const LINK_DEVIATION: (f64, f64) = (0.4, 2.5);
/// Share of the mean from which on a rate is near it: just below where a decrease leaves it.
const LINK_NEAR: f64 = 0.84;
/// A capacity outside the mean by so many deviations is another link's.
const LINK_OUTSIDE: f64 = 3.0;

#[derive(Debug, Clone, Copy)]
struct Arrived {
    send: f64,
    arrival: f64,
    bytes: f64,
}

/// Rates of what was sent and arrived of late. Times in ms, rates in bits a second.
#[derive(Debug, Default)]
pub(super) struct Throughput {
    arrived: VecDeque<Arrived>,
    /// Lost packets: when they left, bytes.
    lost: VecDeque<(f64, f64)>,
    newest: f64,
}

impl Throughput {
    /// A packet arrived.
    pub(super) fn on_arrived(&mut self, send: f64, arrival: f64, bytes: f64) {
        self.newest = if self.arrived.is_empty() {
            arrival
        } else {
            self.newest.max(arrival)
        };
        self.arrived.push_back(Arrived {
            send,
            arrival,
            bytes,
        });
        // One packet beyond the window is kept: its time is where the window's first interval begins.
        while self.arrived.len() > MAX_PACKETS
            || self
                .arrived
                .get(1)
                .is_some_and(|second| second.arrival < self.newest - WINDOW_MOST_MS)
        {
            self.arrived.pop_front();
        }
        let oldest = self.arrived.front().map_or(send, |oldest| oldest.send);
        while self.lost.len() > MAX_PACKETS
            || self.lost.front().is_some_and(|(sent, _)| *sent < oldest)
        {
            self.lost.pop_front();
        }
    }

    /// A packet was lost.
    pub(super) fn on_lost(&mut self, send: f64, bytes: f64) {
        self.lost.push_back((send, bytes));
        if self.lost.len() > MAX_PACKETS {
            self.lost.pop_front();
        }
    }

    /// What arrived and, of the same packets and their lost neighbours, what was sent, bits a second. The window
    /// begins where a packet had arrived: one that is half in it would count in full.
    pub(super) fn rates(&self) -> Option<(f64, f64)> {
        let (mut bytes, mut count, mut last_send) = (0.0, 0, f64::MIN);
        let mut before = self.arrived.back()?;
        for packet in self.arrived.iter().rev() {
            before = packet;
            let age = self.newest - packet.arrival;
            if (age >= WINDOW_MS && count >= WINDOW_PACKETS) || age >= WINDOW_MOST_MS {
                break;
            }
            bytes += packet.bytes;
            count += 1;
            last_send = last_send.max(packet.send);
        }
        let span = self.newest - before.arrival;
        if span < WINDOW_LEAST_MS {
            return None;
        }
        if span < WINDOW_MS {
            // Everything there is: the first of it is where the window begins.
            bytes -= before.bytes;
        }
        let lost: f64 = self
            .lost
            .iter()
            .filter(|(sent, _)| *sent > before.send && *sent <= last_send)
            .map(|(_, bytes)| bytes)
            .sum();
        let acked = bytes * 8_000.0 / span;
        let sent = (bytes + lost) * 8_000.0 / (last_send - before.send).max(1.0);
        Some((acked, sent))
    }

    /// The rate at which packets came in the last `window` ms while they came without a pause: where the
    /// bottleneck is busy this is its capacity. Of those sent before `sent_before` only, if given.
    pub(super) fn arrival_rate(&self, window: f64, sent_before: Option<f64>) -> Option<f64> {
        let from = self.newest - window;
        let mut packets = self
            .arrived
            .iter()
            .filter(|packet| packet.arrival > from)
            .filter(|packet| sent_before.is_none_or(|before| packet.send < before));
        let first = packets.next()?;
        let (mut bytes, mut last, mut count) = (0.0, first.arrival, 1);
        for packet in packets {
            bytes += packet.bytes;
            last = last.max(packet.arrival);
            count += 1;
        }
        let span = last - first.arrival;
        (count >= 4 && span >= window * 0.45).then(|| bytes * 8_000.0 / span)
    }
}

/// What holds packets of one burst together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BurstId {
    /// Packets of a frame.
    Frame(StreamId, FrameNumber),
    /// Packets of a probe.
    Cluster(u8),
}

#[derive(Debug, Clone, Copy)]
struct Burst {
    id: BurstId,
    first_send: f64,
    first_arrival: f64,
    last_send: f64,
    last_arrival: f64,
    bytes: f64,
    packets: u32,
    /// Of others since the last packet of the burst.
    between: f64,
}

#[derive(Debug, Clone, Copy)]
struct Proof {
    at: f64,
    rate: f64,
    limited: bool,
}

/// The best of what short bursts proved that the path carries.
#[derive(Debug, Default)]
pub(super) struct Bursts {
    current: Option<Burst>,
    proofs: VecDeque<Proof>,
}

/// See [`Bursts::best`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BurstCapacity {
    /// Bits a second.
    pub(super) rate: f64,
    /// The path spread the burst out: it carries no more than this.
    pub(super) limited: bool,
    /// How long ago it was proven, ms.
    pub(super) age: f64,
}

impl Bursts {
    /// A packet arrived, of a burst or not. `now`, `send`, `arrival` in ms.
    pub(super) fn on_packet(
        &mut self,
        now: f64,
        id: Option<BurstId>,
        send: f64,
        arrival: f64,
        bytes: f64,
    ) {
        let Some(id) = id else {
            if let Some(current) = &mut self.current {
                current.between += bytes;
            }
            return;
        };
        match &mut self.current {
            Some(current) if current.id == id => {
                current.bytes += bytes + current.between;
                current.between = 0.0;
                current.packets += 1;
                current.last_send = current.last_send.max(send);
                current.last_arrival = current.last_arrival.max(arrival);
            }
            _ => {
                self.close(now);
                self.current = Some(Burst {
                    id,
                    first_send: send,
                    first_arrival: arrival,
                    last_send: send,
                    last_arrival: arrival,
                    bytes: 0.0,
                    packets: 1,
                    between: 0.0,
                });
            }
        }
    }

    fn close(&mut self, now: f64) {
        let Some(burst) = self.current.take() else {
            return;
        };
        let send_span = burst.last_send - burst.first_send;
        let arrival_span = burst.last_arrival - burst.first_arrival;
        let span = send_span.max(arrival_span);
        if burst.packets < BURST_PACKETS || span <= 0.0 {
            return;
        }
        self.proofs.push_back(Proof {
            at: now,
            rate: burst.bytes * 8_000.0 / span,
            limited: arrival_span > BURST_LIMITED * send_span + 1.0,
        });
        while self.proofs.len() > MAX_BURSTS
            || self
                .proofs
                .front()
                .is_some_and(|proof| proof.at < now - BURST_MS)
        {
            self.proofs.pop_front();
        }
    }

    /// The best proof of late.
    pub(super) fn best(&self, now: f64) -> Option<BurstCapacity> {
        self.proofs
            .iter()
            .filter(|proof| now - proof.at <= BURST_MS)
            .map(|proof| {
                let age = now - proof.at;
                let old = (age - BURST_FULL_MS).max(0.0) / 1_000.0;
                BurstCapacity {
                    rate: proof.rate * (1.0 - BURST_DECAY).powf(old),
                    limited: proof.limited,
                    age,
                }
            })
            .max_by(|one, other| one.rate.total_cmp(&other.rate))
    }

    /// Nothing is proven any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Mean and deviation of the capacities at which decreases happened.
#[derive(Debug, Default)]
pub(super) struct LinkCapacity {
    /// Mean in kbit/s and normalised deviation.
    known: Option<(f64, f64)>,
}

impl LinkCapacity {
    /// A decrease happened at this capacity, bits a second.
    pub(super) fn update(&mut self, bits_per_sec: f64) {
        let sample = bits_per_sec / 1_000.0;
        let known = self
            .known
            .filter(|known| (sample - known.0).abs() < LINK_OUTSIDE * deviation(*known));
        self.known = Some(match known {
            None => (sample, LINK_DEVIATION.0),
            Some((mean, spread)) => {
                let error = mean - sample;
                let mean = (1.0 - LINK_WEIGHT) * mean + LINK_WEIGHT * sample;
                let spread =
                    (1.0 - LINK_WEIGHT) * spread + LINK_WEIGHT * error * error / mean.max(1.0);
                (mean, spread.clamp(LINK_DEVIATION.0, LINK_DEVIATION.1))
            }
        });
    }

    /// The mean, bits a second.
    pub(super) fn mean(&self) -> Option<f64> {
        self.known.map(|(mean, _)| mean * 1_000.0)
    }

    /// Near the mean is where growing needs care: from [`LINK_NEAR`] of it, or closer by deviations, to as many
    /// deviations above.
    pub(super) fn near(&self, bits_per_sec: f64) -> bool {
        self.known.is_some_and(|known| {
            let rate = bits_per_sec / 1_000.0;
            let width = LINK_OUTSIDE * deviation(known);
            rate > (LINK_NEAR * known.0).min(known.0 - width) && rate < known.0 + width
        })
    }

    /// More arrived than the mean allows: it was another link's.
    pub(super) fn refute(&mut self, acked_bits_per_sec: f64) {
        let above = |known: &(f64, f64)| {
            acked_bits_per_sec / 1_000.0 > known.0 + LINK_OUTSIDE * deviation(*known)
        };
        if self.known.as_ref().is_some_and(above) {
            self.known = None;
        }
    }

    /// Nothing is known any more.
    pub(super) fn clear(&mut self) {
        self.known = None;
    }
}

/// Of a mean and a normalised deviation, kbit/s.
fn deviation((mean, spread): (f64, f64)) -> f64 {
    (mean * spread).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Option<BurstId> = Some(BurstId::Frame(crate::CAMERA, 1));
    const NEXT: Option<BurstId> = Some(BurstId::Frame(crate::CAMERA, 2));

    #[test]
    fn rates_of_a_steady_flow_are_its_own() {
        let mut flow = Throughput::default();
        for index in 0..100 {
            // 1,000 bytes each 8 ms: 1 Mbit/s, sent at twice that.
            flow.on_arrived(
                4.0 * f64::from(index),
                500.0 + 8.0 * f64::from(index),
                1_000.0,
            );
        }
        let (acked, sent) = flow.rates().expect("enough");
        assert!((acked / 1e6 - 1.0).abs() < 0.06, "{acked}");
        assert!((sent / 2e6 - 1.0).abs() < 0.06, "{sent}");
        let rate = flow.arrival_rate(85.0, None).expect("enough");
        assert!((rate / 1e6 - 1.0).abs() < 1e-9, "{rate}");
        assert_eq!(
            flow.arrival_rate(85.0, Some(4.0 * 90.0)),
            None,
            "three only"
        );
    }

    #[test]
    fn lost_neighbours_were_sent() {
        let mut flow = Throughput::default();
        for index in 0..100 {
            let send = 8.0 * f64::from(index);
            if index % 5 == 0 {
                flow.on_lost(send, 1_000.0);
            } else {
                flow.on_arrived(send, 25.0 + send, 1_000.0);
            }
        }
        let (acked, sent) = flow.rates().expect("enough");
        assert!((acked / 8e5 - 1.0).abs() < 0.1, "{acked}");
        assert!((sent / 1e6 - 1.0).abs() < 0.1, "{sent}");
    }

    #[test]
    fn a_burst_proves_the_slower_of_sending_and_arriving() {
        let mut bursts = Bursts::default();
        for index in 0..9 {
            let index = f64::from(index);
            bursts.on_packet(100.0, FRAME, index, 50.0 + 4.0 * index, 1_000.0);
        }
        assert_eq!(bursts.best(100.0), None, "not closed yet");
        bursts.on_packet(133.0, NEXT, 33.0, 90.0, 1_000.0);
        let best = bursts.best(133.0).expect("proven");
        assert_eq!((best.rate, best.limited), (2e6, true));
        let later = bursts.best(133.0 + 3_000.0).expect("still");
        assert!((later.rate / 1.5e6 - 1.0).abs() < 1e-9);
        assert_eq!(bursts.best(133.0 + 5_001.0), None);
    }

    #[test]
    fn sound_within_a_burst_counts_and_sound_after_it_does_not() {
        let mut bursts = Bursts::default();
        for index in 0..5 {
            let at = 10.0 * f64::from(index);
            bursts.on_packet(0.0, FRAME, at, at, 1_000.0);
            bursts.on_packet(0.0, None, at, at, 1_000.0);
        }
        bursts.on_packet(0.0, NEXT, 60.0, 60.0, 1_000.0);
        let best = bursts.best(0.0).expect("proven");
        assert_eq!(best.rate, 8_000.0 * 8_000.0 / 40.0);
        assert!(!best.limited);
    }

    #[test]
    fn few_packets_prove_nothing() {
        let mut bursts = Bursts::default();
        for index in 0..4 {
            bursts.on_packet(0.0, FRAME, f64::from(index), f64::from(index), 1_000.0);
        }
        bursts.on_packet(0.0, NEXT, 33.0, 33.0, 1_000.0);
        assert_eq!(bursts.best(0.0), None);
    }

    #[test]
    fn another_capacity_is_another_link() {
        let mut link = LinkCapacity::default();
        assert!(!link.near(1e6));
        for sample in [1e6, 1.02e6, 0.98e6] {
            link.update(sample);
        }
        let mean = link.mean().expect("known");
        assert!((mean - 1e6).abs() < 5e3);
        assert!(link.near(1.05e6) && !link.near(0.7e6));
        link.update(3e6);
        assert_eq!(link.mean(), Some(3e6));
        link.refute(2.9e6);
        assert_eq!(link.mean(), Some(3e6));
        link.refute(3.5e6);
        assert_eq!(link.mean(), None);
    }
}
