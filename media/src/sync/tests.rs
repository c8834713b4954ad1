use proptest::prelude::*;

use super::*;

/// Even in 0 to 1, from a number.
fn random(index: u64) -> f64 {
    let mut state = index.wrapping_add(77).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state ^= state >> 29;
    state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (state >> 32) as f64 / f64::from(u32::MAX)
}

/// Packets each 5 ms from a sender whose clock began anywhere and runs `ppm` fast.
struct Feed {
    start: Instant,
    clock: RemoteClock,
    ppm: f64,
    index: u64,
}

impl Feed {
    const ORIGIN: i64 = -9_000_000_000_000;

    fn new(ppm: f64) -> Self {
        Self {
            start: Instant::now() + Duration::from_secs(10),
            clock: RemoteClock::new(),
            ppm,
            index: 0,
        }
    }

    fn sent(&self) -> i64 {
        let real = self.index as f64 * 5_000.0;
        Self::ORIGIN + (real * (1.0 + self.ppm / 1e6)) as i64
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(5 * self.index)
    }

    fn run(&mut self, seconds: u64, delay_millis: impl Fn(u64) -> f64) -> u64 {
        let mut anchored = 0;
        for _ in 0..seconds * 200 {
            let delay = Duration::from_secs_f64(delay_millis(self.index) / 1e3);
            let sent = self.sent();
            anchored += u64::from(self.clock.on_packet(sent, self.now() + delay));
            self.index += 1;
        }
        anchored
    }

    /// How far the clock is from the truth (a path of `delay_millis`), ms.
    fn error(&self, delay_millis: f64) -> f64 {
        let local = self.clock.local(self.sent()).expect("packets came");
        let truth = self.now() + Duration::from_secs_f64(delay_millis / 1e3);
        micros_between(truth, local) as f64 / 1e3
    }
}

#[test]
fn the_envelope_is_below_all_jitter() {
    let mut feed = Feed::new(0.0);
    assert_eq!(feed.run(30, |index| 25.0 + 40.0 * random(index)), 1);
    assert!(
        (0.0..1.0).contains(&feed.error(25.0)),
        "{}",
        feed.error(25.0)
    );
    let sent = feed.sent();
    let back = feed.clock.sender(feed.clock.local(sent).expect("known"));
    assert!((back.expect("known") - sent).abs() <= 1);
}

#[test]
fn drift_is_found_and_followed() {
    for ppm in [-400.0, -50.0, 0.0, 100.0, 400.0] {
        let mut feed = Feed::new(ppm);
        feed.run(70, |index| 25.0 + 15.0 * random(index));
        let found = feed.clock.drift_ppm();
        assert!((found - ppm).abs() < 15.0, "{ppm}: {found}");
        assert!(feed.error(25.0).abs() < 1.0, "{ppm}: {}", feed.error(25.0));
        // A queue for a quarter of a minute is no drift, and neither is a day's clock that is wrong.
        feed.run(15, |index| 65.0 + 15.0 * random(index));
        feed.run(15, |index| 25.0 + 15.0 * random(index));
        let found = feed.clock.drift_ppm();
        assert!((found - ppm).abs() < 60.0, "{ppm}: {found}");
    }
}

#[test]
fn jumps_anchor_anew_and_queues_do_not() {
    let mut feed = Feed::new(0.0);
    feed.run(5, |_| 100.0);
    // A spike of 200 ms that falls as fast as the link empties.
    let spike = |index: u64| 100.0 + (200.0 - (index % 200) as f64 * 2.0).max(0.0);
    let before = feed.clock.reanchors();
    feed.run(1, |index| {
        if index % 200 < 50 {
            spike(index)
        } else {
            100.0
        }
    });
    assert_eq!(feed.clock.reanchors(), before);
    assert!(feed.error(100.0).abs() < 1.0);
    // A path that is longer is believed after 0.3 s, one that is shorter at once.
    assert_eq!(feed.run(1, |_| 180.0), 1);
    assert!(feed.error(180.0).abs() < 1.0);
    assert_eq!(feed.run(1, |_| 20.0), 1);
    assert!(feed.error(20.0).abs() < 1.0);
    // Told of it, a small change is believed, too.
    feed.clock.on_path_switch();
    assert_eq!(feed.run(1, |_| 40.0), 1);
    assert!(feed.error(40.0).abs() < 1.0);
    assert_eq!(feed.clock.reanchors(), 3);
}

