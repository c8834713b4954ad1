//! Cameras.
//!
//! Each open camera has a thread of its own, since the driver's calls wait for as long as they like. It converts
//! what the camera gives and puts it into a slot, where the newest picture wins.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nokhwa::{
    Camera as Device,
    utils::{
        ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType,
    },
};
use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{
    Camera, CaptureClock, CaptureError, Content, PictureInfo, PictureOptions, PictureSource,
    devices::choose, exchange::Slot,
};
use crate::{
    MAX_SIDE, Picture, PictureSize,
    convert::{PixelFormat, Pixels},
};

/// How long a camera may take to open: some move a lens first.
const OPEN_TIMEOUT: Duration = Duration::from_secs(8);
/// A camera that gives no picture for this long is taken as broken.
const SILENT_FOR: Duration = Duration::from_secs(5);
/// Pictures in a row that may be damaged: a second at 30 a second.
const MAX_DAMAGED: u32 = 30;
/// How long the thread may take to end before another program finds the camera free.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// The formats that are understood.
const FORMATS: [FrameFormat; 4] = [
    FrameFormat::NV12,
    FrameFormat::YUYV,
    FrameFormat::MJPEG,
    FrameFormat::RAWRGB,
];

/// All cameras, in the order of their numbers.
pub(super) fn list() -> Result<Vec<Camera>, CaptureError> {
    Ok(query()?
        .into_iter()
        .zip(0..)
        .map(|((_, name), number)| Camera { number, name })
        .collect())
}

fn query() -> Result<Vec<(CameraIndex, String)>, CaptureError> {
    let mut found: Vec<(CameraIndex, String)> = nokhwa::query(ApiBackend::Auto)
        .map_err(|error| CaptureError::Unsupported {
            what: "camera",
            reason: error.to_string(),
        })?
        .into_iter()
        .filter(|info| is_capture_node(info.index()))
        .map(|info| (info.index().clone(), info.human_name()))
        .collect();
    found.sort_by_key(|(index, _)| index.as_index().unwrap_or(u32::MAX));
    Ok(found)
}

/// On Linux a camera has several nodes, of which the first gives pictures and the others describe them.
fn is_capture_node(index: &CameraIndex) -> bool {
    let Ok(index) = index.as_index() else {
        return true;
    };
    std::fs::read_to_string(format!("/sys/class/video4linux/video{index}/index"))
        .map_or(true, |number| number.trim() == "0")
}

/// An open camera.
pub(super) struct CameraSource {
    info: PictureInfo,
    slot: Arc<Slot<Picture>>,
    limit: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
    last_came: Instant,
}

/// Opens a camera.
pub(super) fn open(
    wanted: Option<&str>,
    options: &PictureOptions,
) -> Result<CameraSource, CaptureError> {
    let cameras = query()?;
    let names: Vec<String> = cameras.iter().map(|(_, name)| name.clone()).collect();
    let chosen = choose(&names, wanted).and_then(|place| cameras.into_iter().nth(place));
    let Some((index, name)) = chosen else {
        return Err(CaptureError::NotFound {
            what: "camera",
            wanted: wanted.unwrap_or_default().to_owned(),
            found: names,
        });
    };
    let slot = Arc::new(Slot::new());
    let limit = Arc::new(AtomicU32::new(0));
    let (opened, answer) = mpsc::sync_channel(1);
    let worker = Worker {
        name: name.clone(),
        options: *options,
        slot: Arc::clone(&slot),
        limit: Arc::clone(&limit),
    };
    let thread = thread::Builder::new()
        .name("camera".to_owned())
        .spawn(move || worker.run(index, &opened))
        .map_err(|error| CaptureError::Device {
            name: name.clone(),
            reason: error.to_string(),
        })?;
    let source = CameraSource {
        info: PictureInfo {
            name: name.clone(),
            size: options.size,
            frames_per_second: options.frames_per_second,
            content: Content::Motion,
        },
        slot,
        limit,
        thread: Some(thread),
        last_came: Instant::now(),
    };
    let silent = |_| CaptureError::Device {
        name,
        reason: "it does not answer".to_owned(),
    };
    // Where it fails, dropping the source tells the thread to end.
    let format = answer.recv_timeout(OPEN_TIMEOUT).map_err(silent)??;
    let mut source = source;
    source.info.frames_per_second = format.frame_rate() as f32;
    if let Ok(size) = PictureSize::within(format.width(), format.height()) {
        source.info.size = size;
    }
    Ok(source)
}

