//! A small numbered list to choose another device from, during a call.

use media::capture::Devices;

use crate::command::CallChange;
use crate::contacts::printable;

/// What can be chosen with one key each.
const KEYS: &str = "123456789abcdefghijklmnoprstuvwxyz";
/// A name longer than this is cut, characters.
const MAX_NAME: usize = 48;

/// What kind of device is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Camera,
    Screen,
    Microphone,
    Speaker,
}

impl Kind {
    /// The kind that a key asks for.
    pub(super) const fn of_key(key: char) -> Option<Self> {
        match key {
            'c' => Some(Self::Camera),
            'w' => Some(Self::Screen),
            'a' => Some(Self::Microphone),
            'l' => Some(Self::Speaker),
            _ => None,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Camera => "camera",
            Self::Screen => "screen or window to share",
            Self::Microphone => "microphone",
            Self::Speaker => "loudspeaker",
        }
    }

    /// What choosing `source` changes.
    pub(super) fn change(self, source: String) -> CallChange {
        match self {
            Self::Camera => CallChange::Video(source),
            Self::Screen => CallChange::Screen(source),
            Self::Microphone => CallChange::Audio(source),
            Self::Speaker => CallChange::Speaker(source),
        }
    }
}

/// A list on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Menu {
    pub(super) kind: Kind,
    entries: Vec<Entry>,
    /// What is used now.
    current: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    source: String,
    text: String,
}

/// What a key does to a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Take this.
    Take(String),
    /// Leave all as it is.
    Leave,
    /// It stands for nothing.
    Unknown,
}

impl Menu {
    /// The list of what there is.
    pub(super) fn new(kind: Kind, devices: &Devices, current: &str) -> Self {
        let entry = |source: String, text: &str| Entry {
            source,
            text: short(text),
        };
        let mut entries: Vec<Entry> = match kind {
            Kind::Camera => {
                let cameras = devices.cameras.iter();
                cameras
                    .map(|camera| entry(format!("camera:{}", camera.number), &camera.name))
                    .collect()
            }
            Kind::Screen => {
                let screens = devices.screens.iter().map(|screen| {
                    let text = format!("{}, {}x{}", screen.name, screen.width, screen.height);
                    entry(format!("screen:{}", screen.number), &text)
                });
                let windows = devices.windows.iter().map(|window| {
                    let text = format!("window “{}”", short(&window.title));
                    entry(format!("window:{:#x}", window.id), &text)
                });
                screens.chain(windows).collect()
            }
            Kind::Microphone => devices
                .microphones
                .iter()
                .map(|device| entry(format!("microphone:{}", device.number), &device.name))
                .collect(),
            Kind::Speaker => devices
                .speakers
                .iter()
                .map(|device| entry(format!("speaker:{}", device.number), &device.name))
                .collect(),
        };
        entries.truncate(KEYS.len() - 2);
        // What is used now may be no device: a file, a pattern, or the one that the system chose.
        if current != "none" && !entries.iter().any(|entry| entry.source == current) {
            entries.insert(0, entry(current.to_owned(), current));
        }
        entries.push(entry("none".to_owned(), "none"));
        Self {
            kind,
            entries,
            current: current.to_owned(),
        }
    }

    /// As it is shown.
    pub(super) fn lines(&self) -> Vec<String> {
        let title = format!("choose another {} (Esc: leave it)", self.kind.title());
        let entries = KEYS.chars().zip(&self.entries).map(|(key, entry)| {
            let mark = if entry.source == self.current {
                "  ← now"
            } else {
                ""
            };
            format!("  {key}  {}{mark}", entry.text)
        });
        std::iter::once(title).chain(entries).collect()
    }

    /// What a key means.
    pub(super) fn choose(&self, key: char) -> Choice {
        if matches!(key, '\x1b' | '\n' | '0' | 'q') {
            return Choice::Leave;
        }
        KEYS.chars()
            .position(|known| known == key)
            .and_then(|place| self.entries.get(place))
            .map_or(Choice::Unknown, |entry| Choice::Take(entry.source.clone()))
    }
}

/// A name from elsewhere, short and harmless.
fn short(text: &str) -> String {
    let text = printable(text, " ");
    match text.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use media::capture::{Camera, SoundDevice, Window};

    use super::*;

    fn devices(windows: u32) -> Devices {
        Devices {
            cameras: vec![Camera {
                number: 0,
                name: "USB\u{1b}[2J camera".to_owned(),
            }],
            speakers: vec![SoundDevice {
                number: 3,
                name: "Headphones".to_owned(),
                default: true,
            }],
            windows: (0..windows)
                .map(|id| Window {
                    id,
                    title: "x".repeat(100),
                    width: 10,
                    height: 10,
                })
                .collect(),
            ..Devices::default()
        }
    }

    #[test]
    fn a_list_has_what_is_there_what_is_used_and_nothing() {
        let menu = Menu::new(Kind::Camera, &devices(0), "pattern");
        let shown = menu.lines().join("\n");
        assert!(shown.contains("1  pattern  ← now"), "{shown}");
        assert!(shown.contains("2  USB"), "{shown}");
        assert!(shown.contains("3  none"), "{shown}");
        assert!(!shown.contains('\x1b'), "{shown:?}");
        assert_eq!(menu.choose('2'), Choice::Take("camera:0".to_owned()));
        assert_eq!(menu.choose('3'), Choice::Take("none".to_owned()));
        assert_eq!(menu.choose('4'), Choice::Unknown);
        assert_eq!(menu.choose('\x1b'), Choice::Leave);
        let menu = Menu::new(Kind::Speaker, &devices(0), "speaker:3");
        assert!(menu.lines()[1].ends_with("← now"));
        assert_eq!(
            Kind::Speaker.change("none".to_owned()),
            CallChange::Speaker("none".to_owned())
        );
    }

    #[test]
    fn a_long_list_keeps_one_key_each() {
        let menu = Menu::new(Kind::Screen, &devices(100), "none");
        let lines = menu.lines();
        assert!(lines.len() <= KEYS.len() + 1);
        assert!(lines.iter().all(|line| line.chars().count() < 80));
        let last = KEYS.chars().nth(menu.entries.len() - 1).expect("a key");
        assert_eq!(menu.choose(last), Choice::Take("none".to_owned()));
    }
}
