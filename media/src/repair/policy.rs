//! The decision table: how much parity a frame gets and how its lost packets are sent again, by loss, bursts
//! and round trip.
//!
//! The numbers are those of a model in which resends, parity and reports are lost as well; the tests beside
//! this module run it with the real store and buffer.

use std::time::{Duration, Instant};

use super::copies;
use crate::packet::{DATA_SHARDS_MAX, FrameInfo, PARITY_SHARDS_MAX};

/// Loss where the columns of the table begin.
const LOSS_STEPS: [f64; 4] = [0.005, 0.03, 0.07, 0.15];
/// Round trips where the rows of the table begin.
const ROUND_TRIP_STEPS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(200)];
/// A mean run of lost packets from which on losses count as bursts.
const BURST_STEP: f64 = 3.0;
/// A step is left downwards below this share of where it begins: more holds protection that is not needed,
/// less lets it flap.
const HYSTERESIS: f64 = 0.8;
/// Loss falls by this share of itself a second: a lull is no end.
const LOSS_DECAY_PER_SEC: f64 = 0.1;
/// All protection ends after so long without loss.
const QUIET: Duration = Duration::from_secs(30);
/// Between copies of a packet where losses come in bursts: longer than most of them.
const BURST_SPACING: Duration = Duration::from_millis(15);
/// A frame of one packet goes again after this.
const SINGLE_COPY: Duration = Duration::from_millis(15);
/// Base frames later than this are a freeze in any case.
const DEADLINE: Duration = Duration::from_millis(250);
/// The same where a resend alone takes most of that.
const DEADLINE_LONG_WAY: Duration = Duration::from_millis(400);
/// Above this round trip the way is long: a resend arrives 250 ms after the frame was sent, if all goes well.
const LONG_WAY: Duration = Duration::from_millis(120);
/// A screen's key frame is many times a camera's: everything is repaired before another one is sent.
const DEADLINE_SCREEN: Duration = Duration::from_secs(2);
/// A frame that nobody refers to is worth less than the gap that it leaves.
const DEADLINE_DISCARDABLE: Duration = Duration::from_millis(60);
/// Room from which on a second parity shard costs nothing that anybody would see.
const ROOMY: f64 = 1.3;
/// Frames that parity covers. In the model of this module's tests, parity over two frames costs no more than
/// over one, and mends what the first one's parity cannot mend with the second one's, 33 ms later and before
/// any resend: at 10 % and 50 ms the 99th percentile falls from 118 to 101 ms, at 150 ms the gaps from 25 to
/// 4 a minute. A third frame brings nothing but for long bursts.
const WINDOW: u8 = 2;
/// Weight of a second in the measured share of repair.
const SHARE_WEIGHT: f64 = 0.3;
/// After a change of the table's column, what was measured before says little.
const SETTLE: Duration = Duration::from_secs(2);

/// What the path is like, as far as repair cares.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Network {
    /// Share of packets lost over the last two seconds, 0 to 1, without what congestion explains.
    pub loss: f64,
    /// Mean length of a run of lost packets, at least 1 where there are any.
    pub mean_burst: f64,
    /// Round trip, smoothed.
    pub round_trip: Duration,
    /// How long nine of ten runs of lost packets last at most; zero where it is not known.
    pub burst_span: Duration,
    /// The estimate over what the call uses now: 1.3 says that there is room for 30 % more.
    pub headroom: f64,
}

/// How one frame is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Parity packets for the frame (over its window), 0: none.
    pub parity_shards: u16,
    /// Frames that its parity covers, 1 to 3: itself and those before it.
    pub window_frames: u8,
    /// How often each missing packet is sent in the first round of resending; 0: never.
    pub resend_copies: u8,
    /// The same in later rounds.
    pub later_copies: u8,
    /// What lies between these copies; zero when they may go together.
    pub resend_spacing: Duration,
    /// A frame of one packet goes a second time after this, unasked.
    pub copy_single_after: Option<Duration>,
    /// How old the frame may be when a resend arrives, from its sending.
    pub deadline: Duration,
}

