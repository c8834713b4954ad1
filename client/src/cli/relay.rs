//! `landline relay`: the relay setting. Needs no network.

use super::out::Out;
use crate::args::RelayAction;
use crate::settings::{Settings, parse_relay, remember_relay};
use crate::{Exit, Problem};

pub(super) async fn run(
    settings: &Settings,
    out: Out,
    action: Option<RelayAction>,
) -> Result<Exit, Problem> {
    let relay = match action {
        Some(RelayAction::Set { address }) => {
            let relay = parse_relay(&address, "ADDRESS")?;
            remember_relay(&settings.data_dir, &relay)?;
            relay
        }
        Some(RelayAction::Show) | None => settings.require_relay()?.clone(),
    };
    out.json(&serde_json::json!({
        "relay": relay.redacted(),
        "pinned": relay.fingerprint.is_some(),
        "token": relay.token.is_some(),
    }));
    out.text(&relay.redacted());
    if relay.fingerprint.is_none() {
        out.text(
            &out.dim("no key in the address: the web's authorities, or you, must vouch for it"),
        );
    }
    if relay.token.is_none() {
        out.text(&out.dim("no token in the address: works with an open relay only"));
    }
    Ok(Exit::Success)
}
