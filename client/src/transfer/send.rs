//! The sending end: offers, and once accepted feeds the lanes from the reading threads while it listens
//! to the receiver. One future; nothing runs on when it is dropped.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use p2p_net::SendStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::cancel::Cancel;
use super::chunk::chunk_len;
use super::control::{ControlReader, ControlWriter, HIGH_WATER_BYTES, cancelled_by_peer, lost};
use super::error::TransferError;
use super::link::Link;
use super::names::printable;
use super::read::{self, Job, LaneFrame, Looked, MAX_REPAIRS, Note, Reading};
use super::report::{
    Direction, FileOutcome, FileReport, Md5, Offer, OfferItem, Phase, Progress, Reporter,
    TransferId, TransferReport,
};
use super::throttle::Throttle;
use super::walk::{Found, Root};
use super::wire::{self, Control, Entry, MAX_LANES, MAX_OFFER_ITEMS, kind, outcome};
use super::{KIND_LANE, KIND_TRANSFER, TICK};

/// Lanes unless told otherwise.
const DEFAULT_LANES: usize = 4;
/// The count before the offer takes no longer than this.
const COUNT_PATIENCE: Duration = Duration::from_millis(200);
/// How long the receiver may take to say why it stopped reading a lane.
const VERDICT_PATIENCE: Duration = Duration::from_secs(3);

/// How to send.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SendOptions {
    /// Streams that carry content, 1 to 16; 4 unless told otherwise.
    pub lanes: usize,
    /// What the receiver is shown in one line; made from the names if there is none.
    pub label: Option<String>,
    /// Holds content back while something more urgent shares the connection.
    pub throttle: Throttle,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            lanes: DEFAULT_LANES,
            label: None,
            throttle: Throttle::new(),
        }
    }
}

/// Sends files and folders to the peer of `link`: offers them, and when they are accepted sends all that
/// can be read. What cannot is reported, and the rest goes on. Of a link that is named in `paths` the
/// target is sent; links below are skipped and reported.
///
/// Returns when the receiver has verified and published everything. Dropping the future ends the transfer
/// without a word to the other side; throwing `cancel` ends it with a reason.
///
/// # Errors
/// [`TransferError`]. A path that is not there is an error before anything is offered.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn send(
    link: &impl Link,
    paths: Vec<PathBuf>,
    options: SendOptions,
    events: mpsc::Sender<Progress>,
    cancel: Cancel,
) -> Result<TransferReport, TransferError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(TransferError::internal)?;
    let id = TransferId::from_bytes(id);
    let reporter = Reporter::new(id, Direction::Sent, events);
    reporter.tell(Progress::Phase(Phase::Preparing)).await;
    let looked = tokio::select! {
        biased;
        reason = cancel.cancelled() => return Err(TransferError::CancelledByUs { reason }),
        looked = look(paths) => looked?,
    };
    let (stream, answers) = tokio::select! {
        biased;
        reason = cancel.cancelled() => return Err(TransferError::CancelledByUs { reason }),
        opened = link.open() => opened.map_err(TransferError::ConnectionLost)?,
    };
    let mut writer = ControlWriter::new(stream);
    writer.queue_raw(&[KIND_TRANSFER]);
    let mut sender = Sender {
        id,
        lanes: options.lanes.clamp(1, MAX_LANES),
        throttle: options.throttle,
        writer,
        reader: ControlReader::new(answers),
        reporter,
        pending: HashMap::new(),
        corrupt: false,
        sent_bytes: 0,
        repairs: 0,
        entries: 0,
        ended: false,
        files: 0,
        bytes: 0,
    };
    let result = tokio::select! {
        biased;
        reason = cancel.cancelled() => Err(TransferError::CancelledByUs { reason }),
        result = sender.run(link, looked, options.label) => result,
        reason = link.closed() => Err(TransferError::ConnectionLost(reason)),
    };
    sender.conclude(result).await
}

/// Looks at the paths on a thread of its own.
async fn look(paths: Vec<PathBuf>) -> Result<Looked, TransferError> {
    let (tell, looked) = oneshot::channel();
    read::spawn("send-look".into(), move || {
        let _ = tell.send(read::look(&paths, COUNT_PATIENCE));
    })
    .map_err(TransferError::internal)?;
    looked.await.map_err(TransferError::internal)?
}

/// A file that is announced and not yet settled.
struct Pending {
    shown: String,
    job: Job,
    md5: Option<Md5>,
}

