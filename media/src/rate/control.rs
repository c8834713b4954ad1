//! The decisions on one path: grow, hold, decrease, drain, go blind, compete. One step for each report.

use super::compete::{self, Step};
use super::path::{Path, View};
use super::trend::Usage;
use super::{Event, Mode};

/// START lasts so long, ms, or until the first decrease.
const START_MS: f64 = 2_000.0;
/// START and fast growth need a queue below this, ms, or that share of the jitter.
const SHORT_QUEUE_MS: f64 = 10.0;
const SHORT_QUEUE_JITTER: f64 = 0.4;
/// START: the rate is at most these multiples of what arrives, and of what the path spread bursts out to.
const START_OF_ACKED: f64 = 1.5;
const START_OF_BURST: f64 = 0.85;
/// START: the rate at most doubles in a round trip and this, ms.
const START_ROUND_MS: f64 = 40.0;
/// Growth a second: proven by bursts, unknown, near the capacity of the last decrease.
const GROWTH_PROVEN: f64 = 1.30;
const GROWTH: f64 = 1.08;
const GROWTH_NEAR: f64 = 0.03;
/// Above this capacity, growth near it is a packet per two response times if that is more, bits a second.
const GROWTH_PACKETS_FROM: f64 = 500_000.0;
/// A proof must be this much above the rate, and this young, ms.
const PROOF: f64 = 1.2;
const PROOF_MS: f64 = 3_000.0;
/// Growth ends at this multiple of what arrives, and some bits a second.
const GROWTH_OF_ACKED: f64 = 1.5;
const GROWTH_BEYOND: f64 = 10_000.0;
/// After a decrease the rate is held at this share of the capacity, for so long, ms.
const HOLD_SHARE: f64 = 0.9;
const HOLD_MS: f64 = 5_000.0;
/// HOLD ends when the queue is below this, ms, or half the jitter.
const HOLD_QUEUE_MS: f64 = 15.0;
/// HOLD: a queue above this, ms, lowers the rate again each so often, ms.
const HOLD_CUT_QUEUE_MS: f64 = 80.0;
const HOLD_CUT_MS: f64 = 300.0;
/// What is sent after a change is judged a round trip and this later, ms: before, what arrives tells of the rate
/// before the change, or of a pause of our own.
const SETTLE_MS: f64 = 150.0;
/// A decrease goes to this share of what arrives; to that one when the queue is above this, ms; after marks.
const DECREASE: f64 = 0.85;
const DECREASE_DEEP: f64 = 0.7;
const DEEP_QUEUE_MS: f64 = 150.0;
const DECREASE_MARKED: f64 = 0.9;
/// A queue that empties below this, ms, or that share of the jitter, within two frames is no queue.
const REAL_QUEUE_MS: f64 = 5.0;
const REAL_QUEUE_JITTER: f64 = 0.3;
/// At most one decrease in a round trip or this, ms.
const DECREASE_EACH_MS: f64 = 100.0;
/// A cliff has at least this queue and this rise, ms.
const CLIFF_QUEUE_MS: f64 = 60.0;
const CLIFF_RISE_MS: f64 = 15.0;
/// A cliff lets less than this share of what is sent arrive.
const CLIFF_ARRIVES: f64 = 0.9;
/// Not so soon after an own probe or key frame, ms.
const CLIFF_AFTER_BURST_MS: f64 = 200.0;
/// The capacity is the rate of arrivals in so long, ms: a longer window still has those of before.
const CLIFF_WINDOW_MS: f64 = 85.0;
/// It is a cliff only if the capacity is below this share of the rate of the last second.
const CLIFF_FALL: f64 = 0.75;
/// The rate while draining and after, share of the capacity.
const DRAIN_RATE: f64 = 0.8;
/// A drain ends when what pictures would meet is below this, ms.
const DRAINED_MS: f64 = 40.0;
/// Pictures need half a round trip and this to reach the queue, ms.
const RESTART_MS: f64 = 20.0;
/// A spike: the backlog arrives at so many capacities, and that share of the rate before, with a queue below, ms.
const SPIKE_CAPACITIES: f64 = 1.5;
const SPIKE_OF_RATE: f64 = 0.8;
const SPIKE_QUEUE_MS: f64 = 60.0;
const SPIKE_BACK: f64 = 0.9;
/// A drain takes at most so many times as predicted, and so long more, within these bounds, ms.
const DRAIN_PATIENCE: f64 = 1.5;
const DRAIN_MORE_MS: f64 = 100.0;
const DRAIN_BOUNDS_MS: (f64, f64) = (300.0, 3_000.0);
/// What is taken of a limit that loss shows.
const OF_LIMIT: f64 = 0.95;
/// So much loss for so long (ms), or that much with such a queue, is a rate far too high, whatever else is said.
const GUARD_LOSS: f64 = 0.4;
const GUARD_MS: f64 = 1_000.0;
const GUARD_LOSS_QUEUED: f64 = 0.15;
const GUARD_QUEUE_MS: f64 = 50.0;
const GUARD_RATE: f64 = 0.7;
/// BLIND after so many report gaps and half a round trip, at least so long, ms.
const BLIND_GAPS: f64 = 3.0;
const BLIND_MS: f64 = 150.0;
/// Without reports pictures stop, and sound goes to its least, after, ms.
const BLIND_VIDEO_MS: f64 = 300.0;
const BLIND_AUDIO_MS: f64 = 1_000.0;
/// Before the first report there is more patience: so many round trips, at least so long, ms.
const FIRST_TRIPS: f64 = 2.0;
const FIRST_MS: f64 = 500.0;
/// Back after a second of silence: this share of the old rate, at most, bits a second.
const BACK_SHARE: f64 = 0.5;
const BACK_MOST: f64 = 1_000_000.0;
/// Back after less.
const BACK_SOON_SHARE: f64 = 0.75;
/// Pacing: multiples of the estimate, and share of what bursts prove where the path spreads them out.
const PACE_MOST: f64 = 4.0;
const PACE_LEAST: f64 = 1.5;
const PACE_UNKNOWN: f64 = 2.5;
const PACE_QUEUED: f64 = 1.2;
const PACE_OF_BURST: f64 = 0.9;
const PACE_QUEUE_MS: f64 = 30.0;
/// Below this rate, bits a second, a picture takes so long on the link that sound would wait behind it: it waits here,
/// where sound overtakes it.
const NARROW: f64 = 500_000.0;
const PACE_NARROW: f64 = 1.2;

