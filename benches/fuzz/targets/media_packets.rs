//! Datagrams of a call. What is read can be written, and then says the same.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use media::packet::{Kind, RawBody, Receiver, StreamFormat, WireClock, Writer, parse};

/// Arrivals farther back than this begin before the clock does, and are cut: 60 s in steps of 250 µs.
const BACK_MAX: i32 = 240_000;

fuzz_target!(|bytes: &[u8]| {
    let Ok((header, raw)) = parse(&bytes::Bytes::copy_from_slice(bytes)) else {
        return;
    };
    assert_eq!(
        header.to_bytes()[..],
        bytes[..8],
        "the header is not what it was"
    );
    let mut receiver = Receiver::default();
    let format = if header.kind == Kind::Audio {
        StreamFormat::Audio
    } else {
        StreamFormat::Video
    };
    assert!(receiver.open(header.stream, format));
    let whole = receiver
        .complete(&header, raw.clone())
        .expect("its stream is open");
    let now = Instant::now();
    let mut writer = Writer::new(WireClock::new(now, 0));
    let written = writer
        .write(now, 1, Duration::ZERO, &whole.body)
        .expect("what was read can be written");
    assert!(written.len() <= bytes.len(), "it has grown");
    let (_, again) = parse(&written).expect("what was written can be read");
    if let RawBody::Report(report) = &raw
        && report.arrivals.iter().flatten().any(|at| *at < -BACK_MAX)
    {
        return;
    }
    assert_eq!(again, raw);
});