struct Sender {
    id: TransferId,
    lanes: usize,
    throttle: Throttle,
    writer: ControlWriter,
    reader: ControlReader,
    reporter: Reporter,
    pending: HashMap<u32, Pending>,
    /// Whether some file's content was wrong over there, twice.
    corrupt: bool,
    sent_bytes: u64,
    repairs: usize,
    /// Entries that the receiver was told.
    entries: u32,
    /// Whether it knows that those are all.
    ended: bool,
    /// Files among them that were to be sent, and their bytes.
    files: u64,
    bytes: u64,
}

impl Sender {
    async fn run(
        &mut self,
        link: &impl Link,
        looked: Looked,
        label: Option<String>,
    ) -> Result<(), TransferError> {
        self.offer(&looked, label).await?;
        let mut lanes = Vec::with_capacity(self.lanes);
        for _ in 0..self.lanes {
            let mut lane = link
                .open_uni()
                .await
                .map_err(TransferError::ConnectionLost)?;
            let mut opening = [KIND_LANE; 17];
            opening[1..].copy_from_slice(self.id.as_bytes());
            lane.write_all(&opening).await.map_err(lost)?;
            lanes.push(Lane(lane));
        }
        let reading = read::start(looked.roots, lanes.len()).map_err(TransferError::internal)?;
        self.feed(reading, lanes).await
    }

    /// Says what there is, and waits for the receiver's yes.
    async fn offer(&mut self, looked: &Looked, label: Option<String>) -> Result<(), TransferError> {
        let (files, total_bytes) = looked.counted.unzip();
        (self.reporter.total_files, self.reporter.total_bytes) = (files, total_bytes);
        let label = wire::clip(&label.unwrap_or_else(|| label_of(&looked.roots)));
        let items: Vec<OfferItem> = looked
            .roots
            .iter()
            .take(MAX_OFFER_ITEMS)
            .map(item)
            .collect();
        self.writer.queue(&wire::Offer {
            transfer: self.id,
            label: label.clone(),
            files,
            total_bytes,
            items: items
                .iter()
                .map(|item| wire::WireItem {
                    name: wire::clip(&item.name).into_bytes(),
                    folder: item.folder,
                    size: item.size,
                })
                .collect(),
            options: 0,
        })?;
        self.writer.flush().await?;
        let offer = Offer {
            transfer: self.id,
            label,
            files,
            total_bytes,
            items,
        };
        self.reporter.tell(Progress::Offered(offer)).await;
        self.reporter.tell(Progress::Phase(Phase::Waiting)).await;
        match self.reader.next().await? {
            Control::Accept(_) => {}
            Control::Reject(wire::Reject { reason }) => {
                return Err(TransferError::Rejected {
                    reason: printable(&reason, 300),
                });
            }
            Control::Cancel(cancel) => return Err(cancelled_by_peer(&cancel)),
            _ => {
                return Err(TransferError::malformed(
                    "an answer that is neither yes nor no",
                ));
            }
        }
        self.reporter.start();
        self.reporter.tell(Progress::Accepted).await;
        self.reporter
            .tell(Progress::Phase(Phase::Transferring))
            .await;
        Ok(())
    }

    /// Carries frames to free lanes and notes to the control stream until the receiver is done.
    async fn feed(
        &mut self,
        mut reading: Reading,
        mut idle: Vec<Lane>,
    ) -> Result<(), TransferError> {
        let mut busy: FuturesUnordered<BoxFuture<'static, _>> = FuturesUnordered::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Set once a lane broke: the receiver is about to say why.
        let mut broken = None;
        let mut verdict = Box::pin(tokio::time::sleep(VERDICT_PATIENCE));
        loop {
            let calm = self.writer.pending_bytes() < HIGH_WATER_BYTES;
            tokio::select! {
                message = self.reader.next() => {
                    if self.on_message(message?, &mut reading).await? {
                        return Ok(());
                    }
                }
                note = reading.notes.recv(), if calm => match note {
                    Some(note) => self.on_note(note, &reading).await?,
                    None => return Err(TransferError::internal("reading ended early")),
                },
                Some(frame) = reading.frames.recv(), if !idle.is_empty() => {
                    if let Some(lane) = idle.pop() {
                        busy.push(Box::pin(lane.write(frame, self.throttle.clone())));
                    }
                }
                Some(written) = busy.next(), if !busy.is_empty() => match written {
                    Ok((lane, bytes)) => {
                        idle.push(lane);
                        self.sent_bytes += bytes;
                    }
                    Err(error) => {
                        verdict.as_mut().reset(tokio::time::Instant::now() + VERDICT_PATIENCE);
                        broken = Some(error);
                    }
                },
                flushed = self.writer.flush(), if self.writer.pending_bytes() > 0 => flushed?,
                _ = ticks.tick() => self.reporter.bytes(self.sent_bytes),
                () = &mut verdict, if broken.is_some() => {
                    return Err(broken.unwrap_or_else(|| TransferError::malformed("a lane was stopped")));
                }
            }
        }
    }

