//! Who is there: snapshot and changes over real connections.

use std::collections::BTreeSet;

use crate::client::{Client, relay};
use p2p_net_proto::PeerId;
use p2p_net_proto::wire::{FromRelay, PresenceSubscribe};

/// Takes presence messages in until `view` is as wanted.
async fn until(client: &mut Client, view: &mut BTreeSet<PeerId>, wanted: &[PeerId]) {
    let wanted: BTreeSet<_> = wanted.iter().copied().collect();
    while *view != wanted {
        match client.hear().await {
            FromRelay::PresenceSnapshot(part) => view.extend(part.peers),
            FromRelay::PresenceDelta(delta) => {
                view.extend(delta.joined);
                for gone in delta.left {
                    view.remove(&gone);
                }
            }
            other => panic!("not presence: {other:?}"),
        }
        assert!(!view.contains(&client.id), "a client is not told of itself");
    }
}

#[tokio::test]
async fn readers_see_comings_and_goings() {
    let relay = relay().await;
    let (mut one, two) = (relay.login(1).await, relay.login(2).await);
    let mut view = BTreeSet::new();
    one.say(PresenceSubscribe {}).await;
    until(&mut one, &mut view, &[two.id]).await;
    let three = relay.login(3).await;
    until(&mut one, &mut view, &[two.id, three.id]).await;
    let again = relay.login(3).await;
    two.connection.close(0u32.into(), b"");
    until(&mut one, &mut view, &[again.id]).await;
    let four = relay.login(4).await;
    until(&mut one, &mut view, &[again.id, four.id]).await;
}

#[tokio::test]
async fn an_empty_relay_has_an_empty_snapshot() {
    let relay = relay().await;
    let mut one = relay.login(1).await;
    one.say(PresenceSubscribe {}).await;
    let FromRelay::PresenceSnapshot(snapshot) = one.hear().await else {
        panic!("a snapshot")
    };
    assert!(snapshot.peers.is_empty() && !snapshot.more);
}

#[tokio::test]
async fn many_readers_agree() {
    let relay = relay().await;
    let mut clients = Vec::new();
    for n in 1..=12 {
        let mut client = relay.login(n).await;
        client.say(PresenceSubscribe {}).await;
        clients.push((client, BTreeSet::new()));
    }
    let all: Vec<_> = clients.iter().map(|(client, _)| client.id).collect();
    for (client, view) in &mut clients {
        let others: Vec<_> = all.iter().copied().filter(|id| *id != client.id).collect();
        until(client, view, &others).await;
    }
}
