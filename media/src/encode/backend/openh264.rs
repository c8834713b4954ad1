//! openh264's encoder: made, started and destroyed by the crate's safe face, driven through the raw one that
//! it gives out. The safe one has no temporal layers, no slices and no feedback about references, and would
//! overwrite these settings at the next frame.
#![expect(
    unsafe_code,
    reason = "options and frames of the raw encoder are C structures"
)]

use std::ffi::{c_int, c_void};
use std::fmt;

use openh264::encoder::{
    Complexity, Encoder, EncoderConfig, EncoderRawAPI, FrameRate, RateControlMode, SpsPpsStrategy,
    UsageType,
};
use openh264::formats::YUVBuffer;
use openh264::{Error, OpenH264API};
use openh264_sys2::{
    CAMERA_VIDEO_REAL_TIME, CONSTANT_ID, ENCODER_LTR_MARKING_FEEDBACK,
    ENCODER_LTR_RECOVERY_REQUEST, ENCODER_OPTION, ENCODER_OPTION_BITRATE,
    ENCODER_OPTION_FRAME_RATE, ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, ENCODER_OPTION_TRACE_LEVEL,
    LOW_COMPLEXITY, LTR_MARKING_SUCCESS, LTR_RECOVERY_REQUEST, PRO_BASELINE, RC_BITRATE_MODE,
    SBitrateInfo, SCREEN_CONTENT_REAL_TIME, SEncParamExt, SFrameBSInfo, SLTRMarkingFeedback,
    SLTRRecoverRequest, SM_FIXEDSLCNUM_SLICE, SM_SINGLE_SLICE, SPATIAL_LAYER_ALL, SSourcePicture,
    WELS_LOG_QUIET, videoFormatI420, videoFrameTypeSkip,
};

use super::super::h264::{Content, EncodeError, PictureConfig};
use crate::Picture;

/// Long-term references kept. openh264 alternates between two: one that is proven to have arrived, and one
/// that is under way.
const LONG_TERM_REFERENCES: c_int = 2;
/// Frames between two marks of a long-term reference. Fewer make the reference of a recovery newer, and the
/// recovery smaller; a mark costs some bits of slice header. At 30 frames/s this is a third of a second.
const MARK_PERIOD: u32 = 10;
/// Lines from which on a picture is cut into slices that two threads encode at once: with less there is
/// nothing to gain. Wall time at 1280×720 on busy cores: 4.5 ms in place of 13.
const SLICED_HEIGHT: u32 = 540;
/// Slices of such a picture, and threads for them.
const SLICES: u32 = 4;
const THREADS: u16 = 2;
/// Side, pixels, of the picture that starts the library; the least that it takes.
const STARTER: usize = 16;

/// What `request_recovery` must tell: numbers of frames as the library counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::encode) struct Recovery {
    /// `idr_pic_id` of the last key frame.
    pub(in crate::encode) key_id: u16,
    /// `frame_num` of the last good frame.
    pub(in crate::encode) last_good: u16,
    /// `frame_num` of the newest frame sent.
    pub(in crate::encode) newest: u16,
}

/// One encoder. Every method may be called in any order; after an error of [`Self::encode`] the object must
/// not be used again.
pub(in crate::encode) struct Backend {
    encoder: Encoder,
}

