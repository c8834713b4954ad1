//! The X server: its monitors and windows.

use std::env;

use x11rb::{
    connection::{Connection as _, RequestConnection as _},
    errors::{ConnectError, ReplyError},
    protocol::{
        composite::{self, ConnectionExt as _},
        damage::{self, ConnectionExt as _},
        randr::ConnectionExt as _,
        shm::{self, ConnectionExt as _},
        xfixes::{self, ConnectionExt as _},
        xproto::{Atom, AtomEnum, ConnectionExt as _, ImageOrder, MapState, Window as WindowId},
    },
    rust_connection::RustConnection,
};

use crate::capture::{CaptureError, Window};

/// Windows that are listed at most.
const MAX_WINDOWS: usize = 500;
/// A title's length that is read, 4-byte units.
const MAX_TITLE: u32 = 256;

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) x: i16,
    pub(super) y: i16,
    pub(super) width: u16,
    pub(super) height: u16,
}

/// A monitor, or the whole desktop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Monitor {
    pub(super) name: String,
    pub(super) area: Area,
}

/// What the server can do beyond its core.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extensions {
    /// Pictures through shared memory.
    pub(super) shm: bool,
    /// Says what changed.
    pub(super) damage: bool,
    /// Keeps windows whole that others cover.
    pub(super) composite: bool,
    /// Shows the pointer's picture.
    pub(super) xfixes: bool,
}

/// A connection to the X server.
pub(super) struct Display {
    pub(super) connection: RustConnection,
    pub(super) root: WindowId,
    pub(super) extensions: Extensions,
}

/// What went wrong between us and the server, in words.
pub(super) fn failed(name: &str, error: impl Into<ReplyError>) -> CaptureError {
    let name = name.to_owned();
    match error.into() {
        ReplyError::ConnectionError(_) => CaptureError::Gone { name },
        ReplyError::X11Error(error) => CaptureError::Device {
            name,
            reason: format!("the X server answered {:?}", error.error_kind),
        },
    }
}

impl Display {
    /// Connects to the server that `DISPLAY` names.
    pub(super) fn open() -> Result<Self, CaptureError> {
        let unsupported = |reason: String| CaptureError::Unsupported {
            what: "screen",
            reason,
        };
        if env::var_os("DISPLAY").is_none_or(|name| name.is_empty()) {
            let wayland = env::var_os("WAYLAND_DISPLAY").is_some();
            return Err(unsupported(if wayland {
                "this is a Wayland session without X11, and only X11 is captured".to_owned()
            } else {
                "there is no X11 display (DISPLAY is not set)".to_owned()
            }));
        }
        let (connection, screen) = x11rb::connect(None).map_err(|error| match error {
            ConnectError::IoError(error) => {
                unsupported(format!("the X11 display does not answer: {error}"))
            }
            other => unsupported(format!("the X11 display cannot be used: {other}")),
        })?;
        let root = connection
            .setup()
            .roots
            .get(screen)
            .ok_or_else(|| unsupported("the X11 display has no screen".to_owned()))?
            .root;
        let extensions = extensions(&connection).map_err(|error| failed("screen", error))?;
        let display = Self {
            connection,
            root,
            extensions,
        };
        display.check_pixels().map_err(unsupported)?;
        Ok(display)
    }

    /// Only pixels of 4 bytes, blue first, are read: what every desktop of the last twenty years has.
    fn check_pixels(&self) -> Result<(), String> {
        let setup = self.connection.setup();
        let screen = setup
            .roots
            .iter()
            .find(|screen| screen.root == self.root)
            .ok_or("the X11 display has no screen")?;
        let format = setup
            .pixmap_formats
            .iter()
            .find(|format| format.depth == screen.root_depth)
            .ok_or("the X11 display does not say how pixels lie")?;
        let visual = screen
            .allowed_depths
            .iter()
            .flat_map(|depth| &depth.visuals)
            .find(|visual| visual.visual_id == screen.root_visual)
            .ok_or("the X11 display does not say how colours lie")?;
        let usual = setup.image_byte_order == ImageOrder::LSB_FIRST
            && format.bits_per_pixel == 32
            && (visual.red_mask, visual.green_mask, visual.blue_mask) == (0xff_0000, 0xff00, 0xff);
        if usual {
            Ok(())
        } else {
            Err(format!(
                "its pixels have {} bits in an order that is not known; 24 or 32 bits are",
                screen.root_depth
            ))
        }
    }

    /// All of the desktop.
    pub(super) fn desktop(&self) -> Result<Monitor, CaptureError> {
        let geometry = self
            .connection
            .get_geometry(self.root)
            .map_err(ReplyError::from)
            .and_then(|cookie| cookie.reply())
            .map_err(|error| failed("desktop", error))?;
        Ok(Monitor {
            name: "all".to_owned(),
            area: Area {
                x: 0,
                y: 0,
                width: geometry.width,
                height: geometry.height,
            },
        })
    }

