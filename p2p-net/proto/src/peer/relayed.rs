//! Probes and pongs through the relayed channel: with them the direct path is tried against the relay.

use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;

use super::{Output, Peer};
use crate::Transaction;
use crate::path::Situation;
use crate::probe::{Opened, PROBE_LEN, Pong, Probe};

impl Peer {
    /// A probe or pong that came through the relay: it says nothing of any address.
    pub(super) fn on_relayed_packet(&mut self, now: Instant, packet: &[u8]) {
        let Some((keys, opened)) = self.keys.open(now, packet) else {
            return;
        };
        match opened {
            Opened::Probe(probe) => {
                let pong = Pong {
                    transaction: probe.transaction,
                    observed: SocketAddr::from(([0, 0, 0, 0], 0)),
                    loss: 0,
                };
                let packet = self.keys.seal_pong(keys, &pong);
                self.relay(packet);
            }
            Opened::Pong(pong) => self.paths.on_relayed_pong(pong.transaction),
        }
    }

    /// The next pair of a trial.
    pub(super) fn on_trial(&mut self, now: Instant, at: &Situation) {
        let transactions = [(); 2].map(|()| Transaction(self.random.next_u64()));
        let Some((path, to)) = self.paths.on_trial(now, at, transactions) else {
            return;
        };
        let Some(keys) = self.keys.current(false) else {
            return;
        };
        let [direct, relayed] = transactions.map(|transaction| {
            let path = path.0;
            self.keys.seal_probe(keys, &Probe { transaction, path })
        });
        self.transmit(to, direct);
        self.relay(relayed);
    }

    fn relay(&mut self, packet: Option<[u8; PROBE_LEN]>) {
        if let Some(packet) = packet {
            self.outputs.push_back(Output::Relay(packet.to_vec()));
        }
    }
}
