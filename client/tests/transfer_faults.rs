//! Transfers that something goes wrong with: files that change, people who change their minds, networks
//! and disks that fail. Whatever it is, both ends say so, and no half file is left without a mark.

mod transfer_support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use client::transfer::{FileOutcome, Progress, SendOptions, Side, TransferError};
use transfer_support::*;

/// More than all buffers and windows between two ends hold: while the receiver is held up, the sender
/// cannot have read so much.
const LARGE: u64 = 96 << 20;
/// Room for the receiver's first events (`Offered`, `Accepted`, `Phase`); the next one, `FileStarted`,
/// holds it up until somebody reads.
const HELD_UP: usize = 3;

fn is_started(event: &Progress) -> bool {
    matches!(event, Progress::FileStarted { .. })
}

/// A pair of ends with a large file under way, the receiver held up in the middle of it.
struct Held {
    pair: Pair,
    sending: Running,
    receiving: Running,
    from: tempfile::TempDir,
    into: tempfile::TempDir,
}

impl Held {
    async fn new(pair: Pair, more: &[&str]) -> Self {
        let (from, into) = (temp(), temp());
        write_sparse(&from.path().join("dir/a-large"), LARGE);
        for name in more {
            write(&from.path().join("dir").join(name), b"small");
        }
        let receiving = start_receive(&pair.other, accept(into.path(), false), HELD_UP);
        let mut sending = start_send(
            &pair.one,
            vec![from.path().join("dir")],
            SendOptions::default(),
        );
        sending.wait_for(is_started).await;
        Self {
            pair,
            sending,
            receiving,
            from,
            into,
        }
    }

    async fn end(self) -> (Outcome, Outcome, tempfile::TempDir) {
        let ((sent, _), (received, _)) = tokio::join!(self.sending.end(), self.receiving.end());
        (sent, received, self.into)
    }
}

#[tokio::test]
async fn a_file_that_grows_meanwhile_fails_and_the_rest_goes_on() {
    let held = Held::new(Pair::new().await, &["b"]).await;
    let path = held.from.path().join("dir/a-large");
    fs::File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_len(LARGE + 1))
        .expect("grown");
    failed_alone(held).await;
}

#[tokio::test]
async fn a_file_that_shrinks_meanwhile_fails_and_the_rest_goes_on() {
    let held = Held::new(Pair::new().await, &["b"]).await;
    let path = held.from.path().join("dir/a-large");
    fs::File::options()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(LARGE - (40 << 20)))
        .expect("cut");
    failed_alone(held).await;
}

async fn failed_alone(held: Held) {
    let (sent, received, into) = held.end().await;
    assert_eq!(
        tree(into.path()),
        [("dir/".into(), vec![]), ("dir/b".into(), b"small".to_vec())]
    );
    for report in [sent.expect("sent"), received.expect("received")] {
        assert_eq!((report.verified, report.failed, report.skipped), (1, 1, 0));
        let failed = report
            .files
            .iter()
            .find(|file| file.path == "dir/a-large")
            .expect("reported");
        let FileOutcome::Failed(why) = &failed.outcome else {
            panic!("{failed:?}")
        };
        assert!(why.contains("changed"), "{why}");
    }
}

#[tokio::test]
async fn files_that_vanish_or_turn_into_something_else_are_skipped() {
    let held = Held::new(Pair::new().await, &["b-gone", "c-pipe", "d-link", "e-good"]).await;
    let dir = held.from.path().join("dir");
    for name in ["b-gone", "c-pipe", "d-link"] {
        fs::remove_file(dir.join(name)).expect("removed");
    }
    let made = Command::new("mkfifo")
        .arg(dir.join("c-pipe"))
        .status()
        .expect("mkfifo runs");
    assert!(made.success());
    #[cfg(unix)]
    std::os::unix::fs::symlink("/etc/passwd", dir.join("d-link")).expect("made");
    let (sent, received, into) = held.end().await;
    assert_eq!(names(into.path()), ["dir/", "dir/a-large", "dir/e-good"]);
    for report in [sent.expect("sent"), received.expect("received")] {
        assert_eq!(
            (report.verified, report.failed, report.skipped),
            (2, 0, 3),
            "{report:?}"
        );
    }
}

