//! Splits the estimate: reports, sound, repair, screen, camera, transfer.

use std::time::Duration;

/// What wants a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// The estimate, bits a second of everything on the wire.
    pub estimate_bits_per_sec: u64,
    /// Sound is sent (a muted microphone still sends comfort noise).
    pub audio: bool,
    /// Only the least sound (see [`super::Estimator::audio_floor`]).
    pub audio_floor: bool,
    /// Payload of sound wished, bits a second, usually 32,000; at most 48,000 is given.
    pub audio_bits_per_sec: u64,
    /// Copies of earlier frames in each audio packet that repair wants, 0 to 3.
    pub audio_copies: u8,
    /// What repair costs for each bit of video (resends and parity), 0 to 1.
    pub repair_share: f64,
    /// The camera is on.
    pub camera: bool,
    /// The screen is shared.
    pub screen: Option<ScreenDemand>,
    /// All video with its repair may take at most this, bits a second.
    pub video_cap_bits_per_sec: u64,
    /// A transfer runs on the same connection.
    pub transfer: bool,
    /// The largest fragment, bytes of payload: what headers cost follows from it.
    pub fragment_bytes: usize,
}

/// A shared screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScreenDemand {
    /// It shows text (not a film).
    pub text: bool,
}

/// Who gets what, bits a second. Those "on the wire" have all headers in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Reports and control, on the wire.
    pub reports_bits_per_sec: u64,
    /// Sound with headers and copies, on the wire.
    pub audio_wire_bits_per_sec: u64,
    /// What the audio encoder is set to.
    pub audio_encoder_bits_per_sec: u64,
    /// Length of an audio frame: 10, 20 or 40 ms.
    pub audio_frame: Duration,
    /// Copies that fit, at most those wanted.
    pub audio_copies: u8,
    /// Resends and parity of all video, on the wire.
    pub repair_bits_per_sec: u64,
    /// The screen without repair, on the wire: what the ladder goes by.
    pub screen_bits_per_sec: u64,
    /// What the screen's encoder is set to; 0: off.
    pub screen_encoder_bits_per_sec: u64,
    /// The camera without repair, on the wire: what the ladder goes by.
    pub camera_bits_per_sec: u64,
    /// What the camera's encoder is set to; 0: off.
    pub camera_encoder_bits_per_sec: u64,
    /// A transfer, on the wire.
    pub transfer_bits_per_sec: u64,
}

/// Splits the estimate in the order of importance.
pub fn allocate(_demand: &Demand) -> Shares {
    todo!()
}

/// Decides when an encoder is told of a new target: at each decrease, and at a rise of more than 3 %.
#[derive(Debug, Clone, Copy, Default)]
pub struct TargetFilter {
    told_bits_per_sec: u64,
}

impl TargetFilter {
    /// The target to tell now, if any.
    pub fn update(&mut self, _target_bits_per_sec: u64) -> Option<u64> {
        todo!()
    }

    /// The target told last.
    pub fn told(&self) -> u64 {
        self.told_bits_per_sec
    }
}

/// What speaks against encoding a picture now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkipInputs {
    /// [`super::Estimator::video_allowed`].
    pub video_allowed: bool,
    /// The encoder still has the picture before.
    pub encoder_busy: bool,
    /// How long the pacer needs for the video in it.
    pub pacer_delay: Duration,
    /// How long the pacer needs for the rest of a key frame in it; zero if none is.
    pub key_frame_rest: Duration,
    /// Time between pictures.
    pub frame_interval: Duration,
    /// For how long resends and pictures together have been over the share.
    pub over_budget: Duration,
}

/// Why a picture was not encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// Draining, or no reports.
    VideoOff,
    /// The encoder still has the picture before.
    EncoderBusy,
    /// A key frame is still in the pacer.
    KeyFrame,
    /// Too much is in the pacer.
    Pacer,
    /// Resends take the share.
    Budget,
}

/// Whether, and why, this picture is not encoded.
pub fn skip_capture(_inputs: &SkipInputs) -> Option<SkipReason> {
    todo!()
}
