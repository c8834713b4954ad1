//! How the demo looks: a page for people, or one JSON object a step for programs.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::side::Side;
use crate::event::PeerView;
use crate::store::transfers::TransferRecord;

/// Width of the first column, characters.
const LABEL: usize = 16;
/// Width of the middle column, characters.
const BODY: usize = 50;

/// One file as both sides have it.
pub(super) struct FileRow {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) at_sender: Option<String>,
    pub(super) at_receiver: Option<String>,
    pub(super) on_disk: String,
}

impl FileRow {
    /// Whether sender, receiver and disk have the same digest.
    pub(super) fn agrees(&self) -> bool {
        let disk = Some(self.on_disk.as_str());
        self.at_sender.as_deref() == disk && self.at_receiver.as_deref() == disk
    }
}

/// Writes to standard output; a reader that went away ends nothing.
pub(super) struct Show {
    json: bool,
    color: bool,
}

impl Show {
    pub(super) fn new(json: bool) -> Self {
        let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, color }
    }

    pub(super) fn title(&mut self) {
        self.text(&format!(
            "\n  {}  two people, one direct line, on this machine alone\n",
            self.paint("1", "landline demo")
        ));
    }

    pub(super) fn heading(&mut self, text: &str) {
        self.text(&format!("\n  {}", self.paint("1", text)));
    }

    pub(super) fn relay(&mut self, address: &str, took: Duration) {
        let (host, _) = address.split_once('#').unwrap_or((address, ""));
        self.line(
            "relay",
            &format!("listens on {host}, closed to strangers"),
            Some(took),
        );
        self.record(&json!({"step": "relay", "address": address, "millis": millis(took)}));
    }

    pub(super) fn login(&mut self, side: &Side, observed: Option<SocketAddr>) {
        let took = side.began.elapsed();
        let seen = observed
            .map(|address| address.to_string())
            .unwrap_or_default();
        self.line(
            side.name,
            &format!("{}  logged in, seen at {seen}", side.id.short()),
            Some(took),
        );
        self.record(&json!({
            "step": "login", "name": side.name, "id": side.id.to_string(), "observed": seen,
            "millis": millis(took),
        }));
    }

    pub(super) fn connected(&mut self, took: Duration) {
        self.line("through relay", "encrypted end to end, usable", Some(took));
        self.record(&json!({"step": "connected", "path": "relayed", "millis": millis(took)}));
    }

    pub(super) fn direct(&mut self, peer: &PeerView, took: Duration) {
        let remote = peer
            .remote
            .map(|address| address.to_string())
            .unwrap_or_default();
        self.line(
            "direct",
            &format!("to {remote}, the relay is out of it"),
            Some(took),
        );
        self.record(&json!({
            "step": "direct", "remote": remote, "round_trip_micros": peer.round_trip_micros,
            "millis": millis(took),
        }));
    }

    pub(super) fn message(
        &mut self,
        from: &str,
        to: &str,
        text: &str,
        delivered: Duration,
        read: Duration,
    ) {
        self.line(&format!("{from} → {to}"), &format!("“{text}”"), None);
        let marks = format!("delivered ✓ {}   read ✓✓", time(delivered));
        self.line("", &self.paint("2", &pad(&marks, BODY)), Some(read));
        self.record(&json!({
            "step": "message", "from": from, "to": to, "text": text,
            "delivered_millis": millis(delivered), "read_millis": millis(read),
        }));
    }

    pub(super) fn transfer(
        &mut self,
        from: &str,
        to: &str,
        label: &str,
        record: &TransferRecord,
        rows: &[FileRow],
    ) {
        let took = Duration::from_millis(record.elapsed_millis);
        let body = format!("“{label}”, {} files, {}", rows.len(), size(record.bytes));
        self.line(&format!("{from} → {to}"), &body, Some(took));
        let head = format!(
            "{:<28} {:>9}  {:<32}",
            "file",
            "size",
            format!("MD5 at {from}")
        );
        self.text(&format!(
            "    {}",
            self.paint("2", &format!("{head}  at {to}"))
        ));
        for row in rows {
            let path = row
                .path
                .split_once('/')
                .map_or(row.path.as_str(), |(_, rest)| rest);
            let digest = row.at_sender.as_deref().unwrap_or("none");
            let verdict = if row.agrees() {
                self.paint("32", "the same, and on disk ✓")
            } else {
                self.paint("31", row.at_receiver.as_deref().unwrap_or("none"))
            };
            let (path, size) = (pad(path, 28), size(row.size));
            self.text(&format!("    {path} {size:>9}  {digest:<32}  {verdict}"));
        }
        let files: Vec<Value> = rows.iter().map(file_value).collect();
        self.record(&json!({
            "step": "transfer", "from": from, "to": to, "label": label, "bytes": record.bytes,
            "millis": record.elapsed_millis, "files": files,
        }));
    }

    pub(super) fn answered(&mut self, from: &str, to: &str, took: Duration) {
        let body = "pattern 640x360 and tone, answered";
        self.line(&format!("{from} ↔ {to}"), body, Some(took));
        self.record(&json!({
            "step": "answered", "from": from, "to": to, "millis": millis(took),
        }));
    }

    pub(super) fn call(&mut self, from: &str, to: &str, summary: &media::stats::Summary) {
        let text = crate::cli::summary_text(summary);
        self.line(&format!("{from} → {to}"), text.trim_start(), None);
        self.record(&json!({"step": "call", "from": from, "to": to, "summary": summary}));
    }

    pub(super) fn relay_saw(&mut self, stats: &relay::Stats) {
        let relayed = format!(
            "{} packets of ciphertext, {} in all",
            stats.relayed_packets,
            size(stats.relayed_bytes)
        );
        self.line("packets", &relayed, None);
        self.line(
            "envelopes",
            &format!("{} sealed, for the introduction", stats.signals),
            None,
        );
        self.line(
            "and else",
            "two keys and two addresses; no name, no text, no file",
            None,
        );
        self.record(&json!({"step": "relay_saw", "stats": stats}));
    }

    pub(super) fn closing(&mut self, took: Duration) {
        let text = format!("All of it worked, in {}.", time(took));
        self.text(&format!("\n  {}\n", self.paint("1;32", &text)));
        self.record(&json!({"step": "done", "ok": true, "millis": millis(took)}));
    }

    /// A row: what, how, and how long it took.
    fn line(&self, label: &str, body: &str, took: Option<Duration>) {
        let label = self.paint("36", &pad(label, LABEL));
        match took {
            Some(took) => self.text(&format!("    {label}{}{:>10}", pad(body, BODY), time(took))),
            None => self.text(&format!("    {label}{body}")),
        }
    }

    fn text(&self, line: &str) {
        if !self.json {
            let _ = writeln!(io::stdout(), "{line}");
        }
    }

    fn record(&self, value: &Value) {
        if self.json {
            let _ = writeln!(io::stdout(), "{value}");
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn file_value(row: &FileRow) -> Value {
    json!({
        "path": row.path, "size": row.size, "md5_sender": row.at_sender,
        "md5_receiver": row.at_receiver, "md5_disk": row.on_disk, "ok": row.agrees(),
    })
}

fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e4).round() / 10.0
}

fn time(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{:.1} ms", took.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", took.as_secs_f64())
    }
}

fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Pads to a width in terminal columns; escape sequences take none, East Asian wide characters two.
fn pad(text: &str, width: usize) -> String {
    console::pad_str(text, width, console::Alignment::Left, None).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_agree_only_when_all_three_digests_do() {
        let mut row = FileRow {
            path: "a".to_owned(),
            size: 1,
            at_sender: Some("x".to_owned()),
            at_receiver: Some("x".to_owned()),
            on_disk: "x".to_owned(),
        };
        assert!(row.agrees());
        row.on_disk = "y".to_owned();
        assert!(!row.agrees());
        row.on_disk = "x".to_owned();
        row.at_receiver = None;
        assert!(!row.agrees());
    }
}
