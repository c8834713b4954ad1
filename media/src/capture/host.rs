//! The sound system: which devices it has, and streams from and to them.
//!
//! PulseAudio (or PipeWire, which speaks its protocol) comes before ALSA, since it shares devices between
//! programs; other systems have one sound system each. A stream is asked for 48 kHz and 10 ms at a time; what a
//! device refuses is tried otherwise, and what it promises is not believed before it works.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cpal::{
    BufferSize, Device, Error, ErrorKind, FromSample, Host, HostId, InputCallbackInfo,
    OutputCallbackInfo, Sample, SampleFormat, SizedSample, Stream, StreamConfig,
    SupportedStreamConfig,
    traits::{DeviceTrait as _, HostTrait as _, StreamTrait as _},
};

use super::{
    CaptureError, SoundDevice,
    devices::choose,
    ring::{Alarm, Trouble},
};

/// What is asked for first, samples a second: what Opus has.
const WANTED_RATE: u32 = 48_000;
/// Callbacks a second that are asked for. `crates.md` §7: 10 ms from writing to reading, where the default of
/// PulseAudio is two seconds.
const CALLBACKS: u32 = 100;
/// How long a sound system may take to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// The kinds of samples that are understood, best first.
const FORMATS: [SampleFormat; 4] = [
    SampleFormat::F32,
    SampleFormat::I16,
    SampleFormat::I32,
    SampleFormat::U8,
];

/// Which way sound goes through a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Into the program.
    In,
    /// Out of it.
    Out,
}

impl Way {
    const fn what(self) -> &'static str {
        match self {
            Self::In => "microphone",
            Self::Out => "speaker",
        }
    }

    fn default(self, host: &Host) -> Option<Device> {
        match self {
            Self::In => host.default_input_device(),
            Self::Out => host.default_output_device(),
        }
    }

    fn config(self, device: &Device) -> Result<SupportedStreamConfig, Error> {
        match self {
            Self::In => device.default_input_config(),
            Self::Out => device.default_output_config(),
        }
    }

    /// All devices of a host with their names; the default one first.
    fn devices(self, host: &Host) -> Result<Vec<(Device, String)>, Error> {
        let default = self.default(host);
        let default_id = default.as_ref().and_then(|device| device.id().ok());
        let all: Vec<Device> = match self {
            Self::In => host.input_devices()?.collect(),
            Self::Out => host.output_devices()?.collect(),
        };
        let others = all
            .into_iter()
            .filter(|device| default_id.is_none() || device.id().ok() != default_id);
        Ok(default
            .into_iter()
            .chain(others)
            .map(|device| {
                let name = device.to_string();
                (device, name)
            })
            .collect())
    }
}

/// A device that may be opened.
pub(crate) struct Found {
    device: Device,
    pub(crate) name: String,
    way: Way,
}

/// An open stream. Closing one waits for the sound system, and for ever where that took the device away first
/// (cpal 0.18 on PulseAudio: its thread waits for an end that the server does not tell). So a thread of its own
/// closes it, and whoever used it goes on at once.
pub(crate) struct OpenStream(Option<Stream>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        let Some(stream) = self.0.take() else { return };
        let closing = std::thread::Builder::new()
            .name("sound-close".to_owned())
            .spawn(move || drop(stream));
        if let Err(error) = closing {
            tracing::debug!(%error, "a sound device is closed in place");
        }
    }
}

/// What a stream runs at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Samples of each channel a second.
    pub(crate) rate: u32,
    /// Channels, interleaved.
    pub(crate) channels: usize,
}

/// Keeps ALSA's library from writing to standard error, over whatever is drawn there: what its functions return
/// says enough. What it has to say until the next call is kept, and thrown away then.
#[cfg(target_os = "linux")]
fn hush() {
    if let Err(error) = alsa::Output::local_error_handler() {
        tracing::debug!(%error, "ALSA writes to standard error");
    }
}

