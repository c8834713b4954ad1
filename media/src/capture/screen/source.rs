//! One monitor, the desktop or one window, as a source: a picture for each change, and none without.

use std::{
    thread,
    time::{Duration, Instant},
};

use x11rb::{
    connection::Connection as _,
    errors::ReplyError,
    protocol::{
        Event,
        composite::{ConnectionExt as _, Redirect},
        damage::{ConnectionExt as _, Damage, ReportLevel},
        randr::{ConnectionExt as _, NotifyMask},
        xproto::{
            ChangeWindowAttributesAux, ConnectionExt as _, Drawable, EventMask, MapState, Pixmap,
            Window as WindowId,
        },
    },
};

use super::{
    display::{Area, Display, Monitor, failed},
    image::Fetcher,
    pointer::Pointer,
};
use crate::{
    MAX_SIDE, Picture, PictureSize,
    capture::{
        CaptureClock, CaptureError, Content, PictureInfo, PictureOptions, PictureSource,
        devices::choose,
    },
    convert::{PixelFormat, Pixels},
};

/// Pictures a second at most (`media.md` §9.1): text is not smoother with more, and each costs bits.
const MOST_PER_SECOND: f32 = 15.0;

/// A screen or a window.
pub(super) struct ScreenSource {
    display: Display,
    what: What,
    name: String,
    size: PictureSize,
    clock: CaptureClock,
    interval: Duration,
    next: Option<Instant>,
    damage: Option<Damage>,
    changed: bool,
    pointer: Pointer,
    fetcher: Fetcher,
    pixels: Vec<u8>,
    /// The picture before, to compare with where the server does not say what changed.
    before: Vec<u8>,
    dropped: u64,
}

/// What is captured.
enum What {
    /// A part of the root window; the name is looked for again when monitors change.
    Screen {
        area: Area,
        wanted: Option<String>,
    },
    Window(Seen),
}

/// A window and the memory that it is drawn in.
#[derive(Debug, Clone, Copy)]
struct Seen {
    window: WindowId,
    /// Where its contents are on the desktop.
    area: Area,
    border: u16,
    pixmap: Option<Pixmap>,
    visible: bool,
}

impl What {
    /// Where it is on the desktop.
    const fn area(&self) -> Area {
        match self {
            Self::Screen { area, .. } => *area,
            Self::Window(seen) => seen.area,
        }
    }
}

impl ScreenSource {
    /// A monitor, or the desktop.
    pub(super) fn monitor(
        display: Display,
        wanted: Option<&str>,
        options: &PictureOptions,
    ) -> Result<Self, CaptureError> {
        let monitor = find_monitor(&display, wanted)?;
        let name = format!("screen {}", monitor.name);
        let mask = NotifyMask::SCREEN_CHANGE;
        let select = display.connection.randr_select_input(display.root, mask);
        select.map_err(|error| failed(&name, error))?;
        let what = What::Screen {
            area: cut(monitor.area),
            wanted: wanted.map(str::to_owned),
        };
        let root = display.root;
        Self::start(display, what, root, name, options)
    }

    /// A window.
    pub(super) fn window(
        display: Display,
        wanted: &str,
        options: &PictureOptions,
    ) -> Result<Self, CaptureError> {
        let (window, title) = find_window(&display, wanted)?;
        let name = format!("window \"{title}\"");
        let watch = ChangeWindowAttributesAux::new().event_mask(EventMask::STRUCTURE_NOTIFY);
        let seen = Seen {
            window,
            area: Area {
                x: 0,
                y: 0,
                width: 0,
                height: 0,
            },
            border: 0,
            pixmap: None,
            visible: false,
        };
        let seen = (|| {
            let connection = &display.connection;
            connection
                .change_window_attributes(window, &watch)?
                .check()?;
            if display.extensions.composite {
                // Its contents are kept whole in memory of their own from now on.
                connection
                    .composite_redirect_window(window, Redirect::AUTOMATIC)?
                    .check()?;
            }
            seen.look(&display)
        })()
        .map_err(|error| failed(&name, error))?;
        Self::start(display, What::Window(seen), window, name, options)
    }

