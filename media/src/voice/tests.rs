use std::sync::LazyLock;

use super::*;

const SECONDS: usize = 10;
const SAMPLES: usize = SECONDS * RATE as usize;

/// Even noise in −1 to 1.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as f32 / u32::MAX as f32 * 2.0 - 1.0
    }
}

/// A voice: harmonics on a gliding pitch through two formants, syllables, hiss between them, and pauses.
fn speak(pitch: f32, seed: u32) -> Vec<f32> {
    let turn = std::f32::consts::TAU;
    let mut noise = Noise(seed);
    let (mut phase, mut out) = (0.0f32, Vec::with_capacity(SAMPLES));
    let (mut near, mut far) = ([0.0f32; 2], [0.0f32; 2]);
    for at in 0..SAMPLES {
        let time = at as f32 / RATE as f32;
        phase = (phase + pitch * (1.0 + 0.15 * (turn * 0.9 * time).sin()) / RATE as f32).fract();
        let syllable = (turn * 1.7 * time).sin().max(0.0).sqrt();
        let hiss = (-(turn * 1.7 * time).sin() - 0.6).max(0.0);
        let sentence = if (time + pitch / 100.0) % 4.0 < 3.0 {
            1.0
        } else {
            0.0
        };
        // A pulse train, as the glottis makes it, softened.
        let pulse = (1.0 - phase).powi(6) - 1.0 / 7.0;
        let source = sentence * (pulse * syllable + 0.3 * noise.next() * hiss);
        let first = resonate(&mut near, source, 500.0 + 250.0 * (turn * 1.1 * time).sin());
        let second = resonate(
            &mut far,
            source,
            1_700.0 + 500.0 * (turn * 0.8 * time).cos(),
        );
        out.push(first + 0.5 * second);
    }
    // Half of full scale, above the hiss of a microphone.
    let peak = out
        .iter()
        .fold(0.0f32, |most, sample| most.max(sample.abs()));
    out.into_iter()
        .map(|sample| sample / peak * 0.5 + noise.next() * 0.000_3)
        .collect()
}

/// A resonance of 120 Hz width.
fn resonate(state: &mut [f32; 2], input: f32, frequency: f32) -> f32 {
    let turn = std::f32::consts::TAU / RATE as f32;
    let radius = 1.0 - turn * 60.0;
    let output =
        input + 2.0 * radius * (turn * frequency).cos() * state[0] - radius * radius * state[1];
    *state = [output, state[0]];
    output * 0.15
}

static FAR: LazyLock<Vec<f32>> = LazyLock::new(|| speak(110.0, 7));
static NEAR: LazyLock<Vec<f32>> = LazyLock::new(|| speak(190.0, 99));

/// What a microphone hears of the loudspeaker: after `millis`, by a dozen ways that fade.
fn echo(far: &[f32], millis: usize) -> Vec<f32> {
    let mut noise = Noise(3);
    let ways: Vec<(usize, f32)> = (0..12)
        .map(|way| {
            let delay = millis * 48 + way * way * 11;
            (delay, 0.5 * 0.7f32.powi(way as i32) * noise.next().signum())
        })
        .collect();
    (0..far.len())
        .map(|at| {
            let heard = ways
                .iter()
                .filter_map(|&(delay, loudness)| Some(far[at.checked_sub(delay)?] * loudness));
            heard.sum()
        })
        .collect()
}

/// Runs both directions through a processor; `None` where nobody speaks. Returns what is sent.
fn process(config: VoiceConfig, far: Option<&[f32]>, microphone: &[f32]) -> (Vec<f32>, Vec<bool>) {
    let mut processor = VoiceProcessor::new(config);
    processor.set_delay(Duration::from_millis(60));
    let (mut sent, mut voices) = (Vec::with_capacity(microphone.len()), Vec::new());
    let quiet = vec![0.0; microphone.len()];
    let far = far.unwrap_or(&quiet).as_chunks::<BLOCK>().0;
    for (far, heard) in far.iter().zip(microphone.as_chunks::<BLOCK>().0) {
        processor.process_render(far);
        let mut block = *heard;
        voices.push(processor.process_capture(&mut block).voice);
        sent.extend(block);
    }
    assert_eq!(processor.failures(), 0);
    (sent, voices)
}

fn power(samples: &[f32]) -> f32 {
    samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len() as f32
}

/// `first` over `second`, dB.
fn ratio(first: &[f32], second: &[f32]) -> f32 {
    10.0 * (power(first) / power(second).max(1e-12)).log10()
}

