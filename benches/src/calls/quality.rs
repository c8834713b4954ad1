//! How good the pictures are: PSNR and SSIM of our own, and VMAF where there is an ffmpeg that has it, of each
//! 15th picture as it was shown, brought to the size of the source, without the stamp.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use media::convert::{Fit, Scaler};
use media::{Picture, PictureSize, Plane, VideoTime};
use serde_json::Value;

use super::scene::{HEIGHT, PICTURE_BYTES, WIDTH};

/// Rows from the top that are left out: the stamp's 36, and what a scaler smears of them.
const STAMP_ROWS: usize = 40;
/// Names another ffmpeg than that in the path.
const FFMPEG: &str = "LANDLINE_FFMPEG";
/// Pixels of a window of SSIM, and from one to the next.
const WINDOW: usize = 8;
const WINDOW_STEP: usize = 4;

/// How good the pictures of a stretch of a call are.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    /// Pictures that were judged.
    pub pictures: usize,
    /// Mean PSNR of luma, dB.
    pub psnr: f64,
    /// Mean SSIM of luma.
    pub ssim: f64,
    /// Mean VMAF, if there is an ffmpeg with it.
    pub vmaf: Option<f64>,
}

/// Judges the pictures kept in `folder` whose numbers are among `numbers`, against the film that they were
/// made of, of so many pictures; `work` is a folder for what VMAF needs.
///
/// # Errors
/// What the disk says, or ffmpeg.
pub fn judge(
    film: &Path,
    film_pictures: usize,
    folder: &Path,
    numbers: &HashSet<u32>,
    work: &Path,
) -> Result<Option<Quality>> {
    let mut kept = kept(folder)?;
    kept.retain(|kept| numbers.contains(&kept.number));
    kept.sort_by_key(|kept| kept.number);
    if kept.is_empty() {
        return Ok(None);
    }
    let ffmpeg = ffmpeg();
    let [ref_path, shown_path] = ["truth.y4m", "shown.y4m"].map(|name| work.join(name));
    let mut films = match ffmpeg {
        Some(_) => Some([y4m(&ref_path)?, y4m(&shown_path)?]),
        None => None,
    };
    let mut source = Film::open(film)?;
    let full = PictureSize::new(WIDTH as u32, HEIGHT as u32)?;
    let mut scaler = Scaler::new();
    let (mut psnr, mut ssim) = (0.0, 0.0);
    for kept in &kept {
        let truth = source.picture(kept.number as usize % film_pictures, full)?;
        let shown = scaler.scale(&kept.read()?, full, Fit::Stretch);
        let [one, two] =
            [&truth, &shown].map(|picture| &picture.planes()[0].data[STAMP_ROWS * WIDTH..]);
        psnr += psnr_of(one, two);
        ssim += ssim_of(one, two, WIDTH);
        if let Some([truths, showns]) = &mut films {
            write(truths, &truth)?;
            write(showns, &shown)?;
        }
    }
    if let Some(films) = films {
        for mut film in films {
            film.flush()?;
        }
    }
    let vmaf = ffmpeg.map(|ffmpeg| vmaf(&ffmpeg, work)).transpose();
    for path in [ref_path, shown_path] {
        let _ = fs::remove_file(path);
    }
    let count = kept.len();
    Ok(Some(Quality {
        pictures: count,
        psnr: psnr / count as f64,
        ssim: ssim / count as f64,
        vmaf: vmaf?,
    }))
}

/// A picture kept whole: `NUMBER-WIDTHxHEIGHT.i420`.
struct Kept {
    number: u32,
    size: PictureSize,
    path: PathBuf,
}

impl Kept {
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_stem()?.to_str()?;
        let (number, size) = name.split_once('-')?;
        let (width, height) = size.split_once('x')?;
        Some(Self {
            number: number.parse().ok()?,
            size: PictureSize::new(width.parse().ok()?, height.parse().ok()?).ok()?,
            path,
        })
    }

    fn read(&self) -> Result<Picture> {
        let data = fs::read(&self.path)?;
        picture(&data, self.size).with_context(|| format!("reading {}", self.path.display()))
    }
}

