//! One direction of one link: delay, jitter, loss (independent or in bursts), duplication, reordering,
//! rate and a bounded queue, all from a seed. It holds no packets: it says when each one arrives.

use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// How packets get lost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Loss {
    /// Never.
    #[default]
    None,
    /// Each with this probability, independently.
    Random(f64),
    /// In bursts (Gilbert-Elliott): two states, each packet may move between them.
    Bursts {
        /// Probability to go from good to bad at a packet.
        enter: f64,
        /// Probability to go from bad to good at a packet; its inverse is the mean burst length.
        leave: f64,
        /// Loss probability while good.
        good: f64,
        /// Loss probability while bad.
        bad: f64,
    },
}

impl Loss {
    /// Bursts of `mean_length` packets on average, all lost, that make up `share` of all packets.
    ///
    /// # Panics
    /// Unless `0 <= share < 1` and `mean_length >= 1`.
    pub fn bursts(share: f64, mean_length: f64) -> Self {
        assert!(
            (0.0..1.0).contains(&share) && mean_length >= 1.0,
            "no such bursts"
        );
        let leave = 1.0 / mean_length;
        Self::Bursts {
            enter: (leave * share / (1.0 - share)).min(1.0),
            leave,
            good: 0.0,
            bad: 1.0,
        }
    }
}

/// What one direction of a link does to packets. The default is instant and perfect.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinkConfig {
    /// One-way propagation delay.
    pub delay: Duration,
    /// Added to the delay: uniform between nothing and this. Packets still arrive in order.
    pub jitter: Duration,
    /// How packets get lost.
    pub loss: Loss,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that a packet is held back by `reorder_delay` while others overtake it.
    pub reorder: f64,
    /// See `reorder`.
    pub reorder_delay: Duration,
    /// Bits a second; unlimited if `None`.
    pub rate_bits_per_sec: Option<u64>,
    /// Bytes that may wait for a limited rate; what finds more is dropped. 0 stands for
    /// [`DEFAULT_QUEUE_BYTES`].
    pub queue_bytes: usize,
    /// Largest UDP payload that passes; larger ones vanish (a black hole). `None`: any.
    pub mtu_bytes: Option<usize>,
}

/// Bytes that wait for a limited rate unless the configuration says otherwise: 50 ms at 20 Mbit/s.
pub const DEFAULT_QUEUE_BYTES: usize = 125_000;

/// Bytes of IP and UDP headers, which cost rate as well.
const OVERHEAD_BYTES: u64 = 28;

impl LinkConfig {
    /// A perfect link with this one-way delay.
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// The same with another loss.
    pub fn with_loss(self, loss: Loss) -> Self {
        Self { loss, ..self }
    }

    /// The same with this jitter.
    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// The same with this rate and the default queue.
    pub fn with_rate(self, rate_bits_per_sec: u64) -> Self {
        Self {
            rate_bits_per_sec: Some(rate_bits_per_sec),
            ..self
        }
    }
}

/// What became of one packet: when it arrives, if at all, and when its copy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    /// When it arrives; `None`: it is lost.
    pub arrives: Option<Instant>,
    /// When its copy arrives, if it has one.
    pub copy_arrives: Option<Instant>,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    random: Xoshiro256PlusPlus,
    /// In the bad state of [`Loss::Bursts`].
    bad: bool,
    /// When the last bit that is queued has left.
    free_at: Option<Instant>,
    /// When the last packet that kept its place arrives.
    last_arrival: Option<Instant>,
}

