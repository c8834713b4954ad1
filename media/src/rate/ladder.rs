//! Which size and frame rate the camera's share is worth, slow to change and quick to fall.

use std::time::{Duration, Instant};

use crate::PictureSize;

/// What a rung needs and gives.
struct Rung {
    /// The least share it is used at, bits a second, for content of cost 1.
    from_bits_per_sec: u64,
    /// Lines of the picture.
    height: u32,
    /// Pictures a second.
    frames_per_sec: u32,
    /// It costs more processor than every machine has.
    heavy: bool,
}

/// The rungs, highest first. At its edge a rung is as good (VMAF at 1280×720) as the one below it, measured with openh264
/// on a head before a room: at 200 kbit/s 76 with 720 lines, 73 with 540, 68 with 360; at 150 kbit/s 62, 68, 65; at
/// 500 kbit/s 89 and 80. 720 lines come later than that, for what moves more than a head.
const RUNGS: [Rung; 5] = [
    Rung {
        from_bits_per_sec: 2_800_000,
        height: 1_080,
        frames_per_sec: 30,
        heavy: true,
    },
    Rung {
        from_bits_per_sec: 350_000,
        height: 720,
        frames_per_sec: 30,
        heavy: false,
    },
    Rung {
        from_bits_per_sec: 135_000,
        height: 540,
        frames_per_sec: 30,
        heavy: false,
    },
    Rung {
        from_bits_per_sec: 110_000,
        height: 360,
        frames_per_sec: 30,
        heavy: false,
    },
    Rung {
        from_bits_per_sec: 50_000,
        height: 180,
        frames_per_sec: 15,
        heavy: false,
    },
];
const LOWEST: usize = RUNGS.len() - 1;
/// The rung of 360 lines, whose frame rate falls before its size does.
const SLOWING: usize = 3;
/// Pictures a second on that rung below [`SLOW_BELOW`] bits a second, and again the full rate from [`FULL_FROM`].
/// The headers of ten more pictures a second take 6 kbit/s; a link of 300 kbit/s, which leaves about 190 beside
/// sound, is to show all of them.
const SLOW_FRAMES_PER_SEC: u32 = 20;
const SLOW_BELOW: u64 = 140_000;
const FULL_FROM: u64 = 155_000;
/// A higher rung is taken at this multiple of its edge, and left at that.
const UP: f64 = 1.15;
const DOWN: f64 = 0.85;
/// A key frame of 720 lines of content of cost 1, bytes, at this many bits a second or less; what it grows with: pixels,
/// and the rate above that, which itself grows with pixels. Measured with openh264 on the same pictures: 5.0 kB at 200
/// kbit/s, 6.6 at 500, 11 at 1,200, 19 at 2,200; with 540 lines 3.5 to 4.3, with 360 lines 1.6 to 2.5.
const KEY_FRAME_BYTES: f64 = 5_500.0;
const KEY_FRAME_RATE: f64 = 500_000.0;
const KEY_FRAME_PIXELS: f64 = 1_280.0 * 720.0;
const BYTES_BY_PIXELS: f64 = 0.87;
const RATE_BY_PIXELS: f64 = 0.66;
const BYTES_BY_RATE: f64 = 0.65;
/// Key frames so many times as large as those are content of so much cost: within these bounds, and each new one counts
/// half.
const COST_BOUNDS: (f64, f64) = (0.7, 3.0);
const COST_WEIGHT: f64 = 0.5;
/// The edges grow with this power of it: what costs more in key frames costs more between them, too.
const EDGE_BY_COST: f64 = 1.1;
/// For how long the share must be so: usually, early in a call, and for a while after a cliff.
const UP_AFTER: Duration = Duration::from_secs(2);
const UP_AFTER_EARLY: Duration = Duration::from_millis(300);
const UP_AFTER_CLIFF: Duration = Duration::from_secs(1);
const DOWN_AFTER: Duration = Duration::from_secs(1);
/// What counts as early in a call, and as after a cliff.
const EARLY: Duration = Duration::from_secs(5);
const AFTER_CLIFF: Duration = Duration::from_secs(20);
/// At most one change in this time; each costs a key frame.
const BETWEEN: Duration = Duration::from_secs(2);
/// The network's queue must be below this for a step up.
const QUEUE: Duration = Duration::from_millis(15);
/// A key frame must fit this much time of what the pacer gives key frames (1.5 × the rate). A step up to 360 lines
/// need not: below it there is not much to see.
const KEY_FRAME_SECONDS: f64 = 0.12 * 1.5;
/// The picture comes back at this share, held for this long.
const ON_FROM: u64 = 80_000;
const ON_AFTER: Duration = Duration::from_secs(3);