/// A drain under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    /// When it began, ms; what left earlier is the backlog.
    began: f64,
    /// What the path carries, bits a second.
    capacity: f64,
    /// No less than this is believed, bits a second.
    least: f64,
    /// The rate before.
    before: f64,
    /// When it has taken too long.
    until: f64,
    /// Reports seen with something arrived.
    seen: u32,
    /// It tests whose queue it is.
    test: bool,
}

impl Path {
    /// Decides after a report.
    pub(super) fn decide(&mut self, now: f64, view: &View) {
        self.compete
            .on_report(now, view.queue.p10, view.acked_whole);
        if self.mode == Mode::Blind {
            self.back = now;
            self.come_back(now);
        }
        match self.mode {
            Mode::Drain => self.drain(now, view),
            Mode::Compete => self.compete_on(now, view),
            Mode::Start | Mode::Increase | Mode::Hold | Mode::Blind => self.follow(now, view),
        }
        if let Some(result) = self.prober.result(now, self.loss.fit().random) {
            self.on_probe(now, result.rate, result.taken, view);
        }
        if !matches!(self.mode, Mode::Drain | Mode::Compete) {
            // There, losses are the other's or the backlog's.
            self.update_loss(now, view);
        }
        self.obey_loss(now, view);
        self.grown = now;
        self.rate = self
            .rate
            .clamp(self.config.floor_bits_per_sec as f64, self.top());
        self.note_rate(now);
    }

    /// The rate as it is published.
    pub(super) fn estimate(&self, now: f64) -> f64 {
        (self.rate * self.loss.factor(now)).max(self.config.floor_bits_per_sec as f64)
    }

    fn follow(&mut self, now: f64, view: &View) {
        if self.falls_off(now, view) {
            return;
        }
        let before = self.rates.front().map_or(self.rate, |(_, rate)| *rate);
        if self.compete.test_due(now, self.rate, before) {
            let most = self.rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
            self.begin_drain(now, view.acked, most, true);
            return;
        }
        self.decrease(now, view);
        match self.mode {
            Mode::Start => self.start(now, view),
            Mode::Increase => self.increase(now, view),
            _ => self.hold(now, view),
        }
    }

    fn start(&mut self, now: f64, view: &View) {
        if now - self.started >= START_MS {
            self.mode = Mode::Increase;
            return;
        }
        if now - self.round.0 >= view.round_trip + START_ROUND_MS {
            self.round = (now, self.rate);
        }
        if !short(view) {
            return;
        }
        let proven = view
            .burst
            .filter(|burst| burst.limited)
            .map_or(f64::INFINITY, |burst| START_OF_BURST * burst.rate);
        let rate = (START_OF_ACKED * view.acked_whole)
            .min(proven)
            .min(2.0 * self.round.1);
        self.rate = self.rate.max(rate);
    }

