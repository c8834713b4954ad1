//! Packets through worlds: translators on the way, cuts, moves, and the same run from the same seed.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_net_sim::{Clock, Delivery, HostId, LinkConfig, Loss, NatConfig, Place, World, for_seeds};

const PORT: u16 = 5_000;
const MILLI: Duration = Duration::from_millis(1);

struct Net {
    world: World<Vec<u8>>,
    clock: Clock,
}

impl Net {
    fn new(seed: u64) -> Self {
        Self {
            world: World::new(seed),
            clock: Clock::new(),
        }
    }

    fn behind(&mut self, config: NatConfig) -> HostId {
        let nat = self.world.add_nat(config, Place::Internet);
        self.world.add_host(Place::Behind(nat))
    }

    fn address(&self, host: HostId) -> SocketAddr {
        SocketAddr::new(self.world.addresses(host)[0], PORT)
    }

    fn send(&mut self, from: HostId, to: SocketAddr) {
        self.world
            .send(self.clock.now(), from, PORT, to, vec![1, 2, 3]);
    }

    fn drain(&mut self) -> Vec<Delivery<Vec<u8>>> {
        let mut all = Vec::new();
        while let Some(at) = self.world.next_at() {
            self.clock.advance_to(at);
            all.extend(self.world.deliver(at));
        }
        all
    }

    /// The address that `server` sees when `host` sends to it.
    fn observed(&mut self, host: HostId, server: HostId) -> SocketAddr {
        self.send(host, self.address(server));
        self.drain().pop().expect("it arrives").from
    }
}

#[test]
fn two_full_cones_reach_each_other_by_observed_addresses() {
    let mut net = Net::new(1);
    let server = net.world.add_host(Place::Internet);
    let a = net.behind(NatConfig::full_cone());
    let b = net.behind(NatConfig::full_cone());
    let to_b = net.observed(b, server);
    let to_a = net.observed(a, server);
    assert_ne!(to_a.ip(), to_b.ip());
    net.send(a, to_b);
    let came = net.drain();
    assert_eq!(came.len(), 1);
    assert_eq!(
        (came[0].host, came[0].from, came[0].to),
        (b, to_a, net.address(b))
    );
}

#[test]
fn port_restricted_ones_open_from_both_sides_only() {
    let mut net = Net::new(2);
    let server = net.world.add_host(Place::Internet);
    let a = net.behind(NatConfig::port_restricted());
    let b = net.behind(NatConfig::port_restricted());
    let (to_a, to_b) = (net.observed(a, server), net.observed(b, server));
    net.send(a, to_b);
    assert!(net.drain().is_empty());
    assert_eq!(net.world.counters().filtered, 1);
    net.send(b, to_a);
    assert_eq!(net.drain().len(), 1);
    net.send(a, to_b);
    assert_eq!(net.drain().len(), 1);
}

#[test]
fn packets_that_cross_under_way_open_both_translators() {
    let mut net = Net::new(3);
    let server = net.world.add_host(Place::Internet);
    let a = net.behind(NatConfig::port_restricted());
    let b = net.behind(NatConfig::port_restricted());
    let (to_a, to_b) = (net.observed(a, server), net.observed(b, server));
    net.send(a, to_b);
    net.clock.advance(MILLI);
    net.send(b, to_a);
    assert_eq!(
        net.drain().len(),
        2,
        "each translator decides when the packet arrives"
    );
}

#[test]
fn neighbours_use_their_own_network_or_a_hairpin() {
    let mut net = Net::new(4);
    let server = net.world.add_host(Place::Internet);
    for (config, hairpins) in [
        (NatConfig::full_cone(), false),
        (NatConfig::full_cone().with_hairpin(), true),
    ] {
        let nat = net.world.add_nat(config, Place::Internet);
        let a = net.world.add_host(Place::Behind(nat));
        let b = net.world.add_host(Place::Behind(nat));
        let (to_a, to_b) = (net.observed(a, server), net.observed(b, server));
        net.send(a, net.address(b));
        let came = net.drain();
        assert_eq!(
            came[0].from,
            net.address(a),
            "inside, nothing is translated"
        );
        net.send(a, to_b);
        let came = net.drain();
        assert_eq!(came.len(), usize::from(hairpins));
        assert!(came.iter().all(|came| came.host == b && came.from == to_a));
    }
}

