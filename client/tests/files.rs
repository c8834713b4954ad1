//! Files and folders between two clients as processes, checked with `md5sum`.

mod programs;

use std::fs;
use std::path::Path;
use std::process::Command;

use programs::{Program, User, md5sum, scene};
use serde_json::Value;

/// Bytes that no two files share.
fn content(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..len).map(|_| next()).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

fn ended(program: &mut Program) -> Value {
    program.wait_json("the end of the transfer", |event| {
        event["step"]["step"] == "ended"
    })
}

/// All that a folder holds, parts of transfers included.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("readable");
    entries
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

/// Ann sends Bob a file too large to end soon, and some of it is there.
fn in_the_middle(folder: &Path, ann: &User, bob: &User) -> (Program, Program) {
    let file = folder.join("huge");
    fs::File::create(&file)
        .and_then(|file| file.set_len(4 << 30))
        .expect("a sparse file");
    let bob_receives = bob.receive("contacts");
    let mut ann_sends = ann.start(&["--json", "send", "Bob", path_text(&file)]);
    ann_sends.wait_json("some bytes", |event| {
        event["step"]["step"] == "bytes" && event["step"]["done"].as_u64() > Some(1 << 20)
    });
    (ann_sends, bob_receives)
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("temporary folders are UTF-8")
}

#[test]
fn a_file_and_a_folder_arrive_verified() {
    let (folder, _relay, ann, bob) = scene();
    let file = folder.path().join("big.bin");
    write(&file, &content(1, 5 << 20));
    let tree = folder.path().join("Ausflug");
    for (name, len) in [
        ("read me.txt", 100),
        ("a/b/c.bin", 70_000),
        ("a/leer", 0),
        ("音楽/曲", 1),
    ] {
        write(&tree.join(name), &content(7, len));
    }
    fs::create_dir(tree.join("empty folder")).expect("made");

    let mut bob_receives = bob.receive("contacts");
    let told = ann.run(
        &["--json", "send", "Bob", path_text(&file), path_text(&tree)],
        0,
    );
    let end = ended(&mut bob_receives);
    assert_eq!(end["step"]["problem"], Value::Null);
    assert_eq!(end["step"]["record"]["outcome"], "verified");
    for name in [
        "big.bin",
        "Ausflug/read me.txt",
        "Ausflug/a/b/c.bin",
        "Ausflug/a/leer",
        "Ausflug/音楽/曲",
    ] {
        let arrived = md5sum(&bob.inbox().join(name));
        assert_eq!(arrived, md5sum(&folder.path().join(name)), "{name}");
        let shown = told.lines().any(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON lines");
            row["file"]["path"] == name
                && row["file"]["md5_local"] == arrived.as_str()
                && row["file"]["md5_remote"] == arrived.as_str()
        });
        assert!(shown, "the digest of {name} is shown: {told}");
    }
    assert!(bob.inbox().join("Ausflug/empty folder").is_dir());
    let mut top = names(&bob.inbox());
    top.sort();
    assert_eq!(top, ["Ausflug", "big.bin"], "no part is left");

    let stored = bob.run(&["--json", "transfers"], 0);
    assert!(
        stored.contains(&md5sum(&file)),
        "the digests are stored: {stored}"
    );

    // The same again keeps both.
    ann.run(&["send", "Bob", path_text(&file)], 0);
    assert!(bob.inbox().join("big (2).bin").is_file());
}

#[test]
fn what_is_not_wanted_is_refused_with_its_reason() {
    let (folder, relay, ann, bob) = scene();
    let file = folder.path().join("note");
    write(&file, b"x");
    let bob_receives = bob.receive("none");
    let text = ann.fail(&["send", "Bob", path_text(&file)], 5);
    assert!(text.contains("not accepted there"), "{text}");
    drop(bob_receives);

    let _bob_receives = bob.receive("contacts");
    let eve = User::new(folder.path(), "Eve", &relay);
    let text = eve.fail(&["send", &bob.id, path_text(&file)], 5);
    assert!(text.contains("contacts only"), "{text}");
    ann.run(&["send", "Bob", path_text(&file)], 0);
    assert_eq!(names(&bob.inbox()), ["note"]);
}

#[test]
fn receiving_once_ends_with_the_transfer() {
    let (folder, relay, _ann, bob) = scene();
    let eve = User::new(folder.path(), "Eve", &relay);
    let file = folder.path().join("note");
    write(&file, b"x");
    let into = bob.inbox();
    let arguments = [
        "--json",
        "receive",
        "--accept",
        "all",
        "--once",
        "--into",
        path_text(&into),
    ];
    let mut bob_receives = bob.start(&arguments);
    bob_receives.wait_json("ready", |event| event["event"] == "ready");
    eve.run(&["send", &bob.id, path_text(&file)], 0);
    bob_receives.wait_exit(0);
    assert_eq!(fs::read(into.join("note")).expect("there"), b"x");
}

#[test]
fn entries_that_cannot_be_read_are_skipped_and_said_so() {
    let (folder, _relay, ann, bob) = scene();
    let tree = folder.path().join("tree");
    write(&tree.join("good"), b"x");
    // A pipe is no file: nobody can read it to its end.
    let made = Command::new("mkfifo")
        .arg(tree.join("pipe"))
        .status()
        .expect("mkfifo is there");
    assert!(made.success());
    let _bob_receives = bob.receive("contacts");
    let told = ann.run(&["send", "Bob", path_text(&tree)], 6);
    assert!(told.contains("1 skipped"), "{told}");
    assert_eq!(names(&bob.inbox().join("tree")), ["good"]);
}

#[test]
fn ctrl_c_leaves_no_half_file_on_either_side() {
    let (folder, _relay, ann, bob) = scene();
    let (mut ann_sends, mut bob_receives) = in_the_middle(folder.path(), &ann, &bob);
    ann_sends.interrupt();
    assert_eq!(
        ended(&mut ann_sends)["step"]["record"]["outcome"],
        "cancelled"
    );
    ann_sends.wait_exit(1);
    let end = ended(&mut bob_receives);
    assert_eq!(end["step"]["record"]["outcome"], "cancelled");
    assert_eq!(names(&bob.inbox()), [] as [String; 0]);
}

#[test]
fn a_receiver_that_ends_is_told_to_the_sender_and_leaves_no_half_file() {
    let (folder, _relay, ann, bob) = scene();
    let (mut ann_sends, mut bob_receives) = in_the_middle(folder.path(), &ann, &bob);
    bob_receives.interrupt();
    assert_eq!(
        ended(&mut ann_sends)["step"]["record"]["outcome"],
        "cancelled"
    );
    ann_sends.wait_exit(5);
    bob_receives.wait_exit(1);
    assert_eq!(names(&bob.inbox()), [] as [String; 0]);

    let _bob_receives = bob.receive("contacts");
    let note = folder.path().join("note");
    write(&note, b"x");
    ann.run(&["send", "Bob", path_text(&note)], 0);
}