    fn increase(&mut self, now: f64, view: &View) {
        self.link.refute(view.acked_whole);
        let seconds = (now - self.grown).clamp(0.0, 100.0) / 1_000.0;
        let proven = short(view)
            && view
                .burst
                .is_some_and(|burst| burst.rate >= PROOF * self.rate && burst.age < PROOF_MS);
        let capacity = self.link.mean().filter(|_| self.link.near(self.rate));
        let held = self.decreased.is_some_and(|at| now - at < HOLD_MS);
        let grown = match capacity {
            Some(capacity) if held => self.rate.max(HOLD_SHARE * capacity),
            Some(capacity) if !self.limited => {
                let packets = if capacity > GROWTH_PACKETS_FROM {
                    let response = (view.round_trip + 100.0) / 1_000.0;
                    1_200.0 * 8.0 / (2.0 * response)
                } else {
                    0.0
                };
                self.rate + (GROWTH_NEAR * self.rate).max(packets) * seconds
            }
            _ if proven => self.rate * GROWTH_PROVEN.powf(seconds),
            _ if self.limited => self.rate,
            _ => self.rate * GROWTH.powf(seconds),
        };
        let most = GROWTH_OF_ACKED * view.acked_whole + GROWTH_BEYOND;
        self.rate = grown.min(most).max(self.rate);
    }

    fn hold(&mut self, now: f64, view: &View) {
        if view.queue.p10 < HOLD_QUEUE_MS.max(view.queue.jitter / 2.0) {
            self.mode = Mode::Increase;
        } else if view.queue.p10 > HOLD_CUT_QUEUE_MS
            && now - self.cut >= HOLD_CUT_MS.max(view.round_trip + SETTLE_MS)
        {
            self.cut = now;
            self.rate = self.rate.min(DECREASE * view.acked_whole);
        }
    }

    fn decrease(&mut self, now: f64, view: &View) {
        let over = view.usage == Usage::Over
            && view.queue.low >= REAL_QUEUE_MS.max(REAL_QUEUE_JITTER * view.queue.jitter);
        if view.usage == Usage::Over {
            self.trend.acted();
        }
        let pause = view.round_trip.max(DECREASE_EACH_MS);
        let soon = self.decreased.is_some_and(|at| now - at < pause);
        if !(over || view.marks > 0) || soon || self.settling(now, view) {
            return;
        }
        let factor = if !over {
            DECREASE_MARKED
        } else if view.queue.p10 > DEEP_QUEUE_MS {
            DECREASE_DEEP
        } else {
            DECREASE
        };
        self.link.update(view.acked_whole);
        self.lower(now, factor * view.acked_whole);
    }

    fn lower(&mut self, now: f64, rate: f64) {
        self.rate = self.rate.min(rate);
        self.decreased = Some(now);
        self.cut = now;
        self.decreases += 1;
        self.mode = Mode::Hold;
    }

    fn falls_off(&mut self, now: f64, view: &View) -> bool {
        let queue = view.queue;
        let recent = |at: Option<f64>| at.is_some_and(|at| now - at < CLIFF_AFTER_BURST_MS);
        let deep = queue.low > CLIFF_QUEUE_MS.max(3.0 * queue.jitter.min(20.0) + 30.0);
        if !deep
            || queue.rise <= CLIFF_RISE_MS
            || view.acked_whole >= CLIFF_ARRIVES * view.sent
            || recent(self.key_frame)
            || recent(self.probed)
        {
            return false;
        }
        // After a pause of our own, only the backlog of before tells the capacity.
        let backlog = self.drained_from.filter(|_| self.settling(now, view));
        let Some(capacity) = self.flow.arrival_rate(CLIFF_WINDOW_MS, backlog) else {
            return false;
        };
        let most = self
            .rates
            .iter()
            .filter(|(at, _)| now - at <= 1_000.0)
            .map(|(_, rate)| *rate)
            .fold(self.rate, f64::max);
        if capacity > CLIFF_FALL * most {
            return false;
        }
        self.cliffs += 1;
        self.bursts.clear();
        let least = self.compete.on_cliff(now, most);
        let capacity = capacity.max(least);
        self.link.update(capacity);
        self.prober.on_cliff(now, self.mode == Mode::Start);
        self.begin_drain(now, capacity, most, false);
        if let Some(drain) = &mut self.drain {
            drain.least = least;
        }
        true
    }