impl PictureSource for CameraSource {
    fn next(&mut self, timeout: Duration) -> Result<Option<Picture>, CaptureError> {
        let picture = self.slot.take(timeout)?;
        if let Some(picture) = &picture {
            self.last_came = Instant::now();
            self.info.size = picture.size();
        } else if self.slot.is_closed() {
            return Err(CaptureError::Gone {
                name: self.info.name.clone(),
            });
        } else if self.last_came.elapsed() > SILENT_FOR {
            return Err(CaptureError::Device {
                name: self.info.name.clone(),
                reason: "it gives no pictures".to_owned(),
            });
        }
        Ok(picture)
    }

    fn describe(&self) -> PictureInfo {
        self.info.clone()
    }

    fn limit(&mut self, frames_per_second: f32) {
        let millis = (frames_per_second.max(0.1) * 1_000.0) as u32;
        self.limit.store(millis, Ordering::Relaxed);
    }

    fn dropped(&self) -> u64 {
        self.slot.dropped()
    }
}

impl Drop for CameraSource {
    fn drop(&mut self) {
        self.slot.close();
        let deadline = Instant::now() + END_TIMEOUT;
        // A driver that hangs keeps its thread, and nobody waits for it.
        while let Some(thread) = &self.thread
            && !thread.is_finished()
            && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The camera's thread.
struct Worker {
    name: String,
    options: PictureOptions,
    slot: Arc<Slot<Picture>>,
    /// Pictures in a thousand seconds at most; 0: all.
    limit: Arc<AtomicU32>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // However the thread ended, the reader is to learn of it.
        self.slot.close();
    }
}

impl Worker {
    fn run(
        self,
        index: CameraIndex,
        opened: &mpsc::SyncSender<Result<CameraFormat, CaptureError>>,
    ) {
        match self.open(index) {
            Ok(mut device) => {
                let format = device.camera_format();
                if opened.send(Ok(format)).is_ok() {
                    self.capture(&mut device);
                }
                if let Err(error) = device.stop_stream() {
                    tracing::debug!(camera = self.name, %error, "camera did not stop well");
                }
            }
            Err(error) => {
                // Nobody waits any more: nothing to do.
                let _ = opened.send(Err(error));
            }
        }
    }

    fn open(&self, index: CameraIndex) -> Result<Device, CaptureError> {
        let failed = |error: nokhwa::NokhwaError| failed(&self.name, &error.to_string());
        let any = RequestedFormat::with_formats(RequestedFormatType::None, &FORMATS);
        let mut device = Device::new(index, any).map_err(failed)?;
        let formats = device.compatible_camera_formats().map_err(failed)?;
        let best =
            best(&formats, self.options.size, self.options.frames_per_second).ok_or_else(|| {
                CaptureError::Format {
                    name: self.name.clone(),
                    reason: format!("it offers {} formats, none of them known", formats.len()),
                }
            })?;
        if best != device.camera_format() {
            let exactly = RequestedFormat::with_formats(RequestedFormatType::Exact(best), &FORMATS);
            device.set_camera_requset(exactly).map_err(failed)?;
        }
        device.open_stream().map_err(failed)?;
        tracing::debug!(camera = self.name, format = %device.camera_format(), "camera opened");
        Ok(device)
    }