#[test]
fn translators_stack() {
    let mut net = Net::new(5);
    let server = net.world.add_host(Place::Internet);
    let carrier = net.world.add_nat(NatConfig::full_cone(), Place::Internet);
    let home = net
        .world
        .add_nat(NatConfig::full_cone(), Place::Behind(carrier));
    let a = net.world.add_host(Place::Behind(home));
    let seen = net.observed(a, server);
    assert_eq!(seen.ip(), net.world.nat_mut(carrier).outside());
    net.send(server, seen);
    assert_eq!(net.drain()[0].host, a);
    assert_eq!(net.world.nat_of(a), Some(carrier));
}

#[test]
fn private_addresses_of_other_networks_lead_nowhere() {
    let mut net = Net::new(6);
    let a = net.behind(NatConfig::full_cone());
    let b = net.behind(NatConfig::full_cone());
    assert_eq!(
        net.address(a),
        net.address(b),
        "homes use the same addresses"
    );
    net.send(a, "10.1.2.3:5000".parse().expect("an address"));
    assert!(net.drain().is_empty());
    assert_eq!(net.world.counters().unroutable, 1);
}

#[test]
fn a_cut_stops_what_is_under_way_and_a_heal_brings_nothing_back() {
    let mut net = Net::new(7);
    let (a, b) = (
        net.world.add_host(Place::Internet),
        net.world.add_host(Place::Internet),
    );
    let other = net.world.add_host(Place::Internet);
    let to_b = net.address(b);
    net.send(a, to_b);
    net.clock.advance(5 * MILLI);
    net.world.cut(a, b);
    net.send(a, to_b);
    net.send(other, to_b);
    net.clock.advance(5 * MILLI);
    net.world.heal(net.clock.now(), a, b);
    net.send(a, to_b);
    let came = net.drain();
    assert_eq!(
        came.len(),
        2,
        "the stranger's packet and the one after the heal: {came:?}"
    );
    net.world.cut_one_way(a, b);
    net.send(a, to_b);
    net.send(b, net.address(a));
    assert_eq!(net.drain().len(), 1);
}

#[test]
fn a_host_that_moves_leaves_its_packets_behind() {
    let mut net = Net::new(8);
    let server = net.world.add_host(Place::Internet);
    let a = net.behind(NatConfig::full_cone());
    let before = net.observed(a, server);
    let elsewhere = net.world.add_nat(NatConfig::full_cone(), Place::Internet);
    net.world.move_host(a, Place::Behind(elsewhere));
    let after = net.observed(a, server);
    assert_ne!(before.ip(), after.ip());
    net.send(server, before);
    assert!(net.drain().is_empty());
}

#[test]
fn ipv6_passes_untranslated() {
    let mut net = Net::new(9);
    let a = net.behind(NatConfig::symmetric());
    let b = net.behind(NatConfig::symmetric());
    assert!(
        net.world
            .addresses(a)
            .iter()
            .all(|address| address.is_ipv4())
    );
    let (from, to) = (net.world.add_ipv6(a), net.world.add_ipv6(b));
    net.send(a, SocketAddr::new(to, PORT));
    assert_eq!(net.drain()[0].from, SocketAddr::new(from, PORT));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut net = Net::new(seed);
        let server = net.world.add_host(Place::Internet);
        let a = net.behind(NatConfig::symmetric());
        let config = LinkConfig::delay(20 * MILLI)
            .with_loss(Loss::bursts(0.2, 3.0))
            .with_jitter(10 * MILLI);
        net.world.set_link(a, server, config);
        let to = net.address(server);
        let start = net.clock.now();
        for _ in 0..200 {
            net.send(a, to);
            net.clock.advance(MILLI);
        }
        net.drain()
            .iter()
            .map(|came| (came.at - start, came.from))
            .collect::<Vec<_>>()
    };
    for_seeds(5, |seed| assert_eq!(run(seed), run(seed)));
    assert_ne!(run(1), run(2));
}
