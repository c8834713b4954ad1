//! Pictures into Y4M files: uncompressed, for measuring.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use y4m::{Colorspace, Encoder, EncoderBuilder, Error, Frame, Ratio};

use super::{PictureSink, PlayError};
use crate::{
    Picture, PictureSize,
    convert::{Fit, Scaler},
};

/// A film of all the pictures that were presented, one behind the other. It has one size; pictures of another are
/// scaled to it.
pub struct Y4mSink {
    path: PathBuf,
    state: State,
    rate: u32,
    scaler: Scaler,
}

enum State {
    /// The size is that of the first picture, unless it was given.
    Waiting(Option<BufWriter<File>>, Option<PictureSize>),
    Writing(Encoder<BufWriter<File>>, PictureSize),
}

impl Y4mSink {
    /// Creates the file, over one that was there. Without a `size` it has that of the first picture; the rate stands
    /// in its head only.
    ///
    /// # Errors
    /// [`PlayError::File`].
    pub fn create(
        path: &Path,
        size: Option<PictureSize>,
        frames_per_second: u32,
    ) -> Result<Self, PlayError> {
        let file = File::create(path).map_err(|source| PlayError::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            state: State::Waiting(Some(BufWriter::new(file)), size),
            rate: frames_per_second.max(1),
            scaler: Scaler::new(),
        })
    }

    fn write(&mut self, picture: &Picture) -> Result<(), Error> {
        if let State::Waiting(file, size) = &mut self.state
            && let Some(file) = file.take()
        {
            let size = size.unwrap_or(picture.size());
            let (width, height) = (size.width() as usize, size.height() as usize);
            let encoder = EncoderBuilder::new(width, height, Ratio::new(self.rate as usize, 1))
                .with_colorspace(Colorspace::C420jpeg)
                .write_header(file)?;
            self.state = State::Writing(encoder, size);
        }
        let State::Writing(encoder, size) = &mut self.state else {
            return Err(Error::BadInput);
        };
        if picture.size() == *size {
            write_frame(encoder, picture)
        } else {
            let scaled = self.scaler.scale(picture, *size, Fit::Letterbox);
            write_frame(encoder, &scaled)
        }
    }
}

fn write_frame(encoder: &mut Encoder<BufWriter<File>>, picture: &Picture) -> Result<(), Error> {
    let planes = picture.planes().map(|plane| plane.data);
    encoder.write_frame(&Frame::new(planes, None))
}

impl PictureSink for Y4mSink {
    fn present(&mut self, picture: &Picture) -> Result<(), PlayError> {
        self.write(picture).map_err(|error| {
            let path = self.path.clone();
            match error {
                Error::IoError(source) => PlayError::File { path, source },
                other => PlayError::Content {
                    path,
                    reason: other.to_string(),
                },
            }
        })
    }
}

impl std::fmt::Debug for Y4mSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Y4mSink")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{
        AudioTime, VideoTime,
        capture::{CaptureClock, PictureSource as _, Y4mSource, stamp},
    };

    #[test]
    fn films_come_back_at_one_size() {
        let name = format!("landline-{}-sink.y4m", std::process::id());
        let path = std::env::temp_dir().join(name);
        let size = |width, height| PictureSize::new(width, height).expect("a size");
        let mut sink = Y4mSink::create(&path, Some(size(320, 180)), 30).expect("a file");
        for (number, size) in [(1, size(320, 180)), (2, size(160, 90)), (3, size(640, 360))] {
            let mut picture = Picture::black(size, VideoTime::default());
            stamp::write(&mut picture, number);
            sink.present(&picture).expect("room");
        }
        drop(sink);
        let clock = CaptureClock::new(VideoTime::default(), AudioTime::default(), Instant::now());
        let mut source = Y4mSource::open(&path, clock, false).expect("a film");
        let mut numbers = Vec::new();
        for _ in 0..3 {
            let picture = source
                .next(Duration::from_secs(10))
                .expect("readable")
                .expect("in time");
            assert_eq!(picture.size(), size(320, 180));
            numbers.push(stamp::read(&picture));
        }
        let len = std::fs::metadata(&path).expect("the file").len();
        std::fs::remove_file(&path).expect("the file");
        let head = "YUV4MPEG2 W320 H180 F30:1 C420jpeg\n".len();
        let frame = "FRAME\n".len() + 320 * 180 * 3 / 2;
        assert_eq!(len, (head + 3 * frame) as u64);
        assert!(numbers.iter().all(Option::is_some), "{numbers:?}");
    }
}
