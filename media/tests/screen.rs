//! Screens and windows of a real X server: one of the test's own (Xvfb), on which known colours are drawn.
//!
//! The test runs this program again with the server in its environment. It needs `Xvfb`, and fails without.

use std::{
    env,
    io::{BufRead as _, BufReader, ErrorKind},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use media::{
    AudioTime, Picture, PictureSize, VideoTime,
    capture::{
        CaptureClock, CaptureError, Content, PictureOptions, PictureSource, VideoSpec, list,
        open_pictures,
    },
};
use x11rb::{
    COPY_DEPTH_FROM_PARENT,
    connection::Connection as _,
    protocol::xproto::{
        AtomEnum, ChangeWindowAttributesAux, ConfigureWindowAux, ConnectionExt as _,
        CreateWindowAux, PropMode, Window, WindowClass,
    },
    rust_connection::RustConnection,
    wrapper::ConnectionExt as _,
};

/// How long anything may take here before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Colours as X has them and as a picture has them (BT.601, limited range).
const RED: (u32, [u8; 3]) = (0xff_0000, [81, 90, 240]);
const GREEN: (u32, [u8; 3]) = (0x00_ff00, [145, 54, 34]);
const BLUE: (u32, [u8; 3]) = (0x00_00ff, [41, 240, 110]);
const BLACK: (u32, [u8; 3]) = (0, [16, 128, 128]);

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn screens_and_windows_are_seen() {
    let child = Command::new("Xvfb")
        .args(["-displayfd", "1", "-screen", "0", "640x480x24", "-br"])
        .args(["-nolisten", "tcp", "-noreset"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("this test needs Xvfb (.ci/setup test)"),
            _ => panic!("{error}"),
        });
    let mut server = Server(child);
    let mut number = String::new();
    let out = server.0.stdout.take().expect("piped");
    BufReader::new(out)
        .read_line(&mut number)
        .expect("the server tells its number");
    let status = Command::new(env::current_exe().expect("this program"))
        .args([
            "--exact",
            "inside_screens_and_windows",
            "--ignored",
            "--nocapture",
        ])
        .env("DISPLAY", format!(":{}", number.trim()))
        .env_remove("WAYLAND_DISPLAY")
        .status()
        .expect("this program runs");
    assert!(status.success(), "the inner run failed: see above");
}

#[test]
fn no_server_is_a_plain_error() {
    let status = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "inside_no_server", "--ignored", "--nocapture"])
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .status()
        .expect("this program runs");
    assert!(status.success(), "the inner run failed: see above");
}

#[test]
// The outer test runs it in a process of its own, whose environment names no display.
#[ignore = "run by a test above, without an X server"]
fn inside_no_server() {
    let error = open("screen").err().expect("there is no screen");
    assert_eq!(
        error.to_string(),
        "no screen can be used here: there is no X11 display (DISPLAY is not set)"
    );
    let devices = list();
    assert!(devices.screens.is_empty());
    assert!(
        devices
            .problems
            .iter()
            .any(|problem| problem.contains("DISPLAY"))
    );
}

fn open(spec: &str) -> Result<Box<dyn PictureSource>, CaptureError> {
    let spec: VideoSpec = spec.parse().expect("a source");
    let options = PictureOptions {
        clock: CaptureClock::new(VideoTime::default(), AudioTime::default(), Instant::now()),
        size: PictureSize::new(640, 360).expect("a size"),
        frames_per_second: 15.0,
        stamped: false,
    };
    Ok(open_pictures(&spec, &options)?.expect("a screen is a source"))
}

/// Something that draws.
struct Painter {
    connection: RustConnection,
    root: Window,
}

impl Painter {
    fn new() -> Self {
        let (connection, screen) = x11rb::connect(None).expect("an X server");
        let root = connection.setup().roots[screen].root;
        Self { connection, root }
    }

    fn window(&self, title: &str, at: (i16, i16), size: (u16, u16), colour: u32) -> Window {
        let id = self.connection.generate_id().expect("numbers are left");
        self.connection
            .create_window(
                COPY_DEPTH_FROM_PARENT,
                id,
                self.root,
                at.0,
                at.1,
                size.0,
                size.1,
                0,
                WindowClass::INPUT_OUTPUT,
                0,
                &CreateWindowAux::new()
                    .background_pixel(colour)
                    .override_redirect(1),
            )
            .expect("sent");
        self.connection
            .change_property8(
                PropMode::REPLACE,
                id,
                AtomEnum::WM_NAME,
                AtomEnum::STRING,
                title.as_bytes(),
            )
            .expect("sent");
        self.connection.map_window(id).expect("sent");
        self.connection.sync().expect("done");
        id
    }