impl Backend {
    /// Makes and sets up an encoder whose first frame is a key frame.
    pub(in crate::encode) fn new(config: &PictureConfig) -> Result<Self, EncodeError> {
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), starter(config))
            .map_err(|error| refused("start", &error))?;
        let mut this = Self { encoder };
        this.option(ENCODER_OPTION_TRACE_LEVEL, "be quiet", WELS_LOG_QUIET)?;
        // The safe face initializes the library at its first picture, and nothing else does; the options
        // that follow make it begin anew, as it must do for another strategy of parameter sets.
        this.encoder
            .encode(&YUVBuffer::new(STARTER, STARTER))
            .map_err(|error| refused("start", &error))?;
        let mut parameters = SEncParamExt::default();
        // SAFETY: `parameters` is a valid structure that the call fills.
        let code = unsafe { this.raw().get_default_params(&raw mut parameters) };
        check("tell its defaults", code)?;
        fill(&mut parameters, config);
        this.option(ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, "set up", parameters)?;
        Ok(this)
    }

    /// Encodes a picture whose size is that of the configuration. `None`: it was skipped. `into` is cleared
    /// and receives the access unit. The layer is what the library counted.
    pub(in crate::encode) fn encode(
        &mut self,
        picture: &Picture,
        into: &mut Vec<u8>,
    ) -> Result<Option<u8>, EncodeError> {
        let mut info = Box::<SFrameBSInfo>::default();
        let source = source(picture);
        // SAFETY: the library is initialized; the planes that `source` points to belong to `picture`, which
        // outlives the call, and have the sizes it states (`Picture` checks them). The library does not
        // write to them.
        let code = unsafe { self.raw().encode_frame(&raw const source, &raw mut *info) };
        check("encode", code)?;
        into.clear();
        if info.eFrameType == videoFrameTypeSkip {
            return Ok(None);
        }
        let mut layer = 0;
        let layers = usize::try_from(info.iLayerNum).unwrap_or(0);
        for part in info.sLayerInfo.iter().take(layers) {
            layer = part.uiTemporalId;
            let count = usize::try_from(part.iNalCount).unwrap_or(0);
            if part.pNalLengthInByte.is_null() || part.pBsBuf.is_null() {
                return Err(failed("give out its bytes", 0));
            }
            // SAFETY: the library filled the array with the lengths of `iNalCount` units, and lets it stand
            // until the next call.
            let lengths = unsafe { std::slice::from_raw_parts(part.pNalLengthInByte, count) };
            let len = lengths
                .iter()
                .map(|&len| usize::try_from(len).unwrap_or(0))
                .sum();
            // SAFETY: the units of a layer lie one behind the other from `pBsBuf` on, so many bytes in all,
            // and stand until the next call.
            into.extend_from_slice(unsafe { std::slice::from_raw_parts(part.pBsBuf, len) });
        }
        Ok((!into.is_empty()).then_some(layer))
    }

    /// Aims at another rate.
    pub(in crate::encode) fn set_rate(
        &mut self,
        bits_per_second: u32,
        frames_per_second: f32,
    ) -> Result<(), EncodeError> {
        self.option(
            ENCODER_OPTION_FRAME_RATE,
            "change the frame rate",
            frames_per_second,
        )?;
        let rate = SBitrateInfo {
            iLayer: SPATIAL_LAYER_ALL,
            iBitrate: as_int(bits_per_second),
        };
        self.option(ENCODER_OPTION_BITRATE, "change the rate", rate)
    }

    /// Makes the next frame a key frame.
    pub(in crate::encode) fn force_key(&mut self) {
        self.encoder.force_intra_frame();
    }

    /// Makes the next base frame refer to a long-term reference that is confirmed and good, or to nothing.
    pub(in crate::encode) fn recover(&mut self, recovery: Recovery) -> Result<(), EncodeError> {
        let request = SLTRRecoverRequest {
            uiFeedbackType: LTR_RECOVERY_REQUEST as u32,
            uiIDRPicId: recovery.key_id.into(),
            iLastCorrectFrameNum: recovery.last_good.into(),
            iCurrentFrameNum: recovery.newest.into(),
            iLayerId: 0,
        };
        self.option(ENCODER_LTR_RECOVERY_REQUEST, "recover", request)
    }

    /// The long-term reference with this `frame_num` has arrived.
    pub(in crate::encode) fn confirm(
        &mut self,
        key_id: u16,
        frame_num: u16,
    ) -> Result<(), EncodeError> {
        let feedback = SLTRMarkingFeedback {
            uiFeedbackType: LTR_MARKING_SUCCESS as u32,
            uiIDRPicId: key_id.into(),
            iLTRFrameNum: frame_num.into(),
            iLayerId: 0,
        };
        self.option(
            ENCODER_LTR_MARKING_FEEDBACK,
            "confirm a reference",
            feedback,
        )
    }

    /// Sets one option; `T` must be the type that the library expects for it.
    fn option<T: Copy>(
        &mut self,
        option: ENCODER_OPTION,
        action: &'static str,
        mut value: T,
    ) -> Result<(), EncodeError> {
        let value: *mut c_void = (&raw mut value).cast();
        // SAFETY: `value` points to a value of the type that belongs to `option`, as each of the callers in
        // this file sees to; the library copies it.
        check(action, unsafe { self.raw().set_option(option, value) })
    }

    /// The raw face of the encoder.
    const fn raw(&mut self) -> &EncoderRawAPI {
        // SAFETY: what is set through it does not disturb the safe face, which only encoded the picture that
        // started it, and encodes no other.
        unsafe { self.encoder.raw_api() }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("openh264")
    }
}

