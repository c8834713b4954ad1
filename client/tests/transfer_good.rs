//! Transfers between two ends that do as they should, over plain QUIC on loopback.

mod transfer_support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use client::transfer::{
    Decision, Direction, FileOutcome, Phase, Progress, SendOptions, TransferError, TransferReport,
};
use transfer_support::*;

fn whole((sent, received): (Outcome, Outcome)) -> (TransferReport, TransferReport) {
    let (sent, received) = (sent.expect("sent"), received.expect("received"));
    assert!(
        sent.is_whole() && received.is_whole(),
        "{sent:?}\n{received:?}"
    );
    assert_eq!(sent.verified, received.verified);
    assert_eq!(sent.bytes, received.bytes);
    assert_eq!(sent.folders, received.folders);
    assert_eq!(
        (sent.direction, received.direction),
        (Direction::Sent, Direction::Received)
    );
    (sent, received)
}

#[tokio::test]
async fn a_file_arrives_with_its_digest_time_and_execute_bit() {
    let (from, into) = (temp(), temp());
    let (path, content) = (
        from.path().join("run me.sh"),
        pattern(9 * (1 << 20) + 17, 1),
    );
    write(&path, &content);
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let file = fs::File::options().write(true).open(&path).expect("there");
    file.set_modified(time).expect("set");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o4755))
            .expect("set");
    }
    drop(file);
    let (sent, received) = whole(transfer(vec![path], into.path(), false).await);
    assert_eq!(
        tree(into.path()),
        [("run me.sh".to_owned(), content.clone())]
    );
    assert_eq!(received.published, [into.path().join("run me.sh")]);
    let md5 = Some(md5_of(&content));
    for report in [&sent, &received] {
        let [file] = report.files.as_slice() else {
            panic!("{report:?}")
        };
        assert_eq!(
            (file.path.as_str(), file.size),
            ("run me.sh", content.len() as u64)
        );
        assert_eq!((file.md5_local, file.md5_remote), (md5, md5));
        assert_eq!(file.outcome, FileOutcome::Verified);
    }
    let metadata = fs::metadata(into.path().join("run me.sh")).expect("there");
    assert_eq!(metadata.modified().expect("a time"), time);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            metadata.permissions().mode() & 0o7100,
            0o100,
            "executable, never setuid"
        );
    }
}

#[tokio::test]
async fn empty_things_arrive() {
    let (from, into) = (temp(), temp());
    write(&from.path().join("empty"), b"");
    fs::create_dir(from.path().join("hollow")).expect("made");
    let paths = vec![from.path().join("empty"), from.path().join("hollow")];
    let (_, received) = whole(transfer(paths, into.path(), false).await);
    assert_eq!(names(into.path()), ["empty", "hollow/"]);
    assert_eq!(
        (received.verified, received.folders, received.bytes),
        (1, 1, 0)
    );
    assert_eq!(
        received.files[0]
            .md5_remote
            .map(|md5| md5.to_string())
            .as_deref(),
        Some("d41d8cd98f00b204e9800998ecf8427e")
    );
}

#[tokio::test]
async fn a_tree_of_all_sorts_arrives_as_it_is() {
    let (from, into) = (temp(), temp());
    let root = from.path().join("Ünïcode 文件夹 📁");
    let long = "x".repeat(251) + ".bin";
    let sizes = [
        0,
        1,
        65_535,
        65_536,
        65_537,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        5 << 20,
    ];
    for (seed, size) in sizes.into_iter().enumerate() {
        write(
            &root.join(format!("sizes/{size}")),
            &pattern(size, seed as u64),
        );
    }
    write(&root.join(&long), b"long");
    write(&root.join("e\u{301} decomposed"), b"nfd");
    write(&root.join("\u{e9} composed"), b"nfc");
    write(&root.join("Case"), b"upper");
    write(&root.join("deep/er/and/deeper/file"), b"deep");
    fs::create_dir_all(root.join("empty/inner")).expect("made");
    whole(transfer(vec![root.clone()], into.path(), false).await);
    let arrived = into.path().join(root.file_name().expect("a name"));
    assert_eq!(tree(&arrived), tree(&root));
    let time = |path: PathBuf| {
        fs::metadata(path)
            .and_then(|meta| meta.modified())
            .expect("a time")
    };
    for folder in ["", "empty", "deep/er"] {
        assert_eq!(
            time(arrived.join(folder)),
            time(root.join(folder)),
            "{folder}"
        );
    }
}

