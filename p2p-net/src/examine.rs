//! A look at the network for whoever asks: an [`Exam`] of each address family on sockets of its own, and where
//! UDP is silent, whether TCP passes and whether a sign-in page stands in between. What it all means is said in
//! `p2p-net-proto`. One task; it ends by itself within a few seconds.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use p2p_net_proto::{
    EXAM_SOCKETS, Exam, ExamPlan, ExamReport, FamilyReport, Interface, NatReport, NetworkReport,
    PortMappingReport, RelayAddress, ServerReport,
};
use quinn::AsyncUdpSocket;
use quinn_udp::{RecvMeta, Transmit};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{sleep_until, timeout};
use tracing::debug;

use crate::SocketProvider;
use crate::portal;
use crate::socket::{canonical, now};

/// An exam is over before this: three questions in each of its stages, with the longest waits.
const EXAM_LIMIT: Duration = Duration::from_secs(20);
/// How long a name may take to become an address.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// The longest batch that a kernel merges into one buffer, bytes.
const BUFFER_LEN: usize = 1 << 16;

/// What an examination starts from.
pub(crate) struct Examination {
    pub(crate) provider: Arc<dyn SocketProvider>,
    /// Whether the provider is the operating system.
    pub(crate) system: bool,
    pub(crate) relay: Option<RelayAddress>,
    /// Where we are logged in, and the relay's second port as it says itself.
    pub(crate) session: Option<(SocketAddr, Option<u16>)>,
    pub(crate) interfaces: Vec<(IpAddr, u8)>,
    pub(crate) port: u16,
    /// The router's answer, where it is asked for open ports.
    pub(crate) ports: Option<oneshot::Receiver<PortMappingReport>>,
}

/// What the router said, if it was asked and has answered in time.
async fn port_mapping(
    asked: Option<oneshot::Receiver<PortMappingReport>>,
) -> Option<PortMappingReport> {
    timeout(EXAM_LIMIT, asked?).await.ok()?.ok()
}

type Socket = Arc<dyn AsyncUdpSocket>;

impl Examination {
    /// Looks, and says what there is.
    pub(crate) async fn run(mut self) -> NetworkReport {
        if self.interfaces.is_empty() {
            // A login on a fast network stands before the driver's first look at them.
            let provider = self.provider.clone();
            let look = spawn_blocking(move || provider.interfaces());
            self.interfaces = look.await.unwrap_or_default();
        }
        let shown = self.interfaces.iter();
        let shown = shown.filter(|(address, _)| !address.is_loopback());
        let mut report = NetworkReport {
            interfaces: shown
                .map(|(address, prefix)| Interface {
                    address: *address,
                    prefix: *prefix,
                })
                .collect(),
            port: self.port,
            ..NetworkReport::default()
        };
        let ports = self.ports.take();
        let Some(relay) = &self.relay else {
            report.port_mapping = port_mapping(ports).await;
            return report;
        };
        report.relay = Some(format!("{}:{}", relay.host, relay.port));
        let addresses = match self.addresses(relay).await {
            Ok(addresses) => addresses,
            Err(error) => {
                report.unresolved = Some(error.to_string());
                report.port_mapping = port_mapping(ports).await;
                return report;
            }
        };
        let (v4, v6, ports) = tokio::join!(
            self.family(&addresses, false),
            self.family(&addresses, true),
            port_mapping(ports)
        );
        report.port_mapping = ports;
        let clocks = [&v4, &v6].into_iter().flatten();
        let clock = clocks.filter_map(|(_, clock)| *clock).next();
        report.clock_ahead_millis = clock.and_then(|(micros, at)| ahead_millis(micros, at));
        report.ipv4 = v4.map(|(family, _)| family);
        report.ipv6 = v6.map(|(family, _)| family);
        let elsewhere = addresses.iter().find(|address| !address.ip().is_loopback());
        if report.udp() == Some(false)
            && self.system
            && let Some(address) = elsewhere
        {
            (report.tcp, report.portal) = portal::look(*address).await;
        }
        debug!(ease = ?report.ease(), "network examined");
        report
    }

