//! What goes over both paths: a copy of low-rate packets through the relay while the direct path may be dead, or
//! always (`wire.md` §6). QUIC drops the later one by its packet number, and its congestion control counts one.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// When low-rate traffic takes both paths, direct and relay, at once. The first copy that arrives counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Duplicate {
    /// Never, handshakes apart: not one byte more than needed leaves.
    Never,
    /// While the direct path pauses in a way that may mean its end: up to 500,000 bits a second.
    #[default]
    Suspect,
    /// Then, and small packets (sound, control) up to 100,000 bits a second at all times: the death of a path costs
    /// them no more than the longer way through the relay.
    Always,
}

impl Duplicate {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Never, Self::Suspect, Self::Always];

    /// Its name, as settings have it: `never`, `suspect` or `always`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Suspect => "suspect",
            Self::Always => "always",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name)
    }
}

/// The policy of an endpoint, shared by the data paths of all its peers.
#[derive(Debug, Default)]
pub(crate) struct Policy(AtomicU8);

impl Policy {
    pub(crate) fn set(&self, policy: Duplicate) {
        let value = match policy {
            Duplicate::Suspect => 0,
            Duplicate::Never => 1,
            Duplicate::Always => 2,
        };
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Duplicate {
        match self.0.load(Ordering::Relaxed) {
            1 => Duplicate::Never,
            2 => Duplicate::Always,
            _ => Duplicate::Suspect,
        }
    }
}

/// Sound and control are no larger, bytes: 20 ms of Opus at 128 kbit/s, with what QUIC and a copy of the packet
/// before put around it; pictures and files are.
const SMALL: usize = 600;
/// Small packets have this much to themselves, bytes a second: 100 kbit/s, one call's sound.
const SMALL_RATE: u64 = 100_000 / 8;
/// How much of it may come at once, bytes.
const SMALL_BURST: u64 = 4_096;
/// What all packets share beyond that while there are doubts, bytes a second.
const SHARED_RATE: u64 = 400_000 / 8;
/// How much of that may come at once, bytes.
const SHARED_BURST: u64 = 16_384;
/// No bucket earns for a longer pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What one peer's copies have used up.
#[derive(Debug)]
pub(crate) struct Copies {
    small: Bucket,
    shared: Bucket,
}

impl Copies {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            small: Bucket::full(now, SMALL_RATE, SMALL_BURST),
            shared: Bucket::full(now, SHARED_RATE, SHARED_BURST),
        }
    }

    /// Whether a transmission of so many bytes, in one packet or several, is copied.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        policy: Duplicate,
        doubtful: bool,
        (bytes, one): (usize, bool),
    ) -> bool {
        let small = one && bytes <= SMALL;
        let (some, all) = match policy {
            Duplicate::Never => return false,
            Duplicate::Suspect => (small && doubtful, doubtful),
            Duplicate::Always => (small, doubtful),
        };
        (some && self.small.take(now, bytes as u64)) || (all && self.shared.take(now, bytes as u64))
    }
}

#[derive(Debug)]
struct Bucket {
    rate: u64,
    burst: u64,
    bytes: u64,
    at: Instant,
}

impl Bucket {
    fn full(now: Instant, rate: u64, burst: u64) -> Self {
        Self {
            rate,
            burst,
            bytes: burst,
            at: now,
        }
    }

    fn take(&mut self, now: Instant, bytes: u64) -> bool {
        let passed = now.saturating_duration_since(self.at).min(LONGEST_PAUSE);
        let earned = u64::try_from(passed.as_micros()).unwrap_or(0) * self.rate / 1_000_000;
        if earned > 0 {
            self.bytes = (self.bytes + earned).min(self.burst);
            self.at = now;
        }
        let enough = bytes <= self.bytes;
        if enough {
            self.bytes -= bytes;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn start() -> (Instant, Copies) {
        let now = Instant::now();
        (now, Copies::new(now))
    }

    #[test]
    fn names_are_read_back() {
        for policy in Duplicate::ALL {
            assert_eq!(Duplicate::from_name(policy.as_str()), Some(policy));
            let shared = Policy::default();
            shared.set(policy);
            assert_eq!(shared.get(), policy);
        }
        assert_eq!(Duplicate::from_name("often"), None);
        assert_eq!(Policy::default().get(), Duplicate::default());
    }

    #[test]
    fn a_policy_says_when() {
        let (now, mut copies) = start();
        let sound = (160, true);
        assert!(!copies.take(now, Duplicate::Never, true, sound));
        assert!(!copies.take(now, Duplicate::Suspect, false, sound));
        assert!(copies.take(now, Duplicate::Suspect, true, sound));
        assert!(copies.take(now, Duplicate::Always, false, sound));
        assert!(
            !copies.take(now, Duplicate::Always, false, (1_200, true)),
            "a picture"
        );
        assert!(
            !copies.take(now, Duplicate::Always, false, (400, false)),
            "several packets"
        );
    }

    #[test]
    fn pictures_do_not_use_up_what_is_kept_for_sound() {
        let (start, mut copies) = start();
        let (mut pictures, mut sound) = (0, 0);
        for step in 0..1_000 {
            let now = start + step * MILLI;
            // 10 Mbit/s of pictures, 50 packets a second of sound.
            let picture = copies.take(now, Duplicate::Suspect, true, (1_250, true));
            pictures += usize::from(picture) * 1_250;
            if step % 20 == 0 {
                sound += usize::from(copies.take(now, Duplicate::Suspect, true, (200, true)));
            }
        }
        assert_eq!(sound, 50);
        let most = (SHARED_RATE + SHARED_BURST) as usize;
        assert!((most - 2_500..=most).contains(&pictures), "{pictures}");
    }

    #[test]
    fn always_is_bounded_too() {
        let (start, mut copies) = start();
        let copied: usize = (0..10_000)
            .filter(|step| {
                copies.take(
                    start + *step * MILLI / 10,
                    Duplicate::Always,
                    false,
                    (100, true),
                )
            })
            .count();
        assert!(copied * 100 <= (SMALL_RATE + SMALL_BURST) as usize);
    }
}
