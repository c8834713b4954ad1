//! Calls between real programs: answered, declined, busy, cancelled, missed, and over a relay that restarts.
//! Patterns and tones stand for cameras and microphones, so that no device is needed.

mod programs;

use programs::{Program, User, scene};
use serde_json::Value;

/// Sources and sinks that every machine has; small, so that slow machines keep up.
const MEDIA: [&str; 7] = [
    "--video",
    "pattern:320x180@15",
    "--audio",
    "tone",
    "--speaker",
    "none",
    "--raw-voice",
];

fn start(user: &User, command: &[&str], rest: &[&str]) -> Program {
    let arguments: Vec<&str> = ["--json"]
        .iter()
        .chain(command)
        .chain(&MEDIA)
        .chain(rest)
        .copied()
        .collect();
    user.start(&arguments)
}

fn answering(user: &User, accept: &str, rest: &[&str]) -> Program {
    let mut program = start(user, &["answer", "--accept", accept], rest);
    program.wait_json("ready", |event| event["event"] == "ready");
    program
}

/// Whether an event is this step of a call.
fn is_step(event: &Value, step: &str) -> bool {
    event["event"] == "call" && event["step"]["step"] == step
}

fn wait_step(program: &mut Program, step: &str) -> Value {
    program.wait_json(step, |event| is_step(event, step))["step"].clone()
}

fn outcome(ended: &Value) -> &str {
    ended["record"]["outcome"].as_str().expect("an outcome")
}

/// The log of a user, oldest first: who called, and how it came out.
fn log(user: &User) -> Vec<(bool, String)> {
    let text = user.run(&["--json", "calls"], 0);
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an object a line"))
        .map(|call| {
            let outcome = call["outcome"].as_str().expect("an outcome").to_owned();
            (call["outgoing"] == true, outcome)
        })
        .collect()
}

#[test]
fn two_people_talk_and_both_keep_a_record() {
    let (_folder, _relay, ann, bob) = scene();
    let mut there = answering(&bob, "contacts", &["--once"]);
    let mut here = start(&ann, &["call", "Bob"], &[]);
    wait_step(&mut here, "began");
    wait_step(&mut there, "began");
    // Pictures and sound flow in both directions.
    for program in [&mut here, &mut there] {
        program.wait_json("pictures", |event| {
            let stats = &event["step"]["stats"];
            is_step(event, "stats")
                && stats["videoIn"][0]["framesShown"].as_u64() > Some(10)
                && stats["soundIn"]["packetsReceived"].as_u64() > Some(20)
        });
    }
    // What one side does, the other is told.
    here.type_line("m");
    let told = there.wait_json("the mute", |event| {
        is_step(event, "sources") && event["step"]["theirs"]["muted"] == true
    });
    assert_eq!(told["step"]["theirs"]["camera"], true);
    there.type_line("v");
    here.wait_json("the camera", |event| {
        is_step(event, "sources") && event["step"]["theirs"]["camera"] == false
    });
    there.type_line("h");
    here.wait_json("the hold", |event| {
        is_step(event, "sources") && event["step"]["theirs"]["held"] == true
    });
    here.type_line("q");
    for program in [&mut here, &mut there] {
        let ended = wait_step(program, "ended");
        assert_eq!(outcome(&ended), "answered");
        assert!(ended["summary"]["last"]["videoIn"].is_array(), "{ended}");
        program.wait_exit(0);
    }
    assert_eq!(log(&ann), [(true, "answered".to_owned())]);
    assert_eq!(log(&bob), [(false, "answered".to_owned())]);
}

#[test]
fn a_call_may_be_declined_taken_or_given_up() {
    let (_folder, _relay, ann, bob) = scene();
    let mut there = answering(&bob, "ask", &[]);
    // Declined.
    let mut here = start(&ann, &["call", "Bob"], &[]);
    wait_step(&mut there, "incoming");
    wait_step(&mut here, "ringing");
    there.type_line("n");
    assert_eq!(outcome(&wait_step(&mut here, "ended")), "declined");
    here.wait_exit(5);
    wait_step(&mut there, "ended");
    // Given up while it rings.
    let mut here = start(&ann, &["call", "Bob"], &[]);
    wait_step(&mut there, "incoming");
    wait_step(&mut here, "ringing");
    here.interrupt();
    assert_eq!(outcome(&wait_step(&mut here, "ended")), "cancelled");
    here.wait_exit(0);
    assert_eq!(outcome(&wait_step(&mut there, "ended")), "missed");
    // Taken.
    let mut here = start(&ann, &["call", "Bob"], &["--for", "1"]);
    wait_step(&mut there, "incoming");
    there.type_line("y");
    wait_step(&mut there, "began");
    assert_eq!(outcome(&wait_step(&mut here, "ended")), "answered");
    here.wait_exit(0);
    wait_step(&mut there, "ended");
    there.interrupt();
    there.wait_exit(0);
    let outcomes = ["declined", "missed", "answered"].map(|word| (false, word.to_owned()));
    assert_eq!(log(&bob), outcomes);
}