impl Link {
    /// A link whose fortunes follow from `seed`.
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            bad: false,
            free_at: None,
            last_arrival: None,
        }
    }

    /// What it does now.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Changes what it does from now on; packets under way keep their arrival.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
        self.last_arrival = None;
        if config.rate_bits_per_sec.is_none() {
            self.free_at = None;
        }
    }

    /// Decides the fate of a packet with `bytes` of UDP payload.
    pub fn send(&mut self, now: Instant, bytes: usize) -> Fate {
        if self.config.mtu_bytes.is_some_and(|mtu| bytes > mtu) {
            return Fate::default();
        }
        let Some(sent_at) = self.queue(now, bytes) else {
            return Fate::default();
        };
        if self.loses() {
            return Fate::default();
        }
        let arrives = self.arrival(sent_at);
        let copy_arrives = self
            .draw(self.config.duplicate)
            .then(|| arrives + Duration::from_micros(100));
        Fate {
            arrives: Some(arrives),
            copy_arrives,
        }
    }

    /// When the last bit has left; `None` if the queue is full.
    fn queue(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = self.config.rate_bits_per_sec else {
            return Some(now);
        };
        let rate = rate.max(1);
        let bound = match self.config.queue_bytes {
            0 => DEFAULT_QUEUE_BYTES,
            bytes => bytes,
        };
        let starts = self.free_at.map_or(now, |free| free.max(now));
        let waiting =
            starts.saturating_duration_since(now).as_nanos() * u128::from(rate) / 8_000_000_000;
        if waiting > bound as u128 {
            return None;
        }
        let bits = u128::from((bytes as u64).saturating_add(OVERHEAD_BYTES)) * 8;
        let nanos = bits * 1_000_000_000 / u128::from(rate);
        let done = starts + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4));
        self.free_at = Some(done);
        Some(done)
    }

    fn loses(&mut self) -> bool {
        match self.config.loss {
            Loss::None => false,
            Loss::Random(probability) => self.draw(probability),
            Loss::Bursts {
                enter,
                leave,
                good,
                bad,
            } => {
                let moves = self.draw(if self.bad { leave } else { enter });
                self.bad ^= moves;
                self.draw(if self.bad { bad } else { good })
            }
        }
    }

    fn arrival(&mut self, sent_at: Instant) -> Instant {
        let jitter = if self.config.jitter.is_zero() {
            Duration::ZERO
        } else {
            self.config.jitter.mul_f64(self.random.random::<f64>())
        };
        let at = sent_at + self.config.delay + jitter;
        if self.draw(self.config.reorder) {
            return at + self.config.reorder_delay;
        }
        let at = self.last_arrival.map_or(at, |last| last.max(at));
        self.last_arrival = Some(at);
        at
    }

    fn draw(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random::<f64>() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn delay_alone_is_exact() {
        let now = Clock::new().now();
        let mut link = Link::new(LinkConfig::delay(20 * MILLI), 1);
        assert_eq!(
            link.send(now, 1_000),
            Fate {
                arrives: Some(now + 20 * MILLI),
                copy_arrives: None
            }
        );
    }

    #[test]
    fn jitter_keeps_the_order_and_its_bound() {
        let mut clock = Clock::new();
        let mut link = Link::new(LinkConfig::delay(20 * MILLI).with_jitter(10 * MILLI), 2);
        let mut last = clock.now();
        let mut spread = false;
        for _ in 0..1_000 {
            let at = link.send(clock.now(), 100).arrives.expect("no loss here");
            let late = at - clock.now();
            assert!(late >= 20 * MILLI && late <= 30 * MILLI && at >= last);
            spread |= late > 25 * MILLI;
            last = at;
            clock.advance(MILLI);
        }
        assert!(spread);
    }

    #[test]
    fn random_loss_has_its_share() {
        let now = Clock::new().now();
        let mut link = Link::new(LinkConfig::default().with_loss(Loss::Random(0.1)), 3);
        let lost = (0..20_000)
            .filter(|_| link.send(now, 100).arrives.is_none())
            .count();
        assert!((1_800..2_200).contains(&lost), "{lost}");
    }

    #[test]
    fn bursts_have_their_share_and_their_length() {
        let now = Clock::new().now();
        let mut link = Link::new(LinkConfig::default().with_loss(Loss::bursts(0.1, 5.0)), 4);
        let fates: Vec<bool> = (0..100_000)
            .map(|_| link.send(now, 100).arrives.is_none())
            .collect();
        let lost = fates.iter().filter(|lost| **lost).count();
        let bursts = fates.windows(2).filter(|pair| !pair[0] && pair[1]).count();
        assert!((8_500..11_500).contains(&lost), "{lost}");
        let mean = lost as f64 / bursts as f64;
        assert!((4.3..5.7).contains(&mean), "{mean}");
    }

    #[test]
    fn a_rate_spreads_packets_and_its_queue_is_bounded() {
        let now = Clock::new().now();
        // 972 + 28 bytes at 1 Mbit/s: 8 ms each; 4,000 bytes wait at most.
        let config = LinkConfig {
            rate_bits_per_sec: Some(1_000_000),
            queue_bytes: 4_000,
            ..LinkConfig::default()
        };
        let mut link = Link::new(config, 5);
        let arrivals: Vec<_> = (0..10).map(|_| link.send(now, 972).arrives).collect();
        for (index, arrival) in arrivals.iter().take(5).enumerate() {
            assert_eq!(*arrival, Some(now + 8 * MILLI * (index as u32 + 1)));
        }
        assert!(arrivals[5..].iter().all(Option::is_none));
        assert!(link.send(now + 40 * MILLI, 972).arrives.is_some());
    }

    #[test]
    fn reordered_packets_are_overtaken_and_copies_follow() {
        let mut clock = Clock::new();
        let config = LinkConfig {
            reorder: 0.2,
            reorder_delay: 5 * MILLI,
            duplicate: 0.3,
            ..LinkConfig::delay(10 * MILLI)
        };
        let mut link = Link::new(config, 6);
        let (mut overtaken, mut copies, mut newest) = (0, 0, clock.now());
        for _ in 0..1_000 {
            let fate = link.send(clock.now(), 100);
            let at = fate.arrives.expect("no loss here");
            overtaken += usize::from(at < newest);
            copies += usize::from(fate.copy_arrives.is_some());
            newest = newest.max(at);
            clock.advance(MILLI);
        }
        assert!(
            overtaken > 100 && (200..400).contains(&copies),
            "{overtaken} {copies}"
        );
    }

    #[test]
    fn the_same_seed_has_the_same_fortune() {
        let now = Clock::new().now();
        let config = LinkConfig::default().with_loss(Loss::Random(0.5));
        let (mut one, mut other) = (Link::new(config, 7), Link::new(config, 7));
        assert!((0..100).all(|_| one.send(now, 1) == other.send(now, 1)));
    }
}