    async fn on_note(&mut self, note: Note, reading: &Reading) -> Result<(), TransferError> {
        match note {
            Note::Found(found) => self.announce(found).await?,
            Note::WalkEnded => {
                self.ended = true;
                self.writer.queue(&wire::ManifestEnd {
                    entries: self.entries,
                })?;
                self.reporter.total_files = Some(self.files);
                self.reporter.total_bytes = Some(self.bytes);
            }
            Note::TooMany => {
                return Err(TransferError::TooMany {
                    limit: wire::MAX_ENTRIES,
                });
            }
            Note::Started(file) => {
                if let Some(pending) = self.pending.get(&file) {
                    let (path, size) = (pending.shown.clone(), pending.job.size);
                    self.reporter
                        .tell(Progress::FileStarted { path, size })
                        .await;
                }
            }
            Note::Digest(file, md5) => {
                self.note_md5(file, md5);
                self.writer.queue(&wire::Digests {
                    digests: vec![(file, md5)],
                })?;
            }
            Note::Packed(digests) => {
                for (file, md5) in digests {
                    self.note_md5(file, md5);
                }
            }
            Note::Unsent {
                file,
                skipped,
                reason,
            } => {
                self.writer.queue(&wire::Unsent {
                    file,
                    skipped,
                    reason: reason.clone(),
                })?;
                let outcome = if skipped {
                    FileOutcome::Skipped(reason)
                } else {
                    FileOutcome::Failed(reason)
                };
                self.settle(file, None, outcome, reading).await;
            }
            Note::AllSent { frames } => {
                self.writer.queue(&wire::AllSent { frames })?;
                self.reporter.tell(Progress::Phase(Phase::Verifying)).await;
            }
        }
        Ok(())
    }

    /// Tells the receiver the next entries, and remembers the files among them.
    async fn announce(&mut self, found: Vec<Found>) -> Result<(), TransferError> {
        let first = self.entries;
        let mut entries: Vec<Entry> = Vec::with_capacity(found.len());
        for found in found {
            self.entries += 1;
            match found.entry.kind {
                kind::FILE => {
                    self.files += 1;
                    self.bytes = self.bytes.saturating_add(found.entry.size);
                    let job = Job::whole(&found);
                    let shown = printable(&found.shown, usize::MAX);
                    self.pending.insert(
                        found.number,
                        Pending {
                            shown,
                            job,
                            md5: None,
                        },
                    );
                }
                kind::FOLDER => self.reporter.folder(),
                _ => {
                    let outcome = FileOutcome::Skipped(found.entry.note.clone());
                    let path = printable(&found.shown, usize::MAX);
                    let (md5_local, md5_remote) = (None, None);
                    let file = FileReport {
                        path,
                        size: 0,
                        md5_local,
                        md5_remote,
                        outcome,
                    };
                    self.reporter.finished(file).await;
                }
            }
            entries.push(found.entry);
        }
        self.writer.queue(&wire::Manifest { first, entries })
    }

    fn note_md5(&mut self, file: u32, md5: Md5) {
        if let Some(pending) = self.pending.get_mut(&file) {
            pending.md5 = Some(md5);
        }
    }

    /// What the receiver says. True when it is done.
    async fn on_message(
        &mut self,
        message: Control,
        reading: &mut Reading,
    ) -> Result<bool, TransferError> {
        match message {
            Control::Results(wire::Results { results }) => {
                // Our own MD5s come before the frames that the receiver judges here.
                while let Ok(note) = reading.notes.try_recv() {
                    self.on_note(note, reading).await?;
                }
                for result in results {
                    self.on_result(result, reading).await;
                }
            }
            Control::Repair(repair) => self.repair(&repair, reading)?,
            Control::Finished(_) if self.ended && self.pending.is_empty() => return Ok(true),
            Control::Cancel(cancel) => return Err(cancelled_by_peer(&cancel)),
            _ => return Err(TransferError::malformed("a message out of place")),
        }
        Ok(false)
    }