/// What the library is started with: as little work as it lets us ask for. The usage may not change
/// afterwards; the strategy of parameter sets must, see [`Backend::new`].
const fn starter(config: &PictureConfig) -> EncoderConfig {
    EncoderConfig::new()
        .usage_type(match config.content {
            Content::Camera => UsageType::CameraVideoRealTime,
            Content::Screen => UsageType::ScreenContentRealTime,
        })
        .sps_pps_strategy(SpsPpsStrategy::IncreasingId)
        .max_frame_rate(FrameRate::from_hz(config.frames_per_second))
        .rate_control_mode(RateControlMode::Off)
        .complexity(Complexity::Low)
        .scene_change_detect(false)
        .num_threads(1)
}

fn fill(parameters: &mut SEncParamExt, config: &PictureConfig) {
    let (width, height) = (as_int(config.size.width()), as_int(config.size.height()));
    let camera = config.content == Content::Camera;
    parameters.iUsageType = if camera {
        CAMERA_VIDEO_REAL_TIME
    } else {
        SCREEN_CONTENT_REAL_TIME
    };
    parameters.iPicWidth = width;
    parameters.iPicHeight = height;
    parameters.iTargetBitrate = as_int(config.bits_per_second);
    parameters.iRCMode = RC_BITRATE_MODE;
    parameters.fMaxFrameRate = config.frames_per_second;
    parameters.iTemporalLayerNum = if config.layered { 2 } else { 1 };
    parameters.iSpatialLayerNum = 1;
    parameters.iComplexityMode = LOW_COMPLEXITY;
    // No key frame but the first and those asked for.
    parameters.uiIntraPeriod = 0;
    // Nor at a cut: it would come at a moment that nobody chose, and is no smaller than a frame that refers.
    parameters.bEnableSceneChangeDetect = false;
    parameters.eSpsPpsIdStrategy = CONSTANT_ID;
    // CAVLC, as baseline has it.
    parameters.iEntropyCodingModeFlag = 0;
    parameters.bEnableFrameSkip = false;
    parameters.bEnableLongTermReference = camera && config.long_term;
    parameters.iLTRRefNum = if parameters.bEnableLongTermReference {
        LONG_TERM_REFERENCES
    } else {
        0
    };
    parameters.iLtrMarkPeriod = MARK_PERIOD;
    // One more for the frame before; left alone, the library only counts them at its first start.
    parameters.iNumRefFrame = 1 + parameters.iLTRRefNum;
    let sliced = config.size.height() >= SLICED_HEIGHT;
    parameters.iMultipleThreadIdc = if sliced { THREADS } else { 1 };
    // Balancing changes the slices' shapes by measured time: the same pictures would give other bytes.
    parameters.bUseLoadBalancing = false;
    let layer = &mut parameters.sSpatialLayers[0];
    layer.iVideoWidth = width;
    layer.iVideoHeight = height;
    layer.fFrameRate = config.frames_per_second;
    layer.iSpatialBitrate = as_int(config.bits_per_second);
    layer.uiProfileIdc = PRO_BASELINE;
    layer.sSliceArgument.uiSliceMode = if sliced {
        SM_FIXEDSLCNUM_SLICE
    } else {
        SM_SINGLE_SLICE
    };
    layer.sSliceArgument.uiSliceNum = if sliced { SLICES } else { 1 };
}

fn source(picture: &Picture) -> SSourcePicture {
    let mut source = SSourcePicture {
        iColorFormat: videoFormatI420,
        iPicWidth: as_int(picture.size().width()),
        iPicHeight: as_int(picture.size().height()),
        // Milliseconds, which only the rate control by time stamps would use.
        uiTimeStamp: i64::try_from(picture.time.ticks() / 90).unwrap_or(0),
        ..SSourcePicture::default()
    };
    for (index, plane) in picture.planes().into_iter().enumerate() {
        source.pData[index] = plane.data.as_ptr().cast_mut();
        source.iStride[index] = c_int::try_from(plane.stride).unwrap_or(0);
    }
    source
}

fn as_int(number: u32) -> c_int {
    c_int::try_from(number).unwrap_or(c_int::MAX)
}

const fn failed(action: &'static str, code: c_int) -> EncodeError {
    EncodeError::Library { action, code }
}

fn refused(action: &'static str, error: &Error) -> EncodeError {
    failed(action, c_int::try_from(error.native_code()).unwrap_or(0))
}

fn check(action: &'static str, code: c_int) -> Result<(), EncodeError> {
    if code == 0 {
        Ok(())
    } else {
        Err(failed(action, code))
    }
}
