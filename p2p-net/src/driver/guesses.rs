//! What machines need to guess ports: extra sockets, questions to the relay from them, and the promise that
//! the ports of one address are guessed for one peer at a time.

use p2p_net_proto::{Input, Output, PeerId};

use super::Driver;

impl Driver {
    /// Does what a machine asks for to guess ports.
    pub(super) fn guess(&mut self, peer: &PeerId, output: Output) {
        match output {
            Output::Reserve(_) => self.input(peer, Input::Reserved(false)),
            Output::Sample(_) => self.input(peer, Input::Samples(Vec::new())),
            Output::Open(_) => self.input(peer, Input::Opened(0)),
            _ => {}
        }
    }
}