    fn capture(&self, device: &mut Device) {
        let format = device.camera_format();
        let mut rgb = Vec::new();
        let mut damaged = 0;
        let mut gate = Gate::default();
        while !self.slot.is_closed() {
            let data = match device.frame_raw() {
                Ok(data) => data,
                Err(error) => return self.slot.fail(failed(&self.name, &error.to_string())),
            };
            let now = Instant::now();
            if !gate.passes(now, self.limit.load(Ordering::Relaxed)) {
                continue;
            }
            match picture(&data, format, &mut rgb, &self.options.clock, now) {
                Ok(picture) => {
                    damaged = 0;
                    self.slot.put(picture);
                }
                Err(reason) => {
                    damaged += 1;
                    tracing::debug!(camera = self.name, reason, "damaged picture");
                    if damaged > MAX_DAMAGED {
                        let name = self.name.clone();
                        return self.slot.fail(CaptureError::Format { name, reason });
                    }
                }
            }
        }
    }
}

/// Lets through what keeps to a rate.
#[derive(Debug, Default)]
struct Gate {
    next: Option<Instant>,
}

impl Gate {
    /// Whether a picture at `now` is wanted, where `limit` come in a thousand seconds at most (0: all).
    fn passes(&mut self, now: Instant, limit: u32) -> bool {
        if limit == 0 {
            return true;
        }
        let interval = Duration::from_secs(1_000) / limit;
        let Some(next) = self.next else {
            self.next = Some(now + interval);
            return true;
        };
        // A camera's pictures jitter; a quarter of the interval too early is in time.
        if now + interval / 4 < next {
            return false;
        }
        self.next = Some(if now > next + interval { now } else { next } + interval);
        true
    }
}

/// The format that comes closest: half the pixels, or half the rate, is worse than twice as many; what needs no
/// decoder wins among equals.
fn best(formats: &[CameraFormat], size: PictureSize, rate: f32) -> Option<CameraFormat> {
    let wanted = f64::from(size.width()) * f64::from(size.height());
    let cost = |format: &CameraFormat| {
        let pixels = f64::from(format.width()) * f64::from(format.height());
        let more = (pixels.max(1.0) / wanted).log2();
        let faster = (f64::from(format.frame_rate().max(1)) / f64::from(rate.max(1.0))).log2();
        let weigh = |more: f64, less: f64, by: f64| if by > 0.0 { by * more } else { -by * less };
        let kind = FORMATS.iter().position(|&kind| kind == format.format());
        weigh(1.0, 1.5, more)
            + weigh(0.1, 2.0, faster)
            + 0.02 * kind.unwrap_or(FORMATS.len()) as f64
    };
    formats
        .iter()
        .filter(|format| FORMATS.contains(&format.format()))
        .filter(|format| format.width().max(format.height()) <= MAX_SIDE)
        .min_by(|a, b| cost(a).total_cmp(&cost(b)))
        .copied()
}

/// Makes a picture of a camera's bytes; `rgb` is a buffer that is kept from one to the next.
fn picture(
    data: &[u8],
    format: CameraFormat,
    rgb: &mut Vec<u8>,
    clock: &CaptureClock,
    now: Instant,
) -> Result<Picture, String> {
    let (mut width, mut height) = (format.width(), format.height());
    let (kind, data) = match format.format() {
        FrameFormat::YUYV => (PixelFormat::Yuyv, data),
        FrameFormat::NV12 => (PixelFormat::Nv12, data),
        FrameFormat::RAWRGB => (PixelFormat::Rgb, data),
        FrameFormat::MJPEG => {
            (width, height) = decode(data, rgb)?;
            (PixelFormat::Rgb, &**rgb)
        }
        other => return Err(format!("{other} is not known")),
    };
    Pixels {
        format: kind,
        width,
        height,
        stride: 0,
        data,
    }
    .to_picture(clock.video(now))
    .map_err(|error| error.to_string())
}

/// Decodes a JPEG; returns its width and height.
fn decode(data: &[u8], rgb: &mut Vec<u8>) -> Result<(u32, u32), String> {
    let side = MAX_SIDE as usize;
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(side)
        .set_max_height(side);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(data), options);
    let text = |error: zune_jpeg::errors::DecodeErrors| error.to_string();
    decoder.decode_headers().map_err(text)?;
    let (Some(size), Some(info)) = (decoder.output_buffer_size(), decoder.info()) else {
        return Err("a JPEG without a size".to_owned());
    };
    rgb.resize(size, 0);
    decoder.decode_into(rgb).map_err(text)?;
    Ok((u32::from(info.width), u32::from(info.height)))
}

