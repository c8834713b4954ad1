//! openh264's encoder through its raw interface: the safe crate above it overwrites at the next frame what
//! was set by options, and hides temporal layers and long-term references.
#![expect(
    unsafe_code,
    reason = "the library is C++ behind a table of C functions"
)]

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;

use openh264_sys2::source::APILoader;
use openh264_sys2::{
    CAMERA_VIDEO_REAL_TIME, CONSTANT_ID, ENCODER_LTR_MARKING_FEEDBACK,
    ENCODER_LTR_RECOVERY_REQUEST, ENCODER_OPTION, ENCODER_OPTION_BITRATE,
    ENCODER_OPTION_FRAME_RATE, ENCODER_OPTION_TRACE_LEVEL, ISVCEncoder, ISVCEncoderVtbl,
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
    encoder: *mut ISVCEncoder,
}

// SAFETY: the object is only reached through `&mut self`, and openh264 ties nothing to the thread that made
// it: its worker threads are its own, and they rest whenever no call is being made.
unsafe impl Send for Backend {}

impl Backend {
    /// Makes and sets up an encoder whose first frame is a key frame.
    pub(in crate::encode) fn new(config: &PictureConfig) -> Result<Self, EncodeError> {
        let mut encoder = ptr::null_mut();
        // SAFETY: the argument is a valid place for a pointer, which the call fills.
        let code = unsafe { APILoader::WelsCreateSVCEncoder(&raw mut encoder) };
        if code != 0 || encoder.is_null() {
            return Err(failed("start", code));
        }
        // From here on dropping destroys it.
        let mut this = Self { encoder };
        this.option(ENCODER_OPTION_TRACE_LEVEL, "be quiet", WELS_LOG_QUIET)?;
        let mut parameters = SEncParamExt::default();
        let (defaults, initialize) = (this.table()?.GetDefaultParams, this.table()?.InitializeExt);
        let (Some(defaults), Some(initialize)) = (defaults, initialize) else {
            return Err(failed("find its functions", 0));
        };
        // SAFETY: the object lives, and `parameters` is a valid structure that the call fills.
        let code = unsafe { defaults(this.encoder, &raw mut parameters) };
        check("tell its defaults", code)?;
        fill(&mut parameters, config);
        // SAFETY: the object lives, and `parameters` is a valid structure that the call copies.
        let code = unsafe { initialize(this.encoder, &raw const parameters) };
        check("set up", code)?;
        Ok(this)
    }

    /// Encodes a picture whose size is that of the configuration. `None`: it was skipped. `into` is cleared
    /// and receives the access unit. The layer is what the library counted.
    pub(in crate::encode) fn encode(
        &mut self,
        picture: &Picture,
        into: &mut Vec<u8>,
    ) -> Result<Option<u8>, EncodeError> {
        let Some(encode) = self.table()?.EncodeFrame else {
            return Err(failed("find its functions", 0));
        };
        let mut info = Box::<SFrameBSInfo>::default();
        let source = source(picture);
        // SAFETY: the object lives and is initialized; the planes that `source` points to belong to
        // `picture`, which outlives the call, and have the sizes it states (`Picture` checks them). The
        // library does not write to them.
        let code = unsafe { encode(self.encoder, &raw const source, &raw mut *info) };
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
    pub(in crate::encode) fn force_key(&mut self) -> Result<(), EncodeError> {
        let Some(force) = self.table()?.ForceIntraFrame else {
            return Err(failed("find its functions", 0));
        };
        // SAFETY: the object lives and is initialized.
        check("make a key frame", unsafe { force(self.encoder, true) })
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
        let Some(set) = self.table()?.SetOption else {
            return Err(failed("find its functions", 0));
        };
        let value: *mut c_void = (&raw mut value).cast();
        // SAFETY: the object lives; `value` points to a value of the type that belongs to `option`, as each
        // of the callers in this file sees to; the library copies it.
        check(action, unsafe { set(self.encoder, option, value) })
    }

    fn table(&self) -> Result<&ISVCEncoderVtbl, EncodeError> {
        // SAFETY: `encoder` points to a living object, which begins with a pointer to its table of
        // functions; the table is a constant of the library.
        unsafe { (*self.encoder).as_ref() }.ok_or_else(|| failed("find its functions", 0))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `WelsCreateSVCEncoder`, and nobody else has it. The library takes
        // down what was set up before it frees the object.
        unsafe { APILoader::WelsDestroySVCEncoder(self.encoder) }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("openh264")
    }
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

fn check(action: &'static str, code: c_int) -> Result<(), EncodeError> {
    if code == 0 {
        Ok(())
    } else {
        Err(failed(action, code))
    }
}