#[test]
fn whoever_is_in_a_call_is_busy_and_learns_who_called() {
    let (folder, relay, ann, bob) = scene();
    let eve = User::new(folder.path(), "Eve", &relay);
    eve.knows(&bob);
    bob.knows(&eve);
    let mut there = answering(&bob, "contacts", &[]);
    let mut here = start(&ann, &["call", "Bob"], &[]);
    wait_step(&mut here, "began");
    let mut third = start(&eve, &["call", "Bob"], &[]);
    assert_eq!(outcome(&wait_step(&mut third, "ended")), "busy");
    third.wait_exit(5);
    here.type_line("q");
    wait_step(&mut here, "ended");
    here.wait_exit(0);
    there.interrupt();
    there.wait_exit(0);
    let calls = ["answered", "missed"].map(|word| (false, word.to_owned()));
    assert_eq!(log(&bob), calls);
    let shown = bob.run(&["calls", "--missed"], 0);
    assert!(shown.contains("Eve") && !shown.contains("Ann"), "{shown}");
}

#[test]
fn where_nobody_answers_calls_they_are_missed() {
    let (folder, relay, ann, bob) = scene();
    // Not online at all.
    let told = ann.fail(
        &[
            "call",
            "Bob",
            "--video",
            "none",
            "--audio",
            "none",
            "--speaker",
            "none",
        ],
        4,
    );
    assert!(told.contains("not online"), "{told}");
    // Online, but only for files: a stranger or a friend, the call is missed and waits in the log.
    let there = bob.receive("none");
    let mut here = start(&ann, &["call", "Bob"], &[]);
    assert_eq!(outcome(&wait_step(&mut here, "ended")), "unreachable");
    here.wait_exit(5);
    drop(there);
    assert_eq!(log(&bob), [(false, "missed".to_owned())]);
    // A stranger cannot make it ring.
    let eve = User::new(folder.path(), "Eve", &relay);
    let mut there = answering(&bob, "contacts", &[]);
    let mut third = start(&eve, &["call", &bob.id], &[]);
    assert_eq!(outcome(&wait_step(&mut third, "ended")), "unreachable");
    third.wait_exit(5);
    assert!(there.runs());
    // What is no source is said before anything is dialled.
    let told = ann.fail(&["call", "Bob", "--video", "kamera"], 2);
    assert!(told.contains("kamera"), "{told}");
}

#[test]
fn a_call_survives_the_relay_and_ends_when_a_side_dies() {
    let (_folder, mut relay, ann, bob) = scene();
    let there = answering(&bob, "contacts", &[]);
    let mut here = start(&ann, &["call", "Bob"], &["--path", "direct"]);
    wait_step(&mut here, "began");
    relay.crash();
    let before = wait_step(&mut here, "stats")["stats"]["videoIn"][0]["framesShown"].clone();
    relay.restart();
    here.wait_json("pictures go on", |event| {
        let shown = event["step"]["stats"]["videoIn"][0]["framesShown"].as_u64();
        is_step(event, "stats") && shown > before.as_u64().map(|frames| frames + 20)
    });
    // A side that is killed says nothing; the other notices.
    there.crash();
    let silent = wait_step(&mut here, "silent");
    assert_eq!(silent["silent"], true);
    here.type_line("q");
    assert_eq!(outcome(&wait_step(&mut here, "ended")), "answered");
    here.wait_exit(0);
    // The log tells of the call that its program died in.
    assert_eq!(log(&bob), [(false, "interrupted".to_owned())]);
}

#[test]
fn a_file_goes_beside_a_call() {
    let (folder, _relay, ann, bob) = scene();
    let mut there = answering(&bob, "contacts", &[]);
    let mut into = bob.receive("contacts");
    let mut here = start(&ann, &["call", "Bob"], &[]);
    wait_step(&mut here, "began");
    wait_step(&mut here, "stats");
    let path = folder.path().join("beside.bin");
    std::fs::write(&path, vec![7; 200_000]).expect("written");
    ann.run(&["send", "Bob", path.to_str().expect("UTF-8")], 0);
    into.wait_json("the file", |event| {
        event["event"] == "transfer" && event["step"]["record"]["outcome"] == "verified"
    });
    // The call goes on, and never stood still.
    here.type_line("q");
    let ended = wait_step(&mut here, "ended");
    assert_eq!(outcome(&ended), "answered");
    here.wait_exit(0);
    let theirs = wait_step(&mut there, "ended");
    assert!(theirs["summary"]["last"]["videoIn"][0]["framesShown"].as_u64() > Some(10));
}
