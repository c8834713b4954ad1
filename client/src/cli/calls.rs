//! `landline calls`: the log of calls. Needs no network.

use super::out::{Out, label_in};
use super::terminal::local_time;
use crate::engine::call_in_words;
use crate::settings::Settings;
use crate::store::calls::Outcome;
use crate::store::{self, Store};
use crate::{Exit, Problem};

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
        None => out.text("no calls yet"),
    }
    Ok(Exit::Success)
}
