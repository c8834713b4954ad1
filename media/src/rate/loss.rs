//! Loss that does not depend on our rate, and loss that does: a model of both, fitted to what was seen at
//! different rates. Where there were no different rates, a short test makes one.
//!
//! The model is that of a link with capacity `L` and inherent loss `pi`: at rate `r` the share
//! `pi + (1 - pi) * max(0, r - L) / r` is lost.

use std::collections::VecDeque;

use super::LossView;
use crate::Sequence;

/// An observation lasts so long, ms, and has at least so many packets.
const OBSERVATION_MS: f64 = 250.0;
const OBSERVATION_PACKETS: f64 = 10.0;
/// Observations kept: five seconds.
const OBSERVATIONS: usize = 20;
/// Weight of an observation against the next one.
const AGEING: f64 = 0.9;
/// Inherent loss at most: above it nobody can call.
const RANDOM_MOST: f64 = 0.35;
/// Log-likelihood that speaks for "random" beforehand, while the queue is short and no two rates differ.
const RANDOM_BIAS: f64 = 3.0;
/// The same against it, while the queue is long: where both fit, it is the queue that lost them.
const QUEUE_BIAS: f64 = -2.0;
/// The queue is short below this and long above that, ms.
const SHORT_QUEUE_MS: f64 = 15.0;
const LONG_QUEUE_MS: f64 = 30.0;
/// Two rates differ if their quotient is above this; for the test below, above that.
const DIFFER: f64 = 1.1;
const DIFFER_TEST: f64 = 1.15;
/// Likelihood gain from which on the model's limit is believed.
const GAIN: f64 = 6.0;
/// A limit above this share of the rate is no limit.
const LIMIT_BELOW: f64 = 0.95;
/// The test: loss from which on it is made, what it does to the rate, for how long (ms), and the pauses between (s).
const TEST_LOSS: f64 = 0.08;
const TEST_FACTOR: f64 = 0.8;
const TEST_MS: f64 = 400.0;
const TEST_PAUSES_SECONDS: [f64; 4] = [4.0, 8.0, 16.0, 30.0];
/// The test is made when so many observations, two seconds, had one rate.
const TEST_OBSERVATIONS: usize = 8;
/// Loss from which on a tie is taken for lack of capacity.
const TIE_LOSS: f64 = 0.15;
/// How much nearer to one prediction a result must be than to the other, share of packets.
const TIE: f64 = 0.01;
/// Bins of the short memory: length (ms), and how many: five seconds.
const BIN_MS: f64 = 50.0;
const BINS: usize = 100;
/// Windows of the short memory, bins: two seconds for the total, five for bursts.
const TOTAL_BINS: usize = 40;
/// Packets that found no queue, in five seconds, from which on their loss is known.
const FREE_PACKETS: u32 = 50;
/// A packet of full size, bytes: the model counts in these.
const FULL_BYTES: f64 = 1_200.0;
/// The same for a limit that was believed already, while no two rates differ.
const BELIEVED_BIAS: f64 = -1.0;
/// Newton steps for each candidate.
const STEPS: usize = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Observation {
    packets: f64,
    lost: f64,
    rate: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    index: u64,
    packets: u32,
    lost: u32,
    runs: u32,
    /// Of these, packets that found no queue.
    free: u32,
    free_lost: u32,
}

#[derive(Debug, Clone, Copy)]
struct Test {
    from: f64,
    until: f64,
    rate: f64,
    loss: f64,
    packets: f64,
    lost: f64,
    /// Packets of the test may still be under way until then, ms.
    judged: f64,
}

/// A packet whose fate is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Its number.
    pub(super) number: Sequence,
    /// When it left, ms.
    pub(super) send: f64,
    /// Its bytes on the wire.
    pub(super) bytes: f64,
    /// The estimate when it left, bits a second.
    pub(super) rate: f64,
    /// It is lost.
    pub(super) lost: bool,
    /// Packets about it waited in a queue of the network's, or nothing at all arrived: its loss says nothing about
    /// chance.
    pub(super) queued: bool,
}

/// What the model says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Fit {
    /// Inherent loss.
    pub(super) random: f64,
    /// The rate from which on loss follows ours, bits a second.
    pub(super) limit: Option<f64>,
    /// By how much it explains more than inherent loss alone.
    pub(super) gain: f64,
}

