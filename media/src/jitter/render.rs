//! When pictures are to be shown: capture time, the shortest way that a frame took lately, and a delay that
//! evens out the rest, up to a frame interval.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::VideoTime;
use crate::packet::FrameInfo;

/// What is measured over: long enough for a minimum, short enough to follow a change.
const WINDOW: Duration = Duration::from_secs(5);
/// Frames in it at most: 60 a second.
const MAX_SAMPLES: usize = 300;
/// The share of frames that is to be in time: more would delay all of them for the sake of few.
const QUANTILE: f64 = 0.80;
/// How fast the delay falls, seconds a second.
const FALL: f64 = 0.010;
/// Another frame time than this far from all others is another clock.
const JUMP: Duration = Duration::from_secs(5);
/// Frame intervals by which `smooth` may delay.
const SMOOTH_INTERVALS: u32 = 3;
/// Decoding times remembered.
const DECODED: usize = 60;
/// The longest interval between frames that counts as one: slower pictures need no smoothing.
const MAX_INTERVAL: Duration = Duration::from_millis(200);

/// Maps capture times to render times.
#[derive(Debug)]
pub(super) struct RenderClock {
    smooth: bool,
    /// A capture time and an instant that serve as zero.
    zero: Option<(VideoTime, Instant)>,
    /// When a frame was whole, and how long it seemed to take (from `zero`), in µs.
    ways: VecDeque<(Instant, i64)>,
    shortest: i64,
    delay: Duration,
    last: Option<(FrameInfo, Instant)>,
    interval: Duration,
    decoding: VecDeque<Duration>,
    sync: Duration,
}

impl RenderClock {
    pub(super) fn new(smooth: bool) -> Self {
        Self {
            smooth,
            zero: None,
            ways: VecDeque::new(),
            shortest: 0,
            delay: Duration::ZERO,
            last: None,
            interval: Duration::from_millis(33),
            decoding: VecDeque::new(),
            sync: Duration::ZERO,
        }
    }

    /// Forgets all delays.
    pub(super) fn reset(&mut self) {
        self.zero = None;
        self.ways.clear();
        self.delay = Duration::ZERO;
        self.last = None;
    }

    pub(super) fn set_sync_delay(&mut self, delay: Duration) {
        self.sync = delay;
    }

    pub(super) fn on_decoded(&mut self, took: Duration) {
        if self.decoding.len() == DECODED {
            self.decoding.pop_front();
        }
        self.decoding.push_back(took);
    }

    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    /// Between frames, as they were captured.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// When a frame that was whole at `completed_at` is to be shown. To be asked once for each frame, in
    /// order.
    pub(super) fn render_at(&mut self, info: &FrameInfo, completed_at: Instant) -> Instant {
        let mut way = self.way(info.time, completed_at);
        let jump = JUMP.as_micros() as i64;
        if !self.ways.is_empty() && (way - self.shortest).abs() > jump {
            self.reset();
            way = self.way(info.time, completed_at);
        }
        self.measure_interval(info);
        self.ways.push_back((completed_at, way));
        let too_old = |at: Instant| completed_at.saturating_duration_since(at) > WINDOW;
        while self.ways.len() > MAX_SAMPLES || self.ways.front().is_some_and(|(at, _)| too_old(*at))
        {
            self.ways.pop_front();
        }
        self.adapt(completed_at);
        self.last = Some((*info, completed_at));
        // Both are of one clock, and at most `JUMP` apart.
        let excess = Duration::from_micros((way - self.shortest).max(0) as u64);
        let earliest = completed_at.checked_sub(excess).unwrap_or(completed_at);
        earliest + self.delay + self.decode_time() + self.sync
    }

    fn way(&mut self, time: VideoTime, at: Instant) -> i64 {
        let (zero_time, zero) = *self.zero.get_or_insert((time, at));
        signed(
            at.checked_duration_since(zero),
            zero.saturating_duration_since(at),
        ) - signed(
            (time >= zero_time).then(|| time.saturating_duration_since(zero_time)),
            zero_time.saturating_duration_since(time),
        )
    }

    fn measure_interval(&mut self, info: &FrameInfo) {
        let Some((last, _)) = &self.last else {
            return;
        };
        let frames = info.number.saturating_sub(last.number);
        let span = info.time.saturating_duration_since(last.time);
        let Some(fresh) = span
            .as_micros()
            .checked_div(u128::from(frames))
            .filter(|micros| *micros > 0 && *micros <= MAX_INTERVAL.as_micros())
        else {
            return;
        };
        let fresh = Duration::from_micros(fresh as u64);
        self.interval = (self.interval * 7 + fresh) / 8;
    }