fn kept(folder: &Path) -> Result<Vec<Kept>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut kept = Vec::new();
    for entry in entries {
        kept.extend(Kept::of(entry?.path()));
    }
    Ok(kept)
}

/// A picture of packed planes.
fn picture(data: &[u8], size: PictureSize) -> Result<Picture> {
    let (width, height) = (size.width() as usize, size.height() as usize);
    ensure!(data.len() == width * height * 3 / 2, "its length is wrong");
    let (luma, chroma) = data.split_at(width * height);
    let (blue, red) = chroma.split_at(chroma.len() / 2);
    let half = width / 2;
    let plane = |data, stride| Plane { data, stride };
    let planes = [plane(luma, width), plane(blue, half), plane(red, half)];
    Ok(Picture::from_planes(size, VideoTime::default(), planes)?)
}

/// The film that the calls carry.
struct Film {
    file: File,
    head: u64,
}

impl Film {
    fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let mut start = [0; 256];
        let read = file.read(&mut start)?;
        let head = start[..read].iter().position(|byte| *byte == b'\n');
        let head = head.context("a film without a head")? as u64 + 1;
        Ok(Self { file, head })
    }

    fn picture(&mut self, index: usize, size: PictureSize) -> Result<Picture> {
        let mark = "FRAME\n".len();
        let at = self.head + (index * (mark + PICTURE_BYTES) + mark) as u64;
        self.file.seek(SeekFrom::Start(at))?;
        let mut data = vec![0; PICTURE_BYTES];
        self.file.read_exact(&mut data)?;
        picture(&data, size)
    }
}

/// Peak signal to noise ratio, dB; 60 for what is the same.
fn psnr_of(one: &[u8], two: &[u8]) -> f64 {
    let squares: u64 = one
        .iter()
        .zip(two)
        .map(|(one, two)| u64::from(one.abs_diff(*two)).pow(2))
        .sum();
    let mean = squares as f64 / one.len() as f64;
    (10.0 * (255.0_f64.powi(2) / mean).log10()).min(60.0)
}

/// Structural similarity (Wang et al. 2004) over windows of 8 × 8, every fourth pixel.
fn ssim_of(one: &[u8], two: &[u8], width: usize) -> f64 {
    let (c1, c2) = ((0.01 * 255.0_f64).powi(2), (0.03 * 255.0_f64).powi(2));
    let pixels = (WINDOW * WINDOW) as f64;
    let (mut sum, mut windows) = (0.0, 0_u32);
    let height = one.len() / width;
    for y in (0..=height.saturating_sub(WINDOW)).step_by(WINDOW_STEP) {
        for x in (0..=width - WINDOW).step_by(WINDOW_STEP) {
            let (mut a, mut b, mut aa, mut bb, mut ab) = (0_u32, 0_u32, 0_u32, 0_u32, 0_u32);
            for row in y..y + WINDOW {
                let at = row * width + x;
                for (p, q) in one[at..at + WINDOW].iter().zip(&two[at..at + WINDOW]) {
                    let (p, q) = (u32::from(*p), u32::from(*q));
                    a += p;
                    b += q;
                    aa += p * p;
                    bb += q * q;
                    ab += p * q;
                }
            }
            let (mean_a, mean_b) = (f64::from(a) / pixels, f64::from(b) / pixels);
            let var_a = f64::from(aa) / pixels - mean_a * mean_a;
            let var_b = f64::from(bb) / pixels - mean_b * mean_b;
            let both = f64::from(ab) / pixels - mean_a * mean_b;
            sum += (2.0 * mean_a * mean_b + c1) * (2.0 * both + c2)
                / ((mean_a.powi(2) + mean_b.powi(2) + c1) * (var_a + var_b + c2));
            windows += 1;
        }
    }
    sum / f64::from(windows.max(1))
}

fn y4m(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let rows = HEIGHT - STAMP_ROWS;
    writeln!(out, "YUV4MPEG2 W{WIDTH} H{rows} F2:1 Ip A1:1 C420jpeg")?;
    Ok(out)
}