/// What was lost, and why.
#[derive(Debug, Default)]
pub(super) struct Loss {
    bins: VecDeque<Bin>,
    last_lost: Option<Sequence>,
    pending: Observation,
    pending_since: Option<f64>,
    ring: VecDeque<Observation>,
    fit: Fit,
    /// Share of lost packets among those that found no queue, where that was known last.
    free_share: f64,
    free_known: bool,
    test: Option<Test>,
    next_test: f64,
    tests: usize,
}

/// What the model is fitted beside. Rates in bits a second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// The delay estimate.
    pub(super) rate: f64,
    /// What arrived.
    pub(super) acked: f64,
    /// The queue, ms.
    pub(super) queue: f64,
    /// Round trip, ms.
    pub(super) round_trip: f64,
}

impl Loss {
    /// The fate of a packet is known.
    pub(super) fn on_packet(&mut self, now: f64, packet: Known) {
        let Known {
            number,
            send,
            bytes,
            rate,
            lost,
            queued,
        } = packet;
        let run = lost && self.last_lost.is_none_or(|last| last + 1 != number);
        if lost {
            self.last_lost = Some(number);
        }
        let bin = self.bin(now);
        bin.packets += 1;
        bin.lost += u32::from(lost);
        bin.runs += u32::from(run);
        bin.free += u32::from(!queued);
        bin.free_lost += u32::from(lost && !queued);
        self.pending_since.get_or_insert(now);
        // By bytes, in packets of full size: a policer lets small ones pass.
        let packets = bytes / FULL_BYTES;
        let gone = if lost { packets } else { 0.0 };
        self.pending.packets += packets;
        self.pending.lost += gone;
        self.pending.rate += packets * rate;
        if let Some(test) = &mut self.test
            && send >= test.from
            && send < test.until
        {
            test.packets += packets;
            test.lost += gone;
        }
    }

    /// A packet that counted as lost arrived after all.
    pub(super) fn undo(&mut self, bytes: f64) {
        let packets = bytes / FULL_BYTES;
        if let Some(bin) = self.bins.iter_mut().rev().find(|bin| bin.lost > 0) {
            bin.lost -= 1;
            bin.free_lost = bin.free_lost.min(bin.lost);
            bin.runs = bin.runs.min(bin.lost);
        }
        if self.pending.lost >= packets {
            self.pending.lost -= packets;
        } else if let Some(seen) = self.ring.iter_mut().rev().find(|seen| seen.lost >= packets) {
            seen.lost -= packets;
        }
    }

    /// Closes an observation when it is time, and fits the model anew; then judges or begins a test.
    pub(super) fn update(&mut self, now: f64, around: Around) {
        self.watch_free();
        if self.pending.packets >= OBSERVATION_PACKETS
            && self
                .pending_since
                .is_some_and(|since| now - since >= OBSERVATION_MS)
        {
            let mut seen = std::mem::take(&mut self.pending);
            self.pending_since = None;
            seen.rate /= seen.packets;
            self.ring.push_back(seen);
            if self.ring.len() > OBSERVATIONS {
                self.ring.pop_front();
            }
            self.fit = self.fitted(around);
        }
        if self.test.is_some_and(|test| now >= test.judged) {
            self.judge();
        } else if self.test.is_none() {
            self.begin_test(now, around);
        }
    }

    /// What the model says.
    pub(super) fn fit(&self) -> Fit {
        self.fit
    }

    /// The limit, if it is to be believed and below `rate`.
    pub(super) fn limit(&self, rate: f64, queue: f64) -> Option<f64> {
        self.fit.limit.filter(|limit| {
            *limit < LIMIT_BELOW * rate && (self.fit.gain >= GAIN || queue > LONG_QUEUE_MS)
        })
    }

    /// What a running test does to the rate.
    pub(super) fn factor(&self, now: f64) -> f64 {
        match self.test {
            Some(test) if now < test.until => TEST_FACTOR,
            _ => 1.0,
        }
    }

    /// Share of lost packets over the last `bins` × 50 ms.
    pub(super) fn share(&self, bins: usize) -> f64 {
        let newest = self.bins.back().map_or(0, |bin| bin.index);
        let (mut packets, mut lost) = (0u64, 0u64);
        for bin in self.bins.iter().rev() {
            if newest - bin.index >= bins as u64 {
                break;
            }
            packets += u64::from(bin.packets);
            lost += u64::from(bin.lost);
        }
        lost as f64 / packets.max(1) as f64
    }

