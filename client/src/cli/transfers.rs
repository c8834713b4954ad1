//! `landline transfers`: what was sent and received, with the MD5 of each file.

use indicatif::{BinaryBytes, HumanDuration};
use std::time::Duration;

use super::out::{Out, label_in};
use super::terminal::local_time;
use crate::contacts::printable;
use crate::settings::Settings;
use crate::store::transfers::{FileRecord, TransferRecord};
use crate::store::{self, Store};
use crate::{Exit, Problem};

/// Files of one transfer that are shown to people; programs get all.
const SHOWN_FILES: usize = 30;
/// Files that are read from the store at once.
const PAGE: u32 = 1_000;

pub(super) async fn run(settings: &Settings, out: Out, limit: u32) -> Result<Exit, Problem> {
    let store = Store::open(&settings.data_dir).await?;
    let contacts = store.run(|db| store::contacts::all(db)).await?;
    let mut records = store
        .run(move |db| store::transfers::list(db, limit))
        .await?;
    records.reverse();
    for record in &records {
        let label = label_in(&contacts, &record.peer);
        let arrow = if record.outgoing { "→" } else { "←" };
        out.text(&format!(
            "{}  {arrow} {}  {}",
            out.dim(&local_time(record.started_at_millis)),
            out.bold(&label),
            summary(record)
        ));
        out.json(record);
        show_files(&store, out, record).await?;
    }
    if records.is_empty() {
        out.text("no transfers yet");
    }
    Ok(Exit::Success)
}

/// One line about a transfer that ended.
pub(super) fn summary(record: &TransferRecord) -> String {
    let files = if record.files == 1 {
        "1 file".to_owned()
    } else {
        format!("{} files", record.files)
    };
    let took = Duration::from_millis(record.elapsed_millis);
    let rate = match record.elapsed_millis {
        0 => String::new(),
        millis => {
            let rate = record.bytes.saturating_mul(1_000) / millis;
            format!(", {}/s", BinaryBytes(rate))
        }
    };
    let took = if took < Duration::from_secs(60) {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        HumanDuration(took).to_string()
    };
    let label = printable(&record.label, " ");
    let size = BinaryBytes(record.bytes);
    match (record.outcome.as_str(), &record.detail) {
        ("verified", _) => format!("{label}: {files}, {size}, all MD5 agree ({took}{rate})"),
        ("partial", _) => {
            format!(
                "{label}: {files}, {size}, {} skipped, the rest verified ({took})",
                record.skipped
            )
        }
        (outcome, Some(detail)) => format!("{label}: {outcome}: {}", printable(detail, " ")),
        (outcome, None) => format!("{label}: {outcome}"),
    }
}

/// The files of a transfer: all of them for programs, the first and the bad ones for people.
pub(super) async fn show_files(
    store: &Store,
    out: Out,
    record: &TransferRecord,
) -> Result<(), Problem> {
    let number = record.number;
    let (mut offset, mut shown, mut more) = (0u64, 0usize, 0usize);
    loop {
        let files = store
            .run(move |db| store::transfers::files(db, number, offset, PAGE))
            .await?;
        for file in &files {
            out.json(&serde_json::json!({ "transfer": number, "file": file }));
            if shown < SHOWN_FILES || file.outcome != "verified" {
                shown += 1;
                out.text(&file_line(out, file));
            } else {
                more += 1;
            }
        }
        offset += files.len() as u64;
        if files.len() < PAGE as usize {
            break;
        }
    }
    if more > 0 {
        out.text(&out.dim(&format!(
            "    and {more} more, verified; --json lists them all"
        )));
    }
    Ok(())
}

fn file_line(out: Out, file: &FileRecord) -> String {
    let path = printable(&file.path, " ");
    let md5 = file
        .md5_local
        .as_deref()
        .or(file.md5_remote.as_deref())
        .unwrap_or("-");
    let end = match file.outcome.as_str() {
        "verified" => out.paint("32", "✓"),
        other => out.paint("31", &printable(other, " ")),
    };
    let size = BinaryBytes(file.size).to_string();
    format!(
        "    {}  {size:>11}  {path}  {end}",
        out.dim(&format!("{md5:<32}"))
    )
}
