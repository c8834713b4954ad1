//! Changes of the address book: checked, then stored. The engine applies them and hears of them; without
//! an engine a command applies them itself.

use crate::command::BookCommand;
use crate::contacts::{Contact, Standing, check_free, check_name};
use crate::store::{self, Store, now_millis};
use crate::Problem;

/// Applies one change; gives the contact as it is then, or nothing after a removal.
///
/// # Errors
/// The change makes no sense, or the store failed.
pub async fn apply(store: &Store, command: BookCommand) -> Result<Option<Contact>, Problem> {
    let id = command.id();
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
            store.run(move |db| store::contacts::rename(db, &id, &name)).await?;
        }
        BookCommand::Verify { .. } => {
            require(is_contact)?;
            store.run(move |db| store::contacts::set_verified(db, &id)).await?;
        }
        BookCommand::Block { blocked, .. } => {
            store.run(move |db| store::contacts::set_blocked(db, &id, blocked, now)).await?;
        }
        BookCommand::Remove { .. } => {
            require(known.is_some())?;
            store.run(move |db| store::contacts::remove(db, &id)).await?;
        }
    }
    Ok(store.run(move |db| store::contacts::find(db, &id)).await?)
}

/// The refusal to deal with somebody who is blocked.
pub fn blocked(contact: &Contact) -> Problem {
    let label = contact.label();
    Problem::usage(format!("{label} is blocked")).with_next(format!("landline contacts unblock {label}"))
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

    #[tokio::test]
    async fn the_book_is_changed_step_by_step() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path()).await.expect("made");
        let [ann, bob] = [1, 2].map(|byte| PeerId::from_bytes([byte; 32]));
        let add = |id, name: &str| BookCommand::Add { id, name: Some(name.to_owned()) };

        let contact = apply(&store, add(ann, " Ann ")).await.expect("added").expect("there");
        assert_eq!((contact.name.as_deref(), contact.verified), (Some("Ann"), false));
        let problem = apply(&store, add(bob, "ANN")).await.expect_err("taken");
        assert!(problem.what.contains("already called Ann"), "{problem}");
        let rename = BookCommand::Rename { id: bob, name: "Bob".to_owned() };
        assert!(apply(&store, rename.clone()).await.is_err(), "not a contact yet");
        apply(&store, BookCommand::Add { id: bob, name: None }).await.expect("added");
        apply(&store, rename).await.expect("renamed");
        let verified = apply(&store, BookCommand::Verify { id: bob }).await.expect("verified");
        assert!(verified.expect("there").verified);
        apply(&store, BookCommand::Block { id: bob, blocked: true }).await.expect("blocked");
        let problem = apply(&store, BookCommand::Add { id: bob, name: None }).await;
        assert!(problem.expect_err("blocked").to_string().contains("contacts unblock Bob"));
        apply(&store, BookCommand::Block { id: bob, blocked: false }).await.expect("unblocked");
        assert_eq!(apply(&store, BookCommand::Remove { id: bob }).await.expect("removed"), None);
        assert!(apply(&store, BookCommand::Remove { id: bob }).await.is_err());
    }
}