/// Whether a sound system shares devices between programs: a server, in front of the drivers.
fn is_server(host: &Host) -> bool {
    let name = host.id().name().to_lowercase();
    name == "pipewire" || name == "pulseaudio"
}

/// A connection to a sound system, and what it is for.
type Known = ((HostId, Way), Arc<Host>);

/// The sound systems that have answered. They are kept: what cpal 0.18 makes for a connection to PulseAudio, a
/// thread and three files, stays for as long as the server does, and a device that is gone is looked for once
/// a second. Each way has its own, so that its thread serves no other.
static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sound systems that answer, best first.
fn hosts(way: Way) -> Vec<Arc<Host>> {
    #[cfg(target_os = "linux")]
    hush();
    let mut ids = cpal::available_hosts();
    let rank = |id: &HostId| match id.name().to_lowercase().as_str() {
        "pipewire" => 0,
        "pulseaudio" => 1,
        _ => 2,
    };
    ids.sort_by_key(rank);
    ids.into_iter().filter_map(|id| host(way, id)).collect()
}

/// One that is known, or that answers now.
fn host(way: Way, id: HostId) -> Option<Arc<Host>> {
    let mut known = known();
    if let Some((_, host)) = known.iter().find(|(key, _)| *key == (id, way)) {
        return Some(Arc::clone(host));
    }
    let host = Arc::new(cpal::host_from_id(id).ok()?);
    known.push(((id, way), Arc::clone(&host)));
    Some(host)
}

/// The devices of a sound system; where it has gone, those of the one that has come in its place.
fn devices_of(way: Way, host: &Arc<Host>) -> Result<Vec<(Device, String)>, Error> {
    way.devices(host).or_else(|error| {
        let id = host.id();
        known().retain(|(_, other)| !Arc::ptr_eq(other, host));
        match self::host(way, id) {
            Some(again) => way.devices(&again),
            None => Err(error),
        }
    })
}

/// The inputs and outputs of the best sound system that has any.
pub(crate) fn list() -> Result<(Vec<SoundDevice>, Vec<SoundDevice>), CaptureError> {
    let mut problem = None;
    for host in hosts(Way::In) {
        let mut all = [Way::In, Way::Out].map(|way| {
            let host = self::host(way, host.id()).unwrap_or_else(|| Arc::clone(&host));
            match devices_of(way, &host) {
                Ok(devices) => {
                    let default = way.default(&host).is_some();
                    name_all(devices, default)
                }
                Err(error) => {
                    problem = Some(error.to_string());
                    Vec::new()
                }
            }
        });
        if all.iter().any(|devices| !devices.is_empty()) {
            let [inputs, outputs] = &mut all;
            return Ok((std::mem::take(inputs), std::mem::take(outputs)));
        }
    }
    problem.map_or_else(
        || Ok((Vec::new(), Vec::new())),
        |reason| {
            Err(CaptureError::Unsupported {
                what: "sound device",
                reason,
            })
        },
    )
}

fn name_all(devices: Vec<(Device, String)>, has_default: bool) -> Vec<SoundDevice> {
    devices
        .into_iter()
        .zip(0..)
        .map(|((_, name), number)| SoundDevice {
            number,
            name,
            default: has_default && number == 0,
        })
        .collect()
}

/// The device that is called so: by number, by its name, or by the name that the sound system uses itself.
pub(crate) fn find(way: Way, wanted: Option<&str>) -> Result<Found, CaptureError> {
    let mut found = Vec::new();
    for host in hosts(way) {
        let Ok(devices) = devices_of(way, &host) else {
            continue;
        };
        let names: Vec<String> = devices.iter().map(|(_, name)| name.clone()).collect();
        let ids: Vec<String> = devices
            .iter()
            .map(|(device, _)| {
                device
                    .id()
                    .map_or_else(|_| String::new(), |id| id.id().to_owned())
            })
            .collect();
        let place = choose(&names, wanted).or_else(|| choose(&ids, wanted));
        if let Some((device, name)) = place.and_then(|place| devices.into_iter().nth(place)) {
            return Ok(Found { device, name, way });
        }
        found.extend(names);
        if wanted.is_none() && is_server(&host) {
            // Behind a server without devices there are only its own, under other names.
            break;
        }
    }
    Err(CaptureError::NotFound {
        what: way.what(),
        wanted: wanted.unwrap_or_default().to_owned(),
        found,
    })
}

