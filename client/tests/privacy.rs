//! Addresses that are kept back, with the real programs: from one contact and from everybody, while a
//! connection lives, and over restarts.

mod programs;

use std::time::Instant;

use programs::{PATIENCE, Program, User, scene, text_of};
use serde_json::Value;

/// What `doctor` says of the connection to a contact: the kind of path and why it is not direct.
fn way(user: &User, peer: &str) -> (String, Option<String>) {
    let told = user.run(&["--json", "doctor", peer], 0);
    let mut lines = told
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let peer = lines
        .find(|line| line["details"]["connection"].is_object())
        .expect("a connection");
    let path = &peer["details"]["connection"]["path"];
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    (
        text(path).expect("a kind of path"),
        text(&peer["details"]["connection"]["not_direct"]),
    )
}

fn direct() -> (String, Option<String>) {
    ("Direct".to_owned(), None)
}

fn relayed(why: &str) -> (String, Option<String>) {
    ("Relayed".to_owned(), Some(why.to_owned()))
}

/// Asks until that is the way; on a busy machine it may take a second look.
fn becomes(user: &User, expected: &(String, Option<String>)) {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = way(user, "Bob");
        if found == *expected {
            return;
        }
        assert!(Instant::now() < end, "{found:?}, not {expected:?}");
    }
}

/// Both say something, and the other one hears it.
fn talk(talking: &mut [Program; 2], word: &str) {
    for (from, to) in [(0, 1), (1, 0)] {
        let said = format!("{word} from {from}");
        talking[from].type_line(&said);
        talking[to].wait_json(&said, |event| text_of(event) == Some(&said));
    }
}

#[test]
fn relay_only_is_kept_shown_and_lifted_while_two_talk() {
    let (_folder, _relay, ann, bob) = scene();
    let mut talking = [
        ann.start(&["--json", "chat", "Bob"]),
        bob.start(&["--json", "chat", "Ann"]),
    ];
    talk(&mut talking, "hello");
    becomes(&ann, &direct());

    let shown = ann.run(&["contacts", "relay-only", "Bob"], 0);
    assert!(shown.contains("relay-only"), "{shown}");
    becomes(&ann, &relayed("relay-only"));
    talk(&mut talking, "through the relay");
    let listed = ann.run(&["--json", "contacts"], 0);
    let contact: Value = serde_json::from_str(listed.trim()).expect("one contact");
    assert_eq!(contact["relay_only"], true);

    ann.run(&["contacts", "relay-only", "Bob", "--off"], 0);
    becomes(&ann, &direct());
    talk(&mut talking, "straight again");

    let told = ann.run(&["contacts", "relay-only", "--all"], 0);
    assert!(
        told.contains("--all --off"),
        "it says how to undo it: {told}"
    );
    becomes(&ann, &relayed("relay-only"));
    assert!(
        ann.run(&["contacts"], 0)
            .contains("nobody gets our addresses")
    );
    talk(&mut talking, "still there");
}

#[test]
fn relay_only_outlives_the_program_and_needs_none() {
    let (_folder, _relay, ann, bob) = scene();
    ann.run(&["contacts", "relay-only", "Bob"], 0);
    bob.run(&["contacts", "relay-only", "--all"], 0);
    let _bob_receives = bob.receive("contacts");
    becomes(&ann, &relayed("relay-only"));
    ann.run(&["contacts", "relay-only", "Bob", "--off"], 0);
    becomes(&ann, &relayed("peer-declines"));
    bob.run(&["contacts", "relay-only", "--all", "--off"], 0);
    becomes(&ann, &direct());

    ann.fail(&["contacts", "relay-only"], 2);
    ann.fail(&["contacts", "relay-only", "Bob", "--all"], 2);
    ann.fail(&["contacts", "relay-only", "nobody"], 2);
}
