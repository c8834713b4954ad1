//! The sound system: which devices it has, and streams from and to them.
//!
//! PulseAudio (or PipeWire, which speaks its protocol) comes before ALSA, since it shares devices between
//! programs, and is spoken to directly; other systems have one sound system each, behind cpal. A stream of those
//! is asked for 48 kHz and 10 ms at a time; what a device refuses is tried otherwise, and what it promises is not
//! believed before it works.

use std::time::Duration;

use cpal::{
    BufferSize, Device, Error, ErrorKind, FromSample, Host, InputCallbackInfo, OutputCallbackInfo,
    Sample, SampleFormat, SizedSample, Stream, StreamConfig, SupportedStreamConfig,
    traits::{DeviceTrait as _, HostTrait as _, StreamTrait as _},
};

#[cfg(target_os = "linux")]
use super::pulse;
use super::{
    CaptureError, SoundDevice,
    devices::choose,
    ring::{Alarm, Trouble},
};

/// What is asked for first, samples a second: what Opus has.
const WANTED_RATE: u32 = 48_000;
/// Callbacks a second that are asked for: a block of ours each time.
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
    target: Target,
    pub(crate) name: String,
    way: Way,
}

/// Whose device it is.
enum Target {
    /// One of a sound server's.
    #[cfg(target_os = "linux")]
    Server(pulse::Device),
    /// One that cpal opens.
    Own(Device),
}

impl Target {
    fn id(&self) -> String {
        match self {
            #[cfg(target_os = "linux")]
            Self::Server(device) => device.id.clone(),
            Self::Own(device) => device
                .id()
                .map_or_else(|_| String::new(), |id| id.id().to_owned()),
        }
    }
}

/// An open stream.
pub(crate) enum OpenStream {
    /// At the sound server: closing it ends its connection.
    #[cfg(target_os = "linux")]
    Server {
        /// Sound comes for as long as this lives.
        _closer: pulse::Closer,
    },
    /// At a device of our own.
    Own(Option<Stream>),
}

/// Closing a stream of cpal waits for the driver, for how long it says nowhere. So a thread of its own closes it,
/// and whoever used it goes on at once.
impl Drop for OpenStream {
    fn drop(&mut self) {
        let Self::Own(stream) = self else { return };
        let Some(stream) = stream.take() else { return };
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

/// The sound systems that answer.
fn hosts() -> impl Iterator<Item = Host> {
    #[cfg(target_os = "linux")]
    hush();
    let ids = cpal::available_hosts();
    ids.into_iter().filter_map(|id| cpal::host_from_id(id).ok())
}

/// The inputs and outputs of the best sound system that has any.
pub(crate) fn list() -> Result<(Vec<SoundDevice>, Vec<SoundDevice>), CaptureError> {
    let mut problem = None;
    #[cfg(target_os = "linux")]
    match [Way::In, Way::Out].map(pulse::devices) {
        [Ok(inputs), Ok(outputs)] => {
            let [inputs, outputs] = [inputs, outputs].map(|(devices, default)| {
                name_all(devices.into_iter().map(|device| device.name), default)
            });
            if !(inputs.is_empty() && outputs.is_empty()) {
                return Ok((inputs, outputs));
            }
        }
        [Err(pulse::Failure::NoServer), _] => {}
        [Err(failure), _] | [_, Err(failure)] => problem = Some(failure.to_string()),
    }
    for host in hosts() {
        let [inputs, outputs] = [Way::In, Way::Out].map(|way| match way.devices(&host) {
            Ok(devices) => {
                let default = way.default(&host).is_some();
                name_all(devices.into_iter().map(|(_, name)| name), default)
            }
            Err(error) => {
                problem = Some(error.to_string());
                Vec::new()
            }
        });
        if !(inputs.is_empty() && outputs.is_empty()) {
            return Ok((inputs, outputs));
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

fn name_all(names: impl Iterator<Item = String>, has_default: bool) -> Vec<SoundDevice> {
    names
        .zip(0..)
        .map(|(name, number)| SoundDevice {
            number,
            name,
            default: has_default && number == 0,
        })
        .collect()
}

/// The device that is called so: by number, by its name, or by the name that the sound system uses itself.
pub(crate) fn find(way: Way, wanted: Option<&str>) -> Result<Found, CaptureError> {
    let mut found = Vec::new();
    let mut look = |devices: Vec<(Target, String)>| {
        let names: Vec<String> = devices.iter().map(|(_, name)| name.clone()).collect();
        let ids: Vec<String> = devices.iter().map(|(target, _)| target.id()).collect();
        let place = choose(&names, wanted).or_else(|| choose(&ids, wanted));
        found.extend(names);
        let (target, name) = devices.into_iter().nth(place?)?;
        Some(Found { target, name, way })
    };
    // Behind a server without devices there are only its own, under other names: so any one is none then.
    let mut server_only = false;
    #[cfg(target_os = "linux")]
    if let Ok((devices, _)) = pulse::devices(way) {
        let devices = devices.into_iter().map(|device| {
            let name = device.name.clone();
            (Target::Server(device), name)
        });
        if let Some(found) = look(devices.collect()) {
            return Ok(found);
        }
        server_only = wanted.is_none();
    }
    for host in hosts().take(if server_only { 0 } else { usize::MAX }) {
        let Ok(devices) = way.devices(&host) else {
            continue;
        };
        let devices = devices
            .into_iter()
            .map(|(device, name)| (Target::Own(device), name));
        if let Some(found) = look(devices.collect()) {
            return Ok(found);
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
    /// The server's device, if it is one.
    #[cfg(target_os = "linux")]
    pub(crate) const fn server(&self) -> Option<&pulse::Device> {
        match &self.target {
            Target::Server(device) => Some(device),
            Target::Own(_) => None,
        }
    }

    /// What to try, best first.
    fn configs(&self, device: &Device) -> Result<Vec<(StreamConfig, SampleFormat)>, Error> {
        let default = self.way.config(device)?;
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
        let device = match &self.target {
            Target::Own(device) => device,
            #[cfg(target_os = "linux")]
            Target::Server(_) => {
                return Err(self.failed(&Error::new(ErrorKind::UnsupportedOperation)));
            }
        };
        let configs = self.configs(device).map_err(|error| self.failed(&error))?;
        let mut last = Error::new(ErrorKind::UnsupportedConfig);
        for (config, format) in configs {
            let shape = Shape {
                rate: config.sample_rate,
                channels: usize::from(config.channels).max(1),
            };
            let stream = build(device, config, format, make(shape))
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
                    return Ok((OpenStream::Own(Some(stream)), shape));
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
        mut make: impl FnMut(Shape) -> (H, Alarm),
    ) -> Result<(OpenStream, Shape), CaptureError> {
        #[cfg(target_os = "linux")]
        if let Some(device) = self.server() {
            let shape = Shape {
                rate: pulse::RATE,
                channels: 1,
            };
            let (hear, alarm) = make(shape);
            let closer = pulse::open_input(device, hear, alarm);
            let closer = closer.map_err(|failure| pulse::failed(&self.name, &failure))?;
            return Ok((OpenStream::Server { _closer: closer }, shape));
        }
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