    fn start(
        display: Display,
        what: What,
        watched: Drawable,
        name: String,
        options: &PictureOptions,
    ) -> Result<Self, CaptureError> {
        let mut damage = None;
        if display.extensions.damage {
            let watch = || -> Result<Damage, x11rb::errors::ReplyOrIdError> {
                let id = display.connection.generate_id()?;
                display
                    .connection
                    .damage_create(id, watched, ReportLevel::NON_EMPTY)?
                    .check()?;
                Ok(id)
            };
            match watch() {
                Ok(id) => damage = Some(id),
                Err(error) => tracing::debug!(%error, "changes are found by comparing"),
            }
        }
        let area = what.area();
        let size = PictureSize::within(area.width.into(), area.height.into()).map_err(|error| {
            CaptureError::Format {
                name: name.clone(),
                reason: error.to_string(),
            }
        })?;
        let mut source = Self {
            size,
            display,
            what,
            name,
            clock: options.clock,
            interval: Duration::ZERO,
            next: None,
            damage,
            changed: true,
            pointer: Pointer::default(),
            fetcher: Fetcher::default(),
            pixels: Vec::new(),
            before: Vec::new(),
            dropped: 0,
        };
        source.limit(options.frames_per_second);
        Ok(source)
    }

    /// Takes all that the server says.
    fn listen(&mut self) -> Result<(), CaptureError> {
        let (mut look, mut damaged) = (false, false);
        let gone = |name: &str| CaptureError::Gone {
            name: name.to_owned(),
        };
        while let Some(event) = self
            .display
            .connection
            .poll_for_event()
            .map_err(|_| gone(&self.name))?
        {
            match (event, &self.what) {
                (Event::DamageNotify(_), _) => damaged = true,
                (Event::DestroyNotify(event), What::Window(seen))
                    if event.window == seen.window =>
                {
                    return Err(gone(&self.name));
                }
                (
                    Event::ConfigureNotify(_)
                    | Event::MapNotify(_)
                    | Event::UnmapNotify(_)
                    | Event::ReparentNotify(_)
                    | Event::RandrScreenChangeNotify(_),
                    _,
                ) => look = true,
                _ => {}
            }
        }
        if damaged && let Some(damage) = self.damage {
            self.changed = true;
            // From here on the next change is told again.
            self.display
                .connection
                .damage_subtract(damage, x11rb::NONE, x11rb::NONE)
                .map_err(|error| failed(&self.name, error))?;
        }
        if look {
            self.look_again()?;
        }
        Ok(())
    }

    /// The screen or the window has another place, size or state.
    fn look_again(&mut self) -> Result<(), CaptureError> {
        match &mut self.what {
            What::Screen { area, wanted } => {
                // A monitor that was unplugged is gone; one that came back is found by its name.
                let monitor = find_monitor(&self.display, wanted.as_deref())?;
                *area = cut(monitor.area);
            }
            What::Window(seen) => {
                *seen = seen
                    .look(&self.display)
                    .map_err(|error| failed(&self.name, error))?;
            }
        }
        self.changed = true;
        Ok(())
    }

    /// The picture as it is now; `None` if it is as before, or there is none.
    fn capture(&mut self) -> Result<Option<Picture>, CaptureError> {
        let area = self.what.area();
        let (drawable, from) = match &self.what {
            What::Screen { .. } => (self.display.root, area),
            What::Window(seen) if !seen.visible => return Ok(None),
            What::Window(seen) => seen.place(),
        };
        let now = Instant::now();
        let fetched = self
            .fetcher
            .fetch(&self.display, drawable, from, &mut self.pixels);
        match fetched {
            Ok(()) => {}
            // It changed its size or was hidden just now; the server's word about that is on its way.
            Err(ReplyError::X11Error(error)) => {
                tracing::debug!(name = self.name, ?error, "no picture of it now");
                self.dropped += 1;
                return Ok(None);
            }
            Err(error) => return Err(failed(&self.name, error)),
        }
        self.pointer.draw(area, &mut self.pixels);
        if self.damage.is_none() {
            if self.pixels == self.before {
                return Ok(None);
            }
            self.before.clone_from(&self.pixels);
        }
        let picture = Pixels {
            format: PixelFormat::Bgra,
            width: u32::from(area.width),
            height: u32::from(area.height),
            stride: 0,
            data: &self.pixels,
        }
        .to_picture(self.clock.video(now));
        let picture = picture.map_err(|error| CaptureError::Format {
            name: self.name.clone(),
            reason: error.to_string(),
        })?;
        self.size = picture.size();
        Ok(Some(picture))
    }

    /// Looks once whether there is a new picture.
    fn step(&mut self) -> Result<Option<Picture>, CaptureError> {
        self.listen()?;
        let moved = self
            .pointer
            .look(&self.display, self.what.area())
            .map_err(|error| failed(&self.name, error))?;
        if !(self.changed || moved || self.damage.is_none()) {
            return Ok(None);
        }
        let picture = self.capture()?;
        self.changed = false;
        Ok(picture)
    }
}

