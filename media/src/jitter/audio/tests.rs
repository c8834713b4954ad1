//! The buffer in virtual time: packets come as each test says, a device pulls every 10 ms of its clock, and a
//! decoder that knows the signal as a function of time shows what becomes of it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const RATE: f64 = 48_000.0;
const FREQUENCY: f64 = 330.0;
const LOUDNESS: f64 = 0.3;
/// What a tone moves between two samples at most.
const STEP: f32 = (LOUDNESS * std::f64::consts::TAU * FREQUENCY / RATE) as f32;

/// A signal that repeats itself after `table.len()` samples.
fn repeat(table: &[f32], sample: u64) -> f32 {
    table[(sample % table.len() as u64) as usize]
}

fn tone(sample: u64) -> f32 {
    static SECOND: LazyLock<Vec<f32>> = LazyLock::new(|| {
        let turn = std::f64::consts::TAU * FREQUENCY / RATE;
        let samples = (0..48_000).map(|at| LOUDNESS * (f64::from(at) * turn).sin());
        samples.map(|sample| sample as f32).collect()
    });
    repeat(&SECOND, sample)
}

/// Voiced syllables on a pitch that glides around 120 Hz, four in a second, and pauses between sentences.
fn speech(sample: u64) -> f32 {
    static SENTENCE: LazyLock<Vec<f32>> = LazyLock::new(|| {
        let turn = std::f64::consts::TAU;
        let sample = |at: u32| {
            let time = f64::from(at) / RATE;
            let phase = turn * 120.0 * time + 4.0 * (turn / 1.5 * time).sin();
            let syllable = (turn * 2.0 * time).sin().abs();
            let sentence = if time < 2.4 { 0.15 } else { 0.0 };
            let voice = (1..12).map(|harmonic| {
                let harmonic = f64::from(harmonic);
                (harmonic * phase).sin() / harmonic
            });
            let noise = random(u64::from(at)) - 0.5;
            (voice.sum::<f64>() * syllable * sentence + noise * 0.002) as f32
        };
        (0..144_000).map(sample).collect()
    });
    repeat(&SENTENCE, sample)
}

/// Decodes packets that hold nothing but the time of their first sample and their length.
struct Known {
    signal: fn(u64) -> f32,
    /// Goes on from here when it conceals.
    at: u64,
    fec: bool,
    decoded: Vec<u64>,
    concealed: u64,
}

impl Known {
    fn new(signal: fn(u64) -> f32) -> Self {
        Self {
            signal,
            at: 0,
            fec: false,
            decoded: Vec::new(),
            concealed: 0,
        }
    }
}

fn packet(time: u64, samples: u32) -> Bytes {
    Bytes::from([time.to_be_bytes().as_slice(), &samples.to_be_bytes()].concat())
}

fn parse(packet: &[u8]) -> Option<(u64, u32)> {
    let (time, samples) = packet.split_at_checked(8)?;
    let time = u64::from_be_bytes(time.try_into().ok()?);
    Some((time, u32::from_be_bytes(samples.try_into().ok()?)))
}

impl SoundDecoder for Known {
    fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> Result<(), SoundDecodeError> {
        let (time, samples) = parse(packet).ok_or(SoundDecodeError)?;
        self.decoded.push(time);
        self.at = time + u64::from(samples);
        out.extend((time..self.at).map(self.signal));
        Ok(())
    }

    fn decode_fec(
        &mut self,
        later: &[u8],
        samples: usize,
        out: &mut Vec<f32>,
    ) -> Result<bool, SoundDecodeError> {
        let (time, _) = parse(later).ok_or(SoundDecodeError)?;
        if self.fec {
            out.extend((time - samples as u64..time).map(self.signal));
            self.at = time;
        }
        Ok(self.fec)
    }

    fn conceal(&mut self, samples: usize, out: &mut Vec<f32>) {
        self.concealed += samples as u64;
        let from = self.at;
        self.at += samples as u64;
        out.extend((from..self.at).map(self.signal));
    }
}

/// The times begin five seconds before the 32 bits of the wire wrap, the numbers before their 16.
const FIRST_TIME: u64 = (1 << 33) - 5 * 48_000;
const FIRST_NUMBER: u64 = (1 << 17) - 500;