/// A rung: a size and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Size of the picture; its aspect is the source's.
    pub size: PictureSize,
    /// Pictures a second.
    pub frames_per_sec: u32,
}

/// The choice of size and frame rate, with hysteresis. A change of size costs a key frame.
#[derive(Debug)]
pub struct Ladder {
    source: PictureSize,
    started: Instant,
    spare_cores: bool,
    halved: bool,
    /// What the content costs, by its key frames.
    cost: Option<f64>,
    /// Index into [`RUNGS`]; `None`: off.
    rung: Option<usize>,
    slowed: bool,
    up_since: Option<Instant>,
    down_since: Option<Instant>,
    changed: Option<Instant>,
    cliff: Option<Instant>,
}

impl Ladder {
    /// For a source of this size; `spare_cores`: there is processor enough for 1080p. It begins at 360 lines.
    pub fn new(now: Instant, source: PictureSize, spare_cores: bool) -> Self {
        let mut ladder = Self {
            source,
            started: now,
            spare_cores,
            halved: false,
            cost: None,
            rung: Some(SLOWING),
            slowed: false,
            up_since: None,
            down_since: None,
            changed: None,
            cliff: None,
        };
        ladder.rung = Some(SLOWING.max(ladder.highest()));
        ladder
    }

    /// Another source, or another load.
    pub fn set_source(&mut self, source: PictureSize, spare_cores: bool) {
        self.source = source;
        self.spare_cores = spare_cores;
        let highest = self.highest();
        self.rung = self.rung.map(|rung| rung.max(highest));
        self.cost = None;
    }

    /// A key frame of `size` took so many bytes where the encoder was set to so many bits a second: that tells what the
    /// content costs.
    pub fn on_key_frame(&mut self, size: PictureSize, bits_per_sec: u64, bytes: usize) {
        let fresh = (bytes as f64 / key_frame_bytes(size, bits_per_sec))
            .clamp(COST_BOUNDS.0, COST_BOUNDS.1);
        let before = self.cost.unwrap_or(fresh);
        self.cost = Some(before + COST_WEIGHT * (fresh - before));
    }

    /// The other side (or this one) cannot keep up: half the frame rate.
    pub fn set_slow(&mut self, slow: bool) {
        self.halved = slow;
    }

    /// Whether pictures are as large as the source and this machine allow.
    pub fn is_highest(&self) -> bool {
        self.rung.is_some_and(|rung| rung <= self.highest())
    }

    /// Whether the frame rate is halved for who cannot keep up.
    pub const fn is_halved(&self) -> bool {
        self.halved
    }

    /// The rung now; `None`: the picture is off.
    pub fn step(&self) -> Option<Step> {
        self.rung.map(|rung| self.step_of(rung))
    }

    /// The rung that a restart begins with at this share: its key frame fits 120 ms. No hysteresis.
    pub fn restart(&mut self, now: Instant, share_bits_per_sec: u64) -> Option<Step> {
        let rung = (share_bits_per_sec >= RUNGS[LOWEST].from_bits_per_sec)
            .then(|| self.fitting(share_bits_per_sec));
        self.set(now, rung);
        self.step()
    }

    /// The rung that a call begins with: at most 360 lines, since nobody knows yet what the content costs.
    pub fn begin(&mut self, now: Instant, share_bits_per_sec: u64) -> Option<Step> {
        self.restart(now, share_bits_per_sec);
        let rung = self.rung.map(|rung| rung.max(SLOWING.max(self.highest())));
        self.set(now, rung);
        self.step()
    }

    /// The share and the network's queue as they are now. `true` if the size changed (or the picture went off or came
    /// back), so that a key frame follows; a new frame rate costs none and is only seen in [`step`](Self::step).
    pub fn update(&mut self, now: Instant, share_bits_per_sec: u64, queue: Duration) -> bool {
        let before = self.step().map(|step| step.size);
        match self.rung {
            None => self.come_back(now, share_bits_per_sec),
            Some(rung) => {
                self.set_pace(share_bits_per_sec);
                if !self.fall(now, rung, share_bits_per_sec) {
                    self.rise(now, rung, share_bits_per_sec, queue);
                }
            }
        }
        self.step().map(|step| step.size) != before
    }

