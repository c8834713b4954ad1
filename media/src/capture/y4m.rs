//! Films in Y4M files, as sources: played again and again, at their own speed.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    time::Duration,
};

use y4m::{Colorspace, Decoder, Error, Limits};

use super::{CaptureClock, CaptureError, Content, PictureInfo, PictureSource, pace::Pace, stamp};
use crate::{MAX_SIDE, Picture, PictureSize, Plane, VideoTime};

/// A film.
pub struct Y4mSource {
    path: PathBuf,
    film: Decoder<BufReader<File>>,
    size: PictureSize,
    clock: CaptureClock,
    pace: Pace,
    /// Read before its time, so that reading does not delay it.
    ahead: Option<Picture>,
    stamped: bool,
    dropped: u64,
}

impl Y4mSource {
    /// Opens a film; with `stamped`, the number of each picture is drawn on top of it ([`stamp`]).
    ///
    /// # Errors
    /// [`CaptureError::File`], [`CaptureError::Content`] for what is no Y4M with 8 bits and 4:2:0.
    pub fn open(path: &Path, clock: CaptureClock, stamped: bool) -> Result<Self, CaptureError> {
        let film = open(path)?;
        let wrong = |reason: String| CaptureError::Content {
            path: path.to_owned(),
            reason,
        };
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let size = PictureSize::within(side(film.get_width()), side(film.get_height()))
            .map_err(|error| wrong(error.to_string()))?;
        let rate = film.get_framerate();
        let rate = rate.num as f32 / rate.den as f32;
        if !(0.1..=1_000.0).contains(&rate) {
            return Err(wrong(format!("{rate} pictures a second")));
        }
        let mut source = Self {
            path: path.to_owned(),
            film,
            size,
            clock,
            pace: Pace::new(rate),
            ahead: None,
            stamped,
            dropped: 0,
        };
        source.ahead = source.read()?;
        if source.ahead.is_none() {
            return Err(wrong("there is no picture in it".to_owned()));
        }
        Ok(source)
    }

    /// The next picture, or `None` at the end.
    fn read(&mut self) -> Result<Option<Picture>, CaptureError> {
        let stride = self.film.get_width();
        let frame = match self.film.read_frame() {
            Ok(frame) => frame,
            Err(Error::EOF) => return Ok(None),
            Err(error) => return Err(failed(&self.path, error)),
        };
        let planes = [
            Plane {
                data: frame.get_y_plane(),
                stride,
            },
            Plane {
                data: frame.get_u_plane(),
                stride: stride.div_ceil(2),
            },
            Plane {
                data: frame.get_v_plane(),
                stride: stride.div_ceil(2),
            },
        ];
        let picture =
            Picture::from_planes(self.size, VideoTime::default(), planes).map_err(|error| {
                CaptureError::Content {
                    path: self.path.clone(),
                    reason: error.to_string(),
                }
            })?;
        Ok(Some(picture))
    }

    /// The next picture, from the beginning again after the last.
    fn read_on(&mut self) -> Result<Picture, CaptureError> {
        if let Some(picture) = self.read()? {
            return Ok(picture);
        }
        self.film = open(&self.path)?;
        self.read()?.ok_or_else(|| CaptureError::Content {
            path: self.path.clone(),
            reason: "there is no picture in it any more".to_owned(),
        })
    }
}

impl PictureSource for Y4mSource {
    fn next(&mut self, timeout: Duration) -> Result<Option<Picture>, CaptureError> {
        if self.ahead.is_none() {
            self.ahead = Some(self.read_on()?);
        }
        let Some(turn) = self.pace.wait(timeout) else {
            return Ok(None);
        };
        // Those that nobody fetched were to be seen, too; the film goes on at its speed.
        for _ in 0..turn.missed {
            self.ahead = Some(self.read_on()?);
        }
        self.dropped += turn.missed;
        let mut picture = self.ahead.take();
        if let Some(picture) = &mut picture {
            picture.time = self.clock.video(turn.due);
            if self.stamped {
                stamp::write(picture, turn.index as u32);
            }
        }
        Ok(picture)
    }

    fn describe(&self) -> PictureInfo {
        PictureInfo {
            name: self.path.display().to_string(),
            size: self.size,
            frames_per_second: self.pace.rate(),
            content: Content::Motion,
        }
    }

