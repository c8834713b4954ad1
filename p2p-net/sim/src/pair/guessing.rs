//! The driver's part of guessing ports: extra sockets, questions to the relay from them, and who may guess.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2p_net_proto::{Input, Output, Sample};

use super::{Coming, PORT, Packet, Pair, RELAY_PORT};

/// Where the ports of extra sockets begin; each guess takes fresh ones.
const FIRST_EXTRA: u16 = 6_000;
/// Answers to the questions of one guess are gathered for a round trip to the relay, and this.
const GATHERING: Duration = Duration::from_millis(2);

/// The extra sockets of one side.
#[derive(Debug)]
pub(super) struct Extras {
    base: u16,
    open: u16,
    /// Addresses that are reached from another port than the first socket's.
    vias: BTreeMap<SocketAddr, u16>,
    samples: Vec<Sample>,
    /// How many may be had.
    limit: u16,
}

impl Extras {
    pub(super) fn new(limit: u16) -> Self {
        Self {
            base: FIRST_EXTRA,
            open: 0,
            vias: BTreeMap::new(),
            samples: Vec::new(),
            limit,
        }
    }

    /// From which port packets to this address go.
    pub(super) fn port_to(&self, to: SocketAddr) -> u16 {
        self.vias.get(&to).copied().unwrap_or(PORT)
    }

    /// Whether QUIC listens on this port.
    pub(super) fn is_quic(&self, port: u16) -> bool {
        port == PORT || self.vias.values().any(|via| *via == port)
    }

    /// Sockets open now, in use or not.
    pub(super) fn count(&self) -> usize {
        usize::from(self.open) + self.vias.len()
    }

    fn socket_at(&self, port: u16) -> Option<u16> {
        let socket = port.checked_sub(self.base)?;
        (socket < self.open).then_some(socket)
    }
}

impl Pair {
    pub(super) fn guess(&mut self, side: usize, output: Output) {
        let elapsed = self.clock.elapsed();
        let now = self.clock.now();
        let own = &mut self.sides[side];
        match output {
            Output::Reserve(ip) => {
                assert!(own.reserved.replace(ip).is_none(), "one address at a time");
                self.input(side, Input::Reserved(true));
            }
            Output::Release(ip, failed) => {
                assert_eq!(own.reserved.take(), Some(ip), "never reserved");
                own.guesses.push((elapsed, failed));
            }
            Output::Sample(count) => self.sample(side, count),
            Output::Open(count) => {
                own.extras.open = count.min(own.extras.limit);
                let open = own.extras.open;
                self.input(side, Input::Opened(open));
            }
            Output::TransmitFrom {
                socket,
                to,
                payload,
            } => {
                assert!(socket < own.extras.open, "a socket that was never opened");
                own.openers.push((elapsed, to));
                let (host, port) = (own.host, own.extras.base + socket);
                self.world.send(now, host, port, to, Packet::Probe(payload));
            }
            Output::Via(remote, Some(socket)) => {
                assert!(socket < own.extras.open, "a socket that was never opened");
                own.extras.vias.insert(remote, own.extras.base + socket);
            }
            Output::Via(remote, None) => {
                let gone = own.extras.vias.remove(&remote);
                assert!(gone.is_some(), "no such way");
            }
            Output::Shut => {
                own.extras.base += own.extras.open;
                if own.extras.base > u16::MAX - 1_000 {
                    own.extras.base = FIRST_EXTRA;
                }
                own.extras.open = 0;
            }
            _ => {}
        }
    }

    fn sample(&mut self, side: usize, count: u16) {
        let now = self.clock.now();
        let own = &mut self.sides[side];
        own.extras.open = count.min(own.extras.limit);
        own.extras.samples.clear();
        let (host, base, open) = (own.host, own.extras.base, own.extras.open);
        let relay = self.world.addresses(self.relay)[0];
        for socket in 0..open {
            for server in [0, 1] {
                let to = SocketAddr::new(relay, RELAY_PORT + u16::from(server));
                let question = Packet::Question(side, socket, server);
                self.world.send(now, host, base + socket, to, question);
            }
        }
        let at = now + self.config.relay_delay[side] * 2 + GATHERING;
        self.schedule(at, side, Coming::Samples);
    }

    pub(super) fn on_question(&mut self, side: usize, socket: u16, server: u8, mapped: SocketAddr) {
        self.sides[side].extras.samples.push(Sample {
            socket,
            server,
            mapped,
        });
    }

    pub(super) fn on_samples(&mut self, side: usize) {
        let samples = self.sides[side].extras.samples.clone();
        self.input(side, Input::Samples(samples));
    }

    /// A probe or pong came to a port that is not the first socket's; says whether it was for nobody else.
    pub(super) fn on_extra(
        &mut self,
        side: usize,
        port: u16,
        from: SocketAddr,
        bytes: &[u8],
    ) -> bool {
        let extras = &self.sides[side].extras;
        if extras.is_quic(port) {
            return false;
        }
        if let Some(socket) = extras.socket_at(port) {
            self.input(
                side,
                Input::ExtraPacket {
                    socket,
                    from,
                    packet: bytes,
                },
            );
        }
        true
    }

    /// Extra sockets that `side` has open now, in use or not.
    pub fn extra_sockets(&self, side: usize) -> usize {
        self.sides[side].extras.count()
    }

    /// Addresses whose ports `side` guesses now.
    pub fn guesses_at(&self, side: usize) -> Option<IpAddr> {
        self.sides[side].reserved
    }
}