    /// A cliff: down at once to what fits. `true` if the size changes, so that a key frame will follow.
    pub fn on_cliff(&mut self, now: Instant, share_bits_per_sec: u64) -> bool {
        self.cliff = Some(now);
        self.up_since = None;
        let Some(rung) = self.rung else { return false };
        if share_bits_per_sec >= scaled(self.edge(rung), DOWN) {
            return false;
        }
        let lower = self.fitting(share_bits_per_sec).max(rung);
        let before = self.step().map(|step| step.size);
        self.set(now, Some(lower));
        self.step().map(|step| step.size) != before
    }

    /// A drain is over, and this is the share to go on with. A picture that went off meanwhile comes back at once;
    /// `true` if so, so that a key frame follows.
    pub fn on_drained(&mut self, now: Instant, share_bits_per_sec: u64) -> bool {
        if self.rung.is_some() || share_bits_per_sec < ON_FROM {
            return false;
        }
        let rung = self.fitting(share_bits_per_sec);
        self.set(now, Some(rung));
        true
    }

    fn step_of(&self, rung: usize) -> Step {
        let chosen = &RUNGS[rung];
        let full = if self.slowed && rung == SLOWING {
            SLOW_FRAMES_PER_SEC
        } else {
            chosen.frames_per_sec
        };
        Step {
            size: scale(self.source, chosen.height),
            frames_per_sec: if self.halved { full / 2 } else { full },
        }
    }

    /// The highest rung that is not larger than the source; a source between two rungs takes the one above it,
    /// at its own size.
    fn highest(&self) -> usize {
        let lines = self.source.height().min(self.source.width());
        let fits = |index: usize| {
            let next = RUNGS.get(index + 1).map_or(0, |rung| rung.height);
            lines > next && (self.spare_cores || !RUNGS[index].heavy)
        };
        (0..=LOWEST).find(|index| fits(*index)).unwrap_or(LOWEST)
    }

    /// The highest rung that is worth this share and whose key frame fits.
    fn fitting(&self, share: u64) -> usize {
        let fits = |index: &usize| share >= self.edge(*index) && self.key_frame_fits(*index, share);
        (self.highest()..=LOWEST).find(fits).unwrap_or(LOWEST)
    }

    /// The least share that a rung is used at, bits a second. What the content costs decides about size above 360 lines;
    /// below there is not much to see, whatever it costs.
    fn edge(&self, rung: usize) -> u64 {
        let cost = match self.cost {
            Some(cost) if rung < SLOWING => cost.powf(EDGE_BY_COST),
            _ => 1.0,
        };
        scaled(RUNGS[rung].from_bits_per_sec, cost)
    }

    fn key_frame_fits(&self, rung: usize, share: u64) -> bool {
        let size = scale(self.source, RUNGS[rung].height);
        let bytes = self.cost.unwrap_or(1.0) * key_frame_bytes(size, share);
        bytes * 8.0 <= share as f64 * KEY_FRAME_SECONDS
    }

    fn set_pace(&mut self, share: u64) {
        if share < SLOW_BELOW {
            self.slowed = true;
        } else if share >= FULL_FROM {
            self.slowed = false;
        }
    }

    fn fall(&mut self, now: Instant, rung: usize, share: u64) -> bool {
        if share >= scaled(self.edge(rung), DOWN) {
            self.down_since = None;
            return false;
        }
        let since = *self.down_since.get_or_insert(now);
        let waited = now.saturating_duration_since(since) >= DOWN_AFTER;
        if waited && self.may_change(now) {
            let lower = (rung..=LOWEST).find(|index| share >= self.edge(*index));
            self.set(now, lower);
        }
        true
    }

    fn rise(&mut self, now: Instant, rung: usize, share: u64, queue: Duration) {
        let good = |index: &usize| {
            share >= scaled(self.edge(*index), UP)
                && (*index >= SLOWING || self.key_frame_fits(*index, share))
        };
        let target = (self.highest()..rung).find(good);
        let Some(higher) = target.filter(|_| queue < QUEUE) else {
            self.up_since = None;
            return;
        };
        let since = *self.up_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.patience(now)
            && (self.early(now) || self.may_change(now))
        {
            self.set(now, Some(higher));
        }
    }

