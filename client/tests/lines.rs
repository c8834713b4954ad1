//! A relay and two clients as processes: they see each other, chat, and survive what happens to them.

mod programs;

use programs::{Relay, User, scene, text_of};

#[test]
fn people_see_each_other_and_chat_both_ways() {
    let (_folder, _relay, ann, bob) = scene();
    let mut bob_receives = bob.receive("contacts");
    let mut ann_receives = ann.receive("contacts");

    let listed = ann.run(&["--json", "peers"], 0);
    let bob_there = listed.lines().any(|line| {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON lines");
        event["peer"]["id"] == bob.id.as_str() && event["peer"]["online"] == true
    });
    assert!(bob_there, "{listed}");
    assert!(
        bob.run(&["peers"], 0).contains("Ann"),
        "names of contacts are shown"
    );

    ann.run(&["chat", "bob", "--send", "hello, Bob"], 0);
    bob_receives.wait_json("the message", |event| text_of(event) == Some("hello, Bob"));
    bob.run(&["chat", &ann.id[..6], "--send", "hello, Ann"], 0);
    ann_receives.wait_json("the answer", |event| text_of(event) == Some("hello, Ann"));

    let history = ann.run(&["--json", "history", "Bob"], 0);
    let rows: Vec<serde_json::Value> = history
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON lines"))
        .collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["state"], "delivered");
    let found = bob.run(&["history", "--search", "HELLO ann"], 0);
    assert!(
        found.contains("hello, Ann") && !found.contains("hello, Bob"),
        "{found}"
    );
}

#[test]
fn conversations_show_delivery_and_reading() {
    let (_folder, _relay, ann, bob) = scene();
    let mut bob_talks = bob.start(&["--json", "chat", "Ann"]);
    bob_talks.wait_json("the start", |event| event["event"] == "peer");
    let mut ann_talks = ann.start(&["--json", "chat", "Bob"]);
    ann_talks.type_line("are you there?");
    bob_talks.wait_json("the question", |event| {
        text_of(event) == Some("are you there?")
    });
    ann_talks.wait_json("the read mark", |event| {
        event["event"] == "message_state" && event["state"] == "read"
    });
    bob_talks.type_line("yes");
    ann_talks.wait_json("the answer", |event| text_of(event) == Some("yes"));
    ann_talks.end_input();
    ann_talks.wait_exit(0);
    bob_talks.end_input();
    bob_talks.wait_exit(0);
}

#[test]
fn a_message_for_somebody_who_is_away_arrives_later_and_once() {
    let (_folder, _relay, ann, bob) = scene();
    ann.run(&["chat", "Bob", "--send", "first", "--wait", "0"], 3);
    let mut bob_receives = bob.receive("none");
    // A new process of Ann's: what waits is in her store.
    let ann_receives = ann.receive("none");
    bob_receives.wait_json("the message", |event| text_of(event) == Some("first"));
    ann.run(&["chat", "Bob", "--send", "second"], 0);
    bob_receives.wait_json("the next one", |event| text_of(event) == Some("second"));

    // Bob's machine dies; what Ann writes meanwhile is there when he is back.
    bob_receives.crash();
    ann.run(&["chat", "Bob", "--send", "third", "--wait", "1"], 3);
    let mut bob_receives = bob.receive("none");
    bob_receives.wait_json("what was written meanwhile", |event| {
        text_of(event) == Some("third")
    });
    drop((ann_receives, bob_receives));
    let history = bob.run(&["--json", "history"], 0);
    let texts: Vec<String> = history
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON lines"))
        .map(|row| row["text"].as_str().expect("a text").to_owned())
        .collect();
    assert_eq!(texts, ["first", "second", "third"], "in order, each once");
}