#[tokio::test]
async fn the_sender_may_cancel_in_the_middle() {
    let held = Held::new(Pair::new().await, &[]).await;
    held.sending.cancel.cancel("wrong folder");
    let (sent, received, into) = held.end().await;
    assert!(
        matches!(sent, Err(TransferError::CancelledByUs { reason }) if reason == "wrong folder")
    );
    assert!(
        matches!(received, Err(TransferError::CancelledByPeer { reason }) if reason == "wrong folder")
    );
    assert!(names(into.path()).is_empty());
}

#[tokio::test]
async fn the_receiver_may_cancel_in_the_middle() {
    let held = Held::new(Pair::new().await, &[]).await;
    held.receiving.cancel.cancel("no room");
    let (sent, received, into) = held.end().await;
    assert!(
        matches!(received, Err(TransferError::CancelledByUs { reason }) if reason == "no room")
    );
    assert!(matches!(sent, Err(TransferError::CancelledByPeer { reason }) if reason == "no room"));
    assert!(names(into.path()).is_empty());
}

#[tokio::test]
async fn the_sender_may_cancel_before_the_answer() {
    let (from, into) = (temp(), temp());
    write(&from.path().join("a"), b"a");
    let pair = Pair::new().await;
    let dispatcher = Dispatcher::new(&pair.other);
    let sending = start_send(
        &pair.one,
        vec![from.path().join("a")],
        SendOptions::default(),
    );
    let (send, recv) = dispatcher.next().await;
    let cancel = sending.cancel.clone();
    let decide = async move |_: &client::transfer::Offer| {
        cancel.cancel("changed my mind");
        std::future::pending().await
    };
    let (told, _events) = tokio::sync::mpsc::channel(64);
    let ours = client::transfer::Cancel::new();
    let received =
        client::transfer::receive(send, recv, &dispatcher.router, decide, told, ours).await;
    assert!(
        matches!(received, Err(TransferError::CancelledByPeer { .. })),
        "{received:?}"
    );
    assert!(matches!(
        sending.end().await.0,
        Err(TransferError::CancelledByUs { .. })
    ));
    assert!(names(into.path()).is_empty());
}

/// Cancels after some turns of the scheduler, many times, from each side: whatever the moment, there is
/// either the whole file or nothing.
#[tokio::test]
async fn cancelling_at_any_moment_leaves_all_or_nothing() {
    let from = temp();
    for number in 0..40 {
        let size = if number == 7 { 5 << 20 } else { 500 * number };
        write(
            &from.path().join(format!("dir/{number}")),
            &pattern(size, number as u64),
        );
    }
    let wanted = tree(from.path());
    let mut nothing = 0;
    for round in 0..48_u32 {
        let into = temp();
        match cancelled_after((round / 2).pow(3), round % 2 == 0, from.path(), into.path()).await {
            Ok(report) => {
                assert!(report.is_whole());
                assert_eq!(tree(into.path()), wanted, "round {round}");
            }
            Err(
                TransferError::CancelledByUs { .. }
                | TransferError::CancelledByPeer { .. }
                | TransferError::PeerFailed { .. },
            ) => {
                assert!(
                    names(into.path()).is_empty(),
                    "round {round}: {:?}",
                    names(into.path())
                );
                nothing += 1;
            }
            Err(error) => panic!("round {round}: {error:?}"),
        }
    }
    assert!(nothing > 0, "no cancel came in time");
}

/// How the receiver of a transfer ends that is cancelled after so many turns.
async fn cancelled_after(turns: u32, by_sender: bool, from: &Path, into: &Path) -> Outcome {
    let pair = Pair::new().await;
    let receiving = start_receive(&pair.other, accept(into, false), 1_024);
    let sending = start_send(&pair.one, vec![from.join("dir")], SendOptions::default());
    let cancel = if by_sender {
        &sending.cancel
    } else {
        &receiving.cancel
    }
    .clone();
    let later = tokio::spawn(async move {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        cancel.cancel("enough");
    });
    let (sent, _) = sending.end().await;
    if sent.is_err() {
        // A cancel before the stream is open never reaches the other side, which then waits for one.
        let (mut stream, _) = pair.one.0.open_bi().await.expect("a stream");
        stream.write_all(&[2]).await.expect("written");
    }
    let (received, _) = receiving.end().await;
    later.await.expect("no panic");
    received
}

