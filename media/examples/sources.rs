//! What there is to capture from, and how sources and sinks are used: a second of the pattern and of the tone
//! goes into files, and is read back and measured by its marks.
//!
//! `cargo run -p media --features pipeline --example sources` (with `devices` for real ones)

use std::{
    error::Error,
    io::Write as _,
    time::{Duration, Instant},
};

use media::{
    AudioTime, PictureSize, VideoTime,
    capture::{
        AudioSpec, BLOCK, CaptureClock, MarkFinder, PictureOptions, SoundOptions, VideoSpec, list,
        open_pictures, open_sound, stamp,
    },
    playback::{self, AudioSinkSpec, PictureSinkOptions, VideoSinkSpec},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    writeln!(out, "{:#?}", list())?;

    let folder = std::env::temp_dir();
    let (film, recording) = (folder.join("pattern.y4m"), folder.join("tone.wav"));
    let clock = CaptureClock::new(VideoTime::default(), AudioTime::default(), Instant::now());
    let options = PictureOptions {
        clock,
        size: PictureSize::new(640, 360)?,
        frames_per_second: 30.0,
        stamped: false,
    };
    let patience = Duration::from_millis(500);

    let pattern: VideoSpec = "pattern:640x360@30".parse()?;
    let mut pictures = open_pictures(&pattern, &options)?.ok_or("no pictures")?;
    let into = VideoSinkSpec::File(film.clone());
    let mut sink = playback::open_pictures(&into, &PictureSinkOptions::default())?.ok_or("none")?;
    for _ in 0..30 {
        if let Some(picture) = pictures.next(patience)? {
            sink.present(&picture)?;
        }
    }
    drop(sink);

    let tone: AudioSpec = "tone:440".parse()?;
    let mut sound = open_sound(&tone, &SoundOptions { clock })?.ok_or("no sound")?;
    let mut sink = playback::open_sound(&AudioSinkSpec::File(recording.clone()))?;
    let mut block = [0.0; BLOCK];
    for _ in 0..150 {
        if sound.read(&mut block, patience)?.is_some() && sink.wait(patience)? {
            sink.write(&block)?;
        }
    }
    drop(sink);

    let film: VideoSpec = film.display().to_string().parse()?;
    let mut pictures = open_pictures(&film, &options)?.ok_or("no pictures")?;
    let first = pictures.next(patience)?.ok_or("no picture in time")?;
    writeln!(out, "{first:?} carries number {:?}", stamp::read(&first))?;

    let recording: AudioSpec = recording.display().to_string().parse()?;
    let mut sound = open_sound(&recording, &SoundOptions { clock })?.ok_or("no sound")?;
    let mut marks = MarkFinder::new();
    for _ in 0..140 {
        if sound.read(&mut block, patience)?.is_some() {
            for mark in marks.push(&block) {
                writeln!(out, "mark {} begins at sample {}", mark.number, mark.sample)?;
            }
        }
    }
    Ok(())
}
