//! A microphone of the sound server: a thread that hands on what the server sends.

use pulseaudio::protocol::{
    ChannelMap, ChannelPosition, Command, CreateRecordStreamReply, Props, RecordStreamParams,
    SampleFormat, SampleSpec,
    stream::{BufferAttr, StreamFlags},
};

use super::{Closer, Connection, Device, Failure, Message, RATE, Reader, SAMPLE_BYTES};
use crate::capture::{
    host::Hear,
    ring::{Alarm, Trouble},
};

/// Sound that the server collects before it sends it, milliseconds: half of what is read at once, so that 10 ms
/// are there at most 5 ms after their last sample. Less wakes server and program more often for nothing.
const FRAGMENT_MILLIS: u32 = 5;

/// Opens a microphone; `hear` gets mono sound at 48 kHz, until the result is dropped.
pub(crate) fn open(device: &Device, hear: impl Hear, alarm: Alarm) -> Result<Closer, Failure> {
    let mut connection = Connection::open()?;
    let params = RecordStreamParams {
        sample_spec: SampleSpec {
            format: SampleFormat::Float32Le,
            channels: 1,
            sample_rate: RATE,
        },
        channel_map: ChannelMap::new([ChannelPosition::Mono]),
        source_index: Some(device.index),
        buffer_attr: BufferAttr {
            fragment_size: RATE / 1_000 * FRAGMENT_MILLIS * SAMPLE_BYTES,
            ..BufferAttr::default()
        },
        flags: StreamFlags {
            adjust_latency: true,
            ..StreamFlags::default()
        },
        props: name(),
        ..RecordStreamParams::default()
    };
    let made: CreateRecordStreamReply = connection.ask(&Command::CreateRecordStream(params))?;
    tracing::debug!(
        device = device.name,
        fragment_bytes = made.buffer_attr.fragment_size,
        latency_micros = made.stream_latency,
        "microphone opened at the sound server"
    );
    // The writing end may go: nothing more is said on this connection.
    let (reader, _) = connection.split();
    Closer::spawn("sound-in", reader, move |reader| {
        listen(reader, hear, &alarm)
    })
}

/// What the server's tools call a stream of ours.
fn name() -> Props {
    let mut props = Props::new();
    props.set(pulseaudio::protocol::Prop::MediaName, c"call");
    props
}

fn listen(mut reader: Reader, mut hear: impl Hear, alarm: &Alarm) {
    let mut samples: Vec<f32> = Vec::new();
    loop {
        match reader.read() {
            Ok(Message::Sound(bytes)) => {
                samples.clear();
                let (whole, _) = bytes.as_chunks();
                samples.extend(whole.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                hear.hear(&samples, |sample| sample);
            }
            Ok(Message::Command(_, Command::RecordStreamKilled(_), _)) => {
                return alarm.raise(Trouble::Gone);
            }
            Ok(Message::Command(..) | Message::Unknown) => {}
            Err(failure) => {
                tracing::debug!(%failure, "no more sound from the sound server");
                return alarm.raise(Trouble::Gone);
            }
        }
    }
}