#[tokio::test]
async fn a_closed_connection_is_told_at_both_ends() {
    // QUIC says once that it closes; where that packet is lost, silence must do.
    let pair = Pair::through(None, Duration::from_secs(3)).await;
    let held = Held::new(pair, &[]).await;
    held.pair.one.0.close(7u32.into(), b"gone");
    lost(held).await;
}

#[tokio::test]
async fn a_silent_network_is_told_at_both_ends() {
    let door = Door::default();
    let pair = Pair::through(Some(door.clone()), Duration::from_secs(3)).await;
    let held = Held::new(pair, &[]).await;
    door.shut();
    lost(held).await;
}

async fn lost(held: Held) {
    let (sent, received, into) = held.end().await;
    assert!(
        matches!(sent, Err(TransferError::ConnectionLost(_))),
        "{sent:?}"
    );
    assert!(
        matches!(received, Err(TransferError::ConnectionLost(_))),
        "{received:?}"
    );
    assert!(names(into.path()).is_empty());
}

#[tokio::test]
async fn a_receiver_that_is_dropped_cleans_up() {
    let held = Held::new(Pair::new().await, &[]).await;
    held.receiving.task.abort();
    let (sent, _) = held.sending.end().await;
    assert!(
        matches!(sent, Err(TransferError::PeerFailed { .. })),
        "{sent:?}"
    );
    // Its threads clean up on their own; there is nothing to wait for but the folder.
    let into = held.into.path().to_owned();
    let gone = tokio::task::spawn_blocking(move || {
        let is_empty = || fs::read_dir(&into).expect("there").next().is_none();
        while !is_empty() {
            std::thread::yield_now();
        }
    });
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("in time")
        .expect("no panic");
}

#[tokio::test]
async fn a_target_that_cannot_be_is_told_at_both_ends() {
    let (from, into) = (temp(), temp());
    write(&from.path().join("a"), b"a");
    write(&into.path().join("file"), b"in the way");
    let (sent, received) = transfer(
        vec![from.path().join("a")],
        &into.path().join("file/sub"),
        false,
    )
    .await;
    assert!(
        matches!(received, Err(TransferError::Io { .. })),
        "{received:?}"
    );
    let Err(TransferError::PeerFailed { reason }) = sent else {
        panic!("{sent:?}")
    };
    assert!(!reason.contains("sub"), "our paths stay ours: {reason}");
}

/// A small disk of its own; `None` where that is not allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let folder = temp();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        eprintln!("SKIPPED: no small disk can be mounted here, so a full one is not tested");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_too_small_is_seen_before_the_start() {
    let Some(disk) = SmallDisk::new("8m") else {
        return;
    };
    let from = temp();
    write_sparse(&from.path().join("a"), 9 << 20);
    let (sent, received) = transfer(vec![from.path().join("a")], disk.path(), false).await;
    let Err(TransferError::DiskFull {
        side: Side::Ours,
        needed_bytes,
        free_bytes,
    }) = received
    else {
        panic!("{received:?}")
    };
    assert_eq!(needed_bytes, Some(9 << 20));
    assert!(free_bytes.is_some_and(|free| free < 8 << 20));
    assert!(
        matches!(
            sent,
            Err(TransferError::DiskFull {
                side: Side::Theirs,
                ..
            })
        ),
        "{sent:?}"
    );
    assert!(names(disk.path()).is_empty());
}

#[tokio::test]
async fn a_disk_that_fills_up_meanwhile_is_told_at_both_ends() {
    let Some(disk) = SmallDisk::new("120m") else {
        return;
    };
    let from = temp();
    write_sparse(&from.path().join("a"), LARGE);
    let pair = Pair::new().await;
    let receiving = start_receive(&pair.other, accept(disk.path(), false), HELD_UP);
    let mut sending = start_send(
        &pair.one,
        vec![from.path().join("a")],
        SendOptions::default(),
    );
    sending.wait_for(is_started).await;
    // Somebody else takes what is left.
    fs::write(disk.path().join("other"), vec![1; 60 << 20]).expect("there is room for it now");
    let ((sent, _), (received, _)) = tokio::join!(sending.end(), receiving.end());
    assert!(
        matches!(
            received,
            Err(TransferError::DiskFull {
                side: Side::Ours,
                ..
            })
        ),
        "{received:?}"
    );
    assert!(
        matches!(
            sent,
            Err(TransferError::DiskFull {
                side: Side::Theirs,
                ..
            })
        ),
        "{sent:?}"
    );
    assert_eq!(names(disk.path()), ["other"]);
}
