//! A peer that does not play by the rules, speaking the wire by hand: wrong sums, wrong sizes, names that
//! lead elsewhere, floods and nonsense. The honest end never writes outside its folder, never publishes
//! what is wrong, never grows without bound, and says what was the matter.

#[path = "transfer_support/evil.rs"]
mod evil;
mod transfer_support;

use std::path::Path;

use client::transfer::{Decision, FileOutcome, Side, TransferError};
use evil::*;
use transfer_support::*;

/// The honest end says that the peer broke the rules, tells the peer so, and nothing is left.
async fn refused(mut evil: Evil, receiving: Running, into: &Path, what: &str) {
    let Cancel { code, .. } = evil.hear().await;
    let (received, _) = receiving.end().await;
    assert!(
        matches!(received, Err(TransferError::Malformed(_))),
        "{what}: {received:?}"
    );
    assert_eq!(code, 3, "{what}");
    assert!(names(into).is_empty(), "{what}: {:?}", names(into));
}

#[tokio::test]
async fn the_wire_of_this_test_is_the_wire() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    let large = pattern((1 << 20) + 5, 1);
    evil.announce(&[
        folder(0, "dir"),
        entry(0, 1, "large", large.len() as u64),
        entry(0, 1, "small", 2),
    ])
    .await;
    // Out of order, as lanes may.
    evil.chunk(1, 1, &large[1 << 20..]).await;
    evil.chunk(1, 0, &large[..1 << 20]).await;
    evil.pack(2, &[(2, b"hi", md5(b"hi"))]).await;
    evil.say(&Digests {
        digests: vec![(1, md5(&large))],
    })
    .await;
    evil.say(&AllSent { frames: 3 }).await;
    let Finished { verified } = evil.hear().await;
    assert_eq!(verified, 2);
    drop(evil.send);
    let (received, _) = receiving.end().await;
    assert!(received.expect("received").is_whole());
    let expected = [
        ("dir/", vec![]),
        ("dir/large", large),
        ("dir/small", b"hi".to_vec()),
    ];
    assert_eq!(
        tree(into.path()),
        expected.map(|(name, bytes)| (name.to_owned(), bytes))
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(into.path().join("dir/small"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7000, 0, "setuid and its like are never taken");
    }
}

#[tokio::test]
async fn a_chunk_that_was_damaged_is_sent_again_and_only_that() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    let content = pattern((2 << 20) + 9, 2);
    evil.announce(&[file("a", content.len() as u64)]).await;
    evil.chunk(0, 0, &content[..1 << 20]).await;
    let mut damaged = content[1 << 20..2 << 20].to_vec();
    let sum = blake3::hash(&damaged).into();
    damaged[77] ^= 1;
    evil.frame(1, [0, 1], &damaged, sum).await;
    evil.chunk(0, 2, &content[2 << 20..]).await;
    evil.say(&Digests {
        digests: vec![(0, md5(&content))],
    })
    .await;
    evil.say(&AllSent { frames: 3 }).await;
    let Repair { file, chunk } = evil.hear().await;
    assert_eq!((file, chunk), (0, Some(1)));
    evil.chunk(0, 1, &content[1 << 20..2 << 20]).await;
    let Finished { verified } = evil.hear().await;
    assert_eq!(verified, 1);
    drop(evil.send);
    assert!(receiving.end().await.0.expect("received").is_whole());
    assert_eq!(tree(into.path()), [("a".to_owned(), content)]);
}

#[tokio::test]
async fn a_chunk_that_stays_damaged_fails_its_folder() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    evil.announce(&[
        folder(0, "dir"),
        entry(0, 1, "bad", 1 << 20),
        entry(0, 1, "good", 2),
        file("alone", 2),
    ])
    .await;
    evil.pack(3, &[(2, b"ok", md5(b"ok")), (3, b"ok", md5(b"ok"))])
        .await;
    for _ in 0..2 {
        evil.frame(1, [1, 0], &vec![0; 1 << 20], [0; 32]).await;
    }
    evil.say(&Digests {
        digests: vec![(1, [0; 16])],
    })
    .await;
    evil.say(&AllSent { frames: 3 }).await;
    let Finished { verified } = evil.hear().await;
    assert_eq!(verified, 2);
    drop(evil.send);
    corrupt(receiving, "dir/bad").await;
    assert_eq!(
        names(into.path()),
        ["alone"],
        "nothing of the folder, and nothing half"
    );
}

