//! Guessing the port of a translator that takes another one for each destination ("symmetric"): what samples of
//! its ports tell, who opens ports and who probes for them, how likely they meet, and the schedule of both
//! within a budget. The hard half of punching; nothing here happens before an ordinary round has failed.
//!
//! The symmetric side opens many sockets towards the other side's one address, so that its translator holds as
//! many ports open; the other side, whose own port is the same for all, probes ports at random until it hits
//! one of them. With `opened` ports among `space` and `probes` tries the two miss each other with the
//! hypergeometric probability of [`chance`]. Where the ports follow an order, few of each do.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::Transaction;
use crate::wire::Hint;

/// Sockets whose ports are sampled, each at both ports of the relay: 16 ports show an order where there is
/// one, and both ends of a range to about a seventeenth of it, for as many entries of the translator's table.
pub(crate) const SAMPLE_SOCKETS: u16 = 8;
/// Sockets that are opened against a translator without order; with [`MAX_PROBES`] they meet with 98.3 % in
/// all 64,512 ports, and with 99.8 % in the 40,000 of common carriers (`connectivity.md` §5.5).
pub(crate) const RANDOM_SOCKETS: u16 = 256;
/// The same within a block of ports: one of 64 is met in 512 ports long before all are tried.
pub(crate) const BLOCK_SOCKETS: u16 = 64;
/// The same where ports are counted up.
pub(crate) const COUNTING_SOCKETS: u16 = 16;
/// Probes of one guess; with the sockets, at most 1,300 entries in any router's table (`connectivity.md` §5.7).
pub(crate) const MAX_PROBES: usize = 1_024;
/// Ports of one translator that lie this close together come from a block of it.
const MAX_BLOCK: u16 = 2_048;
/// A counting translator serves others, too: steps up to this are its next ports.
const MAX_STEP: u16 = 8;
/// Ports beyond the last sample that a counting translator may have given to others meanwhile.
const COUNTING_SLACK: u16 = 48;
/// Destinations that each of two counting sides predicts for the other.
const PREDICTED: u16 = 16;
/// Ports below this are given to nobody (RFC 4787 REQ-3).
const FIRST_PORT: u16 = 1_024;

/// Between two packets of a guess: 1,000 a second (`connectivity.md` §5.5).
pub(crate) const PACE: Duration = Duration::from_millis(1);
/// Packets that may go at once when a timer was late.
const BURST: u32 = 8;
/// A short list of ports is probed again after this at the earliest: the first pass may have come too early.
const PASS: Duration = Duration::from_millis(150);
/// Passes over a short list.
const MAX_PASSES: usize = 4;
/// A pair that failed is not guessed again for this long (`connectivity.md` §5.5).
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(3_600);
/// Where guessing makes no sense, whether it does is looked at again after this.
pub(crate) const AFTER_REFUSAL: Duration = Duration::from_secs(600);
/// Where a kind could not be told, because of the relay or of loss, it is asked again after this.
pub(crate) const AFTER_SILENCE: Duration = Duration::from_secs(30);
/// Samples are waited for as long as this, or two round trips to the relay if that is more.
pub(crate) const SAMPLES_OVERDUE: Duration = Duration::from_millis(800);
/// The other side's hint, and its ports, are waited for as long as this, and three round trips.
pub(crate) const HINT_OVERDUE: Duration = Duration::from_millis(1_500);
/// Answers are waited for as long as this after the last packet, and a round trip.
pub(crate) const ANSWERS_OVERDUE: Duration = Duration::from_millis(500);

