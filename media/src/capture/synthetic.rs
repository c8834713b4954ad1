//! Sources that need no device: a moving picture that compresses as a camera's does and carries frame stamps,
//! and a tone with marks.

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    BLOCK, CaptureClock, CaptureError, Content, PictureInfo, PictureSource, SoundBlock, SoundInfo,
    SoundSource, Tone, pace::Pace, stamp,
};
use crate::{AudioTime, Picture, PictureSize, VideoTime};

/// How much the pixels of the background flicker, steps of luma each way: a camera indoors.
const NOISE: i8 = 2;
/// Seconds that the figure takes for one round.
const ROUND: f32 = 7.0;
/// Every scene is the same, so that runs can be compared.
const SEED: u64 = 0x1a9d;

/// A figure that moves before a textured, slightly noisy wall, with a frame stamp on top.
#[derive(Debug)]
pub struct PatternSource {
    clock: CaptureClock,
    pace: Pace,
    scene: Scene,
    dropped: u64,
}

impl PatternSource {
    /// Pictures of `size`, `frames_per_second` (1 to 240) of them.
    pub fn new(size: PictureSize, frames_per_second: f32, clock: CaptureClock) -> Self {
        Self {
            clock,
            pace: Pace::new(frames_per_second),
            scene: Scene::new(size),
            dropped: 0,
        }
    }
}

impl PictureSource for PatternSource {
    fn next(&mut self, timeout: Duration) -> Result<Option<Picture>, CaptureError> {
        let Some(turn) = self.pace.wait(timeout) else {
            return Ok(None);
        };
        self.dropped += turn.missed;
        let seconds = turn.index as f32 / self.pace.rate();
        let mut picture = self
            .scene
            .draw(seconds, turn.index, self.clock.video(turn.due));
        stamp::write(&mut picture, turn.index as u32);
        Ok(Some(picture))
    }

    fn describe(&self) -> PictureInfo {
        PictureInfo {
            name: "pattern".to_owned(),
            size: self.scene.size,
            frames_per_second: self.pace.rate(),
            content: Content::Motion,
        }
    }

    // The numbers on the stamps count the pictures of the stated rate; who wants fewer leaves some out.
    fn limit(&mut self, _frames_per_second: f32) {}

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// The wall, and the noise before it.
#[derive(Debug)]
struct Scene {
    size: PictureSize,
    wall: Picture,
    /// Noise for a picture and a half: each picture begins at another place of it.
    noise: Vec<i8>,
}

impl Scene {
    fn new(size: PictureSize) -> Self {
        let mut random = SmallRng::seed_from_u64(SEED);
        let (width, height) = (size.width() as usize, size.height() as usize);
        let mut wall = Picture::black(size, VideoTime::default());
        let [luma, u, v] = wall.planes_mut();
        // Paper with stripes and stains: some detail at each scale.
        for (y, row) in luma.chunks_exact_mut(width).enumerate() {
            let light = 60.0 + 90.0 * y as f32 / height as f32;
            for (x, pixel) in row.iter_mut().enumerate() {
                let (x, y) = (x as f32, y as f32);
                let stains = (x * 0.031).sin() * (y * 0.043).cos() * 14.0;
                let stripes = ((x + 0.3 * y) * 0.21).sin() * 6.0;
                let grain: f32 = random.random_range(-5.0..5.0);
                *pixel = (light + stains + stripes + grain) as u8;
            }
        }
        for (plane, base, swing) in [(u, 118.0, 9.0), (v, 138.0, 7.0)] {
            for (y, row) in plane.chunks_exact_mut(width / 2).enumerate() {
                for (x, pixel) in row.iter_mut().enumerate() {
                    let wave = (x as f32 * 0.02).sin() + (y as f32 * 0.027).cos();
                    *pixel = (base + swing * wave) as u8;
                }
            }
        }
        let noise = (0..width * height * 3 / 2)
            .map(|_| random.random_range(-NOISE..=NOISE))
            .collect();
        Self { size, wall, noise }
    }

    /// The picture `seconds` after the first.
    fn draw(&self, seconds: f32, index: u64, time: VideoTime) -> Picture {
        let mut picture = self.wall.clone();
        picture.time = time;
        self.figure(&mut picture, seconds);
        let [luma, ..] = picture.planes_mut();
        let places = self.noise.len() - luma.len();
        let place = index.wrapping_mul(0x9e37_79b9) as usize % places.max(1);
        for (pixel, noise) in luma.iter_mut().zip(&self.noise[place..]) {
            *pixel = pixel.wrapping_add_signed(*noise);
        }
        picture
    }

