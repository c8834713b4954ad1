//! What is there to capture with and to play on.

use serde::{Deserialize, Serialize};

/// All devices of this machine, as far as this program can use them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Devices {
    /// Cameras.
    pub cameras: Vec<Camera>,
    /// Microphones and other inputs.
    pub microphones: Vec<SoundDevice>,
    /// Loudspeakers, headphones and other outputs.
    pub speakers: Vec<SoundDevice>,
    /// Monitors.
    pub screens: Vec<Screen>,
    /// Windows that are visible.
    pub windows: Vec<Window>,
    /// What could not be asked, and why, in words.
    pub problems: Vec<String>,
}

/// A camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Camera {
    /// What follows `camera:`, besides the name.
    pub number: u32,
    /// Name.
    pub name: String,
}

/// A microphone or a loudspeaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoundDevice {
    /// What follows `microphone:` or `speaker:`, besides the name.
    pub number: u32,
    /// Name.
    pub name: String,
    /// The one that is used unless another is asked for.
    pub default: bool,
}

/// A monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Screen {
    /// What follows `screen:`, besides the name.
    pub number: u32,
    /// Name.
    pub name: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// The one that is used unless another is asked for.
    pub default: bool,
}

/// A window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// What follows `window:`, besides the title.
    pub id: u32,
    /// Title.
    pub title: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// Asks for all devices. What cannot be asked is left out, and said in [`Devices::problems`].
///
/// This may take a second, and must not run on a thread that anything waits for.
#[cfg(feature = "devices")]
pub fn list() -> Devices {
    let mut devices = Devices::default();
    match super::camera::list() {
        Ok(cameras) => devices.cameras = cameras,
        Err(error) => devices.problems.push(error.to_string()),
    }
    match super::host::list() {
        Ok((microphones, speakers)) => {
            devices.microphones = microphones;
            devices.speakers = speakers;
        }
        Err(error) => devices.problems.push(error.to_string()),
    }
    match super::screen::list() {
        Ok((screens, windows)) => {
            devices.screens = screens;
            devices.windows = windows;
        }
        Err(error) => devices.problems.push(error.to_string()),
    }
    devices
}

/// Asks for all devices: this program was built without any.
#[cfg(not(feature = "devices"))]
pub fn list() -> Devices {
    Devices {
        problems: vec!["this program was built without devices".to_owned()],
        ..Devices::default()
    }
}

/// Chooses among `names` by number or by a part of a name; an exact name wins over a part, upper and lower case
/// are alike. The first is taken where nothing is asked for.
#[cfg(any(feature = "devices", test))]
pub(crate) fn choose(names: &[String], wanted: Option<&str>) -> Option<usize> {
    let Some(wanted) = wanted else {
        return (!names.is_empty()).then_some(0);
    };
    let low = wanted.to_lowercase();
    let place =
        |fits: &dyn Fn(&str) -> bool| names.iter().position(|name| fits(&name.to_lowercase()));
    place(&|name| name == low)
        .or_else(|| {
            wanted
                .parse()
                .ok()
                .filter(|&number: &usize| number < names.len())
        })
        .or_else(|| place(&|name| name.contains(&low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_chosen_by_number_or_name() {
        let names = ["Built-in", "USB Camera 1", "usb camera", "1"].map(str::to_owned);
        for (wanted, place) in [
            (None, Some(0)),
            (Some("usb"), Some(1)),
            (Some("USB camera"), Some(2)),
            (Some("0"), Some(0)),
            // A name that is a number wins over the number.
            (Some("1"), Some(3)),
            (Some("2"), Some(2)),
            (Some("built"), Some(0)),
            (Some("9"), None),
            (Some("Sony"), None),
        ] {
            assert_eq!(choose(&names, wanted), place, "{wanted:?}");
        }
        assert_eq!(choose(&[], None), None);
    }
}