/// The correlation of what is `sent` with what was `said`, up to 30 ms before it, by loudness in blocks of
/// 5 ms: the high pass and the bands turn phases, which nobody hears.
fn likeness(said: &[f32], sent: &[f32]) -> f32 {
    let loudness = |sound: &[f32]| -> Vec<f32> {
        let loudness: Vec<f32> = sound.chunks(240).map(|part| power(part).sqrt()).collect();
        let mean = loudness.iter().sum::<f32>() / loudness.len() as f32;
        loudness.into_iter().map(|part| part - mean).collect()
    };
    let (said, sent) = (loudness(said), loudness(sent));
    let likeness = |lag: usize| {
        let (said, sent) = (&said[..said.len() - lag], &sent[lag..]);
        let both: f32 = said.iter().zip(sent).map(|(a, b)| a * b).sum();
        both / said.len() as f32 / (power(said) * power(sent)).sqrt()
    };
    (0..7).map(likeness).fold(0.0, f32::max)
}

/// The seconds in which the filters have settled.
const SETTLED: std::ops::Range<usize> = 5 * RATE as usize..SAMPLES;

const ECHO_ONLY: VoiceConfig = VoiceConfig {
    echo: true,
    noise: false,
    gain: false,
};

#[test]
fn the_far_voice_does_not_come_back() {
    for millis in [20, 120, 250] {
        let microphone = echo(&FAR, millis);
        let (sent, _) = process(ECHO_ONLY, Some(&FAR), &microphone);
        let enhancement = ratio(&microphone[SETTLED], &sent[SETTLED]);
        assert!(enhancement >= 20.0, "{millis} ms: {enhancement} dB");
    }
}

#[test]
fn without_the_canceller_it_does() {
    let microphone = echo(&FAR, 60);
    let config = VoiceConfig {
        echo: false,
        ..VoiceConfig::default()
    };
    let (sent, _) = process(config, Some(&FAR), &microphone);
    assert!(ratio(&microphone[SETTLED], &sent[SETTLED]) < 6.0);
}

#[test]
fn the_near_voice_is_kept() {
    for config in [
        ECHO_ONLY,
        VoiceConfig {
            gain: false,
            ..VoiceConfig::default()
        },
    ] {
        let (sent, _) = process(config, None, &NEAR);
        let kept = ratio(&sent[SETTLED], &NEAR[SETTLED]);
        assert!(kept.abs() < 3.0, "{config:?}: {kept} dB");
        let like = likeness(&NEAR[SETTLED], &sent[SETTLED]);
        assert!(like > 0.95, "{config:?}: {like}");
    }
}

#[test]
fn both_may_speak_at_once() {
    let mut microphone = echo(&FAR, 80);
    let near_from = SETTLED.start;
    for (heard, near) in microphone[near_from..].iter_mut().zip(&NEAR[near_from..]) {
        *heard += near;
    }
    let (sent, _) = process(ECHO_ONLY, Some(&FAR), &microphone);
    let kept = ratio(&sent[SETTLED], &NEAR[SETTLED]);
    assert!((-9.0..3.0).contains(&kept), "{kept} dB");
    let like = likeness(&NEAR[SETTLED], &sent[SETTLED]);
    assert!(like > 0.7, "{like}");
}

#[test]
fn steady_noise_is_taken_out_and_soft_voices_are_raised() {
    let mut noise = Noise(5);
    let hum: Vec<f32> = (0..SAMPLES).map(|_| noise.next() * 0.01).collect();
    let config = VoiceConfig {
        noise: true,
        ..VoiceConfig::OFF
    };
    let (sent, _) = process(config, None, &hum);
    let less = ratio(&hum[SETTLED], &sent[SETTLED]);
    assert!(less > 8.0, "{less} dB");
    let soft: Vec<f32> = NEAR.iter().map(|sample| sample * 0.15).collect();
    let config = VoiceConfig {
        gain: true,
        ..VoiceConfig::OFF
    };
    let (sent, _) = process(config, None, &soft);
    let more = ratio(&sent[SETTLED], &soft[SETTLED]);
    assert!(more > 5.0, "{more} dB");
    assert!(Level::of(&sent).peak_dbfs <= 0.0);
}

#[test]
fn with_all_off_nothing_changes() {
    let (sent, _) = process(VoiceConfig::OFF, Some(&FAR), &NEAR);
    assert_eq!(sent, *NEAR);
}

