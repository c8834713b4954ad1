//! The receiving end: asks, and once accepted takes frames off the lanes and hands them to the writing
//! threads while it listens to the sender. One future; when it is dropped, the threads clean up.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use p2p_net::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::TICK;
use super::cancel::Cancel;
use super::chunk::{BLAKE3_BYTES, FrameHeader, HEADER_BYTES};
use super::control::{ControlReader, ControlWriter, cancelled_by_peer, lost};
use super::error::TransferError;
use super::names::printable;
use super::pool::Pool;
use super::report::{
    Decision, Direction, Offer, OfferItem, Phase, Progress, Reporter, TransferReport,
};
use super::router::{LaneInbox, LaneRouter};
use super::wire::{self, Control, MAX_BATCH, MAX_LANES};
use super::write::{self, Arrived, Writing};

/// Buffers of 1 MiB that the receiver uses at most: filled, waiting, written or being hashed.
const BUFFERS: usize = 24;
/// How long the sender may take for its offer.
const OFFER_PATIENCE: Duration = Duration::from_secs(30);
/// How long the sender may take to say why a lane broke.
const VERDICT_PATIENCE: Duration = Duration::from_secs(3);

/// Receives what the peer wants to send on a stream whose kind byte said so. `router` brings the lanes;
/// `decide` says whether and where, and may take its time.
///
/// Returns when everything is verified, durable and under its name. Dropping the future ends the transfer
/// without a word to the other side; throwing `cancel` ends it with a reason, unless the files are just
/// getting their names. Either way the part folder goes.
///
/// # Errors
/// [`TransferError`]. After any of them nothing is left under a name but what had been published before.
///
/// # Panics
/// Outside of a tokio runtime.
pub async fn receive(
    answers: SendStream,
    control: RecvStream,
    router: &LaneRouter,
    decide: impl AsyncFnOnce(&Offer) -> Decision,
    events: mpsc::Sender<Progress>,
    cancel: Cancel,
) -> Result<TransferReport, TransferError> {
    let mut writer = ControlWriter::new(answers);
    let mut reader = ControlReader::new(control);
    let agreed = tokio::select! {
        biased;
        reason = cancel.cancelled() => Err(TransferError::CancelledByUs { reason }),
        agreed = agree(&mut reader, decide, &events) => agreed,
    };
    // Not to be interrupted: a part folder that exists must have somebody who removes it.
    let begun = match agreed {
        Ok(agreed) => begin(agreed, router).await,
        Err(error) => Err(error),
    };
    let (agreed, inbox, writing) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            writer.farewell(&error).await;
            return Err(error);
        }
    };
    let reporter = reporter(&agreed.offer, events);
    let mut receiver = Receiver {
        reader,
        writer,
        inbox,
        reporter,
        lanes: 0,
    };
    let result = tokio::select! {
        biased;
        reason = cancel.cancelled() => Err(TransferError::CancelledByUs { reason }),
        result = receiver.run(&agreed.offer, &writing) => result,
    };
    receiver.conclude(result, writing, agreed.overwrite).await
}

/// What we said yes to.
struct Agreed {
    offer: Offer,
    into: PathBuf,
    overwrite: bool,
}

/// Hears the offer and asks for a decision.
async fn agree(
    reader: &mut ControlReader,
    decide: impl AsyncFnOnce(&Offer) -> Decision,
    events: &mpsc::Sender<Progress>,
) -> Result<Agreed, TransferError> {
    let late = |_| TransferError::malformed("no offer came");
    let offer = match timeout(OFFER_PATIENCE, reader.next())
        .await
        .map_err(late)??
    {
        Control::Offer(offer) => fit_to_show(offer),
        Control::Cancel(cancel) => return Err(cancelled_by_peer(&cancel)),
        _ => {
            return Err(TransferError::malformed(
                "a transfer that begins without an offer",
            ));
        }
    };
    let _ = events.send(Progress::Offered(offer.clone())).await;
    let decision = tokio::select! {
        decision = decide(&offer) => decision,
        message = reader.next() => return Err(match message? {
            Control::Cancel(cancel) => cancelled_by_peer(&cancel),
            _ => TransferError::malformed("a message before the answer"),
        }),
    };
    match decision {
        Decision::Accept { into, overwrite } => Ok(Agreed {
            offer,
            into,
            overwrite,
        }),
        Decision::Reject { reason } => Err(TransferError::Declined { reason }),
    }
}

/// Gets ready for what will come.
async fn begin(
    agreed: Agreed,
    router: &LaneRouter,
) -> Result<(Agreed, LaneInbox, Writing), TransferError> {
    let inbox = router.register(agreed.offer.transfer)?;
    let writing = write::start(agreed.into.clone(), agreed.offer.transfer).await?;
    Ok((agreed, inbox, writing))
}

