//! Figures for `landline doctor`: of the network, and of the connection to one peer.

use std::time::{Duration, Instant};

use p2p_net::{Connection, PathInfo, PeerId};
use tokio::sync::oneshot;

use super::actor::Actor;
use crate::command::Reply;
use crate::diagnosis::{ConnectionReport, PathEntry, PeerReport};
use crate::store::now_millis;
use crate::{Problem, face};

impl Actor {
    /// Looks at the network and answers when that is done, in a second or two; longer where UDP is blocked.
    pub(super) fn examine(&mut self, reply: oneshot::Sender<Result<Reply, Problem>>) {
        let endpoint = self.endpoint.clone();
        self.tasks.spawn(async move {
            let report = endpoint.examine().await.map_err(|_| face::gone());
            let _ = reply.send(report.map(|report| Reply::Network(Box::new(report))));
        });
    }

    /// What is known of the way to a peer.
    pub(super) fn diagnose(&self, peer: PeerId) -> PeerReport {
        let link = self.peers.get(&peer).and_then(|state| state.ready_link());
        PeerReport {
            peer: self.view(&peer),
            connection: link.map(|link| connection_report(&link.conn)),
            problem: None,
        }
    }
}

fn connection_report(connection: &Connection) -> ConnectionReport {
    let stats = connection.stats();
    let now = (Instant::now(), now_millis());
    let history = connection.history();
    ConnectionReport {
        path: stats.path,
        remote: stats.remote,
        not_direct: stats.not_direct,
        round_trip_micros: stats.round_trip_micros,
        direct_round_trip_micros: stats.direct_round_trip_micros,
        sent_packets: stats.sent_packets,
        lost_packets: stats.lost_packets,
        mtu: stats.mtu,
        path_switches: stats.path_switches,
        history: history.iter().map(|info| entry(now, info)).collect(),
    }
}

fn entry((now, now_millis): (Instant, i64), info: &PathInfo) -> PathEntry {
    let age = now.saturating_duration_since(info.since);
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    PathEntry {
        path: info.kind,
        remote: info.remote,
        since_millis: now_millis.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
        round_trip_micros: info.round_trip.map(micros),
        not_direct: info.not_direct,
    }
}