    /// The monitors, the main one first; the whole desktop where the server knows none.
    pub(super) fn monitors(&self) -> Result<Vec<Monitor>, CaptureError> {
        let reply = self
            .connection
            .randr_get_monitors(self.root, true)
            .map_err(ReplyError::from)
            .and_then(|cookie| cookie.reply());
        let mut infos = match reply {
            Ok(reply) => reply.monitors,
            Err(ReplyError::X11Error(_)) => Vec::new(),
            Err(error) => return Err(failed("screen", error)),
        };
        infos.retain(|info| info.width > 0 && info.height > 0);
        infos.sort_by_key(|info| !info.primary);
        if infos.is_empty() {
            return Ok(vec![self.desktop()?]);
        }
        infos
            .into_iter()
            .map(|info| {
                Ok(Monitor {
                    name: self.atom_name(info.name)?,
                    area: Area {
                        x: info.x,
                        y: info.y,
                        width: info.width,
                        height: info.height,
                    },
                })
            })
            .collect()
    }

    fn atom_name(&self, atom: Atom) -> Result<String, CaptureError> {
        let reply = self
            .connection
            .get_atom_name(atom)
            .map_err(ReplyError::from)
            .and_then(|cookie| cookie.reply())
            .map_err(|error| failed("screen", error))?;
        Ok(String::from_utf8_lossy(&reply.name).into_owned())
    }

    fn atom(&self, name: &str) -> Result<Atom, ReplyError> {
        let cookie = self.connection.intern_atom(false, name.as_bytes())?;
        Ok(cookie.reply()?.atom)
    }

    /// The windows that are visible and have a title: those that the window manager lists, or all on the desktop
    /// where there is none.
    pub(super) fn windows(&self) -> Result<Vec<Window>, CaptureError> {
        let list = || -> Result<Vec<Window>, ReplyError> {
            let clients = self.atom("_NET_CLIENT_LIST")?;
            let mut ids = self
                .property(
                    self.root,
                    clients,
                    AtomEnum::WINDOW.into(),
                    MAX_WINDOWS as u32,
                )?
                .chunks_exact(4)
                .map(|id| u32::from_ne_bytes([id[0], id[1], id[2], id[3]]))
                .collect::<Vec<_>>();
            if ids.is_empty() {
                ids = self.connection.query_tree(self.root)?.reply()?.children;
            }
            let utf8_name = self.atom("_NET_WM_NAME")?;
            let mut windows = Vec::new();
            for id in ids.into_iter().take(MAX_WINDOWS) {
                // One that closes just now is left out.
                if let Ok(Some(window)) = self.describe(id, utf8_name) {
                    windows.push(window);
                }
            }
            Ok(windows)
        };
        list().map_err(|error| failed("window", error))
    }

    fn describe(&self, id: WindowId, utf8_name: Atom) -> Result<Option<Window>, ReplyError> {
        let attributes = self.connection.get_window_attributes(id)?.reply()?;
        if attributes.map_state != MapState::VIEWABLE {
            return Ok(None);
        }
        let mut title = self.property(id, utf8_name, AtomEnum::ANY.into(), MAX_TITLE)?;
        if title.is_empty() {
            let name = AtomEnum::WM_NAME.into();
            title = self.property(id, name, AtomEnum::ANY.into(), MAX_TITLE)?;
        }
        if title.is_empty() {
            return Ok(None);
        }
        let geometry = self.connection.get_geometry(id)?.reply()?;
        Ok(Some(Window {
            id,
            title: String::from_utf8_lossy(&title).into_owned(),
            width: u32::from(geometry.width),
            height: u32::from(geometry.height),
        }))
    }

    fn property(
        &self,
        window: WindowId,
        property: Atom,
        kind: Atom,
        len: u32,
    ) -> Result<Vec<u8>, ReplyError> {
        let cookie = self
            .connection
            .get_property(false, window, property, kind, 0, len)?;
        Ok(cookie.reply()?.value)
    }
}

/// Asks what the server has; each extension must be asked for its version before its first use.
fn extensions(connection: &RustConnection) -> Result<Extensions, ReplyError> {
    let has = |name| {
        connection
            .extension_information(name)
            .map(|it| it.is_some())
    };
    let mut found = Extensions::default();
    if has(shm::X11_EXTENSION_NAME)? {
        let version = connection.shm_query_version()?.reply()?;
        // Shared memory by file descriptor came with 1.2.
        found.shm = (version.major_version, version.minor_version) >= (1, 2);
    }
    if has(xfixes::X11_EXTENSION_NAME)? {
        found.xfixes = connection
            .xfixes_query_version(5, 0)?
            .reply()?
            .major_version
            >= 1;
    }
    if has(damage::X11_EXTENSION_NAME)? {
        found.damage = connection
            .damage_query_version(1, 1)?
            .reply()?
            .major_version
            >= 1;
    }
    if has(composite::X11_EXTENSION_NAME)? {
        let version = connection.composite_query_version(0, 4)?.reply()?;
        found.composite = (version.major_version, version.minor_version) >= (0, 2);
    }
    Ok(found)
}