    /// Pictures were off until so short a time ago that what arrives is still that.
    fn settling(&self, now: f64, view: &View) -> bool {
        self.resumed
            .is_some_and(|at| now - at < view.round_trip + SETTLE_MS)
    }

    fn begin_drain(&mut self, now: f64, capacity: f64, before: f64, test: bool) {
        let capacity = capacity.max(self.config.floor_bits_per_sec as f64);
        self.trend.acted();
        self.lower(now, DRAIN_RATE * capacity);
        let left = (capacity - self.audio_rate(now)).max(0.1 * capacity);
        let predicted = self.flying_bits() / left * 1_000.0;
        let patience = DRAIN_PATIENCE * predicted + self.round_trip_least() + DRAIN_MORE_MS;
        self.drained_from = Some(now);
        self.drain = Some(Drain {
            began: now,
            capacity,
            least: 0.0,
            before,
            until: now + patience.clamp(DRAIN_BOUNDS_MS.0, DRAIN_BOUNDS_MS.1),
            seen: 0,
            test,
        });
        self.mode = Mode::Drain;
        self.video = false;
        self.tell(Event::Cliff {
            before_bits_per_sec: before as u64,
            now_bits_per_sec: self.rate as u64,
        });
    }

    fn drain(&mut self, now: f64, view: &View) {
        let Some(mut drain) = self.drain else {
            self.mode = Mode::Hold;
            return;
        };
        let backlog = self.flow.arrival_rate(CLIFF_WINDOW_MS, Some(drain.began));
        if let Some(rate) = backlog {
            let spike = rate > SPIKE_CAPACITIES * drain.capacity
                && rate > SPIKE_OF_RATE * drain.before
                && view.queue.low < SPIKE_QUEUE_MS;
            if spike && !drain.test {
                self.rate = SPIKE_BACK * drain.before;
                self.link.clear();
                self.end_drain(now);
                return;
            }
            drain.capacity = drain.capacity.min(rate.max(drain.least));
            self.rate = self.rate.min(DRAIN_RATE * drain.capacity);
        }
        drain.seen += 1;
        self.drain = Some(drain);
        let audio = (self.audio_rate(now) / drain.capacity).min(1.0);
        let meanwhile = if drain.test {
            // Whether it falls is the question.
            0.0
        } else {
            (view.round_trip_least / 2.0 + RESTART_MS) * (1.0 - audio)
        };
        if view.queue.low - meanwhile < DRAINED_MS {
            self.compete.drained(now, drain.test);
            self.end_drain(now);
        } else if now >= drain.until {
            if self.compete.allowed(now) {
                self.mode = Mode::Compete;
                self.rate = self.compete.enter(now, drain.before);
                self.drain = None;
                self.video = true;
                self.tell(Event::Drained);
            } else {
                self.end_drain(now);
            }
        }
    }

    fn end_drain(&mut self, now: f64) {
        self.drain = None;
        self.mode = Mode::Hold;
        self.cut = now;
        self.resumed = Some(now);
        self.video = true;
        self.prober.on_drained(now);
        self.tell(Event::Drained);
    }

    fn compete_on(&mut self, now: f64, view: &View) {
        let step = self.compete.step(compete::Around {
            now,
            rate: self.rate,
            sent: self.sent_rate(now),
            acked: view.acked_whole,
            round_trip: view.round_trip_least,
            queue: view.queue.p10,
            lost: view.lost > 0 && view.loss > 1.5 * self.loss.fit().random,
            elapsed: (now - self.grown).clamp(0.0, 100.0),
        });
        match step {
            Step::Rate(rate) => self.rate = rate,
            Step::Leave => {
                self.mode = Mode::Hold;
                self.cut = now;
                self.trend.acted();
            }
            Step::Refuted => self.begin_drain(now, view.acked, self.rate, false),
        }
    }

    fn on_probe(&mut self, now: f64, rate: f64, taken: bool, view: &View) {
        let may = matches!(self.mode, Mode::Start | Mode::Increase | Mode::Hold);
        if taken && may && view.queue.low < HOLD_QUEUE_MS {
            self.rate = self.rate.max(rate);
            self.link.refute(rate);
            if self.mode == Mode::Start {
                self.round = (now, self.rate);
            }
        }
    }