#[tokio::test]
async fn thousands_of_small_files_arrive() {
    let (from, into) = (temp(), temp());
    let root = from.path().join("many");
    for number in 0..2_000 {
        let size = number % 3_000;
        write(
            &root.join(format!("{}/{number}", number % 20)),
            &pattern(size, number as u64),
        );
    }
    let pair = Pair::new().await;
    let receiving = start_receive(&pair.other, accept(into.path(), false), 16);
    let sending = start_send(&pair.one, vec![root.clone()], SendOptions::default());
    let ((sent, sent_events), (received, received_events)) =
        tokio::join!(sending.end(), receiving.end());
    let (sent, _) = whole((sent, received));
    assert_eq!((sent.verified, sent.folders), (2_000, 21));
    assert_eq!(tree(&into.path().join("many")), tree(&root));
    for events in [sent_events, received_events] {
        let finished = events
            .iter()
            .filter(|event| matches!(event, Progress::FileFinished(_)))
            .count();
        assert_eq!(finished, 2_000, "each file is told");
    }
}

#[tokio::test]
async fn clashes_keep_both_unless_told_otherwise() {
    let (from, into) = (temp(), temp());
    write(&from.path().join("a.txt"), b"new");
    write(&from.path().join("dir/x"), b"new");
    write(&into.path().join("a.txt"), b"old");
    write(&into.path().join("dir/x"), b"old");
    write(&into.path().join("dir/keep"), b"old");
    let paths = vec![from.path().join("a.txt"), from.path().join("dir")];
    whole(transfer(paths.clone(), into.path(), false).await);
    let content = |path: &str| fs::read_to_string(into.path().join(path)).expect("there");
    let all = [
        "a (2).txt",
        "a.txt",
        "dir (2)/",
        "dir (2)/x",
        "dir/",
        "dir/keep",
        "dir/x",
    ];
    assert_eq!(names(into.path()), all);
    assert_eq!(
        (content("a.txt"), content("a (2).txt")),
        ("old".into(), "new".into())
    );
    assert_eq!(
        (content("dir/x"), content("dir (2)/x")),
        ("old".into(), "new".into())
    );

    let (_, received) = whole(transfer(paths, into.path(), true).await);
    assert_eq!(names(into.path()), all);
    assert_eq!(
        (content("a.txt"), content("dir/x"), content("dir/keep")),
        ("new".into(), "new".into(), "old".into())
    );
    assert_eq!(
        received.published,
        [into.path().join("a.txt"), into.path().join("dir")]
    );
}

#[tokio::test]
async fn several_paths_with_one_name_are_told_apart() {
    let (from, into) = (temp(), temp());
    write(&from.path().join("one/a.txt"), b"1");
    write(&from.path().join("two/a.txt"), b"2");
    let paths = vec![from.path().join("one/a.txt"), from.path().join("two/a.txt")];
    whole(transfer(paths, into.path(), false).await);
    let expected = [
        ("a (2).txt".to_owned(), b"2".to_vec()),
        ("a.txt".to_owned(), b"1".to_vec()),
    ];
    assert_eq!(tree(into.path()), expected);
}