    fn come_back(&mut self, now: Instant, share: u64) {
        if share < ON_FROM {
            self.up_since = None;
            return;
        }
        let since = *self.up_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= ON_AFTER {
            let rung = self.fitting(share);
            self.set(now, Some(rung));
        }
    }

    fn patience(&self, now: Instant) -> Duration {
        let after_cliff = self
            .cliff
            .is_some_and(|at| now.saturating_duration_since(at) < AFTER_CLIFF);
        if self.early(now) {
            UP_AFTER_EARLY
        } else if after_cliff {
            UP_AFTER_CLIFF
        } else {
            UP_AFTER
        }
    }

    fn early(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) < EARLY
    }

    fn may_change(&self, now: Instant) -> bool {
        self.changed
            .is_none_or(|at| now.saturating_duration_since(at) >= BETWEEN)
    }

    fn set(&mut self, now: Instant, rung: Option<usize>) {
        if rung != self.rung {
            self.rung = rung;
            self.changed = Some(now);
        }
        self.up_since = None;
        self.down_since = None;
    }
}

/// What a key frame takes, bytes, for content of cost 1.
fn key_frame_bytes(size: PictureSize, bits_per_sec: u64) -> f64 {
    let pixels = f64::from(size.width()) * f64::from(size.height()) / KEY_FRAME_PIXELS;
    let above = bits_per_sec as f64 / (KEY_FRAME_RATE * pixels.powf(RATE_BY_PIXELS));
    KEY_FRAME_BYTES * pixels.powf(BYTES_BY_PIXELS) * above.max(1.0).powf(BYTES_BY_RATE)
}

fn scaled(bits: u64, factor: f64) -> u64 {
    (bits as f64 * factor) as u64
}

