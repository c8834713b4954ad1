//! `landline contacts`: the address book. Needs no network.

use p2p_net::PeerId;

use super::out::{Out, trust};
use crate::args::ContactsAction;
use crate::command::BookCommand;
use crate::contacts::{Contact, Standing, printable, qr_text, resolve, safety_number};
use crate::prompt::ask;
use crate::session::change_book;
use crate::settings::Settings;
use crate::store::{self, Store};
use crate::{Exit, Problem, identity};

pub(super) async fn run(
    settings: &Settings,
    out: Out,
    action: ContactsAction,
    name: Option<String>,
) -> Result<Exit, Problem> {
    let store = Store::open(&settings.data_dir).await?;
    let all = store.run(|db| store::contacts::all(db)).await?;
    let book = Book {
        settings,
        store,
        out,
    };
    match action {
        ContactsAction::List => {
            let kept = book
                .store
                .run(|db| store::contacts::all_relay_only(db))
                .await?;
            list(out, &all, kept);
        }
        ContactsAction::Add { id } => {
            let id: PeerId = id.trim().parse().map_err(|error| {
                Problem::usage(format!("{:?} is not an id: {error}", id.trim()))
                    .with_next("the other side sees its id with `landline id`")
            })?;
            let added = book.change(BookCommand::Add { id, name }).await?;
            book.show(added.as_ref());
            book.show_safety(&id)?;
        }
        ContactsAction::Rename { peer, new_name } => {
            let id = resolve(&peer, &all)?;
            book.show(
                book.change(BookCommand::Rename { id, name: new_name })
                    .await?
                    .as_ref(),
            );
        }
        ContactsAction::Verify { peer, yes } => book.verify(resolve(&peer, &all)?, yes).await?,
        ContactsAction::RelayOnly {
            peer: Some(peer),
            off,
            ..
        } => {
            let id = resolve(&peer, &all)?;
            let change = BookCommand::RelayOnly { id, only: !off };
            book.show(book.change(change).await?.as_ref());
        }
        ContactsAction::RelayOnly { off, .. } => {
            book.change(BookCommand::AllRelayOnly { only: !off })
                .await?;
            out.json(&serde_json::json!({ "all_relay_only": !off }));
            out.text(if off {
                "contacts get our addresses again, but for those marked relay-only"
            } else {
                ALL_RELAY_ONLY
            });
        }
        ContactsAction::Block { peer } => {
            let id = resolve(&peer, &all)?;
            book.show(
                book.change(BookCommand::Block { id, blocked: true })
                    .await?
                    .as_ref(),
            );
        }
        ContactsAction::Unblock { peer } => {
            let id = resolve(&peer, &all)?;
            book.show(
                book.change(BookCommand::Block { id, blocked: false })
                    .await?
                    .as_ref(),
            );
        }
        ContactsAction::Remove { peer } => {
            let id = resolve(&peer, &all)?;
            book.change(BookCommand::Remove { id }).await?;
            out.json(&serde_json::json!({ "removed": id.to_string() }));
            out.text(&format!("removed {}", id.short()));
        }
    }
    Ok(Exit::Success)
}

struct Book<'a> {
    settings: &'a Settings,
    store: Store,
    out: Out,
}

impl Book<'_> {
    async fn change(&self, change: BookCommand) -> Result<Option<Contact>, Problem> {
        change_book(self.settings, &self.store, change).await
    }

    fn show(&self, contact: Option<&Contact>) {
        if let Some(contact) = contact {
            self.out.json(contact);
            self.out.text(&line(self.out, contact));
        }
    }

    fn safety(&self, id: &PeerId) -> Result<String, Problem> {
        let own = identity::load_or_create(&self.settings.data_dir)?.id();
        Ok(safety_number(&own, id))
    }

    fn show_safety(&self, id: &PeerId) -> Result<(), Problem> {
        let number = self.safety(id)?;
        self.out.text(&format!(
            "\nsafety number, the same on both sides:\n\n{}",
            rows(&number)
        ));
        self.out.text(&self.out.dim(
            "\nCompare it over another way (a call, in person), then: landline contacts verify PEER --yes",
        ));
        Ok(())
    }

    async fn verify(&self, id: PeerId, yes: bool) -> Result<(), Problem> {
        let number = self.safety(&id)?;
        self.out
            .json(&serde_json::json!({ "id": id.to_string(), "safety_number": number }));
        if !yes {
            if let Some(code) = qr_text(&number.replace(' ', "")) {
                self.out.text(&code);
            }
            self.out.text(&rows(&number));
            if self.out.is_json || !ask("\nDoes the other side show the same number?").await {
                self.out
                    .text("not marked verified; when the numbers agree, say --yes");
                return Ok(());
            }
        }
        self.show(self.change(BookCommand::Verify { id }).await?.as_ref());
        Ok(())
    }
}

/// 12 groups of 5 digits in three rows.
fn rows(number: &str) -> String {
    let groups: Vec<_> = number.split(' ').collect();
    groups
        .chunks(4)
        .map(|row| format!("    {}", row.join(" ")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What holds where our addresses are kept from everybody.
const ALL_RELAY_ONLY: &str = "nobody gets our addresses: all goes through the relay \
                              (`landline contacts relay-only --all --off` ends that)";

fn list(out: Out, all: &[Contact], all_relay_only: bool) {
    for contact in all {
        out.json(contact);
        out.text(&line(out, contact));
    }
    if all.is_empty() {
        out.text("no contacts yet: landline contacts add ID --name NAME");
    } else if all
        .iter()
        .any(|contact| contact.standing == Standing::Stranger)
    {
        out.text(&out.dim("unknown ones wrote to you; `landline contacts add ID` or `block ID`"));
    }
    if all_relay_only {
        out.text(ALL_RELAY_ONLY);
    }
}

fn line(out: Out, contact: &Contact) -> String {
    let claimed = contact
        .claimed_name
        .as_deref()
        .filter(|name| !name.is_empty());
    let claimed = claimed
        .filter(|name| contact.name.as_deref() != Some(name))
        .map(|name| format!(", calls itself “{}”", printable(name, " ")))
        .unwrap_or_default();
    let label = match contact.standing {
        Standing::Stranger => "-".to_owned(),
        _ => contact.label(),
    };
    format!(
        "{}  {}  {}",
        out.bold(&console::pad_str(
            &label,
            16,
            console::Alignment::Left,
            None
        )),
        contact.id,
        out.dim(&format!(
            "{}{}{claimed}",
            trust(contact.standing, contact.verified),
            if contact.relay_only {
                ", relay-only"
            } else {
                ""
            }
        ))
    )
}