/// The probability that `probes` different ports hit at least one of `opened`, all within `space` ports:
/// 1 − C(space − opened, probes) / C(space, probes), the hypergeometric distribution's probability of a hit.
///
/// ```
/// let common = p2p_net_proto::chance(40_000, 256, 1_024);
/// assert!(common > 0.998);
/// assert_eq!(p2p_net_proto::chance(512, 64, 512), 1.0);
/// ```
pub fn chance(space: u32, opened: u32, probes: u32) -> f64 {
    let opened = opened.min(space);
    if probes >= space {
        return f64::from(u8::from(opened > 0));
    }
    // One open port after the other escapes all probes.
    let miss: f64 = (0..opened)
        .map(|port| {
            let left = f64::from(space - port);
            ((left - f64::from(probes)) / left).max(0.0)
        })
        .product();
    1.0 - miss
}

/// How a translator serves us, as far as samples tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It could not be told.
    Unknown,
    /// One port for all destinations, or no translator.
    Cone,
    /// Another port for each destination, one after the other: the next one, and the step.
    Counting(u16, u16),
    /// Another one for each, without order, from this range.
    Random(u16, u16),
}

/// A port that the relay saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Which of our extra sockets asked, from 0.
    pub socket: u16,
    /// Which of the relay's ports it asked, from 0.
    pub server: u8,
    /// From where the question came.
    pub mapped: SocketAddr,
}

impl Kind {
    /// What samples tell; they were asked for socket by socket, for each server by server.
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let mut samples: Vec<Sample> = samples.to_vec();
        samples.sort_by_key(|sample| (sample.socket, sample.server));
        let twice: Vec<bool> = samples
            .windows(2)
            .filter(|pair| pair[0].socket == pair[1].socket)
            .map(|pair| pair[0].mapped == pair[1].mapped)
            .collect();
        if twice.is_empty() {
            return Self::Unknown;
        }
        if twice.iter().all(|same| *same) {
            return Self::Cone;
        }
        let ports: Vec<u16> = samples.iter().map(|sample| sample.mapped.port()).collect();
        if let Some(step) = step(&ports)
            && let Some(last) = ports.last()
        {
            return Self::Counting(last.wrapping_add(step), step);
        }
        let range = widened(&ports);
        Self::Random(*range.start(), *range.end())
    }

    pub(crate) fn is_symmetric(self) -> bool {
        matches!(self, Self::Counting(..) | Self::Random(..))
    }

    /// As it is told to the other side.
    pub(crate) fn hint(self, session: [u8; 16]) -> Hint {
        let (kind, first, second) = match self {
            Self::Unknown => (0, 0, 0),
            Self::Cone => (1, 0, 0),
            Self::Counting(next, step) => (2, next, step),
            Self::Random(low, high) => (3, low, high),
        };
        Hint {
            session,
            kind,
            first,
            second,
        }
    }

    /// What the other side told; kinds that are not known yet are unknown.
    pub(crate) fn told(hint: &Hint) -> Self {
        match hint.kind {
            1 => Self::Cone,
            2 if (1..=MAX_STEP).contains(&hint.second) => Self::Counting(hint.first, hint.second),
            3 if hint.first <= hint.second => Self::Random(hint.first, hint.second),
            _ => Self::Unknown,
        }
    }

    /// How many sockets make a guess at our own ports worth while, and where the other side shall look.
    pub(crate) fn plan(self) -> Option<(u16, RangeInclusive<u16>)> {
        match self {
            Self::Unknown | Self::Cone => None,
            Self::Counting(next, step) => {
                let high = next.checked_add(step * COUNTING_SOCKETS + COUNTING_SLACK);
                // A counter that is about to start over is as good as none.
                let low = next.saturating_sub(COUNTING_SLACK).max(FIRST_PORT);
                Some((COUNTING_SOCKETS, low..=high.unwrap_or(u16::MAX)))
            }
            Self::Random(low, high) if high - low < MAX_BLOCK => Some((BLOCK_SOCKETS, low..=high)),
            Self::Random(low, high) => Some((RANDOM_SOCKETS, low..=high)),
        }
    }
}

