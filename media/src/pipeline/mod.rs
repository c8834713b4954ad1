//! Threads between devices, codecs, a [`Call`](crate::call::Call) and the network, with bounded queues
//! between them. Each thread does one thing; the one that owns the call decides everything.

mod config;

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use bytes::Bytes;

use crate::Transport;
use crate::capture::{AudioSpec, VideoSpec};
use crate::playback::AudioSinkSpec;
use crate::stats::{Snapshot, Summary};
use crate::voice::VoiceConfig;

pub use self::config::{Config, Device, Event, PipelineError};

/// The media of one call, running. Dropped without [`Pipeline::stop`], it stops as well.
#[derive(Debug)]
pub struct Pipeline {}

impl Pipeline {
    /// Opens devices, makes codecs and starts to send. Waits for none of the devices: what cannot be opened is
    /// told as an event, and the call goes on without it.
    ///
    /// # Errors
    /// [`PipelineError`], where nothing could work.
    pub fn start(config: Config, transport: Arc<dyn Transport>) -> Result<Self, PipelineError> {
        let _ = (config, transport);
        todo!()
    }

    /// A datagram of the call came. Never waits: with 512 unread ones, the newest is dropped and counted.
    pub fn on_datagram(&self, datagram: Bytes) {
        let _ = datagram;
        todo!()
    }

    /// Sends silence instead of the microphone's sound, or no more.
    pub fn set_muted(&self, muted: bool) {
        let _ = muted;
        todo!()
    }

    /// Stops or goes on sending the camera; the device is closed meanwhile.
    pub fn set_camera(&self, on: bool) {
        let _ = on;
        todo!()
    }

    /// On hold nothing is captured and nothing is played; reports and comfort noise go on.
    pub fn set_hold(&self, held: bool) {
        let _ = held;
        todo!()
    }

    /// Takes the camera stream from another source; [`VideoSpec::None`] ends it.
    pub fn switch_video(&self, source: VideoSpec) {
        let _ = source;
        todo!()
    }

    /// Shares another screen; [`VideoSpec::None`] ends it.
    pub fn switch_screen(&self, source: VideoSpec) {
        let _ = source;
        todo!()
    }

    /// Takes the sound from another source; [`AudioSpec::None`] ends it.
    pub fn switch_audio(&self, source: AudioSpec) {
        let _ = source;
        todo!()
    }

    /// Plays on another loudspeaker.
    pub fn switch_speaker(&self, sink: AudioSinkSpec) {
        let _ = sink;
        todo!()
    }

    /// Switches echo cancellation, noise suppression and gain.
    pub fn set_voice(&self, voice: VoiceConfig) {
        let _ = voice;
        todo!()
    }

    /// The peer wants no more than this, bits a second. Its advice can only lower our own cap.
    pub fn set_peer_cap(&self, bits_per_sec: u64) {
        let _ = bits_per_sec;
        todo!()
    }

    /// A transfer runs on the same connection, or no more: it gets its share.
    pub fn set_transfer(&self, runs: bool) {
        let _ = runs;
        todo!()
    }

    /// All numbers, as they stand now (a few ms old at most).
    pub fn stats(&self) -> Snapshot {
        todo!()
    }

    /// What happens, from now on; to be taken once, `None` afterwards. At most 256 unread events are kept, later
    /// ones are lost.
    pub fn events(&mut self) -> Option<Receiver<Event>> {
        todo!()
    }

    /// Ends everything, waits for the threads (a second at most), and sums up.
    pub fn stop(self) -> Summary {
        todo!()
    }
}