/// The honest end reports that one file stayed wrong.
async fn corrupt(receiving: Running, path: &str) {
    let (received, _) = receiving.end().await;
    let Err(TransferError::VerificationFailed { report }) = received else {
        panic!("{received:?}")
    };
    let failed = report
        .files
        .iter()
        .find(|file| file.path == path)
        .expect("reported");
    assert!(
        matches!(failed.outcome, FileOutcome::Failed(_)),
        "{failed:?}"
    );
    assert_eq!(report.failed, 1);
}

#[tokio::test]
async fn a_wrong_md5_is_tried_once_more_and_then_fails() {
    let into = temp();
    for (round, size) in [(0, 100), (1, 1 << 20)] {
        let into = into.path().join(round.to_string());
        let (mut evil, receiving) = Evil::sender(&into, false).await;
        let content = pattern(size, 3);
        evil.announce(&[file("a", size as u64)]).await;
        for attempt in 0..2 {
            if size == 100 {
                evil.pack(0, &[(0, &content, [0xee; 16])]).await;
            } else {
                evil.say(&Digests {
                    digests: vec![(0, [0xee; 16])],
                })
                .await;
                evil.chunk(0, 0, &content).await;
            }
            if attempt == 0 {
                let Repair { file, chunk } = evil.hear().await;
                assert_eq!((file, chunk), (0, None));
            }
        }
        evil.say(&AllSent { frames: 2 }).await;
        let Results { results } = evil.hear().await;
        assert_eq!(
            (results[0].0, results[0].1, results[0].2),
            (0, 1, Some(md5(&content)))
        );
        let _: Finished = evil.hear().await;
        drop(evil.send);
        corrupt(receiving, "a").await;
        assert!(names(&into).is_empty());
    }
}

#[tokio::test]
async fn a_wrong_md5_that_was_an_accident_is_repaired() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    let (wrong, right) = (pattern(1 << 20, 4), pattern(1 << 20, 5));
    evil.announce(&[file("a", 1 << 20)]).await;
    evil.chunk(0, 0, &wrong).await;
    evil.say(&Digests {
        digests: vec![(0, md5(&right))],
    })
    .await;
    let Repair { chunk: None, .. } = evil.hear().await else {
        panic!("the whole file")
    };
    evil.chunk(0, 0, &right).await;
    evil.say(&Digests {
        digests: vec![(0, md5(&right))],
    })
    .await;
    let _: Finished = evil.hear().await;
    drop(evil.send);
    assert!(receiving.end().await.0.expect("received").is_whole());
    assert_eq!(tree(into.path()), [("a".to_owned(), right)]);
}

#[tokio::test]
async fn a_pack_that_was_damaged_is_missed_and_sent_again() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    evil.announce(&[file("a", 1), file("b", 1)]).await;
    let pack = pack_of(&[(0, b"a", md5(b"a")), (1, b"b", md5(b"b"))]);
    evil.frame(2, [1, 2], &pack, [0; 32]).await;
    evil.say(&AllSent { frames: 1 }).await;
    for _ in 0..2 {
        let Repair { file, chunk: None } = evil.hear().await else {
            panic!("whole files")
        };
        let byte = [b'a' + file as u8];
        evil.pack(file, &[(file, &byte, md5(&byte))]).await;
    }
    let _: Finished = evil.hear().await;
    drop(evil.send);
    assert!(receiving.end().await.0.expect("received").is_whole());
    assert_eq!(names(into.path()), ["a", "b"]);
}