    async fn on_result(&mut self, result: wire::FileResult, reading: &Reading) {
        let ours = self
            .pending
            .get(&result.file)
            .and_then(|pending| pending.md5);
        let outcome = match result.outcome {
            outcome::VERIFIED if ours.is_some() && ours == result.md5 => FileOutcome::Verified,
            outcome::VERIFIED | outcome::CORRUPT => {
                self.corrupt |= self.pending.contains_key(&result.file);
                FileOutcome::Failed("its content was wrong over there, twice".into())
            }
            _ => FileOutcome::Failed(printable(&result.reason, 300)),
        };
        self.settle(result.file, result.md5, outcome, reading).await;
    }

    /// Notes what became of a file; one that is settled already stays so.
    async fn settle(
        &mut self,
        file: u32,
        remote: Option<Md5>,
        outcome: FileOutcome,
        reading: &Reading,
    ) {
        let Some(pending) = self.pending.remove(&file) else {
            return;
        };
        reading.unsettled.add_permits(1);
        let (path, size) = (pending.shown, pending.job.size);
        let file = FileReport {
            path,
            size,
            md5_local: pending.md5,
            md5_remote: remote,
            outcome,
        };
        self.reporter.finished(file).await;
    }

    /// Has a chunk or a file read again.
    fn repair(&mut self, repair: &wire::Repair, reading: &Reading) -> Result<(), TransferError> {
        let Some(pending) = self.pending.get(&repair.file) else {
            return Ok(());
        };
        let job = Job {
            chunk: repair.chunk,
            ..pending.job.clone()
        };
        if job
            .chunk
            .is_some_and(|chunk| chunk_len(job.size, chunk) == 0)
        {
            return Err(TransferError::malformed(
                "a chunk that does not exist is wanted",
            ));
        }
        self.repairs += 1;
        if self.repairs > MAX_REPAIRS {
            return Err(TransferError::malformed("too much is wanted a second time"));
        }
        // There is room for as many as that; and a reader that is gone is noticed elsewhere.
        let _ = reading.repairs.try_send(job);
        Ok(())
    }

    /// Last words to the other side, and the result for ours.
    async fn conclude(
        mut self,
        result: Result<(), TransferError>,
    ) -> Result<TransferReport, TransferError> {
        if let Err(error) = result {
            self.writer.farewell(&error).await;
            return Err(error);
        }
        self.writer.finish().await;
        let report = self.reporter.into_report(Vec::new());
        if self.corrupt {
            return Err(TransferError::VerificationFailed {
                report: Box::new(report),
            });
        }
        Ok(report)
    }
}

/// A stream for content. Dropped, it is reset: half a frame is never taken for the end.
struct Lane(SendStream);

impl Lane {
    async fn write(
        mut self,
        mut frame: LaneFrame,
        throttle: Throttle,
    ) -> Result<(Self, u64), TransferError> {
        match self.write_parts(&mut frame.parts, &throttle).await {
            Ok(()) => Ok((self, frame.content_bytes)),
            Err(quinn::WriteError::Stopped(_)) => Err(TransferError::PeerFailed {
                reason: "it stopped reading".into(),
            }),
            Err(error) => Err(lost(error)),
        }
    }

    /// Writes all, in pieces while a rate holds.
    async fn write_parts(
        &mut self,
        parts: &mut [Bytes],
        throttle: &Throttle,
    ) -> Result<(), quinn::WriteError> {
        let mut rest = parts;
        while let Some(part) = rest.first_mut() {
            let Some(piece) = throttle.piece(part.len()) else {
                return self.0.write_all_chunks(rest).await;
            };
            throttle.admit(piece).await;
            self.0.write_chunk(part.split_to(piece)).await?;
            if part.is_empty() {
                rest = &mut rest[1..];
            }
        }
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let _ = self.0.reset(0u32.into());
    }
}

fn item(root: &Root) -> OfferItem {
    let name = printable(&root.name.to_string_lossy(), 255);
    OfferItem {
        name,
        folder: root.folder,
        size: (!root.folder).then_some(root.size),
    }
}

fn label_of(roots: &[Root]) -> String {
    let first = roots
        .first()
        .map(|root| printable(&root.name.to_string_lossy(), 255))
        .unwrap_or_default();
    match roots.len() {
        0 | 1 => first,
        more => format!("{first} and {} more", more - 1),
    }
}