/// Something that a device's callback gives samples to. It must neither wait nor allocate.
pub(crate) trait Hear: Send + 'static {
    /// Takes interleaved samples.
    fn hear<T: Copy>(&mut self, samples: &[T], convert: fn(T) -> f32);
}

/// Something that a device's callback gets samples from. It must neither wait nor allocate.
pub(crate) trait Speak: Send + 'static {
    /// Fills interleaved samples, which will be heard after `delay`.
    fn speak<T: Copy>(&mut self, samples: &mut [T], convert: fn(f32) -> T, delay: Duration);
}

impl Found {
    /// What to try, best first.
    fn configs(&self) -> Result<Vec<(StreamConfig, SampleFormat)>, Error> {
        let default = self.way.config(&self.device)?;
        let mut rates = vec![WANTED_RATE, default.sample_rate()];
        rates.dedup();
        let mut formats = FORMATS.to_vec();
        if let Some(place) = formats
            .iter()
            .position(|&format| format == default.sample_format())
            && place > 1
        {
            // Rather what it has than what must be converted for it, 16 bits and more.
            formats[1..=place].rotate_right(1);
        }
        let mut all = Vec::new();
        for sample_rate in rates {
            for &format in &formats {
                for fixed in [true, false] {
                    let buffer_size = if fixed {
                        BufferSize::Fixed((sample_rate / CALLBACKS).max(1))
                    } else {
                        BufferSize::Default
                    };
                    let config = StreamConfig {
                        channels: default.channels(),
                        sample_rate,
                        buffer_size,
                    };
                    all.push((config, format));
                }
            }
        }
        // Any buffer that is short before one that is long.
        all.sort_by_key(|(config, _)| config.buffer_size == BufferSize::Default);
        Ok(all)
    }

    /// Tries all configurations, until one works.
    fn open<H>(
        &self,
        mut make: impl FnMut(Shape) -> H,
        build: impl Fn(&Device, StreamConfig, SampleFormat, H) -> Result<Stream, Error>,
    ) -> Result<(OpenStream, Shape), CaptureError> {
        let configs = self.configs().map_err(|error| self.failed(&error))?;
        let mut last = Error::new(ErrorKind::UnsupportedConfig);
        for (config, format) in configs {
            let shape = Shape {
                rate: config.sample_rate,
                channels: usize::from(config.channels).max(1),
            };
            let stream = build(&self.device, config, format, make(shape))
                .and_then(|stream| stream.play().map(|()| stream));
            match stream {
                Ok(stream) => {
                    tracing::debug!(
                        device = self.name,
                        rate = shape.rate,
                        channels = shape.channels,
                        ?format,
                        buffer = ?config.buffer_size,
                        "sound device opened"
                    );
                    return Ok((OpenStream(Some(stream)), shape));
                }
                Err(error) => {
                    tracing::debug!(device = self.name, ?config, ?format, %error, "refused");
                    let other = matches!(
                        error.kind(),
                        ErrorKind::UnsupportedConfig
                            | ErrorKind::InvalidInput
                            | ErrorKind::BackendError
                            | ErrorKind::Other
                    );
                    last = error;
                    if !other {
                        break;
                    }
                }
            }
        }
        Err(self.failed(&last))
    }