#[tokio::test]
async fn names_that_lead_elsewhere_end_the_transfer() {
    let outside = temp();
    let into = outside.path().join("in");
    let mut cases: Vec<Vec<Entry>> = [
        &b".."[..],
        b".",
        b"",
        b"/",
        b"/etc/passwd",
        b"../evil",
        b"a/b",
        b"a\0b",
        b".landline-5e.part",
        b".LandLine-x",
        &[b'x'; 5_000],
    ]
    .into_iter()
    .flat_map(|name| [vec![file(name, 1)], vec![folder(0, "d"), folder(1, name)]])
    .collect();
    cases.push(vec![entry(0, 1, "in no folder", 1)]);
    cases.push(vec![file("a", 1), entry(0, 1, "in a file", 1)]);
    cases.push(vec![folder(1, "in itself")]);
    cases.push(vec![entry(0, u32::MAX, "far away", 1)]);
    cases.push((0..200).map(|depth| folder(depth, "deep")).collect());
    cases.push((0..20).map(|depth| folder(depth, [b'l'; 250])).collect());
    for entries in cases {
        let (mut evil, receiving) = Evil::sender(&into, false).await;
        evil.announce(&entries).await;
        refused(evil, receiving, &into, &format!("{:?}", entries.last())).await;
        assert_eq!(names(outside.path()), ["in/"]);
    }
}