/// Frame `index` of a stream whose frames have `samples` samples.
fn sound(index: u64, samples: u32) -> Sound {
    let time = FIRST_TIME + index * u64::from(samples);
    Sound {
        number: FIRST_NUMBER + index,
        time: AudioTime::from_ticks(time),
        samples,
        data: packet(time, samples),
        voice: true,
        silence: false,
    }
}

fn body(index: u64, samples: u32, offsets: &[u64]) -> AudioBody {
    let copies = offsets
        .iter()
        .filter_map(|offset| index.checked_sub(*offset));
    AudioBody {
        primary: sound(index, samples),
        copies: copies.map(|copy| sound(copy, samples)).collect(),
    }
}

/// A stream on its way to a device.
struct Run {
    start: Instant,
    buffer: AudioBuffer,
    decoder: Known,
    /// What comes, by when: ns after the start.
    coming: BTreeMap<(u64, u64), AudioBody>,
    pulls: u64,
    /// The device's clock, parts per million fast.
    ppm: i64,
    heard: Vec<f32>,
    pulled: Vec<Pulled>,
    /// At each pull, how much later than it was sent the sound was played, ms.
    delays: Vec<f64>,
}

impl Run {
    fn new(signal: fn(u64) -> f32) -> Self {
        Self {
            start: Instant::now() + Duration::from_secs(1_000),
            buffer: AudioBuffer::new(),
            decoder: Known::new(signal),
            coming: BTreeMap::new(),
            pulls: 0,
            ppm: 0,
            heard: Vec::new(),
            pulled: Vec::new(),
            delays: Vec::new(),
        }
    }

    /// `index` comes `delay_millis` after it was sent.
    fn send(&mut self, index: u64, body: AudioBody, delay_millis: f64) {
        let frame = u64::from(body.primary.samples) * 1_000_000 / 48;
        let at = index * frame + (delay_millis * 1e6) as u64;
        self.coming.insert((at, index), body);
    }

    /// Frames of 10 ms from `range`, each delayed as `delay_millis` says; `None` is a loss.
    fn send_all(
        &mut self,
        range: std::ops::Range<u64>,
        offsets: &[u64],
        delay_millis: impl Fn(u64) -> Option<f64>,
    ) {
        for index in range {
            if let Some(delay) = delay_millis(index) {
                self.send(index, body(index, 480, offsets), delay);
            }
        }
    }

    /// Until `millis` after the start.
    fn until(&mut self, millis: u64) {
        loop {
            // A phase of 3.7 ms, so that nothing happens at one moment.
            let nominal = self.pulls * 10_000_000 + 3_700_000;
            let at = nominal as i64 - nominal as i64 / 1_000 * self.ppm / 1_000;
            let at = at as u64;
            if at >= millis * 1_000_000 {
                return;
            }
            while let Some(entry) = self.coming.first_entry() {
                if entry.key().0 > at {
                    break;
                }
                let arrival = self.start + Duration::from_nanos(entry.key().0);
                self.buffer.insert(arrival, &entry.remove());
            }
            let mut out = [0.0; PULL_SAMPLES];
            let now = self.start + Duration::from_nanos(at);
            self.pulled
                .push(self.buffer.pull(now, &mut self.decoder, &mut out));
            self.heard.extend(out);
            self.pulls += 1;
            let played = self.buffer.playing_time().map_or(0, AudioTime::ticks);
            let sent = played.wrapping_sub(FIRST_TIME) as i64 as f64 / 48.0;
            self.delays.push(at as f64 / 1e6 - sent);
        }
    }

    /// The delays of the pulls between two times, sorted.
    fn delays(&self, millis: std::ops::Range<usize>) -> Vec<f64> {
        let mut delays = self.delays[millis.start / 10..millis.end / 10].to_vec();
        delays.sort_by(f64::total_cmp);
        delays
    }

    fn mean_delay(&self, millis: std::ops::Range<usize>) -> f64 {
        let delays = self.delays(millis);
        delays.iter().sum::<f64>() / delays.len() as f64
    }

