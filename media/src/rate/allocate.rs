//! Splits the estimate: reports, sound, repair, screen, camera, transfer, in the order in which they are missed.
//! Also the two rules between estimate and encoder: when it is told, and when a picture is not encoded at all.

use std::time::Duration;

/// Reports and control take at most this share of the estimate.
const REPORT_SHARE: f64 = 0.03;
/// Reports each 20 ms on 300 packets a second take this, bits a second.
const REPORT_BITS_PER_SEC: f64 = 25_000.0;
/// What each packet costs beside its payload: IP, UDP, QUIC and our own headers, bytes.
const PACKET_BYTES: f64 = 76.0;
/// What a copy costs in an audio packet beside its payload, bytes.
const COPY_BYTES: f64 = 2.0;
/// Sound is cut in 10 ms from this estimate up, bits a second: it takes 30 kbit/s more of headers and saves 10 ms.
const SHORT_FRAMES_FROM: u64 = 600_000;
/// Below this estimate sound is cut in 40 ms.
const LONG_FRAMES_BELOW: u64 = 80_000;
/// Payload of sound at most, bits a second.
const AUDIO_MOST: u64 = 48_000;
/// Payload of sound on narrow links, bits a second: still wide-band speech.
const AUDIO_MEDIUM: u64 = 24_000;
/// Where this share of the estimate is more than [`AUDIO_MEDIUM`], the payload of sound may be so much: the
/// whole wish from 320 kbit/s up, 40 kbit/s on a link of 300. Sound is missed before pictures are.
const PAYLOAD_SHARE: f64 = 0.15;
/// Payload changes in steps of this, bits a second, so that the encoder is not told of each wave of the estimate.
const PAYLOAD_STEP: u64 = 4_000;
/// Payload of sound at least, bits a second.
const AUDIO_LEAST: u64 = 12_000;
/// Copies may lift sound to this share of the estimate; they are worth more than payload above
/// [`AUDIO_MEDIUM`].
const AUDIO_SHARE: f64 = 0.3;
/// Repair gets at most this share of what video gets with it.
const REPAIR_MOST: f64 = 1.0;
/// A transfer gets at least this share of the estimate.
const TRANSFER_SHARE: f64 = 0.02;
/// A camera beside a screen gets at least this, bits a second, or nothing.
const THUMBNAIL: f64 = 80_000.0;
/// A screen with text gets at least this share of what both get.
const TEXT_SHARE: f64 = 0.6;
/// The camera's share beside text, where the thumbnail needs no more.
const THUMBNAIL_SHARE: f64 = 0.2;
/// The camera's share beside a film.
const CAMERA_BESIDE_FILM: f64 = 0.4;
/// The encoder is asked for this share of what its payload may be: it keeps its promise within some percent.
const ENCODER_SHARE: f64 = 0.97;
/// Pictures a second when headers are reckoned.
const FRAMES_PER_SEC: f64 = 30.0;
/// An encoder is told of a rise above this factor.
const TELL_FROM: f64 = 1.03;
/// A picture is not encoded while the pacer holds video for longer than an interval and this.
const PACER_SLACK: Duration = Duration::from_millis(20);
/// Nor while the rest of a key frame takes longer than this.
const KEY_FRAME_REST: Duration = Duration::from_millis(40);
/// Nor when video and resends have been over the share for this long.
const OVER_BUDGET: Duration = Duration::from_millis(300);

/// What wants a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// The estimate, bits a second of everything on the wire.
    pub estimate_bits_per_sec: u64,
    /// Sound is sent (a muted microphone still sends comfort noise).
    pub audio: bool,
    /// Only the least sound (see [`super::Estimator::audio_floor`]).
    pub audio_floor: bool,
    /// Payload of sound wished, bits a second, usually 48,000, which is also the most that is given.
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