impl PictureSource for ScreenSource {
    fn next(&mut self, timeout: Duration) -> Result<Option<Picture>, CaptureError> {
        let deadline = Instant::now() + timeout;
        loop {
            let now = Instant::now();
            let due = self.next.map_or(now, |next| next.max(now));
            if due > deadline {
                thread::sleep(deadline.saturating_duration_since(now));
                return Ok(None);
            }
            thread::sleep(due.saturating_duration_since(now));
            self.next = Some(due + self.interval);
            if let Some(picture) = self.step()? {
                return Ok(Some(picture));
            }
        }
    }

    fn describe(&self) -> PictureInfo {
        PictureInfo {
            name: self.name.clone(),
            size: self.size,
            frames_per_second: 1.0 / self.interval.as_secs_f32(),
            content: Content::Detail,
        }
    }

    fn limit(&mut self, frames_per_second: f32) {
        let rate = frames_per_second.clamp(0.5, MOST_PER_SECOND);
        self.interval = Duration::from_secs_f32(1.0 / rate);
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Drop for ScreenSource {
    fn drop(&mut self) {
        // The rest is given back by the server when the connection ends.
        self.fetcher.release(&self.display);
    }
}

impl Seen {
    /// How the window is now, with its memory named anew: a window gets another with each size.
    fn look(self, display: &Display) -> Result<Self, ReplyError> {
        let connection = &display.connection;
        if let Some(pixmap) = self.pixmap {
            connection.free_pixmap(pixmap)?;
        }
        let state = connection
            .get_window_attributes(self.window)?
            .reply()?
            .map_state;
        let geometry = connection.get_geometry(self.window)?.reply()?;
        let corner = connection
            .translate_coordinates(self.window, display.root, 0, 0)?
            .reply()?;
        let visible = state == MapState::VIEWABLE;
        let mut pixmap = None;
        if visible && display.extensions.composite {
            let id = connection.generate_id().map_err(|error| match error {
                x11rb::errors::ReplyOrIdError::ConnectionError(error) => error.into(),
                x11rb::errors::ReplyOrIdError::X11Error(error) => ReplyError::X11Error(error),
                x11rb::errors::ReplyOrIdError::IdsExhausted => {
                    x11rb::errors::ConnectionError::UnknownError.into()
                }
            })?;
            // Hidden again in between, it has none, and is seen to when the server says so.
            if connection
                .composite_name_window_pixmap(self.window, id)?
                .check()
                .is_ok()
            {
                pixmap = Some(id);
            }
        }
        Ok(Self {
            window: self.window,
            area: cut(Area {
                x: corner.dst_x,
                y: corner.dst_y,
                width: geometry.width,
                height: geometry.height,
            }),
            border: geometry.border_width,
            pixmap,
            visible,
        })
    }

    /// What to read its pixels from, and where in it they are.
    fn place(&self) -> (Drawable, Area) {
        let within = |at: i16| Area {
            x: at,
            y: at,
            ..self.area
        };
        match self.pixmap {
            Some(pixmap) => (pixmap, within(i16::try_from(self.border).unwrap_or(0))),
            None => (self.window, within(0)),
        }
    }
}

/// Even, and no larger than pictures are.
fn cut(area: Area) -> Area {
    let side = |side: u16| side.min(MAX_SIDE as u16) & !1;
    Area {
        width: side(area.width),
        height: side(area.height),
        ..area
    }
}

fn find_monitor(display: &Display, wanted: Option<&str>) -> Result<Monitor, CaptureError> {
    if wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case("all")) {
        return display.desktop();
    }
    let monitors = display.monitors()?;
    let names: Vec<String> = monitors.iter().map(|it| it.name.clone()).collect();
    choose(&names, wanted)
        .and_then(|place| monitors.into_iter().nth(place))
        .ok_or_else(|| CaptureError::NotFound {
            what: "screen",
            wanted: wanted.unwrap_or_default().to_owned(),
            found: names,
        })
}

fn find_window(display: &Display, wanted: &str) -> Result<(WindowId, String), CaptureError> {
    let windows = display.windows()?;
    let id = wanted.strip_prefix("0x").map_or_else(
        || wanted.parse().ok(),
        |hex| u32::from_str_radix(hex, 16).ok(),
    );
    let titles: Vec<String> = windows.iter().map(|it| it.title.clone()).collect();
    let by_id = windows.iter().position(|window| Some(window.id) == id);
    // A window's number in the list means nothing, unlike a monitor's.
    let by_title = || {
        id.is_none()
            .then(|| choose(&titles, Some(wanted)))
            .flatten()
    };
    by_id
        .or_else(by_title)
        .and_then(|place| windows.get(place))
        .map(|window| (window.id, window.title.clone()))
        .ok_or_else(|| CaptureError::NotFound {
            what: "window",
            wanted: wanted.to_owned(),
            found: titles,
        })
}
