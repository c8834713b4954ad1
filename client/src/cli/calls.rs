//! `landline calls`: the log of calls. Needs no network.

use super::out::{Out, label_in};
use super::terminal::local_time;
use crate::engine::call_in_words;
use crate::ipc::join_running;
use crate::settings::Settings;
use crate::store::calls::Outcome;
use crate::store::{self, Store};
use crate::{Exit, Problem};

/// A name as a shell takes it.
fn quoted(label: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if label.chars().all(plain) {
        label.to_owned()
    } else {
        format!("'{}'", label.replace('\'', "'\\''"))
    }
}

pub(super) async fn run(
    settings: &Settings,
    out: Out,
    missed: bool,
    limit: u32,
) -> Result<Exit, Problem> {
    let store = Store::open(&settings.data_dir).await?;
    let contacts = store.run(|db| store::contacts::all(db)).await?;
    let mut records = store
        .run(move |db| store::calls::list(db, missed, limit))
        .await?;
    records.reverse();
    if records
        .iter()
        .any(|record| record.outcome == Outcome::Running)
        && join_running(&settings.data_dir).await?.is_none()
    {
        // Nothing runs that could have a call: whoever had it died.
        for record in &mut records {
            if record.outcome == Outcome::Running {
                record.outcome = Outcome::Interrupted;
            }
        }
    }
    for record in &records {
        let arrow = if record.outgoing { "→" } else { "←" };
        let words = call_in_words(record);
        let words = match record.outcome {
            Outcome::Missed => out.paint("31", &words),
            _ => words,
        };
        let new = if record.unseen {
            out.bold("  new")
        } else {
            String::new()
        };
        out.text(&format!(
            "{}  {arrow} {}  {words}{new}",
            out.dim(&local_time(record.started_at_millis)),
            out.bold(&label_in(&contacts, &record.peer)),
        ));
        out.json(record);
    }
    match records.last() {
        Some(last) => {
            let newest = last.number;
            store
                .run(move |db| store::calls::mark_seen(db, newest))
                .await?;
        }
        None if missed => out.text("no missed calls"),
        None => out.text("no calls yet"),
    }
    if let Some(last) = records.iter().rfind(|record| record.unseen) {
        let label = label_in(&contacts, &last.peer);
        out.text(&out.dim(&format!("call back: landline call {}", quoted(&label))));
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_a_shell_would_take_them_apart() {
        assert_eq!(quoted("Bob"), "Bob");
        assert_eq!(quoted("Ann Lee"), "'Ann Lee'");
        assert_eq!(quoted("O'Neil; rm"), "'O'\\''Neil; rm'");
    }
}