#[tokio::test]
async fn names_of_other_systems_and_equal_names_stay_in_the_folder() {
    let outside = temp();
    let into = outside.path().join("in");
    let (mut evil, receiving) = Evil::sender(&into, false).await;
    let raw: [&[u8]; 9] = [
        b"..\\up",
        b"C:\\x",
        b"\\\\host\\share",
        b"CON",
        b"same",
        b"same",
        b"same",
        b"dots..",
        b"b\xffd\n",
    ];
    evil.announce(&raw.map(|name| file(name, 1))).await;
    let files: Vec<_> = (0..9)
        .map(|number| (number, &b"x"[..], md5(b"x")))
        .collect();
    evil.pack(8, &files).await;
    evil.say(&AllSent { frames: 1 }).await;
    let _: Finished = evil.hear().await;
    drop(evil.send);
    assert!(receiving.end().await.0.expect("received").is_whole());
    let mut expected = [
        ".._up",
        "C__x",
        "__host_share",
        "_CON",
        "same",
        "same (2)",
        "same (3)",
        "dots__",
        "b\u{fffd}d_",
    ];
    expected.sort_unstable();
    assert_eq!(names(&into), expected);
    assert_eq!(tree(outside.path()).len(), 1 + raw.len());
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_in_the_way_is_not_followed() {
    let (outside, into) = (temp(), temp());
    write(&outside.path().join("f"), b"outside");
    std::os::unix::fs::symlink(outside.path(), into.path().join("dir")).expect("made");
    std::os::unix::fs::symlink(outside.path().join("f"), into.path().join("f")).expect("made");
    for overwrite in [false, true] {
        let (mut evil, receiving) = Evil::sender(into.path(), overwrite).await;
        evil.announce(&[folder(0, "dir"), entry(0, 1, "f", 1), file("f", 1)])
            .await;
        evil.pack(2, &[(1, b"x", md5(b"x")), (2, b"x", md5(b"x"))])
            .await;
        evil.say(&AllSent { frames: 1 }).await;
        let _: Finished = evil.hear().await;
        drop(evil.send);
        assert!(receiving.end().await.0.expect("received").is_whole());
        assert_eq!(
            tree(outside.path()),
            [("f".to_owned(), b"outside".to_vec())]
        );
    }
}

/// What it is, what is announced, and the frames that do not fit it: kind, two words, bytes.
type Attack = (&'static str, Vec<Entry>, Vec<(u8, [u32; 2], Vec<u8>)>);

fn attacks_by_chunk() -> Vec<Attack> {
    let (one, large) = (vec![0; 1 << 20], || vec![file("a", 2 << 20)]);
    let twice = vec![(1, [0, 0], one.clone()), (1, [0, 0], one.clone())];
    vec![
        ("beyond the end", large(), vec![(1, [0, 2], vec![1])]),
        (
            "longer than its chunk",
            vec![file("a", 10)],
            vec![(1, [0, 0], vec![1; 11])],
        ),
        (
            "shorter than its chunk",
            large(),
            vec![(1, [0, 0], vec![1; 10])],
        ),
        ("twice", large(), twice),
        ("far beyond", large(), vec![(1, [0, u32::MAX], one.clone())]),
        ("of no file", large(), vec![(1, [7, 0], vec![1])]),
        (
            "of a folder",
            vec![file("a", 1), folder(0, "d"), file("b", 1)],
            vec![(1, [0, 1], one.clone())],
        ),
        (
            "a frame of an unknown kind",
            large(),
            vec![(9, [0, 0], vec![1])],
        ),
        (
            "a frame that is too long",
            large(),
            vec![(1, [0, 0], vec![1; (1 << 20) + 1])],
        ),
        ("an empty frame", large(), vec![(1, [0, 0], vec![])]),
    ]
}

fn attacks_by_pack() -> Vec<Attack> {
    let two = || vec![file("a", 1), file("b", 1)];
    let one = pack_of(&[(0, b"a", md5(b"a"))]);
    let other = pack_of(&[(1, b"b", md5(b"b"))]);
    let long = pack_of(&[(0, b"ab", md5(b"ab"))]);
    let beyond_small = pack_of(&[(0, &[0; (64 << 10) + 1], [0; 16])]);
    let too_large = vec![file("a", (64 << 10) + 1)];
    vec![
        ("a small file too long", two(), vec![(2, [0, 1], long)]),
        (
            "a small file that is not small",
            too_large,
            vec![(2, [0, 1], beyond_small)],
        ),
        (
            "a pack with more",
            two(),
            vec![(2, [0, 1], [one.clone(), vec![0]].concat())],
        ),
        ("a pack with less", two(), vec![(2, [0, 2], one.clone())]),
        ("a pack of too many", two(), vec![(2, [0, 1_025], one)]),
        ("a pack that hides a file", two(), vec![(2, [0, 1], other)]),
    ]
}

#[tokio::test]
async fn content_that_is_not_as_announced_ends_the_transfer() {
    let into = temp();
    for (what, entries, frames) in [attacks_by_chunk(), attacks_by_pack()].concat() {
        let (mut evil, receiving) = Evil::sender(into.path(), false).await;
        evil.announce(&entries).await;
        for (kind, words, bytes) in frames {
            evil.frame(kind, words, &bytes, blake3::hash(&bytes).into())
                .await;
        }
        refused(evil, receiving, into.path(), what).await;
    }
}

#[tokio::test]
async fn content_without_end_for_a_settled_file_ends_the_transfer() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    evil.announce(&[file("a", 1), file("never", 1)]).await;
    evil.pack(0, &[(0, b"a", md5(b"a"))]).await;
    let one = vec![0; 1 << 20];
    for _ in 0..70 {
        evil.chunk(0, 0, &one).await;
    }
    refused(evil, receiving, into.path(), "a flood").await;
}

#[tokio::test]
async fn messages_out_of_place_end_the_transfer() {
    let into = temp();
    for what in 0..7 {
        let (mut evil, receiving) = Evil::sender(into.path(), false).await;
        match what {
            0 => {
                evil.say(&Manifest {
                    first: 5,
                    entries: vec![file("a", 1)],
                })
                .await
            }
            1 => evil.say(&ManifestEnd { entries: 1 }).await,
            2 => evil.say(&Accept { have: vec![] }).await,
            3 => evil.say(&offer(None)).await,
            4 => evil.say(&Results { results: vec![] }).await,
            5 => {
                evil.announce(&[file("a", 1)]).await;
                evil.say(&Manifest {
                    first: 1,
                    entries: vec![file("b", 1)],
                })
                .await;
            }
            _ => {
                let _ = evil.send.write_all(&[0xff; 64]).await;
            }
        }
        refused(evil, receiving, into.path(), &what.to_string()).await;
    }
}

#[tokio::test]
async fn a_transfer_that_begins_with_something_else_is_refused() {
    let into = temp();
    let pair = Pair::new().await;
    let receiving = start_receive(&pair.other, accept(into.path(), false), 64);
    let (mut send, recv) = pair.one.0.open_bi().await.expect("a stream");
    send.write_all(&[2]).await.expect("written");
    let mut evil = Evil::new(pair, send, recv).await;
    evil.say(&AllSent { frames: 0 }).await;
    refused(evil, receiving, into.path(), "no offer").await;
}

#[tokio::test]
async fn claims_beyond_the_disk_are_refused_before_anything_is_written() {
    let into = temp();
    for entries in [
        vec![file("a", u64::MAX)],
        vec![
            file("a", u64::MAX / 2),
            file("b", u64::MAX / 2),
            file("c", u64::MAX / 2),
        ],
        vec![file("a", 1 << 60)],
    ] {
        let (mut evil, receiving) = Evil::sender(into.path(), false).await;
        evil.announce(&entries).await;
        let Cancel { code, .. } = evil.hear().await;
        let (received, _) = receiving.end().await;
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
        assert_eq!(code, 2);
        assert!(names(into.path()).is_empty());
    }
}

#[tokio::test]
async fn a_flood_of_announced_files_ends_the_transfer() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    let entries: Vec<Entry> = (0..70_000)
        .map(|number: u32| file(number.to_string(), 0))
        .collect();
    // The receiver stops listening before the end; what it does not hear cannot be written either.
    let flood = async {
        evil.announce(&entries).await;
        evil
    };
    let evil = tokio::time::timeout(PATIENCE, flood)
        .await
        .expect("in time");
    refused(evil, receiving, into.path(), "too many files").await;
}

