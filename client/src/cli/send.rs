//! `landline send`: files and folders to a peer, followed to the verified end.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use p2p_net::PeerId;
use tokio::time::timeout;

use super::bars::Bars;
use super::out::Out;
use super::transfers::{show_files, summary};
use crate::args::SendArgs;
use crate::command::{Command, Reply};
use crate::event::{Event, TransferStep};
use crate::interrupt::interrupted;
use crate::session::Session;
use crate::settings::Settings;
use crate::store::transfers::TransferRecord;
use crate::{Exit, Problem, face};

/// How long a cancelled transfer may take to say so.
const CANCEL_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn run(settings: &Settings, out: Out, args: SendArgs) -> Result<Exit, Problem> {
    let paths = absolute(args.paths)?;
    let mut session = Session::open(settings).await?;
    let result = send(&mut session, out, &args.peer, paths).await;
    session.close().await;
    result
}

/// The paths as another process can use them; each must be there.
pub(super) fn absolute(paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, Problem> {
    let explain = |path: &PathBuf, error: &io::Error| {
        let mut problem = Problem::io(path.display(), error);
        problem.exit = Exit::Usage;
        problem
    };
    paths
        .into_iter()
        .map(|path| {
            std::fs::symlink_metadata(&path).map_err(|error| explain(&path, &error))?;
            // `..` at the end names a folder all the same: the name that is sent is the real one.
            let named = path.file_name().is_some();
            let absolute = if named {
                std::path::absolute(&path)
            } else {
                path.canonicalize()
            };
            absolute.map_err(|error| explain(&path, &error))
        })
        .collect()
}

async fn send(
    session: &mut Session,
    out: Out,
    peer: &str,
    paths: Vec<PathBuf>,
) -> Result<Exit, Problem> {
    let peer = session.resolve(peer).await?;
    session.wait_online().await?;
    let Reply::Transfer(number) = session.caller.call(Command::Send { peer, paths }).await? else {
        return Err(face::gone());
    };
    let (record, problem) = follow(session, out, peer, number).await?;
    let is_there = problem
        .as_ref()
        .is_none_or(|problem| problem.exit == Exit::Partial);
    if is_there {
        out.text(&summary(&record));
    }
    show_files(&session.store, out, &record).await?;
    match problem {
        None => Ok(Exit::Success),
        // It arrived; the exit code and the lines above say what did not.
        Some(problem) if problem.exit == Exit::Partial => Ok(Exit::Partial),
        Some(problem) if out.is_json => Ok(problem.exit),
        Some(problem) => Err(problem),
    }
}

/// Shows the progress until the end; Ctrl-C cancels.
async fn follow(
    session: &mut Session,
    out: Out,
    peer: PeerId,
    number: i64,
) -> Result<(TransferRecord, Option<Problem>), Problem> {
    let mut bars = Bars::new(out.is_json);
    let mut ending = false;
    let contacts = session.contacts().await?;
    let prefix = format!("→ {}", super::out::label_in(&contacts, &peer));
    loop {
        let event = tokio::select! {
            event = session.events.recv() => event,
            () = interrupted(), if !ending => {
                ending = true;
                session.caller.call(Command::Cancel { number }).await?;
                continue;
            }
            () = tokio::time::sleep(CANCEL_LIMIT), if ending => {
                return Err(Problem::failure("cancelled"));
            }
        };
        let event = event.ok_or_else(face::gone)?;
        let Event::Transfer {
            number: of, step, ..
        } = &event
        else {
            continue;
        };
        if *of != number {
            continue;
        }
        out.json(&event);
        bars.show(number, &prefix, step);
        if let TransferStep::Ended { record, problem } = step {
            return Ok((TransferRecord::clone(record), problem.clone()));
        }
    }
}

/// Ends the transfers that run when a command is interrupted.
pub(super) async fn cancel_all(session: &Session, numbers: &[i64]) {
    for number in numbers {
        let cancel = session.caller.call(Command::Cancel { number: *number });
        let _ = timeout(CANCEL_LIMIT, cancel).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_must_exist() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("a");
        std::fs::write(&file, "x").expect("written");
        assert_eq!(absolute(vec![file.clone()]).expect("there"), [file]);
        let up = dir.path().join("sub").join("..");
        std::fs::create_dir(dir.path().join("sub")).expect("made");
        let real = dir.path().canonicalize().expect("there");
        assert_eq!(absolute(vec![up]).expect("there"), [real]);
        let problem = absolute(vec![dir.path().join("missing")]).expect_err("not there");
        assert_eq!(problem.exit, Exit::Usage);
    }
}
