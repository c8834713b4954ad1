//! Dialling the relay: its addresses in turn over UDP, and over TCP beside them where they stay silent. The
//! first that proves the relay's key wins; only the winner is greeted, so that one login does not end the
//! other.

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use p2p_net_proto::{RelayAddress, Setback};
use quinn::{Connection, ConnectionError};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Failure, Login, tcp};
use crate::AcceptError;
use crate::examine::second_port;
use crate::socket::canonical;

/// Between the first packets to two addresses of one relay (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one relay that are tried at most.
const MAX_ADDRESSES: usize = 8;
/// UDP's head start before TCP is tried as well: that of RFC 8305 §5, which is longer than nearly every way to a relay.
/// Where UDP is blocked, a connection is to take 4 round trips to the relay, one to the peer, and 300 ms at most; what
/// this leaves of those is for machines.
const HEAD_START: Duration = Duration::from_millis(250);
/// The same where the relay has answered over UDP, and the handshake only takes long.
const LONG_HEAD_START: Duration = Duration::from_secs(3);
/// A discard-only address (RFC 6666): the relay's, where only the proxy knows the real one.
const NOWHERE: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

/// A relay that has proven its key, and its address.
pub(super) enum Proven {
    /// Over UDP.
    Quic(Connection, SocketAddr),
    /// Over TCP.
    Tcp(Box<tcp::Opened>, SocketAddr),
}

type TcpAttempt<'a> = Pin<Box<dyn Future<Output = Result<Proven, Failure>> + Send + 'a>>;

impl Login {
    /// Why nothing has answered, over whatever was tried.
    pub(super) fn silence(&self) -> String {
        let relay = self.address.redacted();
        let failure = self.tcp_failure.lock();
        match &*failure.unwrap_or_else(PoisonError::into_inner) {
            Some(tcp) => format!("{relay} does not answer over UDP, and over TCP: {tcp}"),
            None => format!("{relay} does not answer"),
        }
    }

    fn note_tcp_failure(&self, text: Option<String>) {
        let failure = self.tcp_failure.lock();
        *failure.unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// UDP; if that is silent for a while, TCP beside it.
    pub(super) async fn race(&self) -> Result<Proven, Failure> {
        self.note_tcp_failure(None);
        let mut udp = pin!(self.dial());
        let mut udp_failure = None;
        match timeout(HEAD_START, udp.as_mut()).await {
            Ok(Ok(proven)) => return Ok(proven),
            Ok(Err(failure)) => udp_failure = Some(failure),
            Err(_) if self.socket.has_heard_relay() => {
                match timeout(LONG_HEAD_START, udp.as_mut()).await {
                    Ok(Ok(proven)) => return Ok(proven),
                    Ok(Err(failure)) => udp_failure = Some(failure),
                    Err(_) => {}
                }
            }
            Err(_) => {}
        }
        // Another key, or a word of the relay's, is an answer.
        if let Some(failure) =
            udp_failure.take_if(|failure| matches!(failure.setback, Setback::Final))
        {
            return Err(failure);
        }
        let mut tcp = self.dial_tcp().await;
        loop {
            if let (Some(failure), None) = (&mut udp_failure, &tcp) {
                let failure = std::mem::replace(failure, Failure::unreachable(""));
                return Err(failure);
            }
            tokio::select! {
                result = udp.as_mut(), if udp_failure.is_none() => match result {
                    Ok(proven) => return Ok(proven),
                    Err(failure) => udp_failure = Some(failure),
                },
                result = poll(&mut tcp), if tcp.is_some() => match result {
                    Ok(proven) => return Ok(proven),
                    Err(failure) => {
                        debug!(error = %failure.error, "TCP does not reach the relay");
                        self.note_tcp_failure(Some(failure.error.to_string()));
                        tcp = None;
                        if udp_failure.is_some() {
                            udp_failure = Some(failure);
                        }
                    }
                },
            }
        }
    }

    /// TCP, TLS and WebSocket, if there is TCP here.
    async fn dial_tcp(&self) -> Option<TcpAttempt<'_>> {
        let RelayAddress { host, port, .. } = &self.address;
        // Without a name server, a proxy may still know the name.
        let addresses = self.provider.resolve(host.clone(), *port).await;
        let addresses = addresses.unwrap_or_default();
        let known = addresses.iter().copied().map(canonical).next();
        let dialling = self.provider.dial_tcp(host.clone(), *port, addresses)?;
        Some(Box::pin(async move {
            let stream = dialling
                .await
                .map_err(|error| Failure::unreachable(error.to_string()))?;
            let opened = tcp::open(stream, &self.address, self.tcp_config.clone()).await;
            let opened = opened.map_err(|error| self.judge_tcp(&error))?;
            let address = known.unwrap_or_else(|| SocketAddr::new(NOWHERE.into(), *port));
            debug!(%address, remote = %opened.remote, "TCP reaches the relay");
            Ok(Proven::Tcp(Box::new(opened), address))
        }))
    }

