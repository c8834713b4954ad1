//! PulseAudio (or PipeWire, which speaks its protocol), asked directly.
//!
//! cpal can do this too, but neither asks for a buffer of a chosen depth (two whole callbacks lie in the server,
//! and a third in our ring), nor hears that a device was taken away (its threads wait for ever), and polls
//! latencies all the time. Here each stream is one connection, with a thread for a microphone, and all of it goes
//! with the stream.

mod connection;
mod record;

use pulseaudio::protocol::{
    Command, DEFAULT_SINK, DEFAULT_SOURCE, GetSinkInfo, GetSourceInfo, PulseError, SinkInfo,
    SinkInfoList, SourceInfo, SourceInfoList,
};

pub(crate) use self::{
    connection::{Closer, Failure, Message, Reader, Writer, parse},
    record::open as open_input,
};
use super::{CaptureError, host::Way};
pub(crate) use connection::Connection;

/// Samples a second that streams have: the server changes rates where the device's is another.
pub(crate) const RATE: u32 = 48_000;
/// Bytes of a sample: 32 bits of floating point.
pub(crate) const SAMPLE_BYTES: u32 = 4;
/// Devices of each kind that are looked at.
const MAX_DEVICES: usize = 256;

/// A device of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// The server's number for it.
    pub(crate) index: u32,
    /// For people.
    pub(crate) name: String,
    /// The name that the server uses itself.
    pub(crate) id: String,
}

impl Device {
    fn new(index: u32, id: &std::ffi::CStr, description: Option<&std::ffi::CString>) -> Self {
        let id = id.to_string_lossy().into_owned();
        let name = description.map(|text| text.to_string_lossy().into_owned());
        Self {
            index,
            name: name.unwrap_or_else(|| id.clone()),
            id,
        }
    }

    fn sink(info: &SinkInfo) -> Self {
        Self::new(info.index, &info.name, info.description.as_ref())
    }

    fn source(info: &SourceInfo) -> Self {
        Self::new(info.index, &info.name, info.description.as_ref())
    }
}

/// The devices of the server, the default one first, and whether there is a default one.
pub(crate) fn devices(way: Way) -> Result<(Vec<Device>, bool), Failure> {
    let mut connection = Connection::open()?;
    let (default, all) = match way {
        Way::Out => {
            let info: Result<SinkInfo, _> = connection.ask(&Command::GetSinkInfo(GetSinkInfo {
                index: None,
                name: Some(DEFAULT_SINK.to_owned()),
            }));
            let all: SinkInfoList = connection.ask(&Command::GetSinkInfoList)?;
            let all = all.iter().take(MAX_DEVICES).map(Device::sink).collect();
            (or_none(info)?.map(|info| Device::sink(&info)), all)
        }
        Way::In => {
            let info: Result<SourceInfo, _> =
                connection.ask(&Command::GetSourceInfo(GetSourceInfo {
                    index: None,
                    name: Some(DEFAULT_SOURCE.to_owned()),
                }));
            let all: SourceInfoList = connection.ask(&Command::GetSourceInfoList)?;
            let all = all.iter().take(MAX_DEVICES).map(Device::source).collect();
            (or_none(info)?.map(|info| Device::source(&info)), all)
        }
    };
    let has_default = default.is_some();
    Ok((default_first(default, all), has_default))
}

/// What there is not is no failure.
fn or_none<T>(asked: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match asked {
        Ok(info) => Ok(Some(info)),
        Err(Failure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn default_first(default: Option<Device>, mut all: Vec<Device>) -> Vec<Device> {
    if let Some(default) = default {
        all.retain(|device| device.index != default.index);
        all.insert(0, default);
    }
    all
}

/// What a failure is to who wants to use a device.
pub(crate) fn failed(name: &str, failure: &Failure) -> CaptureError {
    let name = name.to_owned();
    match failure {
        Failure::NoServer | Failure::Io(_) => CaptureError::Gone { name },
        Failure::Refused(PulseError::NoEntity) => CaptureError::Gone { name },
        Failure::Refused(PulseError::AccessDenied | PulseError::AuthKey) => {
            CaptureError::Denied { name }
        }
        Failure::Refused(PulseError::Busy) => CaptureError::Busy { name },
        Failure::Refused(PulseError::NotSupported) => CaptureError::Format {
            name,
            reason: failure.to_string(),
        },
        Failure::Refused(_) | Failure::Protocol(_) => CaptureError::Device {
            name,
            reason: failure.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32) -> Device {
        Device::new(index, c"alsa_output.usb", None)
    }

    #[test]
    fn the_default_comes_first_and_once() {
        let all = vec![device(1), device(2), device(3)];
        let order = |default: Option<Device>| {
            let sorted = default_first(default, all.clone());
            sorted.iter().map(|device| device.index).collect::<Vec<_>>()
        };
        assert_eq!(order(None), [1, 2, 3]);
        assert_eq!(order(Some(device(2))), [2, 1, 3]);
    }

    #[test]
    fn devices_have_names_for_people() {
        let named = Device::new(1, c"alsa_output.usb", Some(&c"Headset".to_owned()));
        assert_eq!((&*named.name, &*named.id), ("Headset", "alsa_output.usb"));
        assert_eq!(device(1).name, "alsa_output.usb");
    }

    #[test]
    fn failures_say_whether_to_try_again() {
        let gone = failed("desk", &Failure::Refused(PulseError::NoEntity));
        assert!(matches!(gone, CaptureError::Gone { .. }));
        let denied = failed("desk", &Failure::Refused(PulseError::AccessDenied));
        assert!(!denied.may_pass());
    }
}