    fn paint(&self, window: Window, colour: u32) {
        let change = ChangeWindowAttributesAux::new().background_pixel(colour);
        self.connection
            .change_window_attributes(window, &change)
            .expect("sent");
        self.connection
            .clear_area(false, window, 0, 0, 0, 0)
            .expect("sent");
        self.connection.sync().expect("done");
    }
}

/// The colour of a picture at a place, Y, U and V.
fn at(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
    let [luma, u, v] = picture.planes();
    let chroma = y / 2 * u.stride + x / 2;
    [
        luma.data[y * luma.stride + x],
        u.data[chroma],
        v.data[chroma],
    ]
}

fn is(picture: &Picture, place: (usize, usize), colour: (u32, [u8; 3])) -> bool {
    let seen = at(picture, place.0, place.1);
    seen.iter().zip(colour.1).all(|(a, b)| a.abs_diff(b) <= 4)
}

/// The next picture that shows a colour at a place; a change may come in two pictures.
fn until(source: &mut dyn PictureSource, place: (usize, usize), colour: (u32, [u8; 3])) -> Picture {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < deadline {
        if let Some(picture) = source.next(Duration::from_millis(500)).expect("it lives") {
            if is(&picture, place, colour) {
                return picture;
            }
            last = Some(at(&picture, place.0, place.1));
        }
    }
    panic!("{last:?} at {place:?} instead of {colour:?}");
}

#[test]
// The outer test runs it in a process of its own, whose environment names the server that it started.
#[ignore = "run by a test above, beside an X server"]
fn inside_screens_and_windows() {
    let painter = Painter::new();
    let window = painter.window("painted", (50, 40), (201, 101), RED.0);
    let devices = list();
    assert_eq!(
        (devices.screens[0].width, devices.screens[0].height),
        (640, 480)
    );
    assert_eq!(devices.windows.len(), 1, "{devices:?}");
    assert_eq!(
        (devices.windows[0].id, &*devices.windows[0].title),
        (window, "painted")
    );

    let mut screen = open("screen").expect("a screen");
    let picture = until(&mut *screen, (100, 80), RED);
    assert_eq!(screen.describe().content, Content::Detail);
    assert_eq!(
        (picture.size().width(), picture.size().height()),
        (640, 480)
    );
    assert!(is(&picture, (20, 20), BLACK) && is(&picture, (500, 440), BLACK));
    // Its edges are where they were drawn; chroma there is shared by two columns.
    assert!(at(&picture, 49, 80)[0] < 20 && at(&picture, 50, 80)[0] > 70);

    // What does not change gives no picture; what does, gives one.
    while screen
        .next(Duration::from_millis(300))
        .expect("it lives")
        .is_some()
    {}
    painter.paint(window, GREEN.0);
    until(&mut *screen, (100, 80), GREEN);
    let mut desktop = open("screen:all").expect("the desktop");
    until(&mut *desktop, (100, 80), GREEN);

    windows(&painter, window);

    for spec in ["screen:9", "window:nobody", "window:0x1"] {
        let error = open(spec).err().expect("there is none");
        assert!(
            matches!(error, CaptureError::NotFound { .. }),
            "{spec}: {error}"
        );
    }
    let error = open("window:nobody").err().expect("there is none");
    assert!(error.to_string().contains("cover"), "{error}");
}

/// One window is seen whole, whatever lies over it, and until it closes.
fn windows(painter: &Painter, window: Window) {
    let mut source = open("window:paint").expect("a window");
    let picture = until(&mut *source, (100, 50), GREEN);
    assert_eq!(
        (picture.size().width(), picture.size().height()),
        (200, 100)
    );
    painter.window("cover", (0, 0), (300, 300), BLUE.0);
    painter.paint(window, RED.0);
    let picture = until(&mut *source, (100, 50), RED);
    assert!(is(&picture, (0, 0), RED) && is(&picture, (199, 99), RED));

    let larger = ConfigureWindowAux::new().width(320).height(240);
    painter
        .connection
        .configure_window(window, &larger)
        .expect("sent");
    painter.connection.sync().expect("done");
    let deadline = Instant::now() + PATIENCE;
    while source.describe().size.width() != 320 {
        assert!(Instant::now() < deadline, "the size was not followed");
        source.next(Duration::from_millis(200)).expect("it lives");
    }
    let picture = until(
        &mut *open(&format!("window:{window}")).expect("it"),
        (300, 200),
        RED,
    );
    assert_eq!(picture.size().height(), 240);

    painter.connection.destroy_window(window).expect("sent");
    painter.connection.sync().expect("done");
    let error = loop {
        match source.next(Duration::from_millis(200)) {
            Ok(_) => assert!(Instant::now() < deadline, "nobody noticed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CaptureError::Gone { .. }), "{error:?}");
}