#[test]
fn a_chat_survives_a_relay_that_is_killed_and_restarted() {
    let (_folder, mut relay, ann, bob) = scene();
    let mut bob_receives = bob.receive("none");
    let mut ann_talks = ann.start(&["--json", "chat", "Bob"]);
    ann_talks.type_line("one");
    bob_receives.wait_json("the message", |event| text_of(event) == Some("one"));

    relay.crash();
    // Bob is gone as well, so that only the new relay can bring the two together again.
    bob_receives.crash();
    ann_talks.type_line("two");
    ann_talks.wait_json("the message in the outbox", |row| {
        row["message"]["text"] == "two"
    });
    relay.restart();
    let mut bob_receives = bob.receive("none");
    bob_receives.wait_json("the message", |event| text_of(event) == Some("two"));
    ann_talks.type_line("three");
    bob_receives.wait_json("the message", |event| text_of(event) == Some("three"));
    ann_talks.end_input();
    ann_talks.wait_exit(0);
}

#[test]
fn strangers_are_shown_as_such_and_blocked_ones_not_heard() {
    let (folder, relay, ann, bob) = scene();
    let eve = User::new(folder.path(), "Eve", &relay);
    let mut bob_receives = bob.receive("contacts");
    eve.run(&["chat", &bob.id, "--send", "psst"], 0);
    let event = bob_receives.wait_json("the message", |event| text_of(event) == Some("psst"));
    assert_eq!(event["from"]["standing"], "stranger");
    assert_eq!(event["from"]["claimed_name"], "Eve");
    assert_eq!(
        event["from"]["name"],
        serde_json::Value::Null,
        "a claim is no name"
    );
    bob.fail(&["chat", "Eve", "--send", "who?"], 2);

    bob.run(&["contacts", "block", &eve.id], 0);
    eve.run(&["chat", &bob.id, "--send", "hello?", "--wait", "2"], 3);
    ann.run(&["chat", "Bob", "--send", "and I?"], 0);
    bob_receives.wait_json("Ann's message", |event| {
        assert_ne!(text_of(event), Some("hello?"), "she is blocked");
        text_of(event) == Some("and I?")
    });
}

#[test]
fn one_engine_serves_all_commands_of_a_data_folder() {
    let (_folder, _relay, ann, bob) = scene();
    let _bob_receives = bob.receive("none");
    let mut engine = ann.receive("none");
    let mut face = ann.start(&["--json", "peers", "--watch"]);
    face.wait_json("Bob", |event| event["peer"]["id"] == bob.id.as_str());
    let refused = ann.fail(&["receive", "--accept", "all", "--into", "."], 1);
    assert!(refused.contains("already receives"), "{refused}");

    // The command that is the engine ends, and stays for the other one.
    engine.interrupt();
    ann.run(&["chat", "Bob", "--send", "still here"], 0);
    assert!(engine.runs(), "a face is open");
    face.interrupt();
    face.wait_exit(0);
    engine.wait_exit(0);
    ann.run(
        &["chat", "Bob", "--send", "and with an engine of its own"],
        0,
    );
}

#[test]
fn an_engine_that_crashed_leaves_nothing_in_the_way() {
    let (_folder, _relay, ann, bob) = scene();
    let _bob_receives = bob.receive("none");
    ann.receive("none").crash();
    ann.run(&["chat", "Bob", "--send", "again"], 0);
}

#[test]
fn two_first_commands_at_once_share_one_engine() {
    let (_folder, _relay, ann, bob) = scene();
    let _bob_receives = bob.receive("none");
    let mut both: Vec<_> = ["one", "two"]
        .iter()
        .map(|text| ann.start(&["chat", "Bob", "--send", text]))
        .collect();
    for program in &mut both {
        program.wait_exit(0);
    }
}

