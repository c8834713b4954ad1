//! Transfers that run: each in a task of its own, which keeps the store up to date and tells the engine how
//! far it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use p2p_net::{Connection, PathKind, PeerId, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{Input, error_chain};
use crate::event::TransferStep;
use crate::store::transfers::{FileRecord, TransferRecord};
use crate::store::{self, Store};
use crate::transfer::{
    self, Cancel, Decision, FileOutcome, FileReport, LaneRouter, Offer, Progress, SendOptions,
    Throttle, TransferError, TransferReport,
};
use crate::{Exit, Problem};

/// Transfers that run at one time.
pub(super) const MAX_RUNNING: usize = 64;
/// Of them, those that one contact may have offered.
pub(super) const MAX_PER_CONTACT: usize = 8;
/// Of them, those that one stranger may have offered.
pub(super) const MAX_PER_STRANGER: usize = 1;
/// Progress that waits for the task.
const MAX_PROGRESS: usize = 256;
/// Files after which the store hears of them.
const FILE_BATCH: usize = 256;

/// What the engine says to an offer.
pub(super) struct Verdict {
    pub(super) decision: Decision,
    /// The record of a transfer that is taken.
    pub(super) record: Option<TransferRecord>,
}

/// A transfer that runs, as the engine knows it.
pub(super) struct Running {
    pub(super) peer: PeerId,
    pub(super) outgoing: bool,
    /// The face that it belongs to, and with which it ends.
    pub(super) face: Option<u64>,
    /// Its number in the store, once it is taken.
    pub(super) number: Option<i64>,
    pub(super) cancel: Cancel,
}

/// All that run.
#[derive(Default)]
pub(super) struct Transfers {
    all: BTreeMap<u64, Running>,
    last: u64,
}

impl Transfers {
    pub(super) fn add(&mut self, running: Running) -> u64 {
        self.last += 1;
        self.all.insert(self.last, running);
        self.last
    }

    pub(super) fn remove(&mut self, task: u64) -> Option<Running> {
        self.all.remove(&task)
    }