#[tokio::test]
async fn a_flood_of_folders_ends_the_transfer() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    // Deep in long names, so that each costs much to remember.
    let long = "f".repeat(240);
    let mut entries: Vec<Entry> = (0..15).map(|depth| folder(depth, &long)).collect();
    entries.extend((0..20_000).map(|number: u32| folder(15, format!("{long}{number}"))));
    evil.announce(&entries).await;
    refused(evil, receiving, into.path(), "too many folders").await;
}

#[tokio::test]
async fn lanes_of_nobody_and_lanes_that_break_are_no_harm() {
    let into = temp();
    let (mut evil, receiving) = Evil::sender(into.path(), false).await;
    for _ in 0..60 {
        let mut lane = evil.pair.one.0.open_uni().await.expect("a stream");
        lane.write_all(&[3]).await.expect("written");
        lane.write_all(&[0x77; 16]).await.expect("written");
        let _ = lane.finish();
    }
    evil.announce(&[file("a", 1)]).await;
    evil.lane(&[1, 0, 0]).await;
    // Half a header, and then the end: the receiver waits for a reason, and gets none.
    if let Some(mut lane) = evil.lane.take() {
        lane.finish().expect("open");
    }
    refused(evil, receiving, into.path(), "half a header").await;
}

#[tokio::test]
async fn two_transfers_with_one_number_do_not_mix() {
    let into = temp();
    let (evil, receiving) = Evil::sender(into.path(), false).await;
    // The same number to another receiver with the same target.
    let pair = Pair::new().await;
    let second = start_receive(&pair.other, accept(into.path(), false), 64);
    let (mut send, recv) = pair.one.0.open_bi().await.expect("a stream");
    send.write_all(&[2]).await.expect("written");
    let mut other = Evil::new(pair, send, recv).await;
    other.say(&offer(None)).await;
    let (received, _) = second.end().await;
    assert!(
        matches!(received, Err(TransferError::Io { .. })),
        "{received:?}"
    );
    assert_eq!(
        names(into.path()),
        [".landline-5e5e5e5e5e5e5e5e.part/"],
        "the first is unharmed"
    );
    receiving.cancel.cancel("enough");
    drop(evil);
    assert!(receiving.end().await.0.is_err());
}