    fn adapt(&mut self, now: Instant) {
        let mut ways: Vec<i64> = self.ways.iter().map(|(_, way)| *way).collect();
        ways.sort_unstable();
        self.shortest = ways[0];
        let index = (QUANTILE * (ways.len() - 1) as f64) as usize;
        let spread = Duration::from_micros((ways[index] - ways[0]) as u64);
        let most = self.interval * if self.smooth { SMOOTH_INTERVALS } else { 1 };
        let wanted = spread.min(most);
        let elapsed = self
            .last
            .as_ref()
            .map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at));
        let fallen = self.delay.saturating_sub(elapsed.mul_f64(FALL)).min(most);
        self.delay = wanted.max(fallen);
    }

    /// What 95 % of the frames take to decode.
    fn decode_time(&self) -> Duration {
        let mut times: Vec<Duration> = self.decoding.iter().copied().collect();
        times.sort_unstable();
        let index = times.len() * 95 / 100;
        times.get(index).copied().unwrap_or_default()
    }
}

/// Microseconds of what is, if `forwards`, else of what is `backwards`, less than zero.
fn signed(forwards: Option<Duration>, backwards: Duration) -> i64 {
    let micros = |duration: Duration| {
        i64::try_from(duration.as_micros()).map_or(i64::MAX / 4, |micros| micros.min(i64::MAX / 4))
    };
    forwards.map_or_else(|| -micros(backwards), micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::testing::info;

    const MILLI: Duration = Duration::from_millis(1);

    /// Shows frame `number`, whole `extra` later than the shortest way takes.
    fn show(clock: &mut RenderClock, start: Instant, number: u64, extra: Duration) -> Duration {
        let captured = start + Duration::from_micros(number * 100_000 / 3);
        let completed = captured + 25 * MILLI + extra;
        clock
            .render_at(&info(number, 1), completed)
            .saturating_duration_since(captured)
    }

    fn close(left: Duration, millis: u64) -> bool {
        left.abs_diff(Duration::from_millis(millis)) < MILLI
    }

    #[test]
    fn an_even_stream_is_shown_as_it_comes() {
        let (mut clock, start) = (RenderClock::new(false), Instant::now());
        for number in 0..100 {
            assert!(close(show(&mut clock, start, number, Duration::ZERO), 25));
        }
        assert!(close(clock.interval(), 33));
    }

    #[test]
    fn jitter_is_evened_out_up_to_an_interval() {
        let (mut clock, start) = (RenderClock::new(false), Instant::now());
        let (mut shown, mut late) = (Duration::ZERO, Duration::ZERO);
        for number in 0..200 {
            shown = show(&mut clock, start, number, MILLI * (number % 11) as u32);
        }
        assert!(close(shown, 25 + 8), "{shown:?}");
        for number in 200..400 {
            late = show(&mut clock, start, number, MILLI * (number % 2 * 200) as u32);
        }
        assert!(close(late, 25 + 33), "{late:?}");
    }

    #[test]
    fn the_delay_falls_slowly() {
        let (mut clock, start) = (RenderClock::new(false), Instant::now());
        for number in 0..150 {
            show(&mut clock, start, number, MILLI * (number % 2 * 30) as u32);
        }
        let high = clock.delay();
        assert!(close(high, 30), "{high:?}");
        for number in 150..300 {
            show(&mut clock, start, number, Duration::ZERO);
        }
        // Less than a fifth of the window was late after three seconds of calm; two have passed since.
        let low = clock.delay();
        assert!((8 * MILLI..12 * MILLI).contains(&low), "{low:?}");
    }

    #[test]
    fn decoding_and_sync_are_added_and_a_jump_starts_anew() {
        let (mut clock, start) = (RenderClock::new(false), Instant::now());
        clock.on_decoded(3 * MILLI);
        clock.set_sync_delay(7 * MILLI);
        assert!(close(show(&mut clock, start, 0, Duration::ZERO), 35));
        let late = start + Duration::from_secs(100);
        let shown = clock.render_at(&info(1, 1), late);
        assert_eq!(shown, late + 10 * MILLI);
        let mut back = info(2, 1);
        back.time = VideoTime::from_ticks(0);
        assert_eq!(clock.render_at(&back, late), late + 10 * MILLI);
    }
}