/// Splits the estimate in the order of importance. The parts never exceed it but for sound, which gets its least
/// whatever the estimate says.
pub fn allocate(demand: &Demand) -> Shares {
    let estimate = demand.estimate_bits_per_sec as f64;
    let reports = (REPORT_SHARE * estimate).min(REPORT_BITS_PER_SEC);
    let audio = audio(demand);
    let transfer_least = if demand.transfer {
        TRANSFER_SHARE * estimate
    } else {
        0.0
    };
    let left = (estimate - reports - audio.wire - transfer_least).max(0.0);
    let wanted = demand.camera || demand.screen.is_some();
    let video = if wanted {
        left.min(demand.video_cap_bits_per_sec as f64)
    } else {
        0.0
    };
    let repair_share = if demand.repair_share.is_finite() {
        demand.repair_share.clamp(0.0, REPAIR_MOST)
    } else {
        0.0
    };
    let first = video / (1.0 + repair_share);
    let (screen, camera) = pictures(demand, first);
    let transfer = if demand.transfer {
        (left - video + transfer_least).max(0.0)
    } else {
        0.0
    };
    Shares {
        reports_bits_per_sec: reports as u64,
        audio_wire_bits_per_sec: audio.wire as u64,
        audio_encoder_bits_per_sec: audio.encoder,
        audio_frame: audio.frame,
        audio_copies: audio.copies,
        repair_bits_per_sec: (video - first) as u64,
        screen_bits_per_sec: screen as u64,
        screen_encoder_bits_per_sec: encoder_target(screen, demand.fragment_bytes),
        camera_bits_per_sec: camera as u64,
        camera_encoder_bits_per_sec: encoder_target(camera, demand.fragment_bytes),
        transfer_bits_per_sec: transfer as u64,
    }
}

struct Audio {
    wire: f64,
    encoder: u64,
    frame: Duration,
    copies: u8,
}

fn audio(demand: &Demand) -> Audio {
    let estimate = demand.estimate_bits_per_sec;
    let low = demand.audio_floor || estimate < LONG_FRAMES_BELOW;
    let millis: u32 = if low {
        40
    } else if estimate < SHORT_FRAMES_FROM {
        20
    } else {
        10
    };
    let wished = demand.audio_bits_per_sec.clamp(AUDIO_LEAST, AUDIO_MOST);
    let (wished, least) = if low {
        (AUDIO_LEAST, AUDIO_LEAST)
    } else {
        (wished, wished.min(AUDIO_MEDIUM))
    };
    let bits_per_byte = 8.0 * 1_000.0 / f64::from(millis);
    let room = AUDIO_SHARE * estimate as f64 / bits_per_byte - PACKET_BYTES;
    // What the first and so many copies can have each.
    let with = |copies: u8| {
        let copies = f64::from(copies);
        in_steps((room - copies * COPY_BYTES) / (1.0 + copies) * bits_per_byte)
    };
    let copies = (0..=demand.audio_copies.min(3))
        .rev()
        .find(|copies| with(*copies) >= least)
        .unwrap_or(0);
    let fits = with(copies).min(in_steps(PAYLOAD_SHARE * estimate as f64));
    let encoder = wished.min(fits.max(least));
    let payload = encoder as f64 / bits_per_byte;
    let bytes = PACKET_BYTES + payload + f64::from(copies) * (payload + COPY_BYTES);
    Audio {
        wire: if demand.audio {
            bytes * bits_per_byte
        } else {
            0.0
        },
        encoder,
        frame: Duration::from_millis(millis.into()),
        copies,
    }
}

/// Whole steps of payload.
fn in_steps(bits_per_sec: f64) -> u64 {
    bits_per_sec as u64 / PAYLOAD_STEP * PAYLOAD_STEP
}

/// Screen and camera, of `bits` a second.
fn pictures(demand: &Demand, bits: f64) -> (f64, f64) {
    let Some(screen) = demand.screen else {
        return (0.0, if demand.camera { bits } else { 0.0 });
    };
    if !demand.camera {
        return (bits, 0.0);
    }
    let (share, most) = if screen.text {
        (THUMBNAIL_SHARE, 1.0 - TEXT_SHARE)
    } else {
        (CAMERA_BESIDE_FILM, CAMERA_BESIDE_FILM)
    };
    let camera = (share * bits).max(THUMBNAIL);
    if camera > most * bits {
        // A thumbnail that would take the screen's part is not worth having.
        return (bits, 0.0);
    }
    (bits - camera, camera)
}