    /// The largest difference between neighbours from `millis` on.
    fn largest_step(&self, millis: usize) -> f32 {
        let heard = &self.heard[millis * 48..];
        let steps = heard.windows(2).map(|pair| (pair[1] - pair[0]).abs());
        steps.fold(0.0, f32::max)
    }

    fn stats(&self) -> AudioStats {
        *self.buffer.stats()
    }
}

/// Even in 0 to 1, from a number.
fn random(index: u64) -> f64 {
    let mut state = index
        .wrapping_add(0x1234_5678)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state ^= state >> 29;
    state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (state >> 32) as f64 / f64::from(u32::MAX)
}

#[test]
fn on_a_clean_path_sound_waits_for_less_than_a_frame() {
    let mut run = Run::new(tone);
    run.send_all(0..1_000, &[], |index| Some(25.0 + random(index)));
    run.until(10_000);
    let stats = run.stats();
    assert_eq!((stats.concealed_samples, stats.frames_missing), (0, 0));
    let delays = run.delays(3_000..10_000);
    assert!(
        delays[0] > 25.0 && delays[delays.len() - 1] < 25.0 + 18.0,
        "{delays:?}"
    );
    assert!(
        run.largest_step(100) < STEP * 1.3,
        "{}",
        run.largest_step(100)
    );
    assert_eq!(run.buffer.stats().total_samples, 480 * 1_000);
    // No more is in it than a frame or two.
    assert!(run.buffer.buffer_millis() <= 20);
    let waited =
        stats.jitter_buffer_delay.as_secs_f64() * 1e3 / stats.jitter_buffer_emitted_count as f64;
    assert!((2.0..18.0).contains(&waited), "{waited}");
}

#[test]
fn one_late_packet_makes_no_hole() {
    // Alone, overtaken by none, by one, or by several; or with all that follow it behind it.
    for late in [5.0, 9.0, 14.0, 22.0, 60.0] {
        for all in [false, true] {
            let mut run = Run::new(tone);
            run.send_all(0..1_000, &[], |index| {
                let behind = 500.0 + late / 10.0;
                let mine = if index == 500 || (all && (500.0..behind).contains(&(index as f64))) {
                    late - (index - 500) as f64 * 10.0
                } else {
                    0.0
                };
                Some(25.0 + mine)
            });
            run.until(10_000);
            let stats = run.stats();
            let place = format!("{late} {all} {stats:?}");
            // What was made up sounds on, and only for what was not there.
            let held = if all { late + 10.0 } else { 10.0 };
            assert!(stats.concealed_samples as f64 <= held * 48.0, "{place}");
            assert!(!all || stats.frames_missing == 0, "{place}");
            let step = run.largest_step(100);
            assert!(step < STEP * 1.5, "{place} {step} of {STEP}");
            let softest = run.heard[4_800..].chunks(240).map(|part| {
                part.iter()
                    .fold(0.0f32, |most, sample| most.max(sample.abs()))
            });
            let softest = softest.fold(1.0, f32::min);
            assert!(softest > 0.2, "{place} {softest}");
            // Worked off again: what one packet did is forgotten in three seconds.
            let after = run.mean_delay(9_000..10_000);
            assert!(after < 25.0 + 18.0, "{place} {after}");
        }
    }
}

#[test]
fn a_lost_frame_costs_its_own_length() {
    let mut run = Run::new(tone);
    run.send_all(0..1_000, &[], |index| (index % 50 != 49).then_some(25.0));
    run.until(10_000);
    let stats = run.stats();
    assert_eq!(stats.frames_missing, 20 - 1);
    assert_eq!(stats.concealed_samples, 480 * (20 - 1));
    assert_eq!(stats.concealment_events, 20 - 1);
    assert_eq!(stats.silent_concealed_samples, 0);
    assert!(run.largest_step(100) < STEP * 1.5);
    // With what the next packet knows of it, if that is waited for, it costs nothing.
    let mut run = Run::new(tone);
    run.decoder.fec = true;
    run.buffer.set_repair_delay(Duration::from_millis(20));
    run.send_all(0..1_000, &[], |index| (index % 50 != 49).then_some(25.0));
    run.until(9_950);
    let stats = run.stats();
    assert_eq!((stats.frames_from_fec, stats.frames_missing), (19, 0));
    assert_eq!(stats.concealed_samples, 0);
    assert!(run.largest_step(100) < STEP * 1.3);
    // Several at once, too, with deep redundancy.
    let mut run = Run::new(tone);
    run.decoder.fec = true;
    run.buffer.set_repair_delay(Duration::from_millis(50));
    run.send_all(0..1_000, &[], |index| (index % 50 < 46).then_some(25.0));
    run.until(9_950);
    let stats = run.stats();
    assert_eq!((stats.frames_from_fec, stats.frames_missing), (19 * 4, 0));
    assert_eq!(stats.concealed_samples, 0);
    assert!(run.largest_step(100) < STEP * 1.3);
}