#[tokio::test]
async fn a_receiver_that_claims_another_md5_is_not_believed() {
    let from = temp();
    write(&from.path().join("a"), b"content");
    let (mut evil, sending) = Evil::receiver(vec![from.path().join("a")]).await;
    let AllSent { frames } = evil.hear().await;
    assert_eq!(frames, 1);
    evil.say(&Results {
        results: vec![(0, 0, Some([9; 16]), String::new())],
    })
    .await;
    evil.say(&Finished { verified: 1 }).await;
    let (sent, _) = sending.end().await;
    let Err(TransferError::VerificationFailed { report }) = sent else {
        panic!("{sent:?}")
    };
    assert_eq!((report.verified, report.failed), (0, 1));
}

#[tokio::test]
async fn a_receiver_out_of_place_ends_the_transfer() {
    let from = temp();
    write(&from.path().join("a"), b"content");
    for what in 0..5 {
        let (mut evil, sending) = Evil::receiver(vec![from.path().join("a")]).await;
        match what {
            0 => evil.say(&Finished { verified: 1 }).await,
            1 => evil.say(&Accept { have: vec![] }).await,
            2 => evil.say(&ManifestEnd { entries: 0 }).await,
            3 => {
                let _: AllSent = evil.hear().await;
                evil.say(&Repair {
                    file: 0,
                    chunk: Some(3),
                })
                .await;
            }
            _ => {
                let _: AllSent = evil.hear().await;
                for _ in 0..5_000 {
                    evil.say(&Repair {
                        file: 0,
                        chunk: None,
                    })
                    .await;
                }
            }
        }
        let (sent, _) = sending.end().await;
        assert!(
            matches!(sent, Err(TransferError::Malformed(_))),
            "{what}: {sent:?}"
        );
    }
}

#[tokio::test]
async fn a_receiver_may_say_why_it_stops() {
    let from = temp();
    write(&from.path().join("a"), b"content");
    for (code, reason) in [(1, "no"), (2, "full"), (4, "broken"), (99, "odd")] {
        let (mut evil, sending) = Evil::receiver(vec![from.path().join("a")]).await;
        evil.say(&Cancel {
            code,
            reason: reason.into(),
        })
        .await;
        let (sent, _) = sending.end().await;
        let expected = match (code, &sent) {
            (1, Err(TransferError::CancelledByPeer { reason })) => reason == "no",
            (
                2,
                Err(TransferError::DiskFull {
                    side: Side::Theirs, ..
                }),
            ) => true,
            (4 | 99, Err(TransferError::PeerFailed { reason })) => !reason.is_empty(),
            _ => false,
        };
        assert!(expected, "{code}: {sent:?}");
    }
}

#[tokio::test]
async fn an_offer_cannot_write_on_the_screen() {
    let pair = Pair::new().await;
    let no = Decision::Reject {
        reason: "\u{1b}[2J\u{202e}no".into(),
    };
    let mut receiving = start_receive(&pair.other, no, 64);
    let (mut send, recv) = pair.one.0.open_bi().await.expect("a stream");
    send.write_all(&[2]).await.expect("written");
    let mut evil = Evil::new(pair, send, recv).await;
    let mut nasty = offer(Some(u64::MAX));
    nasty.label = "\u{1b}[31mred\nline\u{202e}".into();
    nasty.items = vec![(b"\x1b]0;title\x07\xff".to_vec(), false, None)];
    evil.say(&nasty).await;
    let event = receiving
        .wait_for(|event| matches!(event, client::transfer::Progress::Offered(_)))
        .await;
    let client::transfer::Progress::Offered(offer) = event else {
        panic!("{event:?}")
    };
    let shown = offer.label + &offer.items[0].name;
    assert!(
        !shown.chars().any(|c| c.is_control() || c == '\u{202e}'),
        "{shown:?}"
    );
    drop(evil.send);
    assert!(receiving.end().await.0.is_err());
}