/// Chooses by what the network did lately; with hysteresis, so that it does not flap.
#[derive(Debug, Clone)]
pub struct Policy {
    updated_at: Option<Instant>,
    network: Network,
    /// Smoothed loss.
    loss: f64,
    /// Columns of the table begun, 0 to 4.
    loss_class: usize,
    /// Rows of the table begun, 0 to 2.
    way: usize,
    bursts: bool,
    /// Since when there was hardly any loss.
    quiet_since: Option<Instant>,
    changed_at: Option<Instant>,
    share: MeasuredShare,
}

/// Repair bytes per picture byte, as sent.
#[derive(Debug, Clone, Default)]
struct MeasuredShare {
    since: Option<Instant>,
    picture_bytes: u64,
    repair_bytes: u64,
    smoothed: Option<f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy {
    /// Knows nothing yet: key frames are protected regardless.
    pub fn new() -> Self {
        Self {
            updated_at: None,
            network: Network::default(),
            loss: 0.0,
            loss_class: 0,
            way: 0,
            bursts: false,
            quiet_since: None,
            changed_at: None,
            share: MeasuredShare::default(),
        }
    }

    /// Takes what the last reports said. Once per report is right.
    pub fn update(&mut self, now: Instant, network: &Network) {
        let fresh = if network.loss.is_finite() {
            network.loss.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let elapsed = self
            .updated_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let faded = self.loss * (1.0 - LOSS_DECAY_PER_SEC).powf(elapsed.as_secs_f64());
        self.loss = fresh.max(faded);
        self.network = *network;
        self.updated_at = Some(now);

        if fresh >= LOSS_STEPS[0] {
            self.quiet_since = None;
        } else {
            self.quiet_since.get_or_insert(now);
        }
        let before = (self.loss_class, self.way, self.bursts);
        let quiet = self
            .quiet_since
            .is_some_and(|since| now.saturating_duration_since(since) >= QUIET);
        let class = stepped(self.loss_class, self.loss, &LOSS_STEPS);
        self.loss_class = if quiet {
            0
        } else {
            class.max(self.loss_class.min(1))
        };
        let seconds = ROUND_TRIP_STEPS.map(|step| step.as_secs_f64());
        self.way = stepped(self.way, network.round_trip.as_secs_f64(), &seconds);
        self.bursts = self.loss_class > 0
            && stepped(usize::from(self.bursts), network.mean_burst, &[BURST_STEP]) > 0;
        if before != (self.loss_class, self.way, self.bursts) {
            self.changed_at = Some(now);
        }
    }

    /// How to protect `frame`; `screen` says that it shows a screen.
    pub fn plan(&self, frame: &FrameInfo, screen: bool) -> Plan {
        let fragments = frame.fragments.max(1);
        let (parity_shards, window_frames) = if frame.discardable {
            (0, 1)
        } else if self.updated_at.is_none() && frame.key {
            (fragments.div_ceil(4), 1)
        } else {
            self.parity(fragments, screen)
        };
        let copies = self.resend_copies();
        Plan {
            parity_shards,
            window_frames,
            resend_copies: copies,
            later_copies: if self.loss_class == 4 && self.way == 0 {
                3
            } else {
                copies
            },
            resend_spacing: if self.bursts {
                BURST_SPACING
            } else {
                Duration::ZERO
            },
            copy_single_after: (fragments == 1 && parity_shards == 0 && self.loss_class > 0)
                .then_some(SINGLE_COPY),
            deadline: if frame.discardable && !screen {
                DEADLINE_DISCARDABLE
            } else {
                self.deadline(screen)
            },
        }
    }

    /// Parity shards and frames in the window, from the table.
    fn parity(&self, fragments: u16, screen: bool) -> (u16, u8) {
        let k = f64::from(fragments);
        let shards = |exact: f64| exact.ceil().clamp(0.0, f64::from(u16::MAX)) as u16;
        if self.loss_class == 0 || fragments == 1 && self.way == 0 {
            return (0, 1);
        }
        if self.bursts {
            let burst = self.network.mean_burst.clamp(BURST_STEP, 16.0);
            return match self.way {
                0 => (1, WINDOW),
                1 => (shards(1.2 * burst), WINDOW),
                _ => (shards(1.5 * burst), WINDOW + 1),
            };
        }
        let expected = shards(2.0 * self.loss * k);
        let one = match (screen, self.way, self.loss_class) {
            (true, _, 1) => 0,
            (true, _, 2) => 1,
            (true, _, 3) => expected,
            (false, 0, 1) => u16::from(fragments >= 6),
            (false, 0, 2) => 1 + u16::from(self.network.headroom >= ROOMY),
            (false, 0, 3) => 2,
            (true, _, _) | (false, 0, _) => shards(0.4 * k),
            (false, 1, 4) => shards(0.55 * k),
            (false, 2, 2 | 3) => 1 + shards(2.2 * self.loss * k),
            (false, 2, 4) => shards(0.6 * k),
            _ => 1 + expected,
        };
        (one, if screen { 1 } else { WINDOW })
    }

    fn resend_copies(&self) -> u8 {
        if self.loss_class == 0 { 1 } else { 2 }
    }

    /// Counts bytes on the wire of video packets: pictures, and what repaired them (parity and resends).
    /// Corrects [`Policy::planned_share`] each second.
    pub fn on_sent(&mut self, now: Instant, picture_bytes: u64, repair_bytes: u64) {
        let share = &mut self.share;
        share.picture_bytes = share.picture_bytes.saturating_add(picture_bytes);
        share.repair_bytes = share.repair_bytes.saturating_add(repair_bytes);
        let since = *share.since.get_or_insert(now);
        if now.saturating_duration_since(since) < Duration::from_secs(1) || share.picture_bytes == 0
        {
            return;
        }
        let fresh = (share.repair_bytes as f64 / share.picture_bytes as f64).min(4.0);
        let before = share.smoothed.unwrap_or(fresh);
        share.smoothed = Some(before + SHARE_WEIGHT * (fresh - before));
        (share.picture_bytes, share.repair_bytes) = (0, 0);
        share.since = Some(now);
    }

    /// Bytes of repair per byte of picture to reckon with, for frames of `fragments` packets: the encoder
    /// gets 1 / (1 + share) of what video may use.
    pub fn planned_share(&self, fragments: u16, screen: bool) -> f64 {
        let table = self.table_share(fragments.max(1), screen);
        let Some(measured) = self.share.smoothed else {
            return table;
        };
        let settled = match (self.changed_at, self.updated_at) {
            (Some(changed), Some(updated)) => updated.saturating_duration_since(changed) >= SETTLE,
            _ => true,
        };
        if settled {
            measured.clamp(0.5 * table, 2.0 * table + 0.1)
        } else {
            table.max(measured)
        }
    }

    /// What the table will cost: its parity, and the resends that are needed in spite of it.
    fn table_share(&self, fragments: u16, screen: bool) -> f64 {
        // Blocks of equal length, as they are made.
        let blocks = fragments.div_ceil(u16::from(DATA_SHARDS_MAX));
        let (parity, _) = self.parity(fragments, screen);
        let (k, r) = (
            usize::from(fragments.div_ceil(blocks)),
            usize::from(parity.div_ceil(blocks).min(u16::from(PARITY_SHARDS_MAX))),
        );
        let copies = f64::from(self.resend_copies());
        let missing = expected_excess(k + r, r, self.loss);
        let again = copies * missing * (1.0 + self.loss.powf(copies));
        let single = f64::from(u8::from(fragments == 1 && r == 0 && self.loss_class > 0));
        (r as f64 + again + single) / k as f64
    }

    /// Two temporal layers pay: over a long way a lost frame is late whatever is done, and half of them are
    /// then nobody's reference. Over a short way one layer is kept, and everything is repaired: with two,
    /// lost top frames stay lost, and only 70 % of the frames appear at 20 % loss.
    pub fn two_layers(&self) -> bool {
        self.way > 0
    }

    /// Copies of earlier sound in each packet of sound, for Opus frames of length `frame`.
    pub fn copies(&self, frame: Duration) -> copies::Plan {
        copies::Plan::choose(
            self.loss_class,
            self.bursts.then_some(self.network.burst_span),
            frame,
            self.way == ROUND_TRIP_STEPS.len(),
        )
    }

    /// Loss as the table sees it: up at once, down by a tenth a second.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    /// How old a base frame may become on its way: past it, the receiver wants a refresh.
    pub fn deadline(&self, screen: bool) -> Duration {
        if screen {
            DEADLINE_SCREEN
        } else if self.network.round_trip > LONG_WAY {
            DEADLINE_LONG_WAY
        } else {
            DEADLINE
        }
    }
}

/// How many of `steps` are begun at `value`, when `begun` were before.
fn stepped(begun: usize, value: f64, steps: &[f64]) -> usize {
    let up = steps.iter().take_while(|&&step| value >= step).count();
    let held = steps
        .iter()
        .take_while(|&&step| value >= step * HYSTERESIS)
        .count();
    // What is begun anew takes the whole step; what was begun is held a little below it.
    up.max(held.min(begun))
}

/// The mean number of losses beyond `spare`, among `packets` of which each is lost with probability `loss`.
fn expected_excess(packets: usize, spare: usize, loss: f64) -> f64 {
    if loss <= 0.0 {
        return 0.0;
    }
    let loss = loss.min(0.99);
    // The binomial distribution from its first term on; at most 96 packets, so that it does not vanish.
    let mut probability = (1.0 - loss).powi(i32::try_from(packets).unwrap_or(i32::MAX));
    let mut excess = 0.0;
    for lost in 0..=packets {
        excess += probability * lost.saturating_sub(spare) as f64;
        probability *= (packets - lost) as f64 / (lost + 1) as f64 * loss / (1.0 - loss);
    }
    excess
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::testing::{info, key};

    fn network(loss: f64, mean_burst: f64, millis: u64) -> Network {
        Network {
            loss,
            mean_burst,
            round_trip: Duration::from_millis(millis),
            burst_span: Duration::ZERO,
            headroom: 1.0,
        }
    }

    fn policy(loss: f64, mean_burst: f64, millis: u64) -> Policy {
        let mut policy = Policy::new();
        policy.update(Instant::now(), &network(loss, mean_burst, millis));
        policy
    }

    #[test]
    fn the_table_is_the_table() {
        // Round trip, loss, burst, fragments → shards, window, copies in the first and in later rounds.
        let rows = [
            (50, 0.0, 1.0, 9, (0, 1, 1, 1)),
            (50, 0.02, 1.0, 9, (1, 2, 2, 2)),
            (50, 0.02, 1.0, 5, (0, 2, 2, 2)),
            (50, 0.05, 1.0, 9, (1, 2, 2, 2)),
            (50, 0.10, 1.1, 9, (2, 2, 2, 2)),
            (50, 0.20, 1.2, 9, (4, 2, 2, 3)),
            (50, 0.20, 1.2, 5, (2, 2, 2, 3)),
            (50, 0.05, 5.0, 9, (1, 2, 2, 2)),
            (150, 0.001, 1.0, 9, (0, 1, 1, 1)),
            (150, 0.02, 1.0, 9, (2, 2, 2, 2)),
            (150, 0.05, 1.0, 9, (2, 2, 2, 2)),
            (150, 0.10, 1.0, 9, (3, 2, 2, 2)),
            (150, 0.20, 1.0, 9, (5, 2, 2, 2)),
            (150, 0.05, 5.0, 9, (6, 2, 2, 2)),
            (250, 0.10, 1.0, 9, (3, 2, 2, 2)),
            (250, 0.20, 1.0, 9, (6, 2, 2, 2)),
            (250, 0.05, 5.0, 9, (8, 3, 2, 2)),
        ];
        for (millis, loss, burst, fragments, expected) in rows {
            let plan = policy(loss, burst, millis).plan(&info(1, fragments), false);
            let got = (
                plan.parity_shards,
                plan.window_frames,
                plan.resend_copies,
                plan.later_copies,
            );
            assert_eq!(got, expected, "{millis} ms, {loss}, {burst}, {fragments}");
            assert_eq!(
                plan.resend_spacing > Duration::ZERO,
                burst >= 3.0,
                "{millis} ms, {loss}, {burst}"
            );
        }
        let screen = [(0.001, 0), (0.02, 0), (0.05, 1), (0.1, 2), (0.2, 4)];
        for (loss, shards) in screen {
            let plan = policy(loss, 1.0, 50).plan(&info(1, 10), true);
            assert_eq!(plan.parity_shards, shards, "screen at {loss}");
            assert_eq!(plan.deadline, Duration::from_secs(2));
        }
    }

    #[test]
    fn room_buys_a_second_shard() {
        let mut policy = Policy::new();
        let roomy = Network {
            headroom: 1.3,
            ..network(0.05, 1.0, 50)
        };
        policy.update(Instant::now(), &roomy);
        assert_eq!(policy.plan(&info(1, 9), false).parity_shards, 2);
    }

    #[test]
    fn the_first_key_frame_is_protected_regardless() {
        let plan = Policy::new().plan(&key(0, 18), false);
        assert_eq!((plan.parity_shards, plan.resend_copies), (5, 1));
        assert_eq!(Policy::new().plan(&key(0, 1), false).parity_shards, 1);
        assert_eq!(Policy::new().plan(&info(1, 9), false).parity_shards, 0);
    }

    #[test]
    fn a_lone_packet_is_copied_and_a_top_frame_is_not_protected() {
        let policy = policy(0.05, 1.0, 50);
        let single = policy.plan(&info(1, 1), false);
        assert_eq!(single.parity_shards, 0);
        assert_eq!(single.copy_single_after, Some(Duration::from_millis(15)));
        let mut top = info(2, 9);
        top.discardable = true;
        let plan = policy.plan(&top, false);
        assert_eq!(
            (plan.parity_shards, plan.deadline),
            (0, Duration::from_millis(60))
        );
    }

    #[test]
    fn loss_rises_at_once_and_falls_slowly() {
        let start = Instant::now();
        let mut policy = Policy::new();
        policy.update(start, &network(0.10, 1.0, 50));
        assert_eq!(policy.plan(&info(1, 9), false).parity_shards, 2);
        for second in 1..=3 {
            policy.update(start + Duration::from_secs(second), &network(0.0, 1.0, 50));
        }
        assert!((policy.loss() - 0.0729).abs() < 1e-9);
        // Below 0.8 × 7 % after six seconds; nothing but plain resends after thirty without loss.
        policy.update(start + Duration::from_secs(6), &network(0.0, 1.0, 50));
        assert_eq!(policy.plan(&info(1, 9), false).parity_shards, 1);
        policy.update(start + Duration::from_secs(30), &network(0.0, 1.0, 50));
        assert_eq!(policy.plan(&info(1, 9), false).resend_copies, 2);
        policy.update(start + Duration::from_secs(31), &network(0.0, 1.0, 50));
        let off = policy.plan(&info(1, 9), false);
        assert_eq!((off.parity_shards, off.resend_copies), (0, 1));
    }

    #[test]
    fn round_trips_have_hysteresis_too() {
        let start = Instant::now();
        let mut policy = policy(0.0, 1.0, 99);
        assert!(!policy.two_layers());
        policy.update(start, &network(0.0, 1.0, 101));
        assert!(policy.two_layers());
        policy.update(start, &network(0.0, 1.0, 85));
        assert!(policy.two_layers());
        policy.update(start, &network(0.0, 1.0, 79));
        assert!(!policy.two_layers());
        assert_eq!(policy.deadline(false), Duration::from_millis(250));
        policy.update(start, &network(0.0, 1.0, 121));
        assert_eq!(policy.deadline(false), Duration::from_millis(400));
    }

    #[test]
    fn the_share_is_planned_then_measured() {
        let start = Instant::now();
        let mut policy = Policy::new();
        policy.update(start, &network(0.20, 1.2, 50));
        let table = policy.planned_share(5, false);
        assert!((0.4..0.6).contains(&table), "{table}");
        policy.on_sent(start, 0, 0);
        for second in 1..=20 {
            policy.on_sent(start + Duration::from_secs(second), 100_000, 70_000);
        }
        policy.update(start + Duration::from_secs(20), &network(0.20, 1.2, 50));
        let measured = policy.planned_share(5, false);
        assert!((measured - 0.7).abs() < 0.01, "{measured}");
    }

    #[test]
    fn nonsense_is_survived() {
        let mut policy = Policy::new();
        for loss in [f64::NAN, f64::INFINITY, -1.0, 2.0] {
            policy.update(Instant::now(), &network(loss, f64::NAN, 50));
            let share = policy.planned_share(u16::MAX, false);
            assert!(share.is_finite() && share >= 0.0, "{loss}: {share}");
            policy.plan(&info(1, 0), false);
        }
    }
}