#[test]
fn frames_of_every_length_and_changes_between_them() {
    let mut run = Run::new(tone);
    let mut time = 0;
    let mut number = 0;
    for samples in [480, 960, 1_920, 2_880, 480, 960] {
        for _ in 0..(96_000 / samples) {
            let mut sound = sound(0, samples);
            sound.number += number;
            sound.time = AudioTime::from_ticks(FIRST_TIME + time);
            sound.data = packet(FIRST_TIME + time, samples);
            // Sent when its last sample is there.
            let ready = (time + u64::from(samples)) * 1_000_000 / 48;
            let body = AudioBody {
                primary: sound,
                copies: Vec::new(),
            };
            run.coming.insert((ready + 25_000_000, number), body);
            number += 1;
            time += u64::from(samples);
        }
    }
    run.until(12_000);
    let stats = run.stats();
    assert_eq!(stats.frames_missing, 0);
    // A longer frame is later once, when its length comes up.
    assert!(stats.concealed_samples <= 110 * 48, "{stats:?}");
    assert!(run.largest_step(100) < STEP * 1.5);
}

#[test]
fn jitter_is_covered_by_the_target() {
    for jitter in [0.0, 10.0, 20.0, 40.0, 60.0] {
        let mut run = Run::new(speech);
        run.send_all(0..3_000, &[], |index| Some(25.0 + jitter * random(index)));
        run.until(30_000);
        let stats = run.stats();
        // What is late is overtaken, since delays are drawn for each packet: it is lost for the sound.
        let share = stats.concealed_samples as f64 / stats.total_samples as f64;
        assert!(share < 0.01, "{jitter}: {share} {stats:?}");
        let mean = run.mean_delay(5_000..30_000) - 25.0;
        assert!(mean < jitter + 18.0, "{jitter}: {mean}");
    }
}

#[test]
fn a_backlog_is_worked_off() {
    for (outage, within) in [(100.0, 1_000), (200.0, 1_500), (350.0, 2_000), (700.0, 500)] {
        let mut run = Run::new(speech);
        // From the fifth second nothing comes, then all at once.
        run.send_all(0..1_500, &[], |index| {
            let sent = index as f64 * 10.0;
            let behind = if (5_000.0..5_000.0 + outage).contains(&sent) {
                5_000.0 + outage - sent
            } else {
                0.0
            };
            Some(25.0 + behind)
        });
        run.until(15_000);
        let stats = run.stats();
        let place = format!("{outage} {stats:?}");
        let back = 5_000 + outage as usize + 50;
        let after = run.delays(back + within..back + within + 200);
        assert!(after[after.len() - 1] < 25.0 + 90.0, "{place} {after:?}");
        let later = run.mean_delay(12_000..15_000);
        assert!(later < 25.0 + 20.0, "{place} {later}");
        // The outage itself is concealed, and hardly anything else.
        let made = stats.concealed_samples as f64 / 48.0;
        assert!(
            (outage - 20.0..outage + 60.0).contains(&made),
            "{place} {made}"
        );
        assert_eq!(stats.jumps, u64::from(outage > 400.0), "{place}");
    }
}

