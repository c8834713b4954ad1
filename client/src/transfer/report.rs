//! What a transfer tells its user: the offer, what happens while it runs, and the result. All of it can
//! be serialized, as text or as bincode.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tokio::sync::mpsc;

/// Files that [`TransferReport::files`] lists at most; beyond, only failed and skipped ones are added,
/// up to as many again, and the rest is in the counts.
pub const MAX_REPORT_FILES: usize = 10_000;
/// Between two [`Progress::Bytes`].
const BYTES_INTERVAL: Duration = Duration::from_millis(100);

macro_rules! sixteen_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes the 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| NotHex)?;
                bytes.try_into().map(Self).map_err(|_| NotHex)
            }
        }

        /// Hexadecimal in text formats, 16 plain bytes in binary ones.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

sixteen_bytes! {
    /// Names one transfer, at both ends; drawn at random by the sender. Its text form is 32 hexadecimal digits.
    TransferId
}
sixteen_bytes! {
    /// The MD5 of a file's bytes. Its text form is what `md5sum` prints.
    Md5
}

/// Why a text is not a [`TransferId`] or an [`Md5`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hexadecimal digits")]
pub struct NotHex;

/// Which way a transfer goes, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// We send.
    Sent,
    /// We receive.
    Received,
}

/// What somebody wants to send. The names and figures are the sender's claims, made fit for a screen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Names the transfer.
    pub transfer: TransferId,
    /// In one line, for example `photos and 2 more`.
    pub label: String,
    /// Files in it, where the sender had counted them.
    pub files: Option<u64>,
    /// Bytes of all files, where the sender had counted them.
    pub total_bytes: Option<u64>,
    /// The first [`MAX_OFFER_ITEMS`](super::MAX_OFFER_ITEMS) of what will appear in the chosen folder.
    pub items: Vec<OfferItem>,
}

/// One file or folder of an [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferItem {
    /// Its name.
    pub name: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Bytes of a file; nothing for a folder.
    pub size: Option<u64>,
}

/// What the receiver says to an [`Offer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Take it.
    Accept {
        /// The folder that it appears in; made if it is missing.
        into: PathBuf,
        /// Whether files of the same name are replaced and folders of the same name merged; if not, both
        /// are kept and the new one is called `name (2).ext`.
        overwrite: bool,
    },
    /// Leave it.
    Reject {
        /// Told to the sender.
        reason: String,
    },
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileOutcome {
    /// Both ends computed the same MD5.
    Verified,
    /// Its content did not arrive, or not as it left.
    Failed(String),
    /// It was never sent.
    Skipped(String),
}

/// One file and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Its path within the transfer, parts divided by `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// The MD5 that this end computed.
    pub md5_local: Option<Md5>,
    /// The MD5 that the other end computed.
    pub md5_remote: Option<Md5>,
    /// What became of it.
    pub outcome: FileOutcome,
}

/// How a transfer went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferReport {
    /// Names the transfer.
    pub transfer: TransferId,
    /// Which way it went.
    pub direction: Direction,
    /// The files, at most [`MAX_REPORT_FILES`] and as many failed and skipped ones;
    /// [`Progress::FileFinished`] has told each of them.
    pub files: Vec<FileReport>,
    /// Files whose MD5 agreed.
    pub verified: u64,
    /// Files that were sent or begun, and failed.
    pub failed: u64,
    /// Files that were never sent.
    pub skipped: u64,
    /// Folders, empty ones included.
    pub folders: u64,
    /// Bytes of the verified files.
    pub bytes: u64,
    /// From acceptance to the end.
    pub elapsed_millis: u64,
    /// Receiver only: where the files and folders of the top level are now.
    pub published: Vec<PathBuf>,
}

impl TransferReport {
    pub(super) fn new(transfer: TransferId, direction: Direction) -> Self {
        Self {
            transfer,
            direction,
            files: Vec::new(),
            verified: 0,
            failed: 0,
            skipped: 0,
            folders: 0,
            bytes: 0,
            elapsed_millis: 0,
            published: Vec::new(),
        }
    }

    /// Files of any outcome.
    pub fn total_files(&self) -> u64 {
        self.verified + self.failed + self.skipped
    }

    /// Whether each file arrived verified: nothing failed, nothing was skipped.
    pub fn is_whole(&self) -> bool {
        self.failed == 0 && self.skipped == 0
    }

    fn add(&mut self, file: FileReport) {
        match file.outcome {
            FileOutcome::Verified => {
                self.verified += 1;
                self.bytes += file.size;
            }
            FileOutcome::Failed(_) => self.failed += 1,
            FileOutcome::Skipped(_) => self.skipped += 1,
        }
        let room = match file.outcome {
            FileOutcome::Verified => MAX_REPORT_FILES,
            FileOutcome::Failed(_) | FileOutcome::Skipped(_) => 2 * MAX_REPORT_FILES,
        };
        if self.files.len() < room {
            self.files.push(file);
        }
    }
}

/// What a transfer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The sender looks at what there is.
    Preparing,
    /// The receiver is asked.
    Waiting,
    /// Bytes flow.
    Transferring,
    /// All bytes are sent; the last digests are compared. Left out where that was quicker than the word.
    Verifying,
    /// The receiver makes it durable and gives it its names.
    Publishing,
}