    /// The relay's addresses, the one that we are logged in at first.
    async fn addresses(&self, relay: &RelayAddress) -> io::Result<Vec<SocketAddr>> {
        let here = self.session.map(|(address, _)| canonical(address));
        let resolving = self.provider.resolve(relay.host.clone(), relay.port);
        let found = match timeout(RESOLVE_LIMIT, resolving).await {
            Ok(found) => found,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let found = match (found, here) {
            (Err(_), Some(_)) => Vec::new(),
            (found, _) => found?,
        };
        let found = found.into_iter().map(canonical);
        Ok(here.into_iter().chain(found).collect())
    }

    /// Examines the first address of a family; `None` where there is none, or no socket for it.
    async fn family(
        &self,
        addresses: &[SocketAddr],
        v6: bool,
    ) -> Option<(FamilyReport, Option<(u64, Instant)>)> {
        let first = *addresses.iter().find(|address| address.is_ipv6() == v6)?;
        let has_address = |(own, _): &(IpAddr, u8)| {
            own.is_ipv6() == v6 && (!own.is_loopback() || first.ip().is_loopback())
        };
        if !self.interfaces.iter().any(has_address) {
            return None;
        }
        let second = match self.session {
            Some((_, second)) => second,
            None => Some(second_port(first.port())),
        };
        let sockets = self.sockets(v6);
        let plan = ExamPlan {
            first,
            second: second.map(|port| SocketAddr::new(first.ip(), port)),
            own: self
                .interfaces
                .iter()
                .map(|(address, _)| *address)
                .collect(),
            ports: sockets
                .iter()
                .map(|socket| socket.local_addr().map_or(0, |address| address.port()))
                .collect(),
            seed: rand::random(),
        };
        if sockets.len() < 2 {
            return None;
        }
        let report = timeout(EXAM_LIMIT, run_exam(&sockets, plan)).await.ok()?;
        let server = |(address, round_trip): &(SocketAddr, Option<Duration>)| ServerReport {
            address: *address,
            round_trip_micros: round_trip
                .map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        };
        let servers = report.servers.iter().map(server).collect();
        let nat = report.nat;
        Some((FamilyReport { servers, nat }, report.clock))
    }

    fn sockets(&self, v6: bool) -> Vec<Socket> {
        let is_wanted = |socket: &Socket| {
            let address = socket.local_addr();
            address.is_ok_and(|address| address.is_ipv6() == v6)
        };
        (0..EXAM_SOCKETS)
            .filter_map(|_| self.provider.bind(0).ok()?.into_iter().find(is_wanted))
            .collect()
    }
}

/// The NAT of a report, as watchers of the endpoint want it: that of the family that most peers use.
pub(crate) fn main_nat(report: &NetworkReport) -> Option<NatReport> {
    let reached = |family: &&FamilyReport| family.is_reached();
    let v4 = report.ipv4.as_ref().filter(reached);
    let main = v4.or_else(|| report.ipv6.as_ref().filter(reached));
    main.map(|family| family.nat.clone())
}

/// The relay's second port by the rule of `wire.md` §1.
pub(crate) fn second_port(first: u16) -> u16 {
    /// Where the relay answers besides port 443 unless told otherwise.
    const STUN_PORT: u16 = 3_478;
    match first {
        443 => STUN_PORT,
        u16::MAX => u16::MAX - 1,
        port => port + 1,
    }
}

/// The relay's other port: as it said after the login, or by that rule. Who came in by the second one has the first
/// one to ask besides.
pub(crate) fn other_address(relay: SocketAddr, told: Option<u16>) -> SocketAddr {
    SocketAddr::new(
        relay.ip(),
        told.unwrap_or_else(|| second_port(relay.port())),
    )
}

/// How far our clock is ahead of one that showed `micros` at the instant `at`.
fn ahead_millis(micros: u64, at: Instant) -> Option<i64> {
    let ours = SystemTime::now().checked_sub(now().saturating_duration_since(at))?;
    let ours = ours.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let ours = i64::try_from(ours.as_micros()).ok()?;
    Some((ours - i64::try_from(micros).ok()?) / 1_000)
}

async fn run_exam(sockets: &[Socket], plan: ExamPlan) -> ExamReport {
    let mut exam = Exam::start(now(), plan);
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        while let Some((socket, to, packet)) = exam.poll_transmit() {
            send(&sockets[socket], to, &packet);
        }
        if let Some(report) = exam.report() {
            return report;
        }
        let deadline = exam.poll_timeout().unwrap_or_else(now);
        tokio::select! {
            (socket, meta) = poll_fn(|cx| receive(cx, sockets, &mut buffer)) => {
                let batch = &buffer[..meta.len.min(BUFFER_LEN)];
                for packet in batch.chunks(meta.stride.max(1)) {
                    exam.handle_packet(now(), socket, canonical(meta.addr), packet);
                }
            }
            () = sleep_until(deadline.into()) => exam.handle_timeout(now()),
        }
    }
}

/// What is not sent now is asked again later.
fn send(socket: &Socket, to: SocketAddr, packet: &[u8]) {
    let transmit = Transmit {
        destination: to,
        ecn: None,
        contents: packet,
        segment_size: None,
        src_ip: None,
    };
    if let Err(error) = socket.try_send(&transmit) {
        debug!(%to, %error, "a question could not be sent");
    }
}

/// One batch from whichever socket has one. An error is that of an earlier packet (ICMP) and says nothing here.
fn receive(cx: &mut Context<'_>, sockets: &[Socket], buffer: &mut [u8]) -> Poll<(usize, RecvMeta)> {
    for (at, socket) in sockets.iter().enumerate() {
        let mut metas = [RecvMeta::default()];
        let polled = socket.poll_recv(cx, &mut [IoSliceMut::new(buffer)], &mut metas);
        match polled {
            Poll::Ready(Ok(1..)) => return Poll::Ready((at, metas[0])),
            Poll::Ready(_) => cx.waker().wake_by_ref(),
            Poll::Pending => {}
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_port_is_that_of_the_relay() {
        assert_eq!(second_port(443), 3_478);
        assert_eq!(second_port(3_478), 3_479);
        let second = SocketAddr::from(([203, 0, 113, 1], 3_478));
        assert_eq!(other_address(second, Some(443)).port(), 443);
        assert_eq!(other_address(second, None).port(), 3_479);
        assert_eq!(second_port(u16::MAX), u16::MAX - 1);
    }

    #[test]
    fn a_clock_that_runs_ahead_is_told_so() {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = u64::try_from(unix.expect("after 1970").as_micros()).expect("not yet");
        // The relay's clock showed a minute less than ours shows now, five seconds ago: 55 s.
        let relays = micros - 60_000_000;
        let at = now()
            .checked_sub(Duration::from_secs(5))
            .expect("up for longer");
        let ahead = ahead_millis(relays, at).expect("told");
        assert!((54_000..=56_000).contains(&ahead), "{ahead}");
    }
}
