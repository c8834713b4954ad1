//! Other people's ears: ffmpeg plays what we record, also when it was cut off, and we play what ffmpeg makes.
//! `.ci/setup test` installs it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use media::bitstream::{NalKind, from_length_prefixed, nal_units};
use media::decode::{AccessUnit, OpusDecoder};
use media::encode::{PictureConfig, SoundConfig, SoundEncoder};
use media::jitter::SoundDecoder;
use media::record::Recorder;
use media::{AudioTime, EncodedPicture, EncodedSound, Samples, VideoTime};
use tempfile::TempDir;

use crate::harness::{FPS, Film, Pattern, config, decoder, encode, encoder};

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program} (see .ci/setup): {error}"))
}

/// What ffmpeg complains about while it decodes all of a file.
fn complaints(path: &Path) -> String {
    let path = path.to_str().expect("a plain path");
    let output = run("ffmpeg", &["-v", "error", "-i", path, "-f", "null", "-"]);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What ffprobe says of a file's first stream of a kind, decoded.
fn probe(path: &Path, stream: &str, entries: &str) -> Vec<String> {
    let path = path.to_str().expect("a plain path");
    let shown = format!("stream={entries}");
    let arguments = [
        "-v",
        "error",
        "-count_frames",
        "-select_streams",
        stream,
        "-show_entries",
        &shown,
        "-of",
        "csv=p=0",
        path,
    ];
    let output = run("ffprobe", &arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().unwrap_or_default().to_owned();
    line.split(',').map(str::to_owned).collect()
}

/// Pictures of a film with a tone beside them.
struct Call {
    pictures: Vec<EncodedPicture>,
    sounds: Vec<EncodedSound>,
}

fn call(film: &Film, frames: u64) -> Call {
    let mut pictures = encoder(config(film, 500_000));
    let pictures = (0..frames)
        .map(|index| encode(&mut pictures, &film.frame(index)))
        .collect();
    let mut sounds = SoundEncoder::new(SoundConfig::default()).expect("an encoder");
    let sounds = (0..frames * 50 / FPS)
        .map(|index| {
            let at = index * 960;
            let tone = |n: u64| 0.3 * ((n as f32) * 440.0 * std::f32::consts::TAU / 48_000.0).sin();
            let data = (at..at + 960).map(tone).collect();
            // Its clock has another origin.
            let time = AudioTime::from_ticks(at + 777_777);
            let block = Samples::new(1, time, data).expect("a block");
            sounds.encode(&block, true).expect("it encodes")
        })
        .collect();
    Call { pictures, sounds }
}

/// Records a call in the order of time, from `start` on.
fn record(recorder: &mut Recorder, call: &Call, start: Instant) {
    let mut sounds = call.sounds.iter().enumerate().peekable();
    for (index, picture) in call.pictures.iter().enumerate() {
        let at = Duration::from_secs(1) * index as u32 / FPS as u32;
        while let Some(&(number, sound)) = sounds.peek()
            && Duration::from_millis(20) * number as u32 <= at
        {
            let at = start + Duration::from_millis(20) * number as u32;
            recorder.sound(sound, at).expect("it is written");
            sounds.next();
        }
        recorder
            .picture(picture, start + at)
            .expect("it is written");
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn ffmpeg_plays_a_recording() {
    let folder = folder();
    let path = folder.path().join("call.mp4");
    let call = call(&Film::new(Pattern::Talk, 320, 180), 100);
    let mut recorder = Recorder::create(&path, 1).expect("a file");
    record(&mut recorder, &call, Instant::now());
    let files = recorder.finish().expect("all is written");
    assert_eq!(files, std::slice::from_ref(&path));
    assert_eq!(complaints(&path), "");
    let picture = probe(
        &path,
        "v:0",
        "codec_name,profile,width,height,nb_read_frames",
    );
    assert_eq!(
        picture,
        ["h264", "Constrained Baseline", "320", "180", "100"]
    );
    let sound = probe(
        &path,
        "a:0",
        "codec_name,sample_rate,channels,nb_read_frames",
    );
    assert_eq!(
        sound,
        ["opus", "48000", "1", &call.sounds.len().to_string()]
    );
}

#[test]
fn what_a_crash_leaves_plays_but_for_a_second() {
    let folder = folder();
    let path = folder.path().join("call.mp4");
    let call = call(&Film::new(Pattern::Talk, 320, 180), 165);
    let mut recorder = Recorder::create(&path, 1).expect("a file");
    record(&mut recorder, &call, Instant::now());
    // Not finished: what a killed process has written by now.
    let crashed = folder.path().join("crashed.mp4");
    std::fs::copy(&path, &crashed).expect("a copy");
    assert_eq!(complaints(&crashed), "");
    let count = |path: &Path| -> u64 {
        let frames = probe(path, "v:0", "nb_read_frames");
        frames[0].parse().expect("a number of frames")
    };
    let left = count(&crashed);
    assert!((165 - 32..=165).contains(&left), "{left} of 165 frames");
    // Killed in the middle of writing a fragment, too.
    let whole = std::fs::read(&path).expect("it is there");
    for cut in [1, 1_000, 20_000] {
        std::fs::write(&crashed, &whole[..whole.len() - cut]).expect("a shorter copy");
        let left_now = count(&crashed);
        assert!(
            (left - 32..=left).contains(&left_now),
            "{left_now} of {left}"
        );
    }
    drop(recorder);
    assert_eq!(count(&path), 165, "dropping writes the rest");
}

#[test]
fn another_size_begins_another_file() {
    let folder = folder();
    let path = folder.path().join("my call.mp4");
    std::fs::write(folder.path().join("my call (2).mp4"), b"mine").expect("a file");
    let mut recorder = Recorder::create(&path, 1).expect("a file");
    let (start, second) = (Instant::now(), Duration::from_secs(2));
    for (index, (width, height)) in [(320, 180), (640, 360)].into_iter().enumerate() {
        let call = call(&Film::new(Pattern::Talk, width, height), 45);
        record(&mut recorder, &call, start + second * index as u32);
    }
    let files = recorder.finish().expect("all is written");
    assert_eq!(files, [path, folder.path().join("my call (3).mp4")]);
    for (file, width) in files.iter().zip(["320", "640"]) {
        assert_eq!(complaints(file), "");
        assert_eq!(probe(file, "v:0", "width,nb_read_frames"), [width, "45"]);
    }
    let mine = std::fs::read(folder.path().join("my call (2).mp4")).expect("untouched");
    assert_eq!(mine, b"mine");
}

#[test]
fn sound_alone_and_pictures_alone_are_recordings() {
    let folder = folder();
    let call = call(&Film::new(Pattern::Talk, 160, 90), 60);
    let start = Instant::now();
    for kind in ["v", "a"] {
        let path = folder.path().join(kind).with_extension("mp4");
        let mut recorder = Recorder::create(&path, 1).expect("a file");
        let sounds = if kind == "a" {
            call.sounds.clone()
        } else {
            Vec::new()
        };
        let pictures = if kind == "v" {
            call.pictures.clone()
        } else {
            Vec::new()
        };
        for (index, sound) in sounds.iter().enumerate() {
            let at = start + Duration::from_millis(20) * index as u32;
            recorder.sound(sound, at).expect("it is written");
        }
        record(
            &mut recorder,
            &Call {
                pictures,
                sounds: Vec::new(),
            },
            start,
        );
        recorder.finish().expect("all is written");
        assert_eq!(complaints(&path), "", "{kind}");
        let frames = if kind == "v" { 60 } else { call.sounds.len() };
        let found = probe(&path, &format!("{kind}:0"), "nb_read_frames");
        assert_eq!(found, [frames.to_string()]);
    }
    let path = folder.path().join("nothing.mp4");
    let recorder = Recorder::create(&path, 1).expect("a file");
    assert_eq!(recorder.finish().expect("nothing to write").len(), 0);
    assert!(!path.exists());
    assert!(Recorder::create(Path::new("/nonexistent/call.mp4"), 1).is_err());
}

#[test]
fn pauses_keep_sound_and_pictures_together() {
    let folder = folder();
    let path = folder.path().join("call.mp4");
    let film = Film::new(Pattern::Talk, 160, 90);
    let call = call(&film, 180);
    let start = Instant::now();
    let mut recorder = Recorder::create(&path, 1).expect("a file");
    // The camera is off from second 2 to 5, its clock runs on; sound goes through.
    for (index, sound) in call.sounds.iter().enumerate() {
        let at = start + Duration::from_millis(20) * index as u32;
        recorder.sound(sound, at).expect("it is written");
        let frame = index * 3 / 5;
        let shown = !(60..150).contains(&frame);
        if index == 0 || frame != (index - 1) * 3 / 5 && shown {
            recorder
                .picture(&call.pictures[frame], at)
                .expect("it is written");
        }
    }
    recorder.finish().expect("all is written");
    let path = path.to_str().expect("a plain path");
    let arguments = [
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-show_entries",
        "packet=pts_time",
        "-of",
        "csv=p=0",
        path,
    ];
    let output = run("ffprobe", &arguments);
    let times: Vec<f64> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim_matches(',').parse().ok())
        .collect();
    assert_eq!(times.len(), 90);
    // Frame 150 comes at its 5 seconds, not right behind frame 59.
    let behind = times[60];
    assert!((behind - 5.0).abs() < 0.1, "at {behind} s");
}

#[test]
fn a_recovered_stream_has_no_gap_in_its_recording() {
    let folder = folder();
    let path = folder.path().join("call.mp4");
    let film = Film::new(Pattern::Talk, 320, 180);
    let mut encoder = encoder(PictureConfig {
        long_term: true,
        ..config(&film, 500_000)
    });
    let mut recorder = Recorder::create(&path, 1).expect("a file");
    let start = Instant::now();
    let mut recorded = 0;
    for index in 0..60 {
        let encoded = encode(&mut encoder, &film.frame(index));
        match index {
            // Lost; then not decodable, until recovery was asked for.
            20 | 21 => continue,
            22 => encoder.request_recovery(19),
            _ => encoder.ltr_feedback(index),
        }
        if index == 22 {
            continue;
        }
        if index == 23 {
            let referred = index - u64::from(encoded.reference_distance);
            assert!(!encoded.key && referred <= 19, "it recovers");
        }
        let at = start + Duration::from_millis(33) * index as u32;
        recorder.picture(&encoded, at).expect("it is written");
        recorded += 1;
    }
    recorder.finish().expect("all is written");
    assert_eq!(complaints(&path), "");
    assert_eq!(
        probe(&path, "v:0", "nb_read_frames"),
        [recorded.to_string()]
    );
}

/// Lets ffmpeg make a file.
fn made(path: &Path, arguments: &[&str]) -> Vec<u8> {
    let name = path.to_str().expect("a plain path");
    let all = [&["-v", "error", "-y", "-f", "lavfi"], arguments, &[name]].concat();
    let output = run("ffmpeg", &all);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    std::fs::read(path).expect("it is there")
}

#[test]
fn we_play_what_ffmpeg_encodes() {
    let folder = folder();
    let path = folder.path().join("made.h264");
    let source = [
        "-i",
        "testsrc2=size=640x360:rate=30:duration=2",
        "-pix_fmt",
        "yuv420p",
    ];
    // With one slice or several, and as many references as it likes.
    for tune in ["zerolatency", "film"] {
        let coder = [
            "-c:v",
            "libx264",
            "-profile:v",
            "baseline",
            "-tune",
            tune,
            "-g",
            "25",
            "-aud",
            "1",
            "-f",
            "h264",
        ];
        let stream = made(&path, &[&source[..], &coder[..]].concat());
        let mut decoder = decoder();
        let mut shown = 0;
        for (number, unit) in access_units(&stream).iter().enumerate() {
            let picture = decoder.decode(&AccessUnit {
                data: unit,
                time: VideoTime::from_ticks(number as u64 * 3_000),
                number: number as u64,
                reference_distance: 1,
            });
            let picture = picture.unwrap_or_else(|error| panic!("{tune} {number}: {error}"));
            let picture = picture.expect("one in, one out");
            assert_eq!(
                (picture.size().width(), picture.size().height()),
                (640, 360)
            );
            // The source has all kinds of luma in it: it is a picture, not grey.
            let luma = picture.planes()[0].data;
            assert!(luma.iter().any(|&it| it < 60) && luma.iter().any(|&it| it > 190));
            shown += 1;
        }
        assert_eq!(shown, 60, "{tune}");
    }
}

/// Cuts a stream at its delimiters.
fn access_units(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut units: Vec<Vec<u8>> = Vec::new();
    for nal in nal_units(stream) {
        if nal.kind() == NalKind::Delimiter {
            units.push(Vec::new());
        }
        let unit = units.last_mut().expect("a delimiter comes first");
        let len = (nal.data().len() as u32).to_be_bytes();
        let coded = from_length_prefixed(&[&len, nal.data()].concat());
        unit.extend_from_slice(&coded.expect("one unit"));
    }
    units
}

#[test]
fn we_play_opus_of_ffmpeg() {
    let folder = folder();
    let path = folder.path().join("made.ogg");
    let arguments = [
        "-i",
        "sine=frequency=440:sample_rate=48000:duration=2",
        "-c:a",
        "libopus",
    ];
    for (channels, length) in [("1", "20"), ("2", "10"), ("1", "60")] {
        let more = ["-ac", channels, "-frame_duration", length, "-b:a", "64k"];
        let stream = made(&path, &[&arguments[..], &more[..]].concat());
        let mut decoder = OpusDecoder::new().expect("a decoder");
        let mut heard = Vec::new();
        // The two packets of the head come first (RFC 7845 §3).
        for packet in ogg_packets(&stream).iter().skip(2) {
            decoder.decode(packet, &mut heard).expect("it decodes");
        }
        assert!(heard.len() >= 96_000, "{} samples", heard.len());
        // 440 Hz crosses zero 880 times a second.
        let steady = &heard[24_000..72_000];
        let crossings = steady
            .windows(2)
            .filter(|two| two[0] < 0.0 && two[1] >= 0.0);
        let count = crossings.count();
        assert!((436..=444).contains(&count), "{count} waves a second");
    }
}

/// The packets of an Ogg stream with one track (RFC 3533 §6).
fn ogg_packets(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let (mut packets, mut packet) = (Vec::new(), Vec::new());
    while stream.len() >= 27 {
        assert_eq!(&stream[..4], b"OggS");
        let (lengths, mut body) = stream[27..].split_at(stream[26].into());
        for &len in lengths {
            let (part, rest) = body.split_at(len.into());
            packet.extend_from_slice(part);
            body = rest;
            if len < 255 {
                packets.push(std::mem::take(&mut packet));
            }
        }
        stream = body;
    }
    packets
}
