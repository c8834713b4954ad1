//! The way to the other side: the project's link, with what the link does not have put before or behind it: a
//! rate that changes while packets wait, a policer, exponential jitter.

use std::time::{Duration, Instant};

use p2p_net_sim::{Link, LinkConfig};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Headers of IP and UDP, which the link adds by itself.
const HEADERS: usize = 28;
/// Step of the integral over a changing rate.
const STEP: Duration = Duration::from_micros(500);

struct Scheduled {
    rate: fn(f64) -> f64,
    queue_bytes: f64,
    free_at: Option<Instant>,
}

struct Policer {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

/// One direction.
pub(crate) struct Wire {
    link: Link,
    start: Option<Instant>,
    random: Xoshiro256PlusPlus,
    scheduled: Option<Scheduled>,
    policer: Option<(f64, f64, Option<Policer>)>,
    jitter_millis: f64,
    in_order: bool,
    last_arrival: Option<Instant>,
}

impl Wire {
    pub(crate) fn new(link: LinkConfig, seed: u64) -> Self {
        Self {
            link: Link::new(link, seed),
            start: None,
            random: Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x5eed),
            scheduled: None,
            policer: None,
            jitter_millis: 0.0,
            in_order: false,
            last_arrival: None,
        }
    }

    /// A queue of so many bytes, served at a rate that follows the time.
    pub(crate) fn scheduled(
        link: LinkConfig,
        seed: u64,
        queue_bytes: usize,
        rate: fn(f64) -> f64,
    ) -> Self {
        Self {
            scheduled: Some(Scheduled {
                rate,
                queue_bytes: queue_bytes as f64,
                free_at: None,
            }),
            ..Self::new(link, seed)
        }
    }

    /// What comes faster than this is dropped, but for so many bytes.
    pub(crate) fn with_policer(self, rate: f64, burst: f64) -> Self {
        Self {
            policer: Some((rate, burst, None)),
            ..self
        }
    }

    /// Exponential, with this mean; packets keep their order or overtake each other.
    pub(crate) fn with_jitter(self, jitter_millis: f64, in_order: bool) -> Self {
        Self {
            jitter_millis,
            in_order,
            ..self
        }
    }

    /// When the packet arrives, if it does.
    pub(crate) fn send(&mut self, now: Instant, wire_bytes: usize) -> Option<Instant> {
        let start = *self.start.get_or_insert(now);
        if !self.passes(now, wire_bytes as f64) {
            return None;
        }
        let leaves = match &mut self.scheduled {
            Some(scheduled) => scheduled.send(start, now, wire_bytes as f64)?,
            None => now,
        };
        let arrives = self.link.send(leaves, wire_bytes - HEADERS).arrives?;
        if self.jitter_millis == 0.0 {
            return Some(arrives);
        }
        let drawn: f64 = self.random.random();
        let late = -(1.0 - drawn).ln() * self.jitter_millis;
        let at = arrives + Duration::from_secs_f64(late / 1e3);
        if !self.in_order {
            return Some(at);
        }
        let at = self.last_arrival.map_or(at, |last| last.max(at));
        self.last_arrival = Some(at);
        Some(at)
    }

    fn passes(&mut self, now: Instant, bytes: f64) -> bool {
        let Some((rate, burst, policer)) = &mut self.policer else {
            return true;
        };
        let policer = policer.get_or_insert(Policer {
            rate: *rate,
            burst: *burst,
            tokens: *burst,
            at: now,
        });
        let elapsed = now.saturating_duration_since(policer.at).as_secs_f64();
        policer.at = now;
        policer.tokens = (policer.tokens + elapsed * policer.rate / 8.0).min(policer.burst);
        let passes = policer.tokens >= bytes;
        if passes {
            policer.tokens -= bytes;
        }
        passes
    }
}

impl Scheduled {
    fn send(&mut self, start: Instant, now: Instant, bytes: f64) -> Option<Instant> {
        let rate_at = |at: Instant| (self.rate)(at.saturating_duration_since(start).as_secs_f64());
        let begins = self.free_at.map_or(now, |free| free.max(now));
        let mut waiting = 0.0;
        let mut at = now;
        while at < begins {
            let step = STEP.min(begins - at);
            waiting += rate_at(at) * step.as_secs_f64() / 8.0;
            at += step;
        }
        if waiting > self.queue_bytes {
            return None;
        }
        let mut left = bytes * 8.0;
        let mut at = begins;
        loop {
            let rate = rate_at(at);
            let step = left / rate;
            if step <= STEP.as_secs_f64() {
                at += Duration::from_secs_f64(step);
                break;
            }
            left -= rate * STEP.as_secs_f64();
            at += STEP;
        }
        self.free_at = Some(at);
        Some(at)
    }
}