#[test]
fn parts_are_switched_while_it_runs() {
    let mut processor = VoiceProcessor::new(VoiceConfig::OFF);
    for (index, chunk) in NEAR.as_chunks::<BLOCK>().0.iter().enumerate().take(400) {
        let bits = index / 50;
        processor.set_config(VoiceConfig {
            echo: bits & 1 != 0,
            noise: bits & 2 != 0,
            gain: bits & 4 != 0,
        });
        processor.process_render(chunk);
        let mut block = *chunk;
        let made = processor.process_capture(&mut block);
        assert!(block.iter().all(|sample| sample.abs() <= 1.0));
        assert!(made.level.rms_dbfs <= made.level.peak_dbfs);
    }
    assert_eq!(processor.failures(), 0);
}

#[test]
fn bad_samples_do_no_harm() {
    let mut processor = VoiceProcessor::new(VoiceConfig::default());
    let mut bad = [f32::NAN; BLOCK];
    bad[5] = f32::INFINITY;
    bad[6] = -1e30;
    processor.process_render(&bad);
    let made = processor.process_capture(&mut bad);
    assert!(bad.iter().all(|sample| sample.is_finite()), "{made:?}");
    let (mut heard, mut loudest) = (false, 0.0f32);
    for chunk in NEAR.as_chunks::<BLOCK>().0.iter().take(300) {
        let mut block = *chunk;
        heard |= processor.process_capture(&mut block).voice;
        loudest = block
            .iter()
            .fold(loudest, |most, sample| most.max(sample.abs()));
    }
    assert!(heard && loudest > 0.01 && loudest <= 1.0);
}

#[test]
fn levels_are_in_decibels() {
    assert_eq!(Level::of(&[]), Level::default());
    assert_eq!(Level::of(&[0.0; 480]), Level::default());
    let square: Vec<f32> = (0..480)
        .map(|at| if at % 2 == 0 { 0.1 } else { -0.1 })
        .collect();
    let level = Level::of(&square);
    assert!((level.peak_dbfs + 20.0).abs() < 0.01 && (level.rms_dbfs + 20.0).abs() < 0.01);
    assert_eq!(Level::of(&[f32::NAN, 1.0]).peak_dbfs, 0.0);
}

/// For each block whether it is taken for voice.
fn detect(samples: &[f32]) -> Vec<bool> {
    let mut detector = VoiceDetector::new();
    let blocks = samples.as_chunks::<BLOCK>().0.iter();
    blocks.map(|block| detector.process(block)).collect()
}

fn share(blocks: &[bool]) -> f32 {
    blocks.iter().filter(|voice| **voice).count() as f32 / blocks.len() as f32
}

#[test]
fn speech_is_told_from_noise() {
    let mut noise = Noise(11);
    for loudness in [0.000_1, 0.003, 0.03] {
        // White, and with the spectrum of a fan.
        let mut low = 0.0;
        let hiss: Vec<f32> = (0..SAMPLES).map(|_| noise.next() * loudness).collect();
        let fan: Vec<f32> = hiss
            .iter()
            .map(|sample| {
                low += 0.05 * (sample - low);
                low * 4.0
            })
            .collect();
        for (name, background) in [("hiss", &hiss), ("fan", &fan)] {
            let voice = share(&detect(background));
            assert!(voice < 0.03, "{name} {loudness}: {voice}");
        }
        // Speech over it is found, as far as it is louder.
        let both: Vec<f32> = NEAR
            .iter()
            .zip(&hiss)
            .map(|(near, hiss)| near + hiss * 0.3)
            .collect();
        let found = detect(&both);
        let truth = NEAR.as_chunks::<BLOCK>().0;
        let spoken = truth
            .iter()
            .zip(&found)
            .filter(|(block, _)| power(*block) > 1e-4);
        let spoken: Vec<bool> = spoken.map(|(_, voice)| *voice).collect();
        assert!(spoken.len() > 200);
        assert!(share(&spoken) > 0.9, "{loudness}: {}", share(&spoken));
    }
    // Keys and clicks are no voice.
    let clicks: Vec<f32> = (0..SAMPLES)
        .map(|at| {
            if at % 12_000 < 400 {
                noise.next() * 0.4
            } else {
                noise.next() * 0.001
            }
        })
        .collect();
    assert!(share(&detect(&clicks)) < 0.05);
}

#[test]
fn words_are_not_cut_and_pauses_are_seen() {
    let found = detect(&NEAR);
    // Sentences of three seconds, pauses of one: no more than a few changes.
    let changes = found.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!((4..=10).contains(&changes), "{changes}");
    assert!((0.7..0.9).contains(&share(&found)), "{}", share(&found));
}