#[cfg(unix)]
#[tokio::test]
async fn what_cannot_be_sent_is_reported_and_the_rest_goes_on() {
    let (from, into) = (temp(), temp());
    let root = from.path().join("mixed");
    write(&root.join("good"), b"good");
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("made");
    let (sent, received) = transfer(vec![root], into.path(), false).await;
    assert_eq!(names(into.path()), ["mixed/", "mixed/good"]);
    for report in [sent.expect("sent"), received.expect("received")] {
        assert_eq!((report.verified, report.failed, report.skipped), (1, 0, 2));
        assert!(!report.is_whole());
        let skipped: Vec<&str> = report
            .files
            .iter()
            .filter(|file| matches!(&file.outcome, FileOutcome::Skipped(why) if !why.is_empty()))
            .map(|file| file.path.as_str())
            .collect();
        assert_eq!(skipped, ["mixed/link", "mixed/socket"]);
    }
}

#[tokio::test]
async fn a_no_is_told_with_its_reason_and_writes_nothing() {
    let (from, into) = (temp(), temp());
    write(&from.path().join("a"), b"a");
    let pair = Pair::new().await;
    let no = Decision::Reject {
        reason: "not today".into(),
    };
    let receiving = start_receive(&pair.other, no, 64);
    let sending = start_send(
        &pair.one,
        vec![from.path().join("a")],
        SendOptions::default(),
    );
    let ((sent, _), (received, _)) = tokio::join!(sending.end(), receiving.end());
    assert!(matches!(sent, Err(TransferError::Rejected { reason }) if reason == "not today"));
    assert!(matches!(received, Err(TransferError::Declined { reason }) if reason == "not today"));
    assert!(names(into.path()).is_empty());
}