#[test]
fn sound_is_back_soon_after_an_outage_with_loss() {
    let mut run = Run::new(speech);
    run.send_all(0..1_500, &[], |index| {
        (!(500..800).contains(&index)).then_some(25.0)
    });
    run.until(15_000);
    let stats = run.stats();
    let quiet = stats.concealed_samples / 48;
    assert!((2_980..3_060).contains(&quiet), "{stats:?}");
    assert!(stats.silent_concealed_samples / 48 > 2_800);
    assert_eq!(stats.frames_missing, 100, "counted up to a bound");
    let noise = rms(&run.heard[6_000 * 48..7_000 * 48]);
    assert!((1e-4..0.005).contains(&noise), "{noise}");
    assert_eq!(run.pulled[806], Pulled::Played);
    assert!(run.mean_delay(14_000..15_000) < 25.0 + 18.0);
}

#[test]
fn drifting_clocks_keep_their_level() {
    for ppm in [-500, -100, 100, 500] {
        for samples in [480, 960] {
            let mut run = Run::new(speech);
            run.ppm = ppm;
            let count = 61 * 48_000 / u64::from(samples);
            for index in 0..count {
                let delay = 25.0 + random(index) * 4.0;
                run.send(index, body(index, samples, &[]), delay);
            }
            run.until(60_000);
            let stats = run.stats();
            let place = format!("{ppm} {samples} {stats:?}");
            for from in (5_000..55_000).step_by(5_000) {
                let delays = run.delays(from..from + 5_000);
                let last = delays[delays.len() - 1];
                assert!(
                    delays[0] > 20.0 && last < 25.0 + 40.0,
                    "{place} {from} {last}"
                );
            }
            let share = stats.concealed_samples as f64 / stats.total_samples as f64;
            assert!(share < 0.000_5, "{place} {share}");
        }
    }
}

#[test]
fn a_tone_keeps_its_pitch_while_it_is_stretched() {
    let mut run = Run::new(tone);
    run.send_all(0..1_500, &[], |_| Some(25.0));
    run.until(1_000);
    run.buffer.set_repair_delay(Duration::from_millis(200));
    run.until(5_000);
    let late = run.mean_delay(4_000..5_000);
    assert!((200.0 + 25.0 - 60.0..260.0).contains(&late), "{late}");
    run.buffer.set_repair_delay(Duration::ZERO);
    run.until(15_000);
    assert!(run.mean_delay(8_000..15_000) < 25.0 + 18.0);
    let stats = run.stats();
    assert!(
        stats.inserted_samples_for_deceleration > 100 * 48,
        "{stats:?}"
    );
    assert!(
        stats.removed_samples_for_acceleration > 150 * 48,
        "{stats:?}"
    );
    assert_eq!(stats.concealed_samples, 0);
    assert!(
        run.largest_step(100) < STEP * 1.3,
        "{}",
        run.largest_step(100)
    );
    // Rises through zero, counted while the sound was lengthened and while it was shortened.
    for from in [1_000, 5_000] {
        let heard = &run.heard[from * 48..(from + 1_000) * 48];
        let rises = heard
            .windows(2)
            .filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0);
        let rises = rises.count() as f64;
        assert!((rises - FREQUENCY).abs() <= 4.0, "{rises} a second");
    }
}

#[test]
fn copies_repair_a_fifth_of_loss() {
    let lost = |index: u64| random(index) < 0.2;
    let mut run = Run::new(speech);
    run.send_all(0..6_000, &[1, 3], |index| (!lost(index)).then_some(25.0));
    run.buffer.set_repair_delay(Duration::from_millis(30));
    run.until(60_000);
    let stats = run.stats();
    // All three copies of a frame are lost in 0.8 %.
    let share = stats.concealed_samples as f64 / stats.total_samples as f64;
    assert!((0.004..0.013).contains(&share), "{share} {stats:?}");
    assert!(stats.frames_from_copies > 1_000, "{stats:?}");
    let mean = run.mean_delay(5_000..60_000);
    assert!(mean < 25.0 + 50.0, "{mean}");
    let decoded = &run.decoder.decoded;
    assert!(
        decoded.windows(2).all(|pair| pair[0] < pair[1]),
        "in order, none twice"
    );
}

