//! `landline devices`: what there is to call with, by the names that `call` takes.

use media::capture::{Devices, list};

use super::out::Out;
use super::terminal::remark;
use crate::contacts::printable;
use crate::{Exit, Problem};

pub(super) async fn run(out: Out) -> Result<Exit, Problem> {
    let devices = tokio::task::spawn_blocking(list)
        .await
        .map_err(|error| Problem::failure(format!("the devices cannot be listed: {error}")))?;
    out.json(&devices);
    if !out.is_json {
        show(out, &devices);
    }
    Ok(Exit::Success)
}

fn show(out: Out, devices: &Devices) {
    let line = |name: String, text: &str, default: bool| {
        let mark = if default { "  (default)" } else { "" };
        let text = printable(text, " ");
        out.text(&format!("  {name:<16} {text}{}", out.dim(mark)));
    };
    out.text(&out.bold("Cameras (--video)"));
    for (at, camera) in devices.cameras.iter().enumerate() {
        line(format!("camera:{}", camera.number), &camera.name, at == 0);
    }
    out.text(&out.bold("Screens and windows (--screen)"));
    for screen in &devices.screens {
        let text = format!("{}, {}x{}", screen.name, screen.width, screen.height);
        line(format!("screen:{}", screen.number), &text, screen.default);
    }
    for window in &devices.windows {
        let text = format!("{}, {}x{}", window.title, window.width, window.height);
        line(format!("window:{:#x}", window.id), &text, false);
    }
    out.text(&out.bold("Microphones (--audio)"));
    for device in &devices.microphones {
        let name = format!("microphone:{}", device.number);
        line(name, &device.name, device.default);
    }
    out.text(&out.bold("Speakers (--speaker)"));
    for device in &devices.speakers {
        line(
            format!("speaker:{}", device.number),
            &device.name,
            device.default,
        );
    }
    out.text(
        &out.dim("Without devices: pattern[:WxH@FPS], FILE.y4m, tone[:HERTZ], FILE.wav, none"),
    );
    for problem in &devices.problems {
        remark(&format!("note: {}", printable(problem, " ")));
    }
}
