//! STUN questions: from which socket to answer, and what. Besides its own address a full question is told our
//! time and from where else we can answer, and may have the answer sent from there (RFC 5780 §7.2) or to
//! another port of its own host (§7.5). A wish that we cannot grant gets no answer. Pure.

use std::net::SocketAddr;

use p2p_net_proto::stun::{self, Request};

use crate::forward::Route;

/// From where, to whom and what to answer to a question that came by `from`; `local` are our sockets' addresses.
pub(crate) fn answer(
    local: &[SocketAddr],
    from: Route,
    request: &Request,
    time_micros: u64,
) -> Option<(Route, Vec<u8>)> {
    let (address, port) = (request.change_address, request.change_port);
    let mut to = from;
    if address || port {
        to.socket = elsewhere(local, from.socket, address, port)?;
    }
    if address {
        // The address that was asked is not the one that answers.
        to.source = None;
    }
    if let Some(port) = request.response_port {
        to.address.set_port(port);
    }
    let packet = if request.full {
        let other = elsewhere(local, from.socket, true, true).map(|index| local[index]);
        stun::full_answer(request.transaction, from.address, other, time_micros)
    } else {
        stun::answer(request.transaction, from.address)
    };
    Some((to, packet))
}

/// A socket with another address, another port, or both. Another address takes two sockets that are each bound
/// to one: which other addresses a wildcard has is not known.
fn elsewhere(local: &[SocketAddr], here: usize, address: bool, port: bool) -> Option<usize> {
    let here = local.get(here)?;
    local.iter().position(|other| {
        let is_other_address = !here.ip().is_unspecified()
            && !other.ip().is_unspecified()
            && other.is_ipv4() == here.is_ipv4()
            && other.ip() != here.ip();
        let is_address = if address {
            is_other_address
        } else {
            other.ip() == here.ip()
        };
        is_address && (other.port() != here.port()) == port
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn ask(local: &[&str], socket: usize, request: &Request) -> Option<(Route, stun::Answer)> {
        let local: Vec<_> = local.iter().map(|text| at(text)).collect();
        let from = Route {
            socket,
            address: at("198.51.100.1:5000"),
            source: Some(local[socket].ip()),
        };
        let (to, packet) = answer(&local, from, request, 7)?;
        assert!(packet.len() <= request.encode().len().max(32));
        Some((to, stun::parse_answer(&packet).expect("our own")))
    }

    const TWO_PORTS: [&str; 2] = ["[::]:443", "[::]:3478"];
    const TWO_ADDRESSES: [&str; 4] = [
        "192.0.2.1:443",
        "192.0.2.1:3478",
        "192.0.2.2:443",
        "192.0.2.2:3478",
    ];

    #[test]
    fn a_short_question_is_answered_from_where_it_went() {
        let (to, answer) = ask(&TWO_PORTS, 1, &Request::short([1; 12])).expect("an answer");
        assert_eq!((to.socket, to.address), (1, at("198.51.100.1:5000")));
        assert_eq!((answer.other, answer.time_micros), (None, None));
    }

    #[test]
    fn each_change_has_its_socket() {
        let change = |change_address, change_port| Request {
            change_address,
            change_port,
            ..Request::full([1; 12])
        };
        let socket = |local: &[&str], here, request: &Request| {
            ask(local, here, request).map(|(to, _)| to.socket)
        };
        assert_eq!(socket(&TWO_PORTS, 0, &change(false, true)), Some(1));
        assert_eq!(socket(&TWO_PORTS, 1, &change(false, true)), Some(0));
        assert_eq!(socket(&TWO_PORTS, 0, &change(true, false)), None);
        assert_eq!(socket(&TWO_ADDRESSES, 0, &change(false, true)), Some(1));
        assert_eq!(socket(&TWO_ADDRESSES, 0, &change(true, false)), Some(2));
        assert_eq!(socket(&TWO_ADDRESSES, 0, &change(true, true)), Some(3));
        let (to, answer) = ask(&TWO_ADDRESSES, 0, &change(true, true)).expect("an answer");
        assert_eq!(to.source, None);
        assert_eq!(answer.other, Some(at("192.0.2.2:3478")));
        assert_eq!(answer.mapped, at("198.51.100.1:5000"));
    }

    #[test]
    fn another_port_of_the_same_host_can_be_answered() {
        let request = Request {
            response_port: Some(99),
            ..Request::full([1; 12])
        };
        let (to, answer) = ask(&TWO_PORTS, 0, &request).expect("an answer");
        assert_eq!(to.address, at("198.51.100.1:99"));
        assert_eq!(answer.mapped, at("198.51.100.1:5000"));
        assert_eq!(answer.time_micros, Some(7));
    }
}