#[test]
fn what_is_sent_again_is_played_in_time_and_not_waited_for() {
    for (again_millis, concealed) in [(30.0, false), (90.0, true)] {
        let mut run = Run::new(speech);
        run.buffer.set_repair_delay(Duration::from_millis(30));
        // Every 20th is lost, and so are its copies.
        run.send_all(0..1_000, &[], |index| (index % 20 != 7).then_some(25.0));
        for index in (7..1_000).step_by(20) {
            run.send(index, body(index, 480, &[]), 25.0 + again_millis);
        }
        run.until(9_900);
        let delay = run.mean_delay(4_000..9_900);
        assert!((55.0..70.0).contains(&delay), "{delay}");
        let stats = run.stats();
        let most = if concealed { 50 * 480 } else { 480 };
        assert!(stats.concealed_samples <= most, "{stats:?}");
        assert_eq!(stats.frames_late > 40, concealed);
    }
}

#[test]
fn silence_of_the_sender_is_no_loss() {
    let mut run = Run::new(speech);
    for index in 0..1_500u64 {
        // Two seconds of silence, of which each 20th frame is sent; numbers count what is sent.
        let quiet = (500..700).contains(&index);
        if quiet && index % 20 != 0 {
            continue;
        }
        let unsent = index.saturating_sub(500).min(200);
        let mut body = body(index, 480, &[]);
        body.primary.number = FIRST_NUMBER + index - unsent + unsent.div_ceil(20);
        body.primary.silence = quiet;
        run.send(index, body, 25.0);
    }
    run.until(15_000);
    let stats = run.stats();
    assert_eq!((stats.concealed_samples, stats.frames_missing), (0, 0));
    assert!(run.pulled[520..690].contains(&Pulled::Quiet));
    let delays = run.delays(4_000..15_000);
    assert!(delays[delays.len() / 2] < 25.0 + 18.0);
    assert_eq!(run.pulled[720], Pulled::Played);
}

#[test]
fn a_path_switch_is_followed() {
    for delay in [5.0, 120.0] {
        let mut run = Run::new(speech);
        run.send_all(0..1_500, &[], |index| {
            Some(if index < 500 { 40.0 } else { delay })
        });
        run.until(5_000);
        run.buffer
            .on_path_switch(run.start + Duration::from_secs(5));
        run.until(15_000);
        let stats = run.stats();
        let made = stats.concealed_samples as f64 / 48.0;
        assert!(made <= (delay - 40.0).max(0.0) + 30.0, "{delay} {stats:?}");
        assert!(run.mean_delay(6_500..7_000) < delay + 50.0);
        assert!(run.mean_delay(13_000..15_000) < delay + 18.0);
    }
}

#[test]
fn the_picture_may_ask_for_time() {
    let mut run = Run::new(speech);
    run.send_all(0..1_500, &[], |_| Some(25.0));
    run.until(5_000);
    run.buffer.set_sync_delay(Duration::from_millis(60));
    run.until(15_000);
    let delay = run.mean_delay(13_000..15_000);
    assert!((25.0 + 45.0..25.0 + 76.0).contains(&delay), "{delay}");
    assert_eq!(run.stats().concealed_samples, 0);
}

#[test]
fn a_sender_that_begins_anew_is_heard_again() {
    let mut run = Run::new(speech);
    run.send_all(0..500, &[], |_| Some(25.0));
    run.until(5_000);
    for index in 500..1_000 {
        let mut body = body(index, 480, &[]);
        body.primary.time = AudioTime::from_ticks(77 + index * 480);
        body.primary.number = index - 500;
        run.send(index, body, 25.0);
    }
    run.until(10_000);
    assert_eq!(run.stats().restarts, 1);
    assert!(run.stats().concealed_samples < 100 * 48);
    assert_eq!(run.pulled[999], Pulled::Played);
}

#[test]
fn a_time_that_stands_still_is_not_told() {
    let mut run = Run::new(speech);
    run.send_all(0..500, &[], |_| Some(25.0));
    // The sender's microphone is gone for 2 s.
    run.send_all(700..1_000, &[], |_| Some(25.0));
    run.until(5_000);
    assert!(run.buffer.playing_time().is_some());
    run.until(6_000);
    assert_eq!(run.buffer.playing_time(), None);
    run.until(9_000);
    assert!(run.buffer.playing_time().is_some());
}