fn fit_to_show(offer: wire::Offer) -> Offer {
    let item = |item: wire::WireItem| OfferItem {
        name: printable(&String::from_utf8_lossy(&item.name), 255),
        folder: item.folder,
        size: item.size,
    };
    Offer {
        transfer: offer.transfer,
        label: printable(&offer.label, 300),
        files: offer.files,
        total_bytes: offer.total_bytes,
        items: offer.items.into_iter().map(item).collect(),
    }
}

fn reporter(offer: &Offer, events: mpsc::Sender<Progress>) -> Reporter {
    let mut reporter = Reporter::new(offer.transfer, Direction::Received, events);
    (reporter.total_files, reporter.total_bytes) = (offer.files, offer.total_bytes);
    reporter
}

struct Receiver {
    reader: ControlReader,
    writer: ControlWriter,
    inbox: LaneInbox,
    reporter: Reporter,
    lanes: usize,
}

/// What a lane brought.
enum FromLane {
    /// A frame; the lane waits until it has been taken.
    Frame(RecvStream, Arrived),
    /// Something that is no frame.
    Nonsense(TransferError),
    /// Its end, too early: the sender keeps its lanes open until we are done.
    Broken(TransferError),
}

type LaneWork = BoxFuture<'static, FromLane>;

impl Receiver {
    /// Says yes, if there is room, and takes everything until each file is settled.
    async fn run(&mut self, offer: &Offer, writing: &Writing) -> Result<(), TransferError> {
        writing
            .book
            .lock()
            .check_room(offer.total_bytes.unwrap_or(0))?;
        self.writer.queue(&wire::Accept { have: Vec::new() })?;
        self.reporter.tell(Progress::Accepted).await;
        self.reporter
            .tell(Progress::Phase(Phase::Transferring))
            .await;
        self.take_all(writing).await
    }

    async fn take_all(&mut self, writing: &Writing) -> Result<(), TransferError> {
        let pool = Arc::new(Pool::new(BUFFERS));
        let mut busy: FuturesUnordered<LaneWork> = FuturesUnordered::new();
        // Frames of files that have not been announced yet; their lanes wait.
        let mut early: Vec<(RecvStream, Arrived)> = Vec::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Set once a lane broke: the sender is about to say why.
        let mut broken = None;
        let mut verdict = Box::pin(tokio::time::sleep(VERDICT_PATIENCE));
        loop {
            tokio::select! {
                message = self.reader.next() => {
                    let message = message?;
                    if matches!(message, Control::AllSent(_)) {
                        self.reporter.tell(Progress::Phase(Phase::Verifying)).await;
                    }
                    self.on_message(message, writing)?;
                    for (lane, frame) in std::mem::take(&mut early) {
                        self.on_frame(lane, frame, writing, &pool, &mut early, &mut busy)?;
                    }
                }
                Some(lane) = self.inbox.next(), if self.lanes < MAX_LANES => {
                    self.lanes += 1;
                    busy.push(Box::pin(read_frame(lane, Arc::clone(&pool))));
                }
                Some(from) = busy.next(), if !busy.is_empty() => match from {
                    FromLane::Frame(lane, frame) => {
                        self.on_frame(lane, frame, writing, &pool, &mut early, &mut busy)?;
                    }
                    FromLane::Nonsense(error) => return Err(error),
                    FromLane::Broken(error) => {
                        verdict.as_mut().reset(tokio::time::Instant::now() + VERDICT_PATIENCE);
                        broken = Some(error);
                    }
                },
                () = writing.book.changed.notified() => {}
                flushed = self.writer.flush(), if self.writer.pending_bytes() > 0 => flushed?,
                _ = ticks.tick() => {
                    let received = writing.book.lock().received_bytes();
                    self.reporter.bytes(received);
                }
                () = &mut verdict, if broken.is_some() => {
                    return Err(broken.unwrap_or_else(|| TransferError::malformed("a lane broke")));
                }
            }
            if self.on_news(writing).await? {
                return Ok(());
            }
        }
    }

    /// Hands a frame to the writers, and reads the next off its lane when they have taken it.
    fn on_frame(
        &self,
        lane: RecvStream,
        frame: Arrived,
        writing: &Writing,
        pool: &Arc<Pool>,
        early: &mut Vec<(RecvStream, Arrived)>,
        busy: &mut FuturesUnordered<LaneWork>,
    ) -> Result<(), TransferError> {
        let ledger = writing.book.lock();
        if frame.header.highest() >= ledger.entries() {
            if ledger.has_ended() {
                return Err(TransferError::malformed(
                    "content of a file that there is not",
                ));
            }
            early.push((lane, frame));
            return Ok(());
        }
        drop(ledger);
        let (frames, pool) = (writing.frames.clone(), Arc::clone(pool));
        busy.push(Box::pin(async move {
            match frames.send(frame).await {
                Ok(()) => read_frame(lane, pool).await,
                Err(_) => FromLane::Broken(TransferError::malformed("the writers are gone")),
            }
        }));
        Ok(())
    }