/// The step of ports that are counted up, if they are.
fn step(ports: &[u16]) -> Option<u16> {
    let mut steps: Vec<u16> = ports
        .windows(2)
        .map(|pair| pair[1].wrapping_sub(pair[0]))
        .collect();
    let small = steps.iter().filter(|step| (1..=MAX_STEP).contains(*step));
    if steps.len() < 3 || small.count() * 4 < steps.len() * 3 {
        return None;
    }
    steps.sort_unstable();
    let median = steps[steps.len() / 2];
    (1..=MAX_STEP).contains(&median).then_some(median)
}

/// The range that ports were drawn from, most likely: as far beyond the outermost ones as two of them lie
/// apart on average, twice, since missing a part of it costs more than trying too much.
fn widened(ports: &[u16]) -> RangeInclusive<u16> {
    let low = ports.iter().copied().min().unwrap_or(FIRST_PORT);
    let high = ports.iter().copied().max().unwrap_or(u16::MAX);
    let gaps = u16::try_from(ports.len().saturating_sub(1)).unwrap_or(u16::MAX);
    let margin = if gaps < 3 {
        u16::MAX
    } else {
        ((high - low) / gaps).saturating_mul(2).max(16)
    };
    low.saturating_sub(margin).max(FIRST_PORT.min(low))..=high.saturating_add(margin)
}

/// What a side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Opens sockets towards the other.
    Opens,
    /// Probes for the ports that the other opens.
    Probes,
    /// Sends to where the other will be next, which does the same.
    Predicts(u16, u16),
}

/// Who does what; `Err` says why nobody does anything.
pub(crate) fn role(ours: Kind, theirs: Kind) -> Result<Role, crate::NotDirect> {
    match (ours, theirs) {
        (Kind::Unknown, _) | (_, Kind::Unknown) => Err(crate::NotDirect::NatUnknown),
        (Kind::Cone, Kind::Cone) => Err(crate::NotDirect::Blocked),
        (Kind::Cone, _) => Ok(Role::Probes),
        (_, Kind::Cone) => Ok(Role::Opens),
        (Kind::Counting(..), Kind::Counting(next, step)) => Ok(Role::Predicts(next, step)),
        _ => Err(crate::NotDirect::BothSymmetric),
    }
}

/// Allows a packet each [`PACE`], and a few at once after a pause that nobody wanted.
#[derive(Debug)]
struct Pacer {
    next: Instant,
}

impl Pacer {
    fn new(now: Instant) -> Self {
        Self { next: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.next > now {
            return false;
        }
        let earliest = now.checked_sub(PACE * (BURST - 1));
        self.next = earliest.map_or(now, |earliest| self.next.max(earliest)) + PACE;
        true
    }
}

/// The ports of one address that are probed, each at most once in a pass.
#[derive(Debug)]
pub(crate) struct Prober {
    ip: IpAddr,
    ports: Vec<u16>,
    passes: usize,
    sent: Vec<(Transaction, u16, Instant)>,
    pacer: Pacer,
    began: Instant,
    last: Instant,
}

impl Prober {
    /// Probes `range` of `ip`: in order where all of it fits the budget, else as many as do, at random.
    pub(crate) fn new(
        now: Instant,
        ip: IpAddr,
        range: RangeInclusive<u16>,
        random: &mut StdRng,
        barred: &[SocketAddr],
    ) -> Self {
        let mut ports: Vec<u16> = range.filter(|port| *port != 0).collect();
        ports.retain(|port| !barred.contains(&SocketAddr::new(ip, *port)));
        if ports.len() > MAX_PROBES {
            // The beginning of a shuffle: a fair choice, and nobody foresees it.
            for at in 0..MAX_PROBES {
                let other = random.random_range(at..ports.len());
                ports.swap(at, other);
            }
            ports.truncate(MAX_PROBES);
        }
        Self::over(now, ip, ports)
    }