    /// A shaded, freckled ball of a third of the height, which goes round.
    fn figure(&self, picture: &mut Picture, seconds: f32) {
        let (width, height) = (self.size.width() as f32, self.size.height() as f32);
        let turn = seconds / ROUND * std::f32::consts::TAU;
        let radius = height / 6.0;
        let (cx, cy) = (
            width * 0.30f32.mul_add(turn.sin(), 0.5),
            height * 0.22f32.mul_add((2.0 * turn).sin(), 0.55),
        );
        let [luma, u, v] = picture.planes_mut();
        for (plane, scale) in [(luma, 1.0), (u, 2.0), (v, 2.0)] {
            let stride = (width / scale) as usize;
            let is_luma = scale < 1.5;
            let tint = if is_luma { 0.0 } else { 12.0 };
            let (cx, cy, radius) = (cx / scale, cy / scale, radius / scale);
            let top = (cy - radius).max(0.0) as usize;
            for (y, row) in plane.chunks_exact_mut(stride).enumerate().skip(top) {
                let dy = y as f32 - cy;
                if dy > radius {
                    break;
                }
                let half = radius.mul_add(radius, -dy * dy).max(0.0).sqrt();
                let left = (cx - half).max(0.0) as usize;
                let right = ((cx + half).max(0.0) as usize).min(stride);
                for (x, pixel) in row.iter_mut().enumerate().take(right).skip(left) {
                    let dx = x as f32 - cx;
                    *pixel = if is_luma {
                        let freckles = (dx * 0.35).sin() * (dy * 0.29).sin() * 16.0;
                        (0.3f32.mul_add(-(dx + dy) / radius * 100.0, 150.0) + freckles) as u8
                    } else {
                        (128.0 + tint) as u8
                    };
                }
            }
        }
    }
}

/// A tone with marks, at the speed of a microphone.
#[derive(Debug)]
pub struct ToneSource {
    tone: Tone,
    pitch: f32,
    clock: CaptureClock,
    pace: Pace,
    lost: u64,
}

impl ToneSource {
    /// A tone of `pitch` hertz.
    pub fn new(pitch: f32, clock: CaptureClock) -> Self {
        Self {
            tone: Tone::new(pitch),
            pitch,
            clock,
            pace: Pace::of_sound(),
            lost: 0,
        }
    }
}

impl SoundSource for ToneSource {
    fn read(
        &mut self,
        block: &mut SoundBlock,
        timeout: Duration,
    ) -> Result<Option<AudioTime>, CaptureError> {
        let Some(turn) = self.pace.wait(timeout) else {
            return Ok(None);
        };
        for _ in 0..turn.missed {
            self.tone.fill(block);
            self.lost += BLOCK as u64;
        }
        self.tone.fill(block);
        Ok(Some(self.clock.audio(first_sample(turn.due))))
    }

    fn describe(&self) -> SoundInfo {
        SoundInfo {
            name: format!("tone of {} Hz", self.pitch),
            device_rate: 48_000,
            hears_echo: false,
        }
    }

    fn lost(&self) -> u64 {
        self.lost
    }
}

/// When the first sample of a block was captured that was complete at `due`.
pub(super) fn first_sample(due: Instant) -> Instant {
    due.checked_sub(super::BLOCK_TIME).unwrap_or(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32) -> PictureSize {
        PictureSize::new(width, height).expect("a size")
    }

    fn clock() -> CaptureClock {
        CaptureClock::new(
            VideoTime::from_ticks(1 << 20),
            AudioTime::from_ticks(1 << 20),
            Instant::now(),
        )
    }

    /// Mean difference of luma.
    fn difference(a: &Picture, b: &Picture) -> f64 {
        let (a, b) = (a.planes()[0].data, b.planes()[0].data);
        let sum: u64 = a
            .iter()
            .zip(b)
            .map(|(a, b)| u64::from(a.abs_diff(*b)))
            .sum();
        sum as f64 / a.len() as f64
    }

    #[test]
    fn pictures_are_numbered_and_on_time() {
        let mut source = PatternSource::new(size(160, 90), 200.0, clock());
        let mut last: Option<(u32, VideoTime)> = None;
        for _ in 0..5 {
            let picture = source
                .next(Duration::from_secs(10))
                .expect("no device")
                .expect("in time");
            let number = stamp::read(&picture).expect("a stamp");
            if let Some((before, time)) = last {
                assert!(number > before);
                let ticks = picture.time.ticks() - time.ticks();
                let due = u64::from(number - before) * 450;
                assert!(ticks.abs_diff(due) <= 1, "{ticks} instead of {due}");
            }
            last = Some((number, picture.time));
        }
    }

    #[test]
    fn the_scene_moves_and_flickers_like_a_camera() {
        let scene = Scene::new(size(640, 360));
        let draw = |index: u64| scene.draw(index as f32 / 30.0, index, VideoTime::default());
        let (first, next, later) = (draw(0), draw(1), draw(45));
        // Noise of two steps and a small motion; then a ball elsewhere.
        let (near, far) = (difference(&first, &next), difference(&first, &later));
        assert!((0.5..4.0).contains(&near), "{near}");
        assert!(far > near + 1.0, "{near}, {far}");
        // And it has texture: neighbours differ.
        let luma = first.planes()[0].data;
        let rough: u64 = luma
            .windows(2)
            .map(|pair| u64::from(pair[0].abs_diff(pair[1])))
            .sum();
        assert!(rough as f64 / luma.len() as f64 > 2.0);
        assert_eq!(difference(&draw(7), &draw(7)), 0.0);
    }

    #[test]
    fn the_smallest_picture_is_one() {
        let scene = Scene::new(size(2, 2));
        assert_eq!(scene.draw(1.0, 30, VideoTime::default()).size(), size(2, 2));
    }

    #[test]
    fn the_tone_comes_in_blocks() {
        let mut source = ToneSource::new(1_000.0, clock());
        let mut block = [0.0; BLOCK];
        let mut times = Vec::new();
        for _ in 0..3 {
            times.push(
                source
                    .read(&mut block, Duration::from_secs(10))
                    .expect("no device")
                    .expect("in time"),
            );
            assert!(block.iter().any(|sample| sample.abs() > 0.05));
        }
        for pair in times.windows(2) {
            let ticks = pair[1].ticks() - pair[0].ticks();
            assert!(ticks >= 479 && (ticks + 1) % 480 <= 2, "{ticks}");
        }
    }
}