    fn on_message(&mut self, message: Control, writing: &Writing) -> Result<(), TransferError> {
        let mut ledger = writing.book.lock();
        match message {
            Control::Manifest(wire::Manifest { first, entries }) => ledger.add(first, entries)?,
            Control::ManifestEnd(wire::ManifestEnd { entries }) => {
                ledger.end(entries)?;
                let (files, bytes) = ledger.claimed();
                (self.reporter.total_files, self.reporter.total_bytes) = (Some(files), Some(bytes));
            }
            Control::Digests(wire::Digests { digests }) => {
                for (file, md5) in digests {
                    ledger.digest(file, md5);
                }
            }
            Control::Unsent(unsent) => ledger.unsent(unsent.file, unsent.skipped, &unsent.reason),
            Control::AllSent(wire::AllSent { frames }) => ledger.all_sent(frames),
            Control::Cancel(cancel) => return Err(cancelled_by_peer(&cancel)),
            _ => return Err(TransferError::malformed("a message out of place")),
        }
        Ok(())
    }

    /// Passes on what the book has to tell. True when all is settled.
    async fn on_news(&mut self, writing: &Writing) -> Result<bool, TransferError> {
        let (failure, news, settled) = {
            let mut ledger = writing.book.lock();
            (
                ledger.take_failure(),
                ledger.take_news(),
                ledger.is_settled(),
            )
        };
        if let Some(failure) = failure {
            return Err(failure);
        }
        for _ in 0..news.folders {
            self.reporter.folder();
        }
        for (path, size) in news.started {
            self.reporter
                .tell(Progress::FileStarted { path, size })
                .await;
        }
        for report in news.reports {
            self.reporter.finished(report).await;
        }
        for repair in news.repairs {
            self.writer.queue(&repair)?;
        }
        for results in news.results.chunks(MAX_BATCH / 4) {
            self.writer.queue(&wire::Results {
                results: results.to_vec(),
            })?;
        }
        Ok(settled)
    }

    /// Publishes what is good, or removes everything; last words to the sender, and the result for us.
    async fn conclude(
        mut self,
        result: Result<(), TransferError>,
        writing: Writing,
        overwrite: bool,
    ) -> Result<TransferReport, TransferError> {
        if let Err(error) = result {
            // First the word, so that the sender need not wait for our disk.
            self.writer.farewell(&error).await;
            writing.remove().await;
            return Err(error);
        }
        self.reporter.tell(Progress::Phase(Phase::Publishing)).await;
        let (plan, verified, corrupt) = {
            let mut ledger = writing.book.lock();
            (
                ledger.take_plan(overwrite),
                ledger.verified(),
                ledger.is_corrupt(),
            )
        };
        let published = match writing.publish(plan).await {
            Ok(published) => published,
            Err(error) => {
                self.writer.farewell(&error).await;
                return Err(error);
            }
        };
        self.writer.queue(&wire::Finished { verified })?;
        self.writer.finish().await;
        self.reader.wait_for_end().await;
        let report = self.reporter.into_report(published);
        if corrupt {
            return Err(TransferError::VerificationFailed {
                report: Box::new(report),
            });
        }
        Ok(report)
    }
}

/// Reads one frame off a lane.
async fn read_frame(mut lane: RecvStream, pool: Arc<Pool>) -> FromLane {
    let mut header = [0; HEADER_BYTES];
    if let Err(error) = lane.read_exact(&mut header).await {
        return FromLane::Broken(lane_error(error));
    }
    let header = match FrameHeader::decode(&header) {
        Ok(header) => header,
        Err(error) => return FromLane::Nonsense(error),
    };
    match read_content(&mut lane, header, &pool).await {
        Ok(frame) => FromLane::Frame(lane, frame),
        Err(error) => FromLane::Broken(error),
    }
}

async fn read_content(
    lane: &mut RecvStream,
    header: FrameHeader,
    pool: &Pool,
) -> Result<Arrived, TransferError> {
    let closed = || TransferError::malformed("no more buffers");
    let mut buffer = pool.take().await.ok_or_else(closed)?;
    let content = buffer.fill(header.length());
    lane.read_exact(content).await.map_err(lane_error)?;
    let mut blake3 = [0; BLAKE3_BYTES];
    lane.read_exact(&mut blake3).await.map_err(lane_error)?;
    Ok(Arrived {
        header,
        buffer,
        blake3,
    })
}

fn lane_error(error: quinn::ReadExactError) -> TransferError {
    match error {
        quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error)) => lost(error),
        _ => TransferError::malformed("a lane ended before the transfer"),
    }
}
