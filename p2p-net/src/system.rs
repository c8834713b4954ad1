//! The operating system's sockets, interfaces and name resolution: what an endpoint uses unless a
//! simulation gives it something else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

use crate::relay::dial_tcp;
use crate::{SocketProvider, TcpDial};

/// Asked for in both directions, bytes: a burst of 10 ms at 5 Gbit/s. The system may give less.
const BUFFER_BYTES: usize = 7 << 20;
/// Less than this loses packets in bulk transfers, bytes.
const BUFFER_FLOOR: usize = 1 << 20;
/// Attempts to find a number that is free in both families.
const MAX_PORT_ATTEMPTS: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct System;

impl SocketProvider for System {
    fn bind(&self, port: u16) -> io::Result<Vec<Arc<dyn AsyncUdpSocket>>> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..MAX_PORT_ATTEMPTS {
            match bind_pair(port) {
                Ok(sockets) => {
                    return sockets
                        .into_iter()
                        .map(|socket| TokioRuntime.wrap_udp_socket(socket))
                        .collect();
                }
                Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn bind_extra(&self) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0).into())?;
        // One of many may carry everything some day; what the system refuses is missed then.
        let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(BUFFER_BYTES);
        TokioRuntime.wrap_udp_socket(socket.into())
    }

    fn interfaces(&self) -> Vec<(IpAddr, u8)> {
        let mut addresses = Vec::new();
        for interface in netdev::get_interfaces()
            .into_iter()
            .filter(netdev::Interface::is_up)
        {
            addresses.extend(
                interface
                    .ipv4
                    .iter()
                    .map(|net| (IpAddr::V4(net.addr()), net.prefix_len())),
            );
            addresses.extend(
                interface
                    .ipv6
                    .iter()
                    .map(|net| (IpAddr::V6(net.addr()), net.prefix_len())),
            );
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    fn resolve(
        &self,
        host: String,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }

    fn dial_tcp(&self, host: String, port: u16, addresses: Vec<SocketAddr>) -> Option<TcpDial> {
        Some(Box::pin(
            async move { dial_tcp(&host, port, addresses).await },
        ))
    }
}

/// A socket per family on one number; one alone where the other family is missing.
fn bind_pair(port: u16) -> io::Result<Vec<UdpSocket>> {
    let v6 = open(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    let port = match &v6 {
        Ok(socket) => socket.local_addr()?.port(),
        Err(_) => port,
    };
    let v4 = open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok(vec![v4, v6]),
        (Err(_), Ok(v4)) => Ok(vec![v4]),
        // The number is taken in one family only: another pair has to be found.
        (Ok(_), Err(error)) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        (Ok(v6), Err(_)) => Ok(vec![v6]),
        (Err(_), Err(error)) => Err(error),
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    enlarge(&socket);
    Ok(socket.into())
}

fn enlarge(socket: &Socket) {
    let asked = socket
        .set_recv_buffer_size(BUFFER_BYTES)
        .and_then(|()| socket.set_send_buffer_size(BUFFER_BYTES));
    let given = socket
        .recv_buffer_size()
        .and_then(|receive| Ok((receive, socket.send_buffer_size()?)));
    match (asked, given) {
        (Ok(()), Ok((receive_bytes, send_bytes)))
            if receive_bytes.min(send_bytes) >= BUFFER_FLOOR =>
        {
            debug!(receive_bytes, send_bytes, "socket buffers");
        }
        (asked, given) => warn!(
            ?asked,
            ?given,
            "small socket buffers slow bulk transfers; raise net.core.rmem_max and wmem_max to {BUFFER_BYTES}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_share_one_number() {
        let sockets = System.bind(0).expect("a free port");
        let addresses: Vec<_> = sockets
            .iter()
            .map(|socket| socket.local_addr().expect("address"))
            .collect();
        assert!(!addresses.is_empty());
        assert!(
            addresses
                .iter()
                .all(|address| address.port() == addresses[0].port())
        );
        let families: Vec<_> = addresses.iter().map(SocketAddr::is_ipv6).collect();
        assert!(families.len() < 2 || families[0] != families[1]);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let first = System.bind(0).expect("a free port");
        let port = first[0].local_addr().expect("address").port();
        assert!(System.bind(port).is_err());
    }

    #[test]
    fn loopback_is_among_the_interfaces() {
        assert!(
            System
                .interfaces()
                .iter()
                .any(|(address, _)| address.is_loopback())
        );
    }
}