    // A film has its own speed; who wants fewer pictures leaves some out.
    fn limit(&mut self, _frames_per_second: f32) {}

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl std::fmt::Debug for Y4mSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Y4mSource")
            .field("path", &self.path)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Opens a film and reads its head.
fn open(path: &Path) -> Result<Decoder<BufReader<File>>, CaptureError> {
    let file = File::open(path).map_err(|source| CaptureError::File {
        path: path.to_owned(),
        source,
    })?;
    let side = MAX_SIDE as usize;
    // Three bytes a pixel is the most that the format has at 8 bits; more is refused before it is allocated.
    let limits = Limits {
        bytes: side * side * 3,
    };
    let film = Decoder::new_with_limits(BufReader::new(file), limits)
        .map_err(|error| failed(path, error))?;
    match film.get_colorspace() {
        Colorspace::C420 | Colorspace::C420jpeg | Colorspace::C420mpeg2 | Colorspace::C420paldv => {
            Ok(film)
        }
        other => Err(CaptureError::Content {
            path: path.to_owned(),
            reason: format!("its colours are {other:?}; only 4:2:0 with 8 bits is read"),
        }),
    }
}

fn failed(path: &Path, error: Error) -> CaptureError {
    let path = path.to_owned();
    match error {
        Error::IoError(source) => CaptureError::File { path, source },
        other => CaptureError::Content {
            path,
            reason: format!("no Y4M film: {other}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Instant};

    use super::*;
    use crate::AudioTime;

    fn clock() -> CaptureClock {
        CaptureClock::new(VideoTime::default(), AudioTime::default(), Instant::now())
    }

    /// A file that is gone with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, head: &str, frames: &[Vec<u8>]) -> Self {
            let name = format!("landline-{}-{name}.y4m", std::process::id());
            let path = std::env::temp_dir().join(name);
            let mut file = File::create(&path).expect("a scratch file");
            file.write_all(head.as_bytes()).expect("room");
            for frame in frames {
                file.write_all(b"FRAME\n").expect("room");
                file.write_all(frame).expect("room");
            }
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn films_begin_again() {
        let frames = [vec![10; 6], vec![20; 6], vec![30; 6]];
        let file = Scratch::new("again", "YUV4MPEG2 W2 H2 F500:1 C420jpeg\n", &frames);
        let mut source = Y4mSource::open(&file.0, clock(), false).expect("a film");
        assert_eq!(source.describe().frames_per_second, 500.0);
        let (mut pictures, mut last) = (0, None);
        while pictures < 7 {
            let picture = source
                .next(Duration::from_secs(10))
                .expect("readable")
                .expect("in time");
            // On a busy machine some are left out, and the stamp of time says how many.
            let index = (picture.time.ticks() as f64 / 180.0).round() as usize;
            if let Some((last_index, last_value)) = last {
                let step: usize = index - last_index;
                let value = (last_value / 10 - 1 + step) % 3;
                assert_eq!(usize::from(picture.planes()[0].data[0]), (value + 1) * 10);
            }
            last = Some((index, usize::from(picture.planes()[0].data[0])));
            pictures += 1;
        }
    }

    #[test]
    fn odd_films_are_cut() {
        // 3x3: nine bytes of luma, two planes of 2x2.
        let frame: Vec<u8> = (0..17).collect();
        let file = Scratch::new("odd", "YUV4MPEG2 W3 H3 F25:1\n", &[frame]);
        let mut source = Y4mSource::open(&file.0, clock(), false).expect("a film");
        let picture = source
            .next(Duration::from_secs(10))
            .expect("readable")
            .expect("the first is due at once");
        assert_eq!(
            picture.planes().map(|plane| plane.data.to_vec()),
            [vec![0, 1, 3, 4], vec![9], vec![13]]
        );
    }

    #[test]
    fn what_is_no_film_says_why() {
        let open = |name: &str, head: &str, frames: &[Vec<u8>]| {
            let file = Scratch::new(name, head, frames);
            Y4mSource::open(&file.0, clock(), false)
                .expect_err("no film")
                .to_string()
        };
        for (name, head, frames, part) in [
            ("text", "hello\n", &[][..], "no Y4M film"),
            ("none", "YUV4MPEG2 W2 H2 F25:1\n", &[], "no picture"),
            (
                "deep",
                "YUV4MPEG2 W2 H2 F25:1 C420p10\n",
                &[vec![0; 12]],
                "4:2:0",
            ),
            (
                "wide",
                "YUV4MPEG2 W2 H2 F25:1 C444\n",
                &[vec![0; 12]],
                "4:2:0",
            ),
            (
                "stills",
                "YUV4MPEG2 W2 H2 F0:1\n",
                &[vec![0; 6]],
                "0 pictures a second",
            ),
            (
                "huge",
                "YUV4MPEG2 W90000 H90000 F25:1\n",
                &[],
                "no Y4M film",
            ),
        ] {
            let error = open(name, head, frames);
            assert!(error.contains(part), "{name}: {error}");
        }
        let missing = Y4mSource::open(Path::new("/no/such.y4m"), clock(), false);
        assert!(matches!(missing, Err(CaptureError::File { .. })));
    }
}