#[test]
fn a_queue_that_stays_is_followed_within_the_window() {
    let mut feed = Feed::new(0.0);
    feed.run(5, |_| 30.0);
    assert_eq!(feed.run(3, |_| 60.0), 0);
    assert!(feed.error(60.0).abs() < 1.0);
}

#[test]
fn both_streams_lie_on_one_clock() {
    let mut sound = StreamClock::<48_000>::new();
    let mut picture = StreamClock::<90_000>::new();
    assert_eq!(sound.captured(AudioTime::default()), None);
    // Both begin anywhere; the sound's 32 bits wrap on the way.
    let (first_sound, first_picture) = ((1u64 << 33) - 48_000, 123_456_789u64);
    let captured = |millis: u64| 5_000_000 + millis as i64 * 1_000;
    for index in 0..1_000u64 {
        let millis = index * 10;
        let age = 11.0 + 3.0 * random(index);
        let sent = captured(millis) + (age * 1e3) as i64;
        sound.on_packet(
            AudioTime::from_ticks(first_sound + millis * 48),
            sent,
            age as u8,
        );
        if index % 3 == 0 {
            let age = 8.0 + 120.0 * random(index + 9);
            let sent = captured(millis) + (age * 1e3) as i64;
            let time = MediaTime::<90_000>::from_ticks(first_picture + millis * 90);
            picture.on_packet(time, sent, age as u8);
            // Too old to say how old.
            picture.on_packet(time, sent + 900_000, u8::MAX);
        }
    }
    let truth = captured(10_000);
    let heard = sound.captured(AudioTime::from_ticks(first_sound + 480_000));
    let shown = picture.captured(MediaTime::from_ticks(first_picture + 900_000));
    for found in [heard, shown] {
        let error = found.expect("known") - truth;
        assert!((0..200).contains(&error), "{error} µs");
    }
    // A stream that begins anew is placed anew.
    sound.on_packet(AudioTime::from_ticks(7), truth + 10_000, 10);
    assert_eq!(
        sound.captured(AudioTime::from_ticks(55)),
        Some(truth + 1_000)
    );
}

/// A microphone that is `ppm` fast, read in blocks of `block` samples, each handed over `late_millis` later.
fn capture(
    ppm: f64,
    block: u32,
    seconds: u64,
    late_millis: impl Fn(u64) -> f64,
) -> (CaptureClock, Vec<f64>) {
    let start = Instant::now();
    let mut clock = CaptureClock::new(AudioTime::from_ticks(1_000), start);
    let rate = TICKS * (1.0 + ppm / 1e6);
    let mut errors = Vec::new();
    let (mut last, mut before) = (0, 0.0f64);
    for index in 0..seconds * 48_000 / u64::from(block) {
        let first = (index * u64::from(block)) as f64 / rate;
        let over = ((index + 1) * u64::from(block)) as f64 / rate + late_millis(index) / 1e3;
        before = before.max(over);
        let time = clock.on_samples(start + Duration::from_secs_f64(before), block);
        let time = time.ticks() - 1_000;
        assert!(time >= last, "{time} after {last}");
        if index > 0 {
            assert!(
                time - last <= u64::from(block + 1 + block / 250),
                "{time} after {last}"
            );
        }
        last = time;
        errors.push((time as f64 / TICKS - first) * 1e3);
    }
    (clock, errors)
}

#[test]
fn captured_sound_keeps_to_the_monotonic_clock() {
    for ppm in [-300.0, 0.0, 60.0, 300.0] {
        for block in [24, 480, 1_024] {
            let (clock, errors) = capture(ppm, block, 40, |index| 1.0 + 6.0 * random(index));
            let place = format!("{ppm} {block}");
            let found = clock.drift_ppm();
            assert!((found - ppm).abs() < 60.0, "{place}: {found}");
            // Without the fit it would be off by 12 ms after these 40 s.
            for error in &errors[errors.len() / 4..] {
                assert!((-1.0..4.0).contains(error), "{place}: {error}");
            }
        }
    }
}

