//! What the encoders hand over: pictures into fragments with parity, sound into packets with copies, all of it into
//! the pacer.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Item, Sender};
use crate::pace::{FrameTag, Queued};
use crate::packet::{
    AudioBody, Body, Class, HEADER_BYTES, ParityBody, Sound, VideoBody, WIRE_OVERHEAD_BYTES,
    Writer, fragment, fragment_budget,
};
use crate::{EncodedPicture, EncodedSound, StreamId};

/// In silence a packet of comfort noise goes so often.
const COMFORT_INTERVAL: Duration = Duration::from_millis(200);
/// Headers of an audio packet and of each copy in it, of a fragment, of parity and of each frame it covers,
/// bytes (formats of [`crate::packet`]).
const AUDIO_HEADER: usize = HEADER_BYTES + 7;
const COPY_HEADER: usize = 2;
const VIDEO_HEADER: usize = HEADER_BYTES + 11;
const PARITY_HEADER: usize = HEADER_BYTES + 10;
const COVERED_FRAME: usize = 11;
/// Loss from which on frames of one packet go twice: below it a resend is cheaper than as much again, most of
/// all on a narrow link, where all frames are so small and the few losses are its queue's.
const COPY_SINGLES_FROM: f64 = 0.03;

impl Sender {
    pub(in crate::call) fn on_picture(
        &mut self,
        now: Instant,
        stream: StreamId,
        picture: &EncodedPicture,
        captured_at: Instant,
    ) {
        let budget = fragment_budget(self.path.max_datagram_bytes, self.path.relayed);
        let Some(video) = self.video.iter_mut().find(|video| video.stream == stream) else {
            return;
        };
        let number = video.on_picture(now, picture.key, picture.data.len());
        let fragments = match fragment(stream, number, picture, budget) {
            Ok(fragments) if video.on => fragments,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, stream = stream.0, "picture cannot be sent");
                video.counters.refused += 1;
                return;
            }
        };
        let info = *fragments.frame();
        let mut plan = self.policy.plan(&info, video.is_screen());
        if self.policy.loss() < COPY_SINGLES_FROM {
            plan.copy_single_after = None;
        }
        let bodies: Vec<VideoBody> = fragments.collect();
        let data: Vec<Bytes> = bodies.iter().map(|body| body.data.clone()).collect();
        let parity = video
            .parity
            .encode(&info, &data, plan.parity_shards, plan.window_frames);
        if info.key {
            self.resend.abandon_before(stream, number);
        }
        self.resend.on_frame(now, &info, data, &parity, &plan);
        let frame = Some(FrameTag {
            stream,
            number,
            key: info.key,
        });
        let bodies = bodies.into_iter().map(Body::Video);
        for body in bodies.chain(parity.into_iter().map(Body::Parity)) {
            self.queue(now, Class::Video, frame, body, captured_at);
        }
        tracing::trace!(
            stream = stream.0,
            frame = number,
            bytes = picture.data.len(),
            key = info.key,
            encoded_micros = now.saturating_duration_since(captured_at).as_micros() as u64,
            "frame handed over"
        );
    }

    pub(in crate::call) fn on_sound(
        &mut self,
        now: Instant,
        sound: EncodedSound,
        captured_at: Instant,
    ) {
        let number = self.next_sound;
        self.next_sound += 1;
        self.sound_on = true;
        let frame = Duration::from_micros(u64::from(sound.samples) * 1_000 / 48);
        self.last_sound = (sound.voice, frame);
        if sound.silence {
            let recent = self
                .silent_since_packet
                .is_some_and(|at| now.saturating_duration_since(at) < COMFORT_INTERVAL);
            if recent {
                return;
            }
            self.silent_since_packet = Some(now);
        } else {
            self.silent_since_packet = None;
        }
        let primary = Sound {
            number,
            time: sound.time,
            samples: sound.samples,
            data: sound.data,
            voice: sound.voice,
            silence: sound.silence,
        };
        let body = self.sounds.pack(primary, &self.sound_plan);
        self.counters.sounds += 1;
        self.counters.copies += body.copies.len() as u64;
        self.queue(now, Class::Audio, None, Body::Audio(body), captured_at);
        self.report_wanted = true;
    }

    pub(super) fn queue(
        &mut self,
        now: Instant,
        class: Class,
        frame: Option<FrameTag>,
        body: Body,
        captured_at: Instant,
    ) {
        let wire_bytes = (body_len(&body) + WIRE_OVERHEAD_BYTES) as u32;
        self.pacer.push(
            now,
            Queued {
                class,
                wire_bytes,
                frame,
                probe_bits_per_sec: None,
                item: Item { body, captured_at },
            },
        );
    }
}

/// The length of a packet on its way into the pacer, bytes.
fn body_len(body: &Body) -> usize {
    match body {
        Body::Audio(body) => audio_len(body),
        Body::Video(body) => VIDEO_HEADER + body.data.len(),
        Body::Parity(body) => parity_len(body),
        Body::Probe { padding, .. } => Writer::probe_len() + padding,
        Body::Report(_) | Body::PathMark { .. } => HEADER_BYTES + 2,
    }
}

fn audio_len(body: &AudioBody) -> usize {
    let copies = body.copies.iter();
    AUDIO_HEADER
        + body.primary.data.len()
        + copies
            .map(|copy| COPY_HEADER + copy.data.len())
            .sum::<usize>()
}

fn parity_len(body: &ParityBody) -> usize {
    PARITY_HEADER + COVERED_FRAME * body.frames.len() + body.shard.len()
}