/// What happens while a transfer runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Progress {
    /// The offer is with the receiver.
    Offered(Offer),
    /// The receiver wants it.
    Accepted,
    /// The transfer goes from one phase to the next.
    Phase(Phase),
    /// A file of more than 64 KiB begins; smaller ones travel together and only finish.
    FileStarted {
        /// Its path within the transfer.
        path: String,
        /// Bytes.
        size: u64,
    },
    /// A file is done, well or not. Told for each, however many there are.
    FileFinished(FileReport),
    /// How far it is; at most 10 times a second, and left out when nobody reads.
    Bytes {
        /// Bytes of content sent or received.
        done: u64,
        /// Bytes of content in all, where that is known.
        total: Option<u64>,
        /// Files of any outcome.
        files_done: u64,
        /// Files in all, where that is known.
        files_total: Option<u64>,
        /// Since acceptance.
        elapsed_millis: u64,
    },
}

/// Tells progress and keeps the report, for either end.
pub(super) struct Reporter {
    events: mpsc::Sender<Progress>,
    report: TransferReport,
    started: Instant,
    pub(super) total_bytes: Option<u64>,
    pub(super) total_files: Option<u64>,
    done_bytes: u64,
    told: Option<(Instant, u64, u64)>,
}

impl Reporter {
    pub(super) fn new(
        transfer: TransferId,
        direction: Direction,
        events: mpsc::Sender<Progress>,
    ) -> Self {
        Self {
            events,
            report: TransferReport::new(transfer, direction),
            started: Instant::now(),
            total_bytes: None,
            total_files: None,
            done_bytes: 0,
            told: None,
        }
    }

    /// Tells an event, waiting for room; a user that no longer listens is no fault.
    pub(super) async fn tell(&self, event: Progress) {
        let _ = self.events.send(event).await;
    }

    /// The clock starts again: acceptance.
    pub(super) fn start(&mut self) {
        self.started = Instant::now();
    }

    pub(super) fn folder(&mut self) {
        self.report.folders += 1;
    }

    pub(super) async fn finished(&mut self, file: FileReport) {
        self.tell(Progress::FileFinished(file.clone())).await;
        self.report.add(file);
    }

    /// Notes how many bytes of content are done, and tells it when it is time.
    pub(super) fn bytes(&mut self, done: u64) {
        self.done_bytes = done;
        if self
            .told
            .is_none_or(|(at, _, _)| at.elapsed() >= BYTES_INTERVAL)
        {
            self.tell_bytes();
        }
    }

    fn tell_bytes(&mut self) {
        let files_done = self.report.total_files();
        if self
            .told
            .is_some_and(|(_, bytes, files)| (bytes, files) == (self.done_bytes, files_done))
        {
            return;
        }
        self.told = Some((Instant::now(), self.done_bytes, files_done));
        let _ = self.events.try_send(Progress::Bytes {
            done: self.done_bytes,
            total: self.total_bytes,
            files_done,
            files_total: self.total_files,
            elapsed_millis: self.elapsed_millis(),
        });
    }

    fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn into_report(mut self, published: Vec<PathBuf>) -> TransferReport {
        self.tell_bytes();
        self.report.elapsed_millis = self.elapsed_millis();
        self.report.published = published;
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(outcome: FileOutcome) -> FileReport {
        FileReport {
            path: "a".into(),
            size: 3,
            md5_local: None,
            md5_remote: None,
            outcome,
        }
    }

    #[test]
    fn digests_read_as_md5sum_prints_them() {
        let text = "d41d8cd98f00b204e9800998ecf8427e";
        let md5: Md5 = text.parse().expect("a digest");
        assert_eq!(md5.to_string(), text);
        assert_eq!(
            serde_json::to_string(&md5).expect("text"),
            format!("\"{text}\"")
        );
        assert_eq!(
            serde_json::from_str::<Md5>(&format!("\"{text}\"")).expect("text"),
            md5
        );
        assert_eq!("d41d".parse::<Md5>(), Err(NotHex));
        assert_eq!(
            "x41d8cd98f00b204e9800998ecf8427e".parse::<Md5>(),
            Err(NotHex)
        );
    }

    #[test]
    fn events_survive_json_and_bincode() {
        let event = Progress::FileFinished(FileReport {
            md5_local: Some(Md5::from_bytes([7; 16])),
            ..file(FileOutcome::Failed("why".into()))
        });
        let json = serde_json::to_string(&event).expect("json");
        assert_eq!(
            serde_json::from_str::<Progress>(&json).expect("json"),
            event
        );
        let body = p2p_net_proto::codec::to_body(&event).expect("bincode");
        assert_eq!(
            p2p_net_proto::codec::from_body::<Progress>(&body).expect("bincode"),
            event
        );
    }

    #[test]
    fn a_huge_report_keeps_its_failures() {
        let mut report = TransferReport::new(TransferId::from_bytes([0; 16]), Direction::Sent);
        for _ in 0..MAX_REPORT_FILES + 5 {
            report.add(file(FileOutcome::Verified));
        }
        assert_eq!(report.files.len(), MAX_REPORT_FILES);
        for _ in 0..MAX_REPORT_FILES + 5 {
            report.add(file(FileOutcome::Failed("why".into())));
        }
        assert_eq!(report.files.len(), 2 * MAX_REPORT_FILES);
        assert_eq!(report.total_files(), 2 * MAX_REPORT_FILES as u64 + 10);
        assert_eq!(report.bytes, 3 * (MAX_REPORT_FILES as u64 + 5));
        assert!(!report.is_whole());
    }

    #[tokio::test]
    async fn progress_is_told_at_most_ten_times_a_second() {
        let (events, mut told) = mpsc::channel(64);
        let id = TransferId::from_bytes([1; 16]);
        let mut reporter = Reporter::new(id, Direction::Sent, events);
        for done in 1..=50 {
            reporter.bytes(done);
        }
        reporter.into_report(Vec::new());
        let mut seen = Vec::new();
        while let Some(Progress::Bytes { done, .. }) = told.recv().await {
            seen.push(done);
        }
        assert_eq!(seen, [1, 50], "the first and the last");
    }
}
