//! The port that the router has opened: offered while the relay sees us at its address, given back at the end.

use std::net::SocketAddr;

use p2p_net_proto::{Candidate, PortMapping};
use tracing::debug;

use super::Driver;

impl Driver {
    /// What a router granted, as far as peers may probe it (`wire.md` §6).
    pub(super) fn mapped_candidate(&self) -> Option<Candidate> {
        let mapping = self.parts.ports.as_ref()?.mapping()?;
        let seen = self.observed.map(|observed: SocketAddr| observed.ip());
        mapping.candidate(seen.as_slice())
    }

    /// The router has granted something else.
    pub(super) fn on_port_mapping(&mut self) {
        let mapping = self.parts.ports.as_ref().and_then(|ports| ports.mapping());
        let external = mapping.map(|mapping: PortMapping| mapping.external);
        debug!(?external, "port mapping");
        self.spread_surroundings();
    }

    /// With a relay on this machine nothing leaves it (`wire.md` §6), however the relay was named.
    pub(super) fn heed_loopback(&mut self) {
        if self
            .observed
            .is_some_and(|observed| observed.ip().is_loopback())
            && let Some(ports) = self.parts.ports.take()
        {
            tokio::spawn(ports.stop());
        }
    }

    /// The network has changed, or the relay sees us elsewhere.
    pub(super) fn ask_router_again(&self) {
        if let Some(ports) = &self.parts.ports {
            ports.network_changed();
        }
    }
}
