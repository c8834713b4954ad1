//! What the measured calls carry: a drawn head moving before a textured, slightly noisy room, ten seconds
//! that repeat, and speech.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Pixels of the source.
pub const WIDTH: usize = 1_280;
/// Pixels of the source.
pub const HEIGHT: usize = 720;
/// Pictures a second.
pub const FPS: usize = 30;
/// Pictures until it repeats.
pub const LOOP: usize = 300;

/// Bytes of one picture, I420.
pub const PICTURE_BYTES: usize = WIDTH * HEIGHT * 3 / 2;

/// Writes the room and the head as Y4M.
///
/// # Errors
/// What the disk says.
pub fn write_pictures(path: &Path, pictures: usize) -> Result<()> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    writeln!(
        out,
        "YUV4MPEG2 W{WIDTH} H{HEIGHT} F{FPS}:1 Ip A1:1 C420jpeg"
    )?;
    let room = room();
    let mut noise = 0x9e37_79b9_u32;
    let mut picture = vec![0; PICTURE_BYTES];
    for index in 0..pictures {
        draw(&mut picture, &room, index, &mut noise);
        out.write_all(b"FRAME\n")?;
        out.write_all(&picture)?;
    }
    Ok(out.flush()?)
}

/// Luma of the room: a smooth light, some furniture, a texture.
fn room() -> Vec<u8> {
    let mut luma = vec![0; WIDTH * HEIGHT];
    let mut state = 0x2545_f491_u32;
    let grain: Vec<i32> = (0..4_096)
        .map(|_| (random(&mut state) % 13) as i32 - 6)
        .collect();
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let light = 90 + (x * 60 / WIDTH) as i32 + (y * 30 / HEIGHT) as i32;
            let shelf = if (y / 90) % 2 == 0 && (x / 160) % 3 == 1 {
                -35
            } else {
                0
            };
            // A texture of 3 × 3 pixels, as wallpaper has.
            let texture = grain[(y / 3 * 61 + x / 3 * 7) % grain.len()];
            luma[y * WIDTH + x] = (light + shelf + texture).clamp(16, 235) as u8;
        }
    }
    luma
}

fn random(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}

fn draw(picture: &mut [u8], room: &[u8], index: usize, noise: &mut u32) {
    let turn = index as f64 / LOOP as f64 * std::f64::consts::TAU;
    let (centre_x, centre_y) = (
        WIDTH as f64 * (0.5 + 0.16 * (2.0 * turn).sin()),
        HEIGHT as f64 * (0.52 + 0.05 * (5.0 * turn).sin()),
    );
    let mouth = 8.0 + 7.0 * (37.0 * turn).sin();
    let (luma, chroma) = picture.split_at_mut(WIDTH * HEIGHT);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let (dx, dy) = (x as f64 - centre_x, y as f64 - centre_y);
            let face = (dx / 130.0).powi(2) + (dy / 175.0).powi(2);
            let at = y * WIDTH + x;
            let value = if face < 1.0 {
                let eye = (dx.abs() - 50.0).abs() < 16.0 && (dy + 45.0).abs() < 8.0;
                let lips = dx.abs() < 42.0 && (dy - 85.0).abs() < mouth;
                let hair = dy < -110.0;
                match (eye || lips, hair) {
                    (true, _) => 60,
                    (_, true) => 70 + ((x / 2) % 9) as i32,
                    _ => 170 - (face * 35.0) as i32 + (dx / 12.0) as i32,
                }
            } else if dy > 150.0 && dx.abs() < 260.0 {
                // Shoulders in a striped shirt.
                105 + if ((dx + dy) as i32 / 14) % 2 == 0 {
                    12
                } else {
                    0
                }
            } else {
                i32::from(room[at])
            };
            let grain = if at.is_multiple_of(2) {
                (random(noise) % 5) as i32 - 2
            } else {
                0
            };
            luma[at] = (value + grain).clamp(16, 235) as u8;
        }
    }
    let (half_x, half_y) = (WIDTH / 2, HEIGHT / 2);
    let (blue, red) = chroma.split_at_mut(half_x * half_y);
    for y in 0..half_y {
        for x in 0..half_x {
            let (dx, dy) = ((2 * x) as f64 - centre_x, (2 * y) as f64 - centre_y);
            let skin = (dx / 130.0).powi(2) + (dy / 175.0).powi(2) < 1.0;
            let at = y * half_x + x;
            (blue[at], red[at]) = if skin { (112, 148) } else { (130, 122) };
        }
    }
}

/// Speech, two speakers one after the other, 48 kHz mono.
///
/// # Errors
/// Where espeak-ng or sox are missing.
pub fn write_speech(path: &Path, voice: &str) -> Result<()> {
    let text = "The first snow fell early that year, and nobody in the village was ready for it. \
                Somebody had left the gate open, so the sheep walked down to the frozen lake. \
                We counted them twice, and each time we came to another number. \
                In the end the oldest of us said that it did not matter, since all of them would come home for supper.";
    let raw = path.with_extension("raw.wav");
    let spoken = Command::new("espeak-ng")
        .args(["-v", voice, "-s", "150", "-w"])
        .arg(&raw)
        .arg(text)
        .status()
        .context("starting espeak-ng: install it, the speech of the calls comes from it")?;
    ensure!(spoken.success(), "espeak-ng fails");
    let resampled = Command::new("sox")
        .arg(&raw)
        .args(["-r", "48000", "-c", "1", "-b", "16"])
        .arg(path)
        .args(["gain", "-n", "-6"])
        .status()
        .context("starting sox: install it, the speech of the calls passes through it")?;
    ensure!(resampled.success(), "sox fails");
    Ok(std::fs::remove_file(raw)?)
}