    fn obey_loss(&mut self, now: f64, view: &View) {
        if matches!(self.mode, Mode::Drain | Mode::Compete | Mode::Blind) {
            return;
        }
        let pause = view.round_trip.max(DECREASE_EACH_MS) + 250.0;
        let soon = self.decreased.is_some_and(|at| now - at < pause);
        if let Some(limit) = self.loss.limit(self.rate, view.queue.p10)
            && !soon
        {
            self.link.update(limit);
            self.lower(now, OF_LIMIT * limit);
        }
        if view.loss > GUARD_LOSS {
            self.guard_since.get_or_insert(now);
        } else {
            self.guard_since = None;
        }
        let long = self.guard_since.is_some_and(|at| now - at >= GUARD_MS);
        let queued = view.loss > GUARD_LOSS_QUEUED && view.queue.p10 > GUARD_QUEUE_MS;
        if (long || queued) && now - self.guarded >= GUARD_MS {
            self.guarded = now;
            self.lower(now, GUARD_RATE * view.acked);
        }
    }

    /// How long no report came though we send, ms.
    pub(super) fn silence(&self, now: f64) -> f64 {
        self.unanswered.map_or(0.0, |since| now - since)
    }

    fn blind_after(&self) -> f64 {
        let trip = self.round_trip_ms();
        match self.last_report {
            Some(_) => (BLIND_GAPS * self.report_gap + trip / 2.0).clamp(BLIND_MS, BLIND_VIDEO_MS),
            None => self.blind_video_after(),
        }
    }

    fn blind_video_after(&self) -> f64 {
        match self.last_report {
            Some(_) => BLIND_VIDEO_MS,
            None => (FIRST_TRIPS * self.round_trip_ms()).max(FIRST_MS),
        }
    }

    /// Sound must keep to its least.
    pub(super) fn audio_floor(&self, now: f64) -> bool {
        self.silence(now) >= BLIND_AUDIO_MS
    }

    /// The next moment at which silence means something that [`on_timer`](Self::on_timer) has not seen yet, ms.
    pub(super) fn silence_due(&self) -> Option<f64> {
        let since = self.unanswered?;
        [self.blind_after(), self.blind_video_after(), BLIND_AUDIO_MS]
            .into_iter()
            .find(|after| *after > self.blind_for)
            .map(|after| since + after)
    }

    /// Watches the silence.
    pub(super) fn on_timer(&mut self, now: f64) {
        let silence = self.silence(now);
        if silence < self.blind_after() {
            return;
        }
        if self.mode != Mode::Blind {
            self.before_blind = self.mode;
            self.mode = Mode::Blind;
            self.tell(Event::Blind);
        }
        if silence >= self.blind_video_after() && self.video {
            self.video = false;
            self.tell(Event::VideoOff);
        }
        self.blind_for = silence;
    }

    fn come_back(&mut self, now: f64) {
        let silence = std::mem::take(&mut self.blind_for);
        let was_off = !self.video && self.before_blind != Mode::Drain;
        let long = silence >= BLIND_AUDIO_MS || (was_off && self.before_blind != Mode::Drain);
        if !long {
            self.mode = self.before_blind;
            if let Some(drain) = &mut self.drain {
                drain.until += silence;
            }
            self.tell(Event::Back { restarted: false });
            return;
        }
        let rate = if silence >= BLIND_AUDIO_MS {
            (BACK_SHARE * self.rate).min(BACK_MOST)
        } else {
            BACK_SOON_SHARE * self.rate
        };
        self.rate = rate;
        self.restart(now);
        self.tell(Event::Back { restarted: true });
    }

    /// START rules from here on.
    pub(super) fn restart(&mut self, now: f64) {
        self.mode = Mode::Start;
        self.video = true;
        self.drain = None;
        self.started = now;
        self.round = (now, self.rate);
        self.rates.clear();
        self.forget();
        self.prober.answered(now + self.round_trip_ms());
    }

    /// The rate that packets leave at.
    pub(super) fn pacing(&self, now: f64) -> f64 {
        let rate = self.estimate(now);
        if self.queue.p10 > PACE_QUEUE_MS && self.mode != Mode::Compete {
            return PACE_QUEUED * rate;
        }
        if rate < NARROW && self.link.near(self.rate) && self.mode != Mode::Compete {
            return PACE_NARROW * rate;
        }
        let proven = match self.bursts.best(now) {
            None => PACE_UNKNOWN * rate,
            Some(burst) if burst.limited => PACE_OF_BURST * burst.rate,
            Some(_) => PACE_MOST * rate,
        };
        proven.clamp(PACE_LEAST * rate, PACE_MOST * rate)
    }
}

/// There is no queue worth the name: below some ms, or so much of the jitter.
fn short(view: &View) -> bool {
    view.queue.p10 < SHORT_QUEUE_MS.max(SHORT_QUEUE_JITTER * view.queue.jitter)
}
