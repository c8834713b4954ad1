//! Changes of the address book: checked, then stored. The engine applies them and hears of them; without
//! an engine a command applies them itself.

use crate::Problem;
use crate::command::BookCommand;
use crate::contacts::{Contact, Standing, check_free, check_name};
use crate::store::{self, Store, now_millis};

/// Applies one change; gives the contact as it is then, or nothing after a removal and where it is about all.
///
/// # Errors
/// The change makes no sense, or the store failed.
pub async fn apply(store: &Store, command: BookCommand) -> Result<Option<Contact>, Problem> {
    let Some(id) = command.id() else {
        if let BookCommand::AllRelayOnly { only } = command {
            store
                .run(move |db| store::contacts::set_all_relay_only(db, only))
                .await?;
        }
        return Ok(None);
    };
    let all = store.run(|db| store::contacts::all(db)).await?;
    let known = all.iter().find(|contact| contact.id == id);
    let is_contact = known.is_some_and(|contact| contact.standing != Standing::Stranger);
    let now = now_millis();
    match command {
        BookCommand::Add { name, .. } => {
            let name = name.map(|name| check_name(&name)).transpose()?;
            if let Some(name) = &name {
                check_free(name, &id, &all)?;
            }
            let contact = store
                .run(move |db| {
                    let transaction = db.transaction()?;
                    let contact = store::contacts::accept(&transaction, &id, now)?;
                    if let Some(name) = &name {
                        store::contacts::rename(&transaction, &id, name)?;
                    }
                    transaction.commit()?;
                    Ok(contact)
                })
                .await?;
            if contact.standing == Standing::Blocked {
                return Err(blocked(&contact));
            }
        }
        BookCommand::Rename { name, .. } => {
            require(is_contact)?;
            let name = check_name(&name)?;
            check_free(&name, &id, &all)?;
            store
                .run(move |db| store::contacts::rename(db, &id, &name))
                .await?;
        }
        BookCommand::Verify { .. } => {
            require(is_contact)?;
            store
                .run(move |db| store::contacts::set_verified(db, &id))
                .await?;
        }
        BookCommand::Block { blocked, .. } => {
            store
                .run(move |db| store::contacts::set_blocked(db, &id, blocked, now))
                .await?;
        }
        BookCommand::RelayOnly { only, .. } => {
            require(is_contact)?;
            store
                .run(move |db| store::contacts::set_relay_only(db, &id, only))
                .await?;
        }
        BookCommand::AllRelayOnly { .. } => {}
        BookCommand::Remove { .. } => {
            require(known.is_some())?;
            store
                .run(move |db| store::contacts::remove(db, &id))
                .await?;
        }
    }
    Ok(store.run(move |db| store::contacts::find(db, &id)).await?)
}

/// The refusal to deal with somebody who is blocked.
pub fn blocked(contact: &Contact) -> Problem {
    let label = contact.label();
    Problem::usage(format!("{label} is blocked"))
        .with_next(format!("landline contacts unblock {label}"))
}

fn require(is_contact: bool) -> Result<(), Problem> {
    if is_contact {
        return Ok(());
    }
    Err(Problem::usage("this peer is not in the address book")
        .with_next("add it with `landline contacts add ID --name NAME`"))
}

#[cfg(test)]
mod tests {
    use p2p_net::PeerId;

    use super::*;

    const ANN: PeerId = PeerId::from_bytes([1; 32]);
    const BOB: PeerId = PeerId::from_bytes([2; 32]);

    fn add(id: PeerId, name: Option<&str>) -> BookCommand {
        let name = name.map(ToOwned::to_owned);
        BookCommand::Add { id, name }
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path()).await.expect("made");
        (dir, store)
    }

    #[tokio::test]
    async fn contacts_are_added_renamed_and_verified() {
        let (_dir, store) = store().await;
        let change = |change| apply(&store, change);
        let ann = change(add(ANN, Some(" Ann "))).await.expect("added");
        let ann = ann.expect("there");
        assert_eq!(ann.name.as_deref(), Some("Ann"));
        assert!(!ann.verified);
        let problem = change(add(BOB, Some("ANN"))).await.expect_err("taken");
        assert!(problem.what.contains("already called Ann"), "{problem}");
        let rename = |name: &str| BookCommand::Rename {
            id: BOB,
            name: name.to_owned(),
        };
        assert!(change(rename("Bob")).await.is_err(), "not a contact yet");
        change(add(BOB, None)).await.expect("added");
        change(rename("Bob")).await.expect("renamed");
        let verify = BookCommand::Verify { id: BOB };
        let bob = change(verify).await.expect("verified");
        assert!(bob.expect("there").verified);
    }

    #[tokio::test]
    async fn addresses_are_kept_from_contacts_alone_or_from_all() {
        let (_dir, store) = store().await;
        let change = |change| apply(&store, change);
        let only = |only| BookCommand::RelayOnly { id: BOB, only };
        assert!(change(only(true)).await.is_err(), "not a contact yet");
        change(add(BOB, Some("Bob"))).await.expect("added");
        let bob = change(only(true)).await.expect("kept").expect("there");
        assert!(bob.relay_only);
        let bob = change(only(false)).await.expect("lifted").expect("there");
        assert!(!bob.relay_only);
        let all = BookCommand::AllRelayOnly { only: true };
        assert_eq!(change(all).await.expect("kept"), None);
        let kept = store.run(|db| store::contacts::all_relay_only(db)).await;
        assert!(kept.expect("read"));
    }

    #[tokio::test]
    async fn blocked_ones_must_be_unblocked_first_and_removed_ones_are_gone() {
        let (_dir, store) = store().await;
        let change = |change| apply(&store, change);
        let block = |blocked| BookCommand::Block { id: BOB, blocked };
        change(add(BOB, Some("Bob"))).await.expect("added");
        change(block(true)).await.expect("blocked");
        let problem = change(add(BOB, None)).await.expect_err("blocked");
        assert!(problem.to_string().contains("contacts unblock Bob"));
        change(block(false)).await.expect("unblocked");
        let remove = BookCommand::Remove { id: BOB };
        assert_eq!(change(remove.clone()).await.expect("removed"), None);
        assert!(change(remove).await.is_err(), "nobody is left");
    }
}
