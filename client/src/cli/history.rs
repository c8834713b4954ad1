//! `landline history`: what was written. Needs no network.

use super::out::{Out, label_in};
use crate::args::HistoryArgs;
use crate::contacts::resolve;
use crate::settings::Settings;
use crate::store::{self, Store};
use crate::{Exit, Problem};

pub(super) async fn run(settings: &Settings, out: Out, args: HistoryArgs) -> Result<Exit, Problem> {
    let store = Store::open(&settings.data_dir).await?;
    let contacts = store.run(|db| store::contacts::all(db)).await?;
    let peer = args
        .peer
        .map(|text| resolve(&text, &contacts))
        .transpose()?;
    let (search, limit) = (args.search, args.limit);
    let messages = store
        .run(move |db| store::messages::history(db, peer.as_ref(), search.as_deref(), limit))
        .await?;
    for message in &messages {
        out.json(message);
        let label = label_in(&contacts, &message.peer);
        let line = out.message(message, &label);
        // With everybody's messages in one list, ours say for whom they are.
        let target = (peer.is_none() && message.outgoing).then(|| out.dim(&format!("  → {label}")));
        out.text(&format!("{line}{}", target.unwrap_or_default()));
    }
    if messages.is_empty() {
        out.text("no messages");
    }
    Ok(Exit::Success)
}