fn write(out: &mut impl Write, picture: &Picture) -> Result<()> {
    let [luma, blue, red] = picture.planes().map(|plane| plane.data);
    let chroma = STAMP_ROWS / 2 * (WIDTH / 2);
    out.write_all(b"FRAME\n")?;
    out.write_all(&luma[STAMP_ROWS * WIDTH..])?;
    out.write_all(&blue[chroma..])?;
    Ok(out.write_all(&red[chroma..])?)
}

/// An ffmpeg that has VMAF: that of the environment, or of the path.
fn ffmpeg() -> Option<PathBuf> {
    let named = std::env::var_os(FFMPEG).map(PathBuf::from);
    let ffmpeg = named.unwrap_or_else(|| "ffmpeg".into());
    let output = Command::new(&ffmpeg)
        .args(["-hide_banner", "-filters"])
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout)
        .contains(" libvmaf ")
        .then_some(ffmpeg)
}

/// The mean of VMAF (the default model) of `shown.y4m` against `truth.y4m`.
fn vmaf(ffmpeg: &Path, work: &Path) -> Result<f64> {
    let report = work.join("vmaf.json");
    let output = Command::new(ffmpeg)
        .current_dir(work)
        .args([
            "-v",
            "error",
            "-i",
            "shown.y4m",
            "-i",
            "truth.y4m",
            "-lavfi",
        ])
        .arg("libvmaf=log_fmt=json:log_path=vmaf.json:n_threads=2")
        .args(["-f", "null", "-"])
        .stdin(Stdio::null())
        .output()
        .context("starting ffmpeg")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ffmpeg's VMAF fails: {said}");
    let text = fs::read_to_string(&report)?;
    let _ = fs::remove_file(&report);
    let report: Value = serde_json::from_str(&text)?;
    report["pooled_metrics"]["vmaf"]["mean"]
        .as_f64()
        .context("ffmpeg's VMAF says no mean")
}

#[cfg(test)]
mod tests {
    use super::super::scene;
    use super::*;

    #[test]
    fn what_is_the_same_is_perfect_and_noise_is_not() {
        let one: Vec<u8> = (0..64 * 64).map(|at| (at * 7 % 200) as u8).collect();
        assert_eq!(psnr_of(&one, &one), 60.0);
        assert!((ssim_of(&one, &one, 64) - 1.0).abs() < 1e-9);
        let two: Vec<u8> = one.iter().map(|value| value + 5).collect();
        // 10 log10(255² / 25)
        assert!((psnr_of(&one, &two) - 34.15).abs() < 0.01);
        let flat = vec![100; 64 * 64];
        assert!(ssim_of(&one, &flat, 64) < 0.1);
    }

    #[test]
    fn kept_pictures_are_found_scaled_and_judged() {
        let folder = tempfile::tempdir().expect("a folder");
        let film = folder.path().join("room.y4m");
        scene::write_pictures(&film, 2).expect("written");
        let full = PictureSize::new(WIDTH as u32, HEIGHT as u32).expect("a size");
        let half = PictureSize::new(WIDTH as u32 / 2, HEIGHT as u32 / 2).expect("a size");
        let mut source = Film::open(&film).expect("a film");
        let kept = folder.path().join("pictures");
        fs::create_dir_all(&kept).expect("a folder");
        // Number 15 is the second picture of a film of two.
        let truth = source.picture(1, full).expect("there");
        let small = Scaler::new().scale(&truth, half, Fit::Stretch);
        let bytes = small.planes().map(|plane| plane.data).concat();
        fs::write(kept.join("15-640x360.i420"), bytes).expect("written");
        fs::write(kept.join("30-640x360.i420"), "outside").expect("written");
        let numbers = HashSet::from([15]);
        let quality = judge(&film, 2, &kept, &numbers, folder.path());
        let quality = quality.expect("judged").expect("one picture");
        assert_eq!(quality.pictures, 1);
        assert!((25.0..50.0).contains(&quality.psnr), "{quality:?}");
        assert!((0.5..1.0).contains(&quality.ssim), "{quality:?}");
        assert!(quality.vmaf.is_none_or(|vmaf| vmaf > 20.0), "{quality:?}");
        let none = judge(&film, 2, &kept, &HashSet::new(), folder.path());
        assert_eq!(none.expect("judged"), None);
    }
}