    pub(super) fn get_mut(&mut self, task: u64) -> Option<&mut Running> {
        self.all.get_mut(&task)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Running> {
        self.all.values()
    }

    /// Whether another offer of `peer` may be looked at.
    pub(super) fn has_room_for(&self, peer: &PeerId, is_contact: bool) -> bool {
        let limit = if is_contact {
            MAX_PER_CONTACT
        } else {
            MAX_PER_STRANGER
        };
        let theirs = self
            .iter()
            .filter(|r| !r.outgoing && r.peer == *peer)
            .count();
        theirs < limit && self.all.len() < MAX_RUNNING
    }
}

/// What each transfer task has.
pub(super) struct Context {
    pub(super) task: u64,
    pub(super) peer: PeerId,
    pub(super) store: Store,
    pub(super) inbox: mpsc::Sender<Input>,
    pub(super) cancel: Cancel,
}

/// Sends; waits for the connection first.
pub(super) async fn run_send(
    context: Context,
    mut record: TransferRecord,
    connection: oneshot::Receiver<Result<Connection, Problem>>,
    paths: Vec<PathBuf>,
    throttle: Throttle,
) {
    let connection = tokio::select! {
        connection = connection => connection.unwrap_or_else(|_| Err(crate::face::gone())),
        reason = context.cancel.cancelled() => Err(cancelled(&reason)),
    };
    let problem = match connection {
        Err(problem) => {
            "unreachable".clone_into(&mut record.outcome);
            record.detail = Some(problem.what.clone());
            Some(problem)
        }
        Ok(conn) => {
            let (events, progress) = mpsc::channel(MAX_PROGRESS);
            let options = SendOptions {
                throttle,
                ..SendOptions::default()
            };
            let sending = transfer::send(&conn, paths, options, events, context.cancel.clone());
            let (result, ()) =
                tokio::join!(sending, context.follow(&mut record, progress, Some(&conn)));
            settle(&mut record, result)
        }
    };
    context.end(record, problem).await;
}

/// Receives, if the engine says so.
pub(super) async fn run_receive(
    context: Context,
    conn: Connection,
    send: SendStream,
    recv: RecvStream,
    router: LaneRouter,
) {
    let (tell_record, mut told_record) = mpsc::channel::<TransferRecord>(1);
    let (inbox, task, peer) = (context.inbox.clone(), context.task, context.peer);
    let decide = async move |offer: &Offer| {
        let (decide, verdict) = oneshot::channel();
        let offer = offer.clone();
        let _ = inbox
            .send(Input::Offered {
                task,
                peer,
                offer,
                decide,
            })
            .await;
        match verdict.await {
            Ok(verdict) => {
                if let Some(record) = verdict.record {
                    let _ = tell_record.send(record).await;
                }
                verdict.decision
            }
            Err(_) => Decision::Reject {
                reason: "the receiver's program ended".to_owned(),
            },
        }
    };
    let (events, progress) = mpsc::channel(MAX_PROGRESS);
    let receiving = transfer::receive(send, recv, &router, decide, events, context.cancel.clone());
    let following = async {
        // Without a record it was not taken: nothing is told of it.
        let Some(mut record) = told_record.recv().await else {
            drop(progress);
            return None;
        };
        context.follow(&mut record, progress, Some(&conn)).await;
        Some(record)
    };
    let (result, record) = tokio::join!(receiving, following);
    match record {
        Some(mut record) => {
            let problem = settle(&mut record, result);
            context.end(record, problem).await;
        }
        None => {
            let _ = context.inbox.send(Input::TransferTask { task }).await;
        }
    }
}

impl Context {
    /// Follows the progress until the transfer lets go of its end.
    async fn follow(
        &self,
        record: &mut TransferRecord,
        mut progress: mpsc::Receiver<Progress>,
        conn: Option<&Connection>,
    ) {
        let mut files = Vec::new();
        if !record.outgoing {
            self.tell(
                record,
                TransferStep::Started {
                    label: record.label.clone(),
                },
            )
            .await;
        }
        while let Some(event) = progress.recv().await {
            match event {
                Progress::Offered(offer) if record.outgoing => {
                    record.transfer = offer.transfer.to_string();
                    record.label.clone_from(&offer.label);
                    self.tell(record, TransferStep::Started { label: offer.label })
                        .await;
                }
                Progress::Accepted => self.tell(record, TransferStep::Accepted).await,
                Progress::Phase(phase) => self.tell(record, TransferStep::Phase { phase }).await,
                Progress::FileFinished(file) => {
                    files.push(file_record(file));
                    if files.len() >= FILE_BATCH {
                        self.keep(record.number, std::mem::take(&mut files)).await;
                    }
                }
                Progress::Bytes {
                    done,
                    total,
                    files_done,
                    files_total,
                    elapsed_millis,
                } => {
                    let path = conn.map_or(PathKind::None, |conn| conn.path().borrow().kind);
                    let step = TransferStep::Bytes {
                        done,
                        total,
                        files_done,
                        files_total,
                        elapsed_millis,
                        path,
                    };
                    self.tell(record, step).await;
                }
                _ => {}
            }
        }
        self.keep(record.number, files).await;
    }

    async fn tell(&self, record: &TransferRecord, step: TransferStep) {
        let (number, peer, outgoing) = (record.number, self.peer, record.outgoing);
        let _ = self
            .inbox
            .send(Input::Transfer {
                number,
                peer,
                outgoing,
                step,
            })
            .await;
    }

    async fn keep(&self, number: i64, files: Vec<FileRecord>) {
        if files.is_empty() {
            return;
        }
        let kept = self
            .store
            .run(move |db| store::transfers::add_files(db, number, &files))
            .await;
        if let Err(error) = kept {
            warn!(%error, "the files of a transfer are not stored");
        }
    }