/// The source's shape with its shorter side at most `lines`; even sides always.
fn scale(source: PictureSize, lines: u32) -> PictureSize {
    let shorter = source.width().min(source.height());
    if shorter <= lines {
        return source;
    }
    let side = |side: u32| {
        let exact = f64::from(side) * f64::from(lines) / f64::from(shorter);
        ((exact / 2.0).round() as u32 * 2).max(2)
    };
    PictureSize::new(side(source.width()), side(source.height())).unwrap_or(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn now() -> Instant {
        p2p_net_sim::Clock::new().now()
    }

    fn ladder(now: Instant) -> Ladder {
        let source = PictureSize::new(1_280, 720).expect("even sides");
        Ladder::new(now, source, false)
    }

    fn height(ladder: &Ladder) -> u32 {
        ladder.step().map_or(0, |step| step.size.height())
    }

    /// Tells `share` each 20 ms for `millis`.
    fn hold(ladder: &mut Ladder, at: &mut Instant, share: u64, millis: u32) {
        for _ in 0..millis / 20 {
            *at += 20 * MILLI;
            ladder.update(*at, share, Duration::ZERO);
        }
    }

    #[test]
    fn a_restart_takes_what_its_key_frame_fits() {
        let mut ladder = ladder(now());
        let mut lines = |share| {
            ladder
                .restart(now(), share)
                .map_or(0, |step| step.size.height())
        };
        assert_eq!(lines(2_000_000), 720);
        assert_eq!(lines(350_000), 720);
        assert_eq!(lines(340_000), 540);
        assert_eq!(lines(140_000), 360);
        assert_eq!(lines(60_000), 180);
        assert_eq!(lines(40_000), 0);
    }

    #[test]
    fn content_that_costs_more_gets_smaller_pictures() {
        let size = PictureSize::new(640, 360).expect("even sides");
        let lines = |bytes| {
            let mut ladder = ladder(now());
            ladder.on_key_frame(size, 500_000, bytes);
            let step = ladder.restart(now(), 500_000);
            step.map_or(0, |step| step.size.height())
        };
        assert_eq!(lines(3_000), 720);
        assert_eq!(lines(6_500), 540);
        assert_eq!(lines(1 << 20), 360, "within bounds");
    }

    #[test]
    fn it_rises_fast_early_and_slowly_later() {
        let mut at = now();
        let mut ladder = ladder(at);
        hold(&mut ladder, &mut at, 2_000_000, 400);
        assert_eq!(height(&ladder), 720);
        hold(&mut ladder, &mut at, 2_000_000, 5_000);
        ladder.restart(at, 120_000);
        assert_eq!(height(&ladder), 360);
        hold(&mut ladder, &mut at, 2_000_000, 1_900);
        assert_eq!(height(&ladder), 360);
        hold(&mut ladder, &mut at, 2_000_000, 400);
        assert_eq!(height(&ladder), 720);
    }

    #[test]
    fn it_keeps_its_rung_between_the_edges() {
        let mut at = now();
        let mut ladder = ladder(at);
        hold(&mut ladder, &mut at, 2_000_000, 6_000);
        hold(&mut ladder, &mut at, 300_000, 10_000);
        assert_eq!(height(&ladder), 720, "not below 0.85 of the edge");
        hold(&mut ladder, &mut at, 250_000, 1_200);
        assert_eq!(height(&ladder), 540);
        hold(&mut ladder, &mut at, 390_000, 10_000);
        assert_eq!(height(&ladder), 540, "not above 1.15 of the edge");
        hold(&mut ladder, &mut at, 410_000, 2_400);
        assert_eq!(height(&ladder), 720);
    }

    #[test]
    fn a_queue_forbids_a_step_up() {
        let mut at = now();
        let mut ladder = ladder(at);
        for _ in 0..200 {
            at += 20 * MILLI;
            assert!(!ladder.update(at, 2_000_000, 20 * MILLI));
        }
    }

    #[test]
    fn a_cliff_takes_it_down_at_once() {
        let mut at = now();
        let mut ladder = ladder(at);
        hold(&mut ladder, &mut at, 2_000_000, 6_000);
        assert!(!ladder.on_cliff(at, 310_000), "still worth it");
        assert!(ladder.on_cliff(at, 140_000));
        assert_eq!(height(&ladder), 360);
        hold(&mut ladder, &mut at, 2_000_000, 2_000);
        assert_eq!(height(&ladder), 720, "a second is enough after a cliff");
    }

    #[test]
    fn the_picture_goes_off_and_comes_back() {
        let mut at = now();
        let mut ladder = ladder(at);
        hold(&mut ladder, &mut at, 40_000, 2_000);
        assert_eq!(ladder.step(), None);
        hold(&mut ladder, &mut at, 90_000, 2_900);
        assert_eq!(ladder.step(), None);
        hold(&mut ladder, &mut at, 90_000, 200);
        assert_eq!(height(&ladder), 180);
        hold(&mut ladder, &mut at, 40_000, 4_000);
        assert!(!ladder.on_drained(at, 79_000) && ladder.step().is_none());
        assert!(ladder.on_drained(at, 1_500_000));
        assert_eq!(height(&ladder), 720, "at once after a drain");
    }

    #[test]
    fn the_frame_rate_falls_before_the_size() {
        let mut at = now();
        let mut ladder = ladder(at);
        ladder.restart(at, 120_000);
        hold(&mut ladder, &mut at, 150_000, 2_000);
        let step = ladder.step().expect("on");
        assert_eq!((step.size.height(), step.frames_per_sec), (360, 30));
        hold(&mut ladder, &mut at, 135_000, 2_000);
        let step = ladder.step().expect("on");
        assert_eq!((step.size.height(), step.frames_per_sec), (360, 20));
        ladder.set_slow(true);
        assert_eq!(ladder.step().expect("on").frames_per_sec, 10);
    }

    #[test]
    fn every_shape_keeps_its_shape_and_even_sides() {
        for (width, height) in [
            (1_280, 720),
            (720, 1_280),
            (1_000, 1_000),
            (322, 242),
            (6, 4),
        ] {
            let source = PictureSize::new(width, height).expect("even sides");
            let mut ladder = Ladder::new(now(), source, true);
            for share in [60_000, 200_000, 700_000, 1_500_000, 9_000_000] {
                let step = ladder.restart(now(), share).expect("on");
                let (w, h) = (step.size.width(), step.size.height());
                assert!(w <= width && h <= height);
                let skew = f64::from(w) / f64::from(h) * f64::from(height) / f64::from(width);
                assert!((0.97..1.03).contains(&skew), "{w}x{h}");
            }
        }
    }
}