    /// As [`Login::judge`]. Another key is no reason to give up for good: something that ends TLS may stand in
    /// this network's way and in no other's.
    fn judge_tcp(&self, error: &std::io::Error) -> Failure {
        let presented = self.tcp_seen.get();
        match self.address.fingerprint {
            Some(expected) if presented.is_some_and(|presented| presented != expected) => {
                Failure::retry(AcceptError::WrongKey { presented })
            }
            _ => Failure::unreachable(error.to_string()),
        }
    }

    /// The relay's addresses, families in turn, those first that the resolver prefers.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        let host = self.address.host.clone();
        let found = self
            .provider
            .resolve(host, self.address.port)
            .await
            .map_err(|error| {
                Failure::unreachable(format!("{} does not resolve: {error}", self.address.host))
            })?;
        let (v6, v4): (VecDeque<_>, VecDeque<_>) = found
            .into_iter()
            .map(canonical)
            .filter(|address| self.socket.reaches(address))
            .partition(SocketAddr::is_ipv6);
        let (mut first, mut second) = if v6.is_empty() { (v4, v6) } else { (v6, v4) };
        let mut addresses = Vec::new();
        while let Some(address) = first.pop_front() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
            if !second.is_empty() {
                std::mem::swap(&mut first, &mut second);
            }
        }
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            let text = format!("{} has no address that we can reach", self.address.host);
            return Err(Failure::unreachable(text));
        }
        Ok(addresses)
    }

    /// The first of the relay's addresses and ports that completes a QUIC handshake.
    pub(super) async fn dial(&self) -> Result<Proven, Failure> {
        let first = self.resolve().await?;
        // Networks that drop UDP on one port often pass the other (`wire.md` §1).
        let second =
            |address: &SocketAddr| SocketAddr::new(address.ip(), second_port(address.port()));
        let seconds: Vec<_> = first.iter().map(second).collect();
        let mut unjudged = first.len();
        let mut addresses: VecDeque<_> = first.into_iter().chain(seconds).collect();
        self.socket.expect_relay();
        self.socket.tables_mut().relays = addresses.iter().copied().collect();
        let mut attempts = FuturesUnordered::new();
        let mut failure = None;
        loop {
            if let Some(address) = addresses.pop_front() {
                attempts.push(self.handshake(address));
            }
            let pause = async {
                if addresses.is_empty() {
                    std::future::pending().await
                } else {
                    sleep(STAGGER).await
                }
            };
            tokio::select! {
                result = attempts.next() => match result {
                    Some(Ok((connection, address))) => {
                        self.socket.tables_mut().relays = vec![address];
                        return Ok(Proven::Quic(connection, address));
                    }
                    Some(Err((address, error))) => {
                        let worst = error.or(failure.take());
                        let is_final = matches!(worst.setback, Setback::Final);
                        failure = Some(worst);
                        unjudged -= usize::from(address.port() == self.address.port);
                        // Silence on the other port does not make another key a better one.
                        if unjudged == 0 && is_final {
                            addresses.clear();
                            attempts.clear();
                        }
                    }
                    None => return Err(failure.unwrap_or_else(|| Failure::unreachable("no address"))),
                },
                () = pause => {}
            }
        }
    }

    async fn handshake(
        &self,
        address: SocketAddr,
    ) -> Result<(Connection, SocketAddr), (SocketAddr, Failure)> {
        let unreachable = |text: String| (address, Failure::unreachable(text));
        let connecting = self
            .endpoint
            .connect_with(self.config.clone(), address, &self.address.host)
            .map_err(|error| unreachable(error.to_string()))?;
        match connecting.await {
            Ok(connection) => Ok((connection, address)),
            // Who else may be on a port that was only supposed to be the relay's says nothing about it.
            Err(error) if address.port() != self.address.port => {
                Err(unreachable(error.to_string()))
            }
            Err(error) => Err((address, self.judge(&error))),
        }
    }

    /// A handshake that failed over the certificate names the key that was presented.
    fn judge(&self, error: &ConnectionError) -> Failure {
        let presented = self.seen.get();
        if let ConnectionError::TransportError(_) = error {
            match self.address.fingerprint {
                Some(expected) if presented.is_some_and(|presented| presented != expected) => {
                    return Failure::last(AcceptError::WrongKey { presented });
                }
                None if presented.is_some() => {
                    return Failure::last(AcceptError::UnknownKey { presented });
                }
                _ => {}
            }
        }
        let relay = self.address.redacted();
        Failure::unreachable(match error {
            ConnectionError::TimedOut => format!("{relay} does not answer"),
            error => format!("{relay} cannot be reached: {error}"),
        })
    }
}

async fn poll(attempt: &mut Option<TcpAttempt<'_>>) -> Result<Proven, Failure> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}
