//! `landline id`: what others need to reach us.

use super::out::Out;
use crate::command::{Command, Reply};
use crate::event::RelayStep;
use crate::settings::Settings;
use crate::{Exit, Problem, identity, ipc};

pub(super) async fn run(settings: &Settings, out: Out) -> Result<Exit, Problem> {
    settings.remember_new_relay()?;
    let id = identity::load_or_create(&settings.data_dir)?.id();
    let running = match ipc::join_running(&settings.data_dir).await? {
        Some(face) => match face.caller.call(Command::Status).await? {
            Reply::Status(status) => Some(status),
            _ => None,
        },
        None => None,
    };
    let relay = settings.relay.as_ref().map(p2p_net::RelayAddress::redacted);
    let state = running.as_ref().map(|status| status.relay.clone());
    out.json(&serde_json::json!({
        "id": id.to_string(),
        "name": settings.name,
        "relay": relay,
        "login": state,
        "data_dir": settings.data_dir,
    }));
    if let Some(code) = crate::contacts::qr_text(&id.to_string()) {
        out.text(&code);
    }
    out.text(&format!("{}  {id}", out.dim("id    ")));
    if !settings.name.is_empty() {
        out.text(&format!("{}  {}", out.dim("name  "), settings.name));
    }
    let address = relay.unwrap_or_else(|| "none yet: landline relay set ADDRESS".to_owned());
    let login = state.map_or_else(String::new, |relay| match relay.state {
        RelayStep::Online => format!(" (logged in{})", relay.by()),
        RelayStep::Connecting => " (connecting)".to_owned(),
        RelayStep::Failed => " (refused)".to_owned(),
        RelayStep::None => String::new(),
    });
    out.text(&format!("{}  {address}{login}", out.dim("relay ")));
    out.text(&format!(
        "\n{}",
        out.dim(
            "Others run: landline contacts add ID --name NAME\n\
             Then both compare the safety number: landline contacts verify PEER"
        )
    ));
    Ok(Exit::Success)
}