    /// As repair wants to know it.
    pub(super) fn view(&self) -> LossView {
        let lost: u64 = self.bins.iter().map(|bin| u64::from(bin.lost)).sum();
        let runs: u64 = self.bins.iter().map(|bin| u64::from(bin.runs)).sum();
        LossView {
            random: self.free_share.min(self.fit.random),
            total: self.share(TOTAL_BINS),
            mean_burst_packets: if runs == 0 {
                1.0
            } else {
                lost as f64 / runs as f64
            },
        }
    }

    /// What is lost where there is no queue is not lost by one. While there is always one, what was known before
    /// stands.
    fn watch_free(&mut self) {
        let free: u32 = self.bins.iter().map(|bin| bin.free).sum();
        let lost: u32 = self.bins.iter().map(|bin| bin.free_lost).sum();
        if free >= FREE_PACKETS {
            self.free_known = true;
        }
        if free >= FREE_PACKETS || !self.free_known {
            self.free_share = f64::from(lost) / f64::from(free.max(FREE_PACKETS));
        }
    }

    fn bin(&mut self, now: f64) -> &mut Bin {
        let index = (now / BIN_MS).max(0.0) as u64;
        if self.bins.back().is_none_or(|bin| bin.index < index) {
            self.bins.push_back(Bin {
                index,
                ..Bin::default()
            });
        }
        while self
            .bins
            .front()
            .is_some_and(|bin| bin.index + (BINS as u64) < index)
        {
            self.bins.pop_front();
        }
        let last = self.bins.len() - 1;
        &mut self.bins[last]
    }

    fn fitted(&self, around: Around) -> Fit {
        let random = self.pooled();
        let alone = self.likelihood(random, f64::INFINITY);
        let old = self.fit.limit.unwrap_or(around.rate);
        // What came through at the highest rates is where a limit would be.
        let through = self
            .ring
            .iter()
            .map(|seen| seen.rate * (1.0 - seen.lost / seen.packets));
        let candidates = [1.02, 1.0, 0.95]
            .map(|factor| factor * old)
            .into_iter()
            .chain([around.acked, around.rate])
            .chain(through)
            .filter(|limit| limit.is_finite() && *limit > 0.0);
        let mut best = Fit {
            random,
            limit: None,
            gain: 0.0,
        };
        let bias = self.bias(around.queue);
        for limit in candidates {
            let share = self.newton(random, limit);
            let gain = self.likelihood(share, limit) - alone - bias;
            if gain > best.gain {
                best = Fit {
                    random: share,
                    limit: Some(limit),
                    gain,
                };
            }
        }
        best
    }

    fn bias(&self, queue: f64) -> f64 {
        if queue > LONG_QUEUE_MS {
            QUEUE_BIAS
        } else if differ(self.ring.iter(), DIFFER) {
            0.0
        } else if self.fit.limit.is_some() && self.fit.gain >= GAIN {
            BELIEVED_BIAS
        } else if queue < SHORT_QUEUE_MS {
            RANDOM_BIAS
        } else {
            0.0
        }
    }

    fn weighted(&self) -> impl Iterator<Item = (f64, &Observation)> {
        let mut weight = 1.0 / AGEING;
        self.ring.iter().rev().map(move |seen| {
            weight *= AGEING;
            (weight, seen)
        })
    }

    /// The most likely inherent loss if there is no other.
    fn pooled(&self) -> f64 {
        self.mean().clamp(0.0, RANDOM_MOST)
    }

    fn mean(&self) -> f64 {
        let (mut packets, mut lost) = (0.0, 0.0);
        for (weight, seen) in self.weighted() {
            packets += weight * seen.packets;
            lost += weight * seen.lost;
        }
        if packets > 0.0 { lost / packets } else { 0.0 }
    }

    fn likelihood(&self, random: f64, limit: f64) -> f64 {
        self.weighted()
            .map(|(weight, seen)| {
                let share = predicted(random, limit, seen.rate);
                weight * (seen.lost * share.ln() + (seen.packets - seen.lost) * (1.0 - share).ln())
            })
            .sum()
    }