    /// Probes where a counting translator will be next.
    pub(crate) fn ahead(
        now: Instant,
        ip: IpAddr,
        next: u16,
        step: u16,
        barred: &[SocketAddr],
    ) -> Self {
        let ports = (0..PREDICTED).map(|count| next.wrapping_add(count * step));
        let allowed = |port: &u16| *port != 0 && !barred.contains(&SocketAddr::new(ip, *port));
        Self::over(now, ip, ports.filter(allowed).collect())
    }

    fn over(now: Instant, ip: IpAddr, ports: Vec<u16>) -> Self {
        let passes = (MAX_PROBES / ports.len().max(1)).clamp(1, MAX_PASSES);
        Self {
            ip,
            ports,
            passes,
            sent: Vec::new(),
            pacer: Pacer::new(now),
            began: now,
            last: now,
        }
    }

    /// When the next probe is due; `None` when all have been sent.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let all = self.ports.len() * self.passes;
        if self.sent.len() >= all {
            return None;
        }
        let pass = self.sent.len() / self.ports.len();
        let pass = u32::try_from(pass).unwrap_or(u32::MAX);
        Some(self.pacer.next.max(self.began + PASS * pass))
    }

    /// Where the next probe goes, if one is due.
    pub(crate) fn send(&mut self, now: Instant, transaction: Transaction) -> Option<SocketAddr> {
        if self.next_at().is_none_or(|at| at > now) || !self.pacer.take(now) {
            return None;
        }
        let port = *self.ports.get(self.sent.len() % self.ports.len())?;
        self.sent.push((transaction, port, now));
        self.last = now;
        Some(SocketAddr::new(self.ip, port))
    }

    /// The round trip of a probe that this answers.
    pub(crate) fn answered(
        &self,
        now: Instant,
        from: SocketAddr,
        transaction: Transaction,
    ) -> Option<Duration> {
        let mut sent = self.sent.iter().rev();
        let (_, port, at) = sent.find(|(known, ..)| *known == transaction)?;
        (from == SocketAddr::new(self.ip, *port)).then(|| now.saturating_duration_since(*at))
    }

    /// Whether any went out.
    pub(crate) fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// When the last probe went out.
    pub(crate) fn last_at(&self) -> Instant {
        self.last
    }
}

/// The sockets that open ports towards one address, each with one packet.
#[derive(Debug)]
pub(crate) struct Opener {
    to: SocketAddr,
    count: u16,
    sent: Vec<(Transaction, Instant)>,
    pacer: Pacer,
}

impl Opener {
    pub(crate) fn new(now: Instant, to: SocketAddr, count: u16) -> Self {
        Self {
            to,
            count,
            sent: Vec::new(),
            pacer: Pacer::new(now),
        }
    }

    /// When the next packet is due; `None` when each socket has sent.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        (self.sent.len() < usize::from(self.count)).then_some(self.pacer.next)
    }

    /// From which socket the next packet goes, and to where, if one is due.
    pub(crate) fn send(&mut self, now: Instant, random: &mut impl Rng) -> Option<Opening> {
        if self.next_at().is_none_or(|at| at > now) || !self.pacer.take(now) {
            return None;
        }
        let socket = u16::try_from(self.sent.len()).ok()?;
        let transaction = Transaction(random.next_u64());
        self.sent.push((transaction, now));
        Some(Opening {
            socket,
            to: self.to,
            transaction,
        })
    }

    /// The round trip of a packet that this answers.
    pub(crate) fn answered(
        &self,
        now: Instant,
        (socket, from): (u16, SocketAddr),
        transaction: Transaction,
    ) -> Option<Duration> {
        let (known, at) = self.sent.get(usize::from(socket))?;
        let right = *known == transaction && from == self.to;
        right.then(|| now.saturating_duration_since(*at))
    }
}

/// A packet that opens a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) socket: u16,
    pub(crate) to: SocketAddr,
    pub(crate) transaction: Transaction,
}

#[cfg(test)]
#[path = "guess_tests.rs"]
mod tests;