    /// Opens the device for input. `make` is asked for the receiver of samples, once for each attempt.
    pub(crate) fn open_input<H: Hear>(
        &self,
        make: impl FnMut(Shape) -> (H, Alarm),
    ) -> Result<(OpenStream, Shape), CaptureError> {
        self.open(make, |device, config, format, (hear, alarm)| match format {
            SampleFormat::F32 => input::<f32, H>(device, config, hear, alarm),
            SampleFormat::I16 => input::<i16, H>(device, config, hear, alarm),
            SampleFormat::I32 => input::<i32, H>(device, config, hear, alarm),
            SampleFormat::U8 => input::<u8, H>(device, config, hear, alarm),
            _ => Err(Error::new(ErrorKind::UnsupportedConfig)),
        })
    }

    /// Opens the device for output. `make` is asked for the giver of samples, once for each attempt.
    pub(crate) fn open_output<S: Speak>(
        &self,
        make: impl FnMut(Shape) -> (S, Alarm),
    ) -> Result<(OpenStream, Shape), CaptureError> {
        self.open(
            make,
            |device, config, format, (speak, alarm)| match format {
                SampleFormat::F32 => output::<f32, S>(device, config, speak, alarm),
                SampleFormat::I16 => output::<i16, S>(device, config, speak, alarm),
                SampleFormat::I32 => output::<i32, S>(device, config, speak, alarm),
                SampleFormat::U8 => output::<u8, S>(device, config, speak, alarm),
                _ => Err(Error::new(ErrorKind::UnsupportedConfig)),
            },
        )
    }

    fn failed(&self, error: &Error) -> CaptureError {
        let name = self.name.clone();
        match error.kind() {
            ErrorKind::DeviceBusy => CaptureError::Busy { name },
            ErrorKind::PermissionDenied => CaptureError::Denied { name },
            ErrorKind::DeviceNotAvailable | ErrorKind::HostUnavailable => {
                CaptureError::Gone { name }
            }
            ErrorKind::UnsupportedConfig => CaptureError::Format {
                name,
                reason: error.to_string(),
            },
            _ => CaptureError::Device {
                name,
                reason: error.to_string(),
            },
        }
    }
}

fn input<T, H>(
    device: &Device,
    config: StreamConfig,
    mut hear: H,
    alarm: Alarm,
) -> Result<Stream, Error>
where
    T: SizedSample,
    f32: FromSample<T>,
    H: Hear,
{
    device.build_input_stream(
        config,
        move |samples: &[T], _: &InputCallbackInfo| {
            hear.hear(samples, |sample| f32::from_sample(sample));
        },
        move |error| raise(&alarm, &error),
        Some(OPEN_TIMEOUT),
    )
}

fn output<T, S>(
    device: &Device,
    config: StreamConfig,
    mut speak: S,
    alarm: Alarm,
) -> Result<Stream, Error>
where
    T: SizedSample + FromSample<f32>,
    S: Speak,
{
    device.build_output_stream(
        config,
        move |samples: &mut [T], info: &OutputCallbackInfo| {
            let times = info.timestamp();
            let delay = times.playback.saturating_duration_since(times.callback);
            speak.speak(samples, |sample| T::from_sample(sample), delay);
        },
        move |error| raise(&alarm, &error),
        Some(OPEN_TIMEOUT),
    )
}

/// Passes on what ends a stream; late or lost samples are counted elsewhere.
fn raise(alarm: &Alarm, error: &Error) {
    match error.kind() {
        ErrorKind::Xrun | ErrorKind::DeviceChanged | ErrorKind::RealtimeDenied => {}
        ErrorKind::DeviceNotAvailable
        | ErrorKind::HostUnavailable
        | ErrorKind::StreamInvalidated => alarm.raise(Trouble::Gone),
        _ => alarm.raise(Trouble::Failed),
    }
}

/// What a stream's trouble is to who reads or writes it.
pub(crate) fn trouble(name: &str, trouble: Trouble) -> CaptureError {
    let name = name.to_owned();
    match trouble {
        Trouble::Gone => CaptureError::Gone { name },
        Trouble::Failed => CaptureError::Device {
            name,
            reason: "the sound system stopped the stream".to_owned(),
        },
    }
}