#[test]
fn a_device_that_stood_still_is_caught_up_with() {
    let start = Instant::now();
    let mut clock = CaptureClock::new(AudioTime::default(), start);
    let at = |millis: u64| start + Duration::from_millis(millis);
    for block in 0..500 {
        clock.on_samples(at(10 * block + 10), 480);
    }
    // A machine that was busy for 150 ms hands over late, and catches up: no jump.
    for block in 500..515 {
        clock.on_samples(at(5_160), 480);
        assert!(block < 600);
    }
    let time = clock.on_samples(at(5_160), 480).ticks();
    assert!(time.abs_diff(5_150 * 48) < 48, "{time}");
    // Two seconds were never captured.
    for block in 516..600 {
        clock.on_samples(at(10 * block + 2_010), 480);
    }
    let time = clock.on_samples(at(6_010 + 2_000), 480).ticks();
    assert!(time.abs_diff(8_000 * 48) < 96, "{time}");
}

/// Plays both, the picture `own_millis` later than the sound, and does as it is told.
fn align(own_millis: f64, seconds: u64, hold: bool) -> (Sync, Vec<f64>, SyncDelays) {
    let start = Instant::now() + Duration::from_secs(10);
    let mut sync = Sync::new();
    let (mut delays, mut audio) = (SyncDelays::default(), 0.0f64);
    let mut skews = Vec::new();
    for millis in 0..seconds * 1_000 {
        let now = start + Duration::from_millis(millis);
        if millis % 10 == 0 {
            // Stretched by a tenth at most, and known to a few milliseconds.
            let wanted = delays.audio.as_secs_f64() * 1e3;
            audio += (wanted - audio).clamp(-1.0, 1.0);
            let noise = 5.0 * random(millis);
            sync.on_audio(now, ((millis as f64 - audio + noise - 200.0) * 1e3) as i64);
        }
        if millis % 33 == 0 {
            let video = delays.video.as_secs_f64() * 1e3;
            let shown = millis as f64 - own_millis - video - 200.0;
            delays = sync.on_video(now, (shown * 1e3) as i64, hold);
            skews.push(own_millis + delays.video.as_secs_f64() * 1e3 - audio);
        }
    }
    (sync, skews, delays)
}

#[test]
fn the_picture_waits_for_the_sound() {
    let (sync, skews, delays) = align(-200.0, 20, false);
    // One frame each 33 ms, 10 ms each: after two thirds of a second.
    assert!(
        skews[22..].iter().all(|skew| skew.abs() <= TOLERANCE),
        "{skews:?}"
    );
    assert_eq!(delays.audio, Duration::ZERO);
    assert!(
        sync.skew_millis()
            .is_some_and(|skew| skew.abs() <= TOLERANCE)
    );
    // Nothing swings.
    let last = &skews[300..];
    let spread = last.iter().copied().fold(f64::MIN, f64::max)
        - last.iter().copied().fold(f64::MAX, f64::min);
    assert!(spread < 2.0, "{spread}");
}

#[test]
fn the_sound_waits_for_the_picture_slowly_and_not_long() {
    let (_, skews, delays) = align(100.0, 20, false);
    assert!(
        skews[300..].iter().all(|skew| skew.abs() <= TOLERANCE),
        "{skews:?}"
    );
    assert!((55..=85).contains(&delays.audio.as_millis()), "{delays:?}");
    assert_eq!(delays.video, Duration::ZERO);
    let (_, _, delays) = align(200.0, 30, false);
    assert_eq!(delays.audio.as_millis(), 80);
    // Never while the path is in trouble, and not for what is too late anyway.
    assert_eq!(align(100.0, 10, true).2, SyncDelays::default());
    assert_eq!(align(400.0, 20, false).2, SyncDelays::default());
    assert_eq!(align(-400.0, 20, false).2, SyncDelays::default());
}

