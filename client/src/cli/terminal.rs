//! The terminal: colors, local time, lines typed.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::OnceLock;

use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use tokio::sync::mpsc;

/// Lines that wait to be taken.
const MAX_LINES: usize = 16;

static TIME_ZONE: OnceLock<UtcOffset> = OnceLock::new();

/// Asks the system for its time zone; call it before any thread is started.
pub(super) fn learn_time_zone() {
    let _ = TIME_ZONE.set(UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC));
}

/// A moment by the local clock: today's as hours and minutes, others with their date.
pub(super) fn local_time(millis: i64) -> String {
    let zone = TIME_ZONE.get().copied().unwrap_or(UtcOffset::UTC);
    let Ok(at) = OffsetDateTime::from_unix_timestamp(millis.div_euclid(1_000)) else {
        return "?".to_owned();
    };
    let (at, now) = (
        at.to_offset(zone),
        OffsetDateTime::now_utc().to_offset(zone),
    );
    let text = if at.date() == now.date() {
        at.format(format_description!("[hour]:[minute]"))
    } else {
        at.format(format_description!("[year]-[month]-[day] [hour]:[minute]"))
    };
    text.unwrap_or_else(|_| "?".to_owned())
}

/// Text in an ANSI style, if `color`.
pub(super) fn paint_if(color: bool, style: &str, text: &str) -> String {
    if color {
        format!("\x1b[{style}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub(super) fn stderr_has_color() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Text in an ANSI style, where standard error shows colors.
pub(super) fn err_paint(style: &str, text: &str) -> String {
    paint_if(stderr_has_color(), style, text)
}

/// A remark for people, to standard error.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Lines of standard input, read on a thread of their own; ends with the input.
pub(super) fn lines() -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel(MAX_LINES);
    let reader = std::thread::Builder::new()
        .name("landline-input".to_owned())
        .spawn(move || {
            let mut stdin = io::stdin().lock();
            loop {
                let mut line = Vec::new();
                // Input that is no text ends the reading, as its end does.
                match stdin.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let Ok(mut line) = String::from_utf8(line) else {
                    return;
                };
                line.truncate(line.trim_end_matches(['\n', '\r']).len());
                if tell.blocking_send(line).is_err() {
                    return;
                }
            }
        });
    drop(reader);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_shown_with_their_date_unless_today() {
        assert!(local_time(0).starts_with("19"), "{}", local_time(0));
        assert_eq!(local_time(crate::store::now_millis()).len(), 5);
        assert_eq!(local_time(i64::MAX), "?");
    }
}
