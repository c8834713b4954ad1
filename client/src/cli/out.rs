//! Standard output: text for people, or JSON, one object a line. A reader that went away ends nothing.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::terminal::{local_time, paint_if};
use crate::contacts::{Contact, Standing, consent_text, printable};
use crate::event::PeerView;
use crate::store::messages::{MessageState, StoredMessage};

/// Writes results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    /// Programs read this.
    pub(super) is_json: bool,
    color: bool,
}

impl Out {
    pub(super) fn new(is_json: bool) -> Self {
        let color =
            !is_json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { is_json, color }
    }

    /// A line for people.
    pub(super) fn text(&self, line: &str) {
        if !self.is_json {
            let _ = writeln!(io::stdout().lock(), "{line}");
        }
    }

    /// An object for programs.
    pub(super) fn json(&self, value: &impl Serialize) {
        if self.is_json
            && let Ok(line) = serde_json::to_string(value)
        {
            let mut stdout = io::stdout().lock();
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    }

    /// Text in an ANSI style, where standard output shows colors.
    pub(super) fn paint(&self, style: &str, text: &str) -> String {
        paint_if(self.color, style, text)
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// One message as a line of a conversation.
    pub(super) fn message(&self, message: &StoredMessage, label: &str) -> String {
        let who = if message.outgoing { "you" } else { label };
        let style = if message.outgoing { "36" } else { "1" };
        let mark = match (message.outgoing, message.state) {
            (true, MessageState::Waiting) => self.dim(" …"),
            (true, MessageState::Delivered) => self.paint("32", " ✓"),
            (true, MessageState::Read) => self.paint("32", " ✓✓"),
            _ => String::new(),
        };
        format!(
            "{}  {}  {}{mark}",
            self.dim(&local_time(message.sent_at_millis)),
            self.paint(style, who),
            printable(&message.text, "\n                  ")
        )
    }
}

/// How a peer is called and what is known of it, in one line.
pub(super) fn describe(peer: &PeerView) -> String {
    let mut text = peer.label();
    if let Some(claimed) = peer.claimed_name.as_deref().filter(|name| !name.is_empty())
        && peer.name.as_deref() != Some(claimed)
    {
        text.push_str(&format!(" (calls itself “{}”)", printable(claimed, " ")));
    }
    text
}

/// What a contact is to us, in a word.
pub(super) fn trust(standing: Standing, verified: bool) -> &'static str {
    match (standing, verified) {
        (Standing::Blocked, _) => "blocked",
        (Standing::Stranger, _) => "unknown",
        (Standing::Accepted, true) => "verified",
        (Standing::Accepted, false) => "unverified",
    }
}

/// The label of somebody with whom messages were exchanged.
pub(super) fn label_in(contacts: &[Contact], id: &p2p_net::PeerId) -> String {
    let known = contacts.iter().find(|contact| contact.id == *id);
    match known {
        Some(contact) if contact.standing != Standing::Stranger => contact.label(),
        _ => consent_text(id),
    }
}