#[test]
fn what_is_together_is_left_alone() {
    for own in [-35.0, 0.0, 30.0] {
        let (sync, _, delays) = align(own, 10, false);
        assert_eq!(delays, SyncDelays::default(), "{own}");
        assert!(
            sync.skew_millis()
                .is_some_and(|skew| (skew - own).abs() < 6.0)
        );
    }
}

#[test]
fn delays_go_when_they_are_no_longer_needed() {
    let (mut sync, _, delays) = align(-150.0, 10, false);
    assert!(delays.video > Duration::from_millis(80));
    // The sound has caught up: the picture would be late by what it still waits.
    let start = Instant::now() + Duration::from_secs(100);
    let mut delays = delays;
    for frame in 0..300u32 {
        let now = start + Duration::from_millis(33) * frame;
        let playing = i64::from(frame) * 33_000;
        sync.on_audio(now, playing);
        delays = sync.on_video(now, playing - micros(delays.video), false);
    }
    assert!(delays.video <= Duration::from_millis(25), "{delays:?}");
    sync.reset();
    assert_eq!(sync.skew_millis(), None);
}

#[test]
fn pictures_do_not_wait_for_sound_that_catches_up() {
    let start = Instant::now() + Duration::from_secs(100);
    let mut sync = Sync::new();
    // The sound is 600 ms late and works off 200 ms a second; pictures come as ever, each third block.
    for block in 0..500u32 {
        let now = start + Duration::from_millis(10) * block;
        let passed = i64::from(block) * 10_000;
        let late = (600_000 - passed / 5).max(0);
        sync.on_audio(now, passed - late);
        if block % 3 == 0 {
            let delays = sync.on_video(now, passed, false);
            assert_eq!(delays, SyncDelays::default(), "{block}");
        }
    }
    // It stays 150 ms late: now they do.
    let mut delays = SyncDelays::default();
    for block in 500..900u32 {
        let now = start + Duration::from_millis(10) * block;
        let passed = i64::from(block) * 10_000;
        sync.on_audio(now, passed - 150_000);
        if block % 3 == 0 {
            delays = sync.on_video(now, passed - micros(delays.video), false);
        }
    }
    assert!(delays.video > Duration::from_millis(80), "{delays:?}");
}

#[test]
fn without_sound_nothing_is_delayed() {
    let mut sync = Sync::new();
    let now = Instant::now();
    assert_eq!(sync.on_video(now, 5, false), SyncDelays::default());
    sync.on_audio(now, 900_000);
    // Sound that stopped long ago says nothing.
    let late = now + Duration::from_secs(3);
    assert_eq!(sync.on_video(late, 5, false), SyncDelays::default());
    assert_eq!(sync.skew_millis(), None);
}

proptest! {
    #[test]
    fn no_times_break_it(packets in prop::collection::vec((any::<i64>(), 0u64..10_000_000, any::<u64>(), any::<u8>()), 1..60)) {
        let start = Instant::now() + Duration::from_secs(1_000);
        let mut clock = RemoteClock::new();
        let mut stream = StreamClock::<90_000>::new();
        let mut sync = Sync::new();
        let mut capture = CaptureClock::new(AudioTime::from_ticks(3), start);
        for (sent, after, ticks, age) in packets {
            let now = start + Duration::from_micros(after);
            clock.on_packet(sent, now);
            let _ = (clock.local(sent), clock.sender(now));
            prop_assert!(clock.drift_ppm().abs() <= 500.5);
            stream.on_packet(MediaTime::from_ticks(ticks), sent, age);
            let captured = stream.captured(MediaTime::from_ticks(!ticks));
            sync.on_audio(now, sent);
            let delays = sync.on_video(now, captured.unwrap_or(sent), false);
            prop_assert!(delays.video <= Duration::from_millis(250));
            prop_assert!(delays.audio <= Duration::from_millis(80));
            capture.on_samples(now, u32::from(age));
        }
    }
}