#[test]
fn a_relay_that_is_not_the_right_one_is_refused() {
    let (folder, relay, ann, _bob) = scene();
    let other = Relay::start(&folder.path().join("other"));
    let key = |address: &str| {
        address
            .split(['#', '.'])
            .rev()
            .nth(1)
            .expect("a key")
            .to_owned()
    };
    let place = relay.address.split('#').next().expect("a place");
    let token = relay.address.rsplit('.').next().expect("a token");

    let wrong = format!("{place}#{}.{token}", key(&other.address));
    let text = ann.fail(&["--relay", &wrong, "peers"], 7);
    let expected =
        format!("the relay at {place} presented another key than the one in its address");
    assert!(text.contains(&expected), "{text}");
    assert!(!text.contains(token), "the token is told to nobody");

    // No key in the address, and nobody to ask.
    let bare = format!("--relay={place}");
    let text = ann.fail(&[&bare, "--token", token, "peers"], 7);
    assert!(
        text.contains(&key(&relay.address)) && text.contains("landline relay set"),
        "{text}"
    );

    let text = ann.fail(
        &[
            "--relay",
            &format!("{place}#{}.{}", key(&relay.address), "a".repeat(26)),
            "peers",
        ],
        5,
    );
    assert!(text.contains("refuses"), "{text}");
    ann.run(&["peers"], 0);
}

#[test]
fn a_remembered_key_is_used_and_a_changed_one_refused() {
    let (folder, relay, ann, _bob) = scene();
    let other = Relay::start(&folder.path().join("other"));
    let parts = |address: &str| -> Vec<String> {
        address.split(['#', '.', ':']).map(str::to_owned).collect()
    };
    let remember = |place: &str, key: &str| {
        let (host, port) = place.rsplit_once(':').expect("a port");
        let key = data_encoding::BASE32_NOPAD
            .decode(key.to_uppercase().as_bytes())
            .expect("base32")
            .try_into()
            .map(p2p_net::Fingerprint)
            .expect("32 bytes");
        let (host, port) = (host.to_owned(), port.parse::<u16>().expect("a port"));
        let folder = ann.folder.clone();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            let store = client::store::Store::open(&folder).await.expect("opens");
            store
                .run(move |db| client::store::relays::confirm(db, &host, port, &key, 0))
                .await
                .expect("stored");
        });
    };
    let place = relay.address.split('#').next().expect("a place");
    let token = relay.address.rsplit('.').next().expect("a token");
    let key_at = parts(&relay.address).len() - 2;

    remember(place, &parts(&relay.address)[key_at]);
    ann.run(&["--relay", place, "--token", token, "peers"], 0);
    remember(place, &parts(&other.address)[key_at]);
    let text = ann.fail(&["--relay", place, "--token", token, "peers"], 7);
    let expected = format!("the relay at {place} presented another key than the one remembered");
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn what_cannot_work_is_said_with_its_exit_code() {
    let (folder, _relay, ann, _bob) = scene();
    assert!(
        ann.fail(&["chat", "Zed", "--send", "x"], 2)
            .contains("no contact is called")
    );
    assert!(
        ann.fail(&["chat", "Bob", "--send", " "], 2)
            .contains("empty")
    );
    assert!(
        ann.fail(&["send", "Bob", "no such file"], 2)
            .contains("no such file")
    );
    assert!(ann.fail(&["send", "Bob", "."], 4).contains("not online"));
    assert!(ann.fail(&["receive"], 2).contains("--accept"));
    assert!(
        ann.fail(&["chat", &ann.id, "--send", "x"], 2)
            .contains("our own id")
    );
    let nobody = User {
        name: "Nobody",
        folder: folder.path().join("new"),
        id: String::new(),
    };
    assert!(nobody.fail(&["peers"], 2).contains("landline relay set"));
    assert!(
        nobody
            .fail(&["--relay", "a b", "peers"], 2)
            .contains("--relay")
    );
    let told = nobody.run(&["--json", "peers"], 2);
    let told: serde_json::Value = serde_json::from_str(told.trim()).expect("an error is JSON, too");
    assert_eq!(told["error"]["exit"], "usage");
}