#[tokio::test]
async fn the_offer_says_what_is_coming() {
    let (from, into) = (temp(), temp());
    write(&from.path().join("dir/x"), &[0; 100]);
    write(&from.path().join("file"), &[0; 10]);
    let pair = Pair::new().await;
    let mut receiving = start_receive(&pair.other, accept(into.path(), false), 64);
    let paths = vec![from.path().join("dir"), from.path().join("file")];
    let sending = start_send(&pair.one, paths, SendOptions::default());
    let event = receiving
        .wait_for(|event| matches!(event, Progress::Offered(_)))
        .await;
    let Progress::Offered(offer) = event else {
        panic!("{event:?}")
    };
    assert_eq!((offer.files, offer.total_bytes), (Some(2), Some(110)));
    assert_eq!(offer.label, "dir and 1 more");
    let items: Vec<_> = offer
        .items
        .iter()
        .map(|item| (item.name.as_str(), item.folder, item.size))
        .collect();
    assert_eq!(items, [("dir", true, None), ("file", false, Some(10))]);
    let ((sent, events), (received, _)) = tokio::join!(sending.end(), receiving.end());
    whole((sent, received));
    let phases = events.iter().filter_map(|event| match event {
        // Small transfers end before there is time for it.
        Progress::Phase(Phase::Verifying) => None,
        Progress::Phase(phase) => Some(*phase),
        _ => None,
    });
    let expected = [Phase::Preparing, Phase::Waiting, Phase::Transferring];
    assert_eq!(phases.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn nothing_to_send_is_said_at_once() {
    let pair = Pair::new().await;
    let (nothing, _) = start_send(&pair.one, vec![], SendOptions::default())
        .end()
        .await;
    assert!(matches!(nothing, Err(TransferError::NothingToSend)));
    let missing = tempfile::tempdir()
        .expect("a folder")
        .path()
        .join("missing");
    let (gone, _) = start_send(&pair.one, vec![missing.clone()], SendOptions::default())
        .end()
        .await;
    assert!(matches!(gone, Err(TransferError::Io { path, .. }) if path == missing));
}

#[tokio::test]
async fn any_number_of_lanes_does() {
    let (from, into) = (temp(), temp());
    let (path, content) = (from.path().join("a"), pattern(7 << 20, 3));
    write(&path, &content);
    for (round, lanes) in [0, 1, 16, 1_000].into_iter().enumerate() {
        let pair = Pair::new().await;
        let into = into.path().join(round.to_string());
        let receiving = start_receive(&pair.other, accept(&into, false), 64);
        let mut options = SendOptions::default();
        options.lanes = lanes;
        let sending = start_send(&pair.one, vec![path.clone()], options);
        let ((sent, _), (received, _)) = tokio::join!(sending.end(), receiving.end());
        whole((sent, received));
        assert_eq!(tree(&into), [("a".to_owned(), content.clone())]);
    }
}

#[tokio::test]
async fn transfers_both_ways_share_a_connection() {
    let temp = temp();
    let content: Vec<Vec<u8>> = (0..4).map(|seed| pattern(3 << 20, seed)).collect();
    let pair = Pair::new().await;
    let mut ends = Vec::new();
    for (number, bytes) in content.iter().enumerate() {
        write(&temp.path().join(format!("from{number}/file")), bytes);
    }
    // Two dispatchers, one an end, each with two transfers to it.
    for (round, (from, to)) in [(&pair.one, &pair.other), (&pair.other, &pair.one)]
        .into_iter()
        .enumerate()
    {
        let dispatcher = std::sync::Arc::new(Dispatcher::new(to));
        for number in [2 * round, 2 * round + 1] {
            let into = temp.path().join(format!("into{number}"));
            let (told, _) = tokio::sync::mpsc::channel(64);
            let dispatcher = std::sync::Arc::clone(&dispatcher);
            let root = temp.path().to_owned();
            ends.push(tokio::spawn(async move {
                let (send, recv) = dispatcher.next().await;
                // Which of the two transfers this is only the offer says.
                let decide = async move |offer: &client::transfer::Offer| {
                    let number = offer.label.clone();
                    Decision::Accept {
                        into: root.join(format!("into{number}")),
                        overwrite: false,
                    }
                };
                let cancel = client::transfer::Cancel::new();
                client::transfer::receive(send, recv, &dispatcher.router, decide, told, cancel)
                    .await
            }));
            let mut options = SendOptions::default();
            options.label = Some(number.to_string());
            let path = temp.path().join(format!("from{number}/file"));
            ends.push(start_send(from, vec![path], options).task);
            assert!(!into.exists());
        }
    }
    for end in ends {
        let report = tokio::time::timeout(PATIENCE, end)
            .await
            .expect("in time")
            .expect("no panic");
        assert!(report.expect("a good end").is_whole());
    }
    for (number, bytes) in content.into_iter().enumerate() {
        assert_eq!(
            tree(&temp.path().join(format!("into{number}"))),
            [("file".to_owned(), bytes)]
        );
    }
}

/// Takes half a minute: only with `LANDLINE_BIG_TESTS` in the environment. Offsets beyond 4 GiB have
/// tests of their arithmetic elsewhere.
#[tokio::test]
async fn a_file_beyond_four_gib_arrives() {
    if std::env::var_os("LANDLINE_BIG_TESTS").is_none() {
        eprintln!("skipped: set LANDLINE_BIG_TESTS to send 4 GiB");
        return;
    }
    let (from, into) = (temp(), temp());
    let size = (4 << 30) + 4_321;
    write_sparse(&from.path().join("big"), size);
    let file = fs::File::options()
        .write(true)
        .open(from.path().join("big"))
        .expect("there");
    use std::os::unix::fs::FileExt;
    file.write_all_at(b"the end", size - 7).expect("written");
    drop(file);
    let (sent, _) = whole(transfer(vec![from.path().join("big")], into.path(), false).await);
    assert_eq!(sent.bytes, size);
    let mut tail = [0; 7];
    let file = fs::File::open(into.path().join("big")).expect("there");
    file.read_exact_at(&mut tail, size - 7).expect("read");
    assert_eq!(&tail, b"the end");
}