    async fn end(self, record: TransferRecord, problem: Option<Problem>) {
        let stored = record.clone();
        let updated = self
            .store
            .run(move |db| store::transfers::update(db, &stored))
            .await;
        if let Err(error) = updated {
            warn!(%error, "the end of a transfer is not stored");
        }
        let ended = TransferStep::Ended {
            record: Box::new(record.clone()),
            problem,
        };
        self.tell(&record, ended).await;
        let _ = self
            .inbox
            .send(Input::TransferTask { task: self.task })
            .await;
    }
}

fn file_record(file: FileReport) -> FileRecord {
    FileRecord {
        path: file.path,
        size: file.size,
        md5_local: file.md5_local.map(|md5| md5.to_string()),
        md5_remote: file.md5_remote.map(|md5| md5.to_string()),
        outcome: match file.outcome {
            FileOutcome::Verified => "verified".to_owned(),
            FileOutcome::Failed(why) => format!("failed: {why}"),
            FileOutcome::Skipped(why) => format!("skipped: {why}"),
        },
    }
}

fn cancelled(reason: &str) -> Problem {
    Problem::failure(format!("cancelled: {reason}"))
}

/// Writes the result into the record; gives the problem that people are told.
fn settle(
    record: &mut TransferRecord,
    result: Result<TransferReport, TransferError>,
) -> Option<Problem> {
    let (outcome, problem) = match result {
        Ok(report) => {
            fill(record, &report);
            let partial = |what: String| Some(Problem::new(Exit::Partial, what));
            match (report.failed, report.skipped) {
                (0, 0) => ("verified", None),
                (0, skipped) => ("partial", partial(format!("complete, {skipped} skipped"))),
                (failed, _) => {
                    let what = format!("{failed} of {} files failed", report.total_files());
                    ("failed", Some(Problem::unverified(what)))
                }
            }
        }
        Err(error) => {
            let what = error_chain(&error);
            match error {
                TransferError::Rejected { .. } => {
                    ("refused", Some(Problem::new(Exit::Refused, what)))
                }
                TransferError::Declined { .. } => {
                    ("declined", Some(Problem::new(Exit::Refused, what)))
                }
                TransferError::CancelledByUs { .. } => ("cancelled", Some(Problem::failure(what))),
                TransferError::CancelledByPeer { .. } => {
                    ("cancelled", Some(Problem::new(Exit::Refused, what)))
                }
                TransferError::ConnectionLost(_) => (
                    "interrupted",
                    Some(
                        Problem::unreachable(what).with_next("nothing half is left; send it again"),
                    ),
                ),
                TransferError::VerificationFailed { report } => {
                    fill(record, &report);
                    (
                        "failed",
                        Some(Problem::unverified(what).with_next("send it again")),
                    )
                }
                _ => ("failed", Some(Problem::failure(what))),
            }
        }
    };
    outcome.clone_into(&mut record.outcome);
    record.detail = problem.as_ref().map(|problem| problem.what.clone());
    problem
}

fn fill(record: &mut TransferRecord, report: &TransferReport) {
    record.transfer = report.transfer.to_string();
    record.bytes = report.bytes;
    record.files = report.total_files();
    record.skipped = report.skipped;
    record.elapsed_millis = report.elapsed_millis;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> TransferRecord {
        TransferRecord {
            number: 1,
            transfer: String::new(),
            peer: PeerId::from_bytes([1; 32]),
            outgoing: true,
            label: "x".to_owned(),
            outcome: store::transfers::RUNNING.to_owned(),
            detail: None,
            bytes: 0,
            files: 0,
            skipped: 0,
            started_at_millis: 0,
            elapsed_millis: 0,
            folder: None,
        }
    }

    #[test]
    fn failures_have_the_documented_exit_codes() {
        let reason = || "because".to_owned();
        let cases = [
            (
                TransferError::Rejected { reason: reason() },
                Exit::Refused,
                "refused",
            ),
            (
                TransferError::CancelledByUs { reason: reason() },
                Exit::Failure,
                "cancelled",
            ),
            (
                TransferError::CancelledByPeer { reason: reason() },
                Exit::Refused,
                "cancelled",
            ),
            (
                TransferError::ConnectionLost(reason()),
                Exit::Unreachable,
                "interrupted",
            ),
            (TransferError::NothingToSend, Exit::Failure, "failed"),
        ];
        for (error, exit, outcome) in cases {
            let mut record = record();
            let problem = settle(&mut record, Err(error)).expect("a problem");
            assert_eq!((problem.exit, record.outcome.as_str()), (exit, outcome));
            assert_eq!(record.detail, Some(problem.what));
        }
    }

    #[test]
    fn offers_are_bounded_per_peer() {
        let mut transfers = Transfers::default();
        let peer = PeerId::from_bytes([1; 32]);
        assert!(transfers.has_room_for(&peer, false));
        for _ in 0..MAX_PER_CONTACT {
            assert!(transfers.has_room_for(&peer, true));
            let cancel = Cancel::new();
            transfers.add(Running {
                peer,
                outgoing: false,
                face: None,
                number: None,
                cancel,
            });
        }
        assert!(!transfers.has_room_for(&peer, true));
        assert!(!transfers.has_room_for(&peer, false));
        assert!(transfers.has_room_for(&PeerId::from_bytes([2; 32]), false));
    }
}