/// Sorts a driver's words.
fn failed(name: &str, reason: &str) -> CaptureError {
    let name = name.to_owned();
    let low = reason.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| low.contains(word));
    if says(&["busy", "in use", "os error 16"]) {
        CaptureError::Busy { name }
    } else if says(&["denied", "not permitted", "os error 13"]) {
        CaptureError::Denied { name }
    } else if says(&[
        "no such device",
        "no such file",
        "os error 19",
        "os error 6",
    ]) {
        CaptureError::Gone { name }
    } else if says(&["fufill", "framerate not whole", "not same/rejected"]) {
        CaptureError::Format {
            name,
            reason: reason.to_owned(),
        }
    } else {
        CaptureError::Device {
            name,
            reason: reason.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AudioTime, VideoTime};

    fn size(width: u32, height: u32) -> PictureSize {
        PictureSize::new(width, height).expect("a size")
    }

    fn clock() -> CaptureClock {
        CaptureClock::new(VideoTime::default(), AudioTime::default(), Instant::now())
    }

    #[test]
    fn the_closest_format_is_taken() {
        let format = |width, height, kind, rate| CameraFormat::new_from(width, height, kind, rate);
        use FrameFormat::{GRAY, MJPEG, NV12, YUYV};
        let usual = [
            format(640, 480, YUYV, 30),
            format(640, 360, YUYV, 30),
            format(1_280, 720, YUYV, 10),
            format(1_280, 720, MJPEG, 30),
            format(1_920, 1_080, MJPEG, 30),
            format(1_280, 720, GRAY, 30),
        ];
        let choose = |width, height, rate| best(&usual, size(width, height), rate);
        assert_eq!(choose(1_280, 720, 30.0), Some(usual[3]));
        assert_eq!(choose(640, 360, 30.0), Some(usual[1]));
        assert_eq!(choose(3_840, 2_160, 30.0), Some(usual[4]));
        assert_eq!(choose(1_280, 720, 10.0), Some(usual[2]));
        let pair = [format(1_280, 720, MJPEG, 30), format(1_280, 720, NV12, 30)];
        assert_eq!(best(&pair, size(1_280, 720), 30.0), Some(pair[1]));
        assert_eq!(best(&usual[5..], size(1_280, 720), 30.0), None);
        assert_eq!(best(&[], size(1_280, 720), 30.0), None);
    }

    #[test]
    fn raw_pixels_become_pictures() {
        let format = CameraFormat::new_from(4, 2, FrameFormat::YUYV, 30);
        let data = [[60, 90, 70, 200]; 4].concat();
        let mut rgb = Vec::new();
        let made = picture(&data, format, &mut rgb, &clock(), Instant::now()).expect("whole");
        let planes = made.planes().map(|plane| plane.data.to_vec());
        assert_eq!(planes[0], [60, 70, 60, 70, 60, 70, 60, 70]);
        assert_eq!(planes[1..], [vec![90, 90], vec![200, 200]]);
        // Half a picture is none.
        assert!(picture(&data[..8], format, &mut rgb, &clock(), Instant::now()).is_err());
        let jpeg = CameraFormat::new_from(4, 2, FrameFormat::MJPEG, 30);
        assert!(picture(&data, jpeg, &mut rgb, &clock(), Instant::now()).is_err());
    }

    #[test]
    fn the_gate_keeps_a_rate_through_jitter() {
        let start = Instant::now();
        let mut gate = Gate::default();
        // 30 pictures a second, 3 ms of jitter, 15 wanted.
        let passed = (0..300u64)
            .filter(|n| {
                let jitter = Duration::from_millis(n * 7 % 4);
                gate.passes(start + Duration::from_micros(n * 33_333) + jitter, 15_000)
            })
            .count();
        assert!((149..=152).contains(&passed), "{passed}");
        assert!(gate.passes(start, 0));
    }

    #[test]
    fn drivers_words_are_understood() {
        let kind = |reason| failed("cam", reason);
        assert!(matches!(
            kind("Device or resource busy (os error 16)"),
            CaptureError::Busy { .. }
        ));
        assert!(matches!(
            kind("Permission denied (os error 13)"),
            CaptureError::Denied { .. }
        ));
        assert!(matches!(
            kind("No such device (os error 19)"),
            CaptureError::Gone { .. }
        ));
        assert!(matches!(kind("what?"), CaptureError::Device { .. }));
    }

    #[test]
    fn a_camera_that_is_not_there_is_an_error() {
        let options = PictureOptions {
            clock: clock(),
            size: size(640, 360),
            frames_per_second: 30.0,
            stamped: false,
        };
        let error = open(Some("no such camera at all"), &options)
            .err()
            .expect("no camera is called so");
        assert!(matches!(
            error,
            CaptureError::NotFound { .. } | CaptureError::Unsupported { .. }
        ));
        assert!(error.to_string().starts_with("no camera"), "{error}");
    }
}