    /// The most likely inherent loss beside this limit.
    fn newton(&self, start: f64, limit: f64) -> f64 {
        let mut random = start;
        for _ in 0..STEPS {
            let (mut first, mut second) = (0.0, 0.0);
            for (weight, seen) in self.weighted() {
                let share = predicted(random, limit, seen.rate);
                let slope = 1.0 - over(limit, seen.rate);
                let kept = seen.packets - seen.lost;
                first += weight * slope * (seen.lost / share - kept / (1.0 - share));
                second -= weight
                    * slope
                    * slope
                    * (seen.lost / (share * share) + kept / ((1.0 - share) * (1.0 - share)));
            }
            if second >= 0.0 {
                break;
            }
            random = (random - first / second).clamp(0.0, RANDOM_MOST);
        }
        random
    }

    fn begin_test(&mut self, now: f64, around: Around) {
        let loss = self.mean();
        if loss < TEST_LOSS / 2.0 {
            self.tests = 0;
        }
        let due = loss > TEST_LOSS
            && now >= self.next_test
            && self.ring.len() >= TEST_OBSERVATIONS
            && self.fit.gain < GAIN
            && !differ(self.ring.iter().rev().take(TEST_OBSERVATIONS), DIFFER_TEST);
        if due {
            let pause = TEST_PAUSES_SECONDS[self.tests.min(TEST_PAUSES_SECONDS.len() - 1)];
            self.tests += 1;
            self.next_test = now + pause * 1_000.0;
            self.test = Some(Test {
                from: now,
                until: now + TEST_MS,
                rate: around.rate,
                loss,
                packets: 0.0,
                lost: 0.0,
                judged: now + TEST_MS + around.round_trip + 60.0,
            });
        }
    }

    /// Capacity predicts less loss at the lower rate, chance predicts the same.
    fn judge(&mut self) {
        let Some(test) = self.test.take() else { return };
        if test.packets < OBSERVATION_PACKETS {
            return;
        }
        let seen = test.lost / test.packets;
        let by_capacity = (1.0 - (1.0 - test.loss) / TEST_FACTOR).max(0.0);
        let nearer = (seen - test.loss).abs() - (seen - by_capacity).abs();
        let capacity = nearer > TIE || (nearer > -TIE && test.loss > TIE_LOSS);
        if capacity {
            self.fit = Fit {
                random: (seen - by_capacity).clamp(0.0, RANDOM_MOST),
                limit: Some(test.rate * (1.0 - test.loss)),
                gain: GAIN,
            };
        }
    }
}

/// Two of the rates differ by this factor.
fn differ<'a>(seen: impl Iterator<Item = &'a Observation>, factor: f64) -> bool {
    let (least, most) = seen.fold((f64::INFINITY, 0.0f64), |(least, most), seen| {
        (least.min(seen.rate), most.max(seen.rate))
    });
    most > factor * least
}

/// The share of what is sent that is above the limit.
fn over(limit: f64, rate: f64) -> f64 {
    ((rate - limit) / rate.max(1.0)).max(0.0)
}

fn predicted(random: f64, limit: f64, rate: f64) -> f64 {
    let over = over(limit, rate);
    (random + (1.0 - random) * over).clamp(1e-4, 1.0 - 1e-4)
}