/// What the encoder is set to where its stream may take `bits` a second on the wire.
fn encoder_target(bits: f64, fragment_bytes: usize) -> u64 {
    let frame = bits / 8.0 / FRAMES_PER_SEC;
    // Half a packet more on average, since a frame ends where it ends.
    let packets = frame / (fragment_bytes.max(1) as f64 + PACKET_BYTES) + 0.5;
    let payload = (frame - packets * PACKET_BYTES).max(frame * 0.5);
    (payload * 8.0 * FRAMES_PER_SEC * ENCODER_SHARE) as u64
}

/// Decides when an encoder is told of a new target: at each decrease, and at a rise of more than 3 %.
#[derive(Debug, Clone, Copy, Default)]
pub struct TargetFilter {
    told_bits_per_sec: u64,
}

impl TargetFilter {
    /// The target to tell now, if any.
    pub fn update(&mut self, target_bits_per_sec: u64) -> Option<u64> {
        let told = self.told_bits_per_sec;
        let rises = target_bits_per_sec as f64 > TELL_FROM * told as f64;
        (rises || target_bits_per_sec < told).then(|| {
            self.told_bits_per_sec = target_bits_per_sec;
            target_bits_per_sec
        })
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

/// Whether, and why, this picture is not encoded: what cannot leave in time is not made.
pub fn skip_capture(inputs: &SkipInputs) -> Option<SkipReason> {
    if !inputs.video_allowed {
        return Some(SkipReason::VideoOff);
    }
    if inputs.encoder_busy {
        return Some(SkipReason::EncoderBusy);
    }
    if inputs.key_frame_rest >= KEY_FRAME_REST {
        return Some(SkipReason::KeyFrame);
    }
    if inputs.pacer_delay > inputs.frame_interval + PACER_SLACK {
        return Some(SkipReason::Pacer);
    }
    (inputs.over_budget >= OVER_BUDGET).then_some(SkipReason::Budget)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(estimate: u64) -> Demand {
        Demand {
            estimate_bits_per_sec: estimate,
            audio: true,
            audio_floor: false,
            audio_bits_per_sec: 48_000,
            audio_copies: 0,
            repair_share: 0.0,
            camera: true,
            screen: None,
            video_cap_bits_per_sec: 2_500_000,
            transfer: false,
            fragment_bytes: 1_110,
        }
    }

    #[test]
    fn a_camera_alone_gets_what_sound_and_reports_leave() {
        let shares = allocate(&demand(1_000_000));
        assert_eq!(shares.reports_bits_per_sec, 25_000);
        // 60 bytes and 76 of headers, a hundred times a second.
        assert_eq!(shares.audio_wire_bits_per_sec, 108_800);
        assert_eq!(shares.audio_frame, Duration::from_millis(10));
        assert_eq!(shares.camera_bits_per_sec, 1_000_000 - 25_000 - 108_800);
        let target = shares.camera_encoder_bits_per_sec as f64;
        let share = shares.camera_bits_per_sec as f64;
        assert!((0.89..0.93).contains(&(target / share)), "{target}");
        assert_eq!(shares.transfer_bits_per_sec, 0);
    }

    #[test]
    fn sound_shrinks_with_the_estimate() {
        let at = |estimate| {
            let shares = allocate(&demand(estimate));
            (
                shares.audio_frame.as_millis(),
                shares.audio_encoder_bits_per_sec,
            )
        };
        assert_eq!(at(600_000), (10, 48_000));
        assert_eq!(at(330_000), (20, 48_000));
        assert_eq!(at(270_000), (20, 40_000));
        assert_eq!(at(200_000), (20, 28_000));
        assert_eq!(at(150_000), (20, 24_000));
        assert_eq!(at(60_000), (40, 12_000));
        let floor = Demand {
            audio_floor: true,
            ..demand(1_000_000)
        };
        let shares = allocate(&floor);
        assert_eq!(shares.audio_encoder_bits_per_sec, 12_000);
    }

    #[test]
    fn copies_are_given_while_they_fit() {
        let with = |estimate| {
            allocate(&Demand {
                audio_copies: 2,
                ..demand(estimate)
            })
            .audio_copies
        };
        assert_eq!(with(1_000_000), 2);
        assert_eq!(with(360_000), 2);
        assert_eq!(with(300_000), 1);
        assert_eq!(with(200_000), 0);
    }

    #[test]
    fn repair_is_taken_from_the_pictures() {
        let shares = allocate(&Demand {
            repair_share: 0.48,
            ..demand(2_500_000)
        });
        let all = shares.camera_bits_per_sec + shares.repair_bits_per_sec;
        let share = shares.camera_bits_per_sec as f64 / all as f64;
        assert!((share - 1.0 / 1.48).abs() < 1e-3);
    }

    #[test]
    fn text_comes_before_the_camera() {
        let both = |estimate, text| {
            let shares = allocate(&Demand {
                screen: Some(ScreenDemand { text }),
                ..demand(estimate)
            });
            (shares.screen_bits_per_sec, shares.camera_bits_per_sec)
        };
        let (screen, camera) = both(2_000_000, true);
        assert!(screen as f64 >= 0.6 * (screen + camera) as f64 && camera >= 80_000);
        let (screen, camera) = both(450_000, true);
        assert!(screen > 0 && (80_000..=80_001).contains(&camera));
        assert_eq!(both(250_000, true).1, 0);
    }

    #[test]
    fn a_transfer_never_starves() {
        let shares = allocate(&Demand {
            transfer: true,
            ..demand(1_000_000)
        });
        assert!((20_000..=20_001).contains(&shares.transfer_bits_per_sec));
        let shares = allocate(&Demand {
            transfer: true,
            ..demand(10_000_000)
        });
        assert!(shares.transfer_bits_per_sec > 7_000_000);
    }

    #[test]
    fn the_encoder_hears_of_what_matters() {
        let mut filter = TargetFilter::default();
        assert_eq!(filter.update(1_000), Some(1_000));
        assert_eq!(filter.update(1_020), None);
        assert_eq!(filter.update(1_031), Some(1_031));
        assert_eq!(filter.update(1_030), Some(1_030));
        assert_eq!(filter.told(), 1_030);
    }

    #[test]
    fn what_cannot_leave_is_not_encoded() {
        let fine = SkipInputs {
            video_allowed: true,
            encoder_busy: false,
            pacer_delay: Duration::from_millis(10),
            key_frame_rest: Duration::ZERO,
            frame_interval: Duration::from_millis(33),
            over_budget: Duration::ZERO,
        };
        assert_eq!(skip_capture(&fine), None);
        let cases = [
            (
                SkipInputs {
                    video_allowed: false,
                    ..fine
                },
                SkipReason::VideoOff,
            ),
            (
                SkipInputs {
                    encoder_busy: true,
                    ..fine
                },
                SkipReason::EncoderBusy,
            ),
            (
                SkipInputs {
                    key_frame_rest: Duration::from_millis(40),
                    ..fine
                },
                SkipReason::KeyFrame,
            ),
            (
                SkipInputs {
                    pacer_delay: Duration::from_millis(54),
                    ..fine
                },
                SkipReason::Pacer,
            ),
            (
                SkipInputs {
                    over_budget: Duration::from_millis(300),
                    ..fine
                },
                SkipReason::Budget,
            ),
        ];
        for (inputs, reason) in cases {
            assert_eq!(skip_capture(&inputs), Some(reason));
        }
    }

    proptest! {
        #[test]
        fn the_parts_are_no_more_than_the_whole(
            estimate in 0u64..50_000_000, audio: bool, copies: u8, repair in 0.0..2.0f64, camera: bool,
            screen in prop::option::of(any::<bool>()), transfer: bool, fragment in 0usize..2_000,
        ) {
            let shares = allocate(&Demand {
                audio,
                audio_copies: copies,
                repair_share: repair,
                camera,
                screen: screen.map(|text| ScreenDemand { text }),
                transfer,
                fragment_bytes: fragment,
                ..demand(estimate)
            });
            let least = 40_000; // sound at its least
            let sum = shares.reports_bits_per_sec
                + shares.audio_wire_bits_per_sec
                + shares.repair_bits_per_sec
                + shares.screen_bits_per_sec
                + shares.camera_bits_per_sec
                + shares.transfer_bits_per_sec;
            prop_assert!(sum <= estimate.max(least) + 6);
            prop_assert!(shares.camera_encoder_bits_per_sec <= shares.camera_bits_per_sec);
            prop_assert!(camera || shares.camera_bits_per_sec == 0);
        }
    }
}