#[test]
fn reports_know_what_is_missing() {
    let mut buffer = AudioBuffer::new();
    let mut decoder = Known::new(tone);
    assert_eq!((buffer.progress(), buffer.playing_time()), (None, None));
    let start = Instant::now();
    for index in [0, 1, 2, 4, 5, 8] {
        let arrival = start + Duration::from_millis(10 * index);
        buffer.insert(arrival, &body(index, 480, &[]));
    }
    let mut out = [0.0; PULL_SAMPLES];
    let later = start + Duration::from_millis(20);
    assert_eq!(buffer.pull(later, &mut decoder, &mut out), Pulled::Waiting);
    assert_eq!(buffer.buffer_millis(), 60);
    let later = start + Duration::from_millis(45);
    assert_eq!(buffer.pull(later, &mut decoder, &mut out), Pulled::Played);
    assert_eq!(buffer.progress(), Some((FIRST_NUMBER, FIRST_NUMBER + 3)));
    assert_eq!(
        buffer.playing_time(),
        None,
        "the pull before began with silence"
    );
}

#[test]
fn duplicates_and_floods_are_bounded() {
    let mut buffer = AudioBuffer::new();
    let start = Instant::now();
    for index in 0..1_000 {
        let inserted = buffer.insert(start, &body(index, 480, &[]));
        assert_eq!((inserted.new, inserted.late), (1, 0));
        let again = buffer.insert(start, &body(index, 480, &[]));
        assert_eq!((again.new, again.late), (0, 0));
    }
    let stats = *buffer.stats();
    assert_eq!(stats.frames_overflowed, 1_000 - MAX_QUEUED as u64);
    assert_eq!(stats.frames_duplicate, 1_000);
    assert_eq!(buffer.buffer_millis(), 1_000);
}

#[derive(Debug, Clone)]
enum Move {
    Insert {
        number: u64,
        time: u64,
        samples: u32,
        silence: bool,
        good: bool,
        copy: bool,
    },
    Pull {
        after_millis: u64,
    },
    Switch,
}

fn moves() -> impl Strategy<Value = Move> {
    let near = (0u64..60).prop_map(|number| (number, FIRST_TIME + number * 480));
    let wild = (any::<u64>(), any::<u64>());
    let place = prop_oneof![8 => near, 1 => wild];
    let samples = prop_oneof![8 => Just(480u32), 1 => any::<u32>(), 1 => 0u32..6_000];
    let insert = (place, samples, any::<(bool, bool, bool)>()).prop_map(
        |((number, time), samples, (silence, good, copy))| Move::Insert {
            number,
            time,
            samples,
            silence,
            good,
            copy,
        },
    );
    prop_oneof![
        6 => insert,
        6 => (0u64..30).prop_map(|after_millis| Move::Pull { after_millis }),
        1 => Just(Move::Switch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_of_packets_breaks_it(moves in prop::collection::vec(moves(), 1..150)) {
        let mut buffer = AudioBuffer::new();
        let mut decoder = Known::new(tone);
        let mut now = Instant::now() + Duration::from_secs(100);
        let mut pulls = 0;
        for made in moves {
            match made {
                Move::Insert { number, time, samples, silence, good, copy } => {
                    let data = if good {
                        packet(time % (1 << 40), samples.min(9_000))
                    } else {
                        Bytes::from_static(b"bad")
                    };
                    let time = AudioTime::from_ticks(time);
                    let sound = Sound { number, time, samples, data, voice: false, silence };
                    buffer.insert_sound(now, &sound, copy);
                }
                Move::Pull { after_millis } => {
                    now += Duration::from_millis(after_millis);
                    let mut out = [9.0; PULL_SAMPLES];
                    buffer.pull(now, &mut decoder, &mut out);
                    pulls += 1;
                    prop_assert!(out.iter().all(|sample| sample.abs() <= 1.0));
                }
                Move::Switch => buffer.on_path_switch(now),
            }
            prop_assert!(buffer.queue.len() <= MAX_QUEUED);
            prop_assert!(buffer.line.len() < WINDOW + 20_000);
            prop_assert!(buffer.target() <= MAX_TARGET);
        }
        let stats = *buffer.stats();
        prop_assert_eq!(stats.total_samples, pulls * 480);
    }
}