#[cfg(test)]
mod tests {
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Sends 300 packets a second for `seconds` at `rate(now)`, of which `loss(rate)` are lost.
    fn run(
        seed: u64,
        seconds: f64,
        queue: f64,
        rate: impl Fn(f64) -> f64,
        share: impl Fn(f64) -> f64,
    ) -> (Loss, bool) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut loss = Loss::default();
        let mut tested = false;
        for number in 0..(300.0 * seconds) as u64 {
            let now = number as f64 / 0.3;
            let asked = rate(now);
            let sent = asked * loss.factor(now);
            tested |= sent < asked;
            let lost = random.random::<f64>() < share(sent);
            let packet = Known {
                number,
                send: now,
                bytes: 1_200.0,
                rate: sent,
                lost,
                queued: false,
            };
            loss.on_packet(now, packet);
            let around = Around {
                rate: asked,
                acked: sent * (1.0 - share(sent)),
                queue,
                round_trip: 50.0,
            };
            loss.update(now, around);
        }
        (loss, tested)
    }

    const fn policed(rate: f64) -> f64 {
        if rate > 1.5e6 {
            1.0 - 1.5e6 / rate
        } else {
            0.0
        }
    }

    #[test]
    fn the_same_loss_at_all_rates_is_random() {
        for seed in 0..20 {
            let (loss, _) = run(seed, 5.0, 0.0, |now| 6e5 + 400.0 * now, |_| 0.2);
            assert_eq!(loss.limit(2.6e6, 0.0), None, "{:?}", loss.fit());
            assert!((loss.fit().random - 0.2).abs() < 0.07, "{:?}", loss.fit());
        }
    }

    #[test]
    fn loss_above_a_rate_is_a_limit() {
        for seed in 0..20 {
            let (loss, _) = run(seed, 3.0, 0.0, |now| 6e5 + 600.0 * now, policed);
            let limit = loss.limit(2.4e6, 0.0).expect("a limit");
            assert!((1.3e6..1.7e6).contains(&limit), "{limit}");
            assert!(loss.fit().random < 0.05, "{:?}", loss.fit());
        }
    }

    #[test]
    fn both_are_told_apart() {
        let both = |rate| 0.1 + 0.9 * policed(rate);
        for seed in 0..20 {
            let (loss, _) = run(seed, 4.0, 0.0, |now| 6e5 + 500.0 * now, both);
            let limit = loss.limit(2.6e6, 0.0).expect("a limit");
            assert!((1.2e6..1.8e6).contains(&limit), "{limit}");
            assert!(
                (0.03..0.17).contains(&loss.fit().random),
                "{:?}",
                loss.fit()
            );
        }
    }

    #[test]
    fn one_rate_only_is_tested() {
        let (loss, tested) = run(1, 10.0, 0.0, |_| 2e6, |_| 0.2);
        assert!(tested);
        assert_eq!(loss.limit(2e6, 0.0), None);
        for seed in 0..10 {
            let (loss, tested) = run(seed, 2.6, 0.0, |_| 2e6, policed);
            assert!(tested);
            let limit = loss.limit(2e6, 0.0).expect("a limit");
            assert!((1.35e6..1.65e6).contains(&limit), "{limit}");
        }
    }

    #[test]
    fn little_loss_is_not_tested() {
        let (_, tested) = run(1, 10.0, 0.0, |_| 2e6, |_| 0.04);
        assert!(!tested);
    }

    #[test]
    fn where_both_fit_a_long_queue_decides() {
        let (loss, _) = run(1, 2.0, 100.0, |_| 2e6, |_| 0.1);
        assert!(loss.fit().limit.is_some(), "{:?}", loss.fit());
        let (loss, _) = run(1, 2.0, 0.0, |_| 2e6, |_| 0.1);
        assert_eq!(loss.fit().limit, None);
    }

    #[test]
    fn what_a_queue_lost_is_not_random() {
        let mut loss = Loss::default();
        let around = Around {
            rate: 3e5,
            acked: 3e5,
            queue: 0.0,
            round_trip: 50.0,
        };
        for number in 0..2_000u64 {
            let queued = number < 400;
            let packet = Known {
                number,
                send: number as f64,
                bytes: 1_200.0,
                rate: 3e5,
                lost: number % 5 == 0 && queued || number % 50 == 0,
                queued,
            };
            loss.on_packet(number as f64, packet);
            loss.update(number as f64, around);
            assert!(loss.view().random < 0.05, "{number}: {:?}", loss.view());
        }
        assert!(loss.view().random > 0.015, "{:?}", loss.view());
        assert!(loss.fit().random > 0.03, "{:?}", loss.fit());
    }

    #[test]
    fn runs_are_measured_and_late_packets_forgiven() {
        let mut loss = Loss::default();
        for number in 0..200 {
            let packet = Known {
                number,
                send: 0.0,
                bytes: 1_200.0,
                rate: 1e6,
                lost: number % 20 < 5,
                queued: false,
            };
            loss.on_packet(number as f64, packet);
        }
        let view = loss.view();
        assert_eq!((view.total, view.mean_burst_packets), (0.25, 5.0));
        for _ in 0..60 {
            loss.undo(1_200.0);
        }
        assert_eq!(loss.view().total, 0.0);
        assert_eq!(loss.view().mean_burst_packets, 1.0);
    }

    #[test]
    fn memory_is_bounded() {
        let (loss, _) = run(1, 60.0, 0.0, |_| 2e6, |_| 0.2);
        assert!(loss.bins.len() <= BINS + 1 && loss.ring.len() <= OBSERVATIONS);
    }
}
