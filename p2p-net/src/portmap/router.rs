//! The router, and what is said to it: PCP first, NAT-PMP where that is older, UPnP where neither answers (its
//! search runs meanwhile). Every answer is bounded in size and time, by the crates or here, and believed by
//! nobody before the relay has seen the same address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::pin::pin;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMappingOptions, TimeoutConfig, VersionCode, natpmp, pcp,
};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddAnyPortError, AddPortError, PortMappingProtocol, SearchOptions};
use p2p_net_proto::{MAPPING_LIFETIME_SECS, MappingProtocol, PortMapping, PortMappingReport};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

/// First wait for an answer to PCP and NAT-PMP, and how often it is doubled: 250, 500 and 1,000 ms (RFC 6886
/// §3.1 begins so, and goes on for a minute, which nobody here waits for).
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};
/// The search for a UPnP router, its description included. Routers spread their answers over the three seconds
/// that the question names.
const SEARCH_LIMIT: Duration = Duration::from_secs(4);
/// One question to a UPnP router.
const UPNP_LIMIT: Duration = Duration::from_secs(3);
/// All of it, whatever the router does.
const ASK_LIMIT: Duration = Duration::from_secs(15);
/// Said of a router that has none of it.
const SILENT: &str = "the router answers no PCP, NAT-PMP or UPnP";
/// What routers show beside the port.
const DESCRIPTION: &str = "landline";

/// Whom we ask, and as whom it sees us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Router {
    pub(super) gateway: Ipv4Addr,
    pub(super) client: Ipv4Addr,
}

/// Why there is no mapping.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    router: Option<Router>,
    words: String,
}

impl Refusal {
    pub(super) fn new(router: Option<Router>, words: String) -> Self {
        Self { router, words }
    }

    pub(super) fn router(&self) -> Option<Router> {
        self.router
    }

    pub(super) fn words(&self) -> &str {
        &self.words
    }
}

/// A mapping, and what is needed to renew and remove it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    router: Router,
    port: NonZeroU16,
    mapping: PortMapping,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    /// The nonce says that the mapping is ours (RFC 6887 §11.3.1).
    Pcp(pcp::Nonce),
    NatPmp,
    Upnp(Box<Gateway<Tokio>>),
}

impl Router {
    /// The default gateway of this machine and our address towards it; `None` without IPv4.
    async fn find() -> Option<Self> {
        // Reads the system's tables, which may block.
        let found = spawn_blocking(netdev::get_default_gateway).await.ok()?;
        let gateway = *found.ok()?.ipv4.first()?;
        let probe = tokio::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await;
        let probe = probe.ok()?;
        // Sends nothing, but chooses the address.
        probe
            .connect((gateway, crab_nat::GATEWAY_PORT))
            .await
            .ok()?;
        match probe.local_addr().ok()?.ip() {
            IpAddr::V4(client) if !client.is_loopback() && !client.is_unspecified() => {
                Some(Self { gateway, client })
            }
            _ => None,
        }
    }

    fn address(&self) -> GatewayAddress {
        GatewayAddress::from(self.gateway)
    }
}

/// Asks for `port`; what was held before is renewed, if the network is still the same.
pub(super) async fn ask(port: NonZeroU16, before: Option<Held>) -> Result<Held, Refusal> {
    let Some(router) = Router::find().await else {
        return Err(Refusal::new(None, "there is no router to ask".to_owned()));
    };
    if !router.is_worth_asking() {
        let words = "this computer has a public address".to_owned();
        return Err(Refusal::new(Some(router), words));
    }
    let before = before.filter(|held| held.router == router && held.port == port);
    let asking = async {
        if let Some(before) = before {
            match before.renew().await {
                Ok(held) => return Ok(held),
                Err(words) => debug!(words, "not renewed; asking anew"),
            }
        }
        ask_anew(router, port).await
    };
    match timeout(ASK_LIMIT, asking).await {
        Ok(answer) => answer.map_err(|words| Refusal::new(Some(router), words)),
        Err(_) => {
            let words = "it does not come to an end".to_owned();
            Err(Refusal::new(Some(router), words))
        }
    }
}

async fn ask_anew(router: Router, port: NonZeroU16) -> Result<Held, String> {
    let mut search = pin!(search(router));
    let mut found = None;
    let mut other = pin!(by_datagrams(router, port));
    let refused = loop {
        tokio::select! {
            biased;
            answer = &mut other => match answer {
                Ok(held) => return Ok(held),
                Err(words) => break words,
            },
            gateway = &mut search, if found.is_none() => found = Some(gateway),
        }
    };
    let gateway = match found {
        Some(gateway) => gateway,
        None => search.await,
    };
    match gateway {
        Ok(gateway) => by_upnp(router, port, gateway, None).await,
        // Whoever answers a protocol at all says more than one who does not.
        Err(_) => Err(refused),
    }
}

/// PCP, or NAT-PMP where the router says that it is older, or does not understand at all.
async fn by_datagrams(router: Router, port: NonZeroU16) -> Result<Held, String> {
    let nonce = [rand::random(), rand::random(), rand::random()];
    match by_pcp(router, port, nonce, port).await {
        Err(pcp::Failure::UnsupportedVersion(VersionCode::NatPmp)) => {
            by_nat_pmp(router, port, port).await
        }
        Err(pcp::Failure::Timeout) => by_nat_pmp(router, port, port)
            .await
            .map_err(|_| SILENT.to_owned()),
        Err(pcp::Failure::Socket(_)) => Err(SILENT.to_owned()),
        answer => answer.map_err(|error| format!("PCP: {error}")),
    }
}

fn options(external_port: NonZeroU16) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(external_port),
        lifetime_seconds: Some(MAPPING_LIFETIME_SECS),
        timeout_config: Some(TIMING),
    }
}

async fn by_pcp(
    router: Router,
    port: NonZeroU16,
    nonce: pcp::Nonce,
    external_port: NonZeroU16,
) -> Result<Held, pcp::Failure> {
    let client = IpAddr::V4(router.client);
    let base = pcp::BaseMapRequest::new(router.address(), client, InternetProtocol::Udp, port);
    let granted = pcp::port_mapping(base, Some(nonce), None, options(external_port)).await?;
    let external_ip = match granted.mapping_type() {
        crab_nat::PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
        crab_nat::PortMappingType::NatPmp => Ipv4Addr::UNSPECIFIED.into(),
    };
    // An IPv6 address for an IPv4 port is nothing that we could offer.
    let IpAddr::V4(external_ip) = external_ip else {
        return Err(pcp::Failure::Timeout);
    };
    let external = SocketAddrV4::new(external_ip, granted.external_port().get());
    Ok(Held::new(
        router,
        port,
        (MappingProtocol::Pcp, external, granted.lifetime()),
        How::Pcp(nonce),
    ))
}

async fn by_nat_pmp(
    router: Router,
    port: NonZeroU16,
    external_port: NonZeroU16,
) -> Result<Held, String> {
    let words = |error: natpmp::Failure| format!("NAT-PMP: {error}");
    // First what is only a question: nothing is left behind where it fails.
    let external_ip = natpmp::external_address(router.address(), Some(TIMING)).await;
    let external_ip = external_ip.map_err(words)?;
    let (udp, options) = (InternetProtocol::Udp, options(external_port));
    let granted = natpmp::port_mapping(router.address(), udp, port, options).await;
    let granted = granted.map_err(words)?;
    let external = SocketAddrV4::new(external_ip, granted.external_port().get());
    Ok(Held::new(
        router,
        port,
        (MappingProtocol::NatPmp, external, granted.lifetime()),
        How::NatPmp,
    ))
}

/// The router's UPnP face. Another host of the LAN that answers instead is not asked for anything.
async fn search(router: Router) -> Result<Gateway<Tokio>, String> {
    let mut wanted = SearchOptions::default();
    wanted.bind_addr = SocketAddr::from((router.client, 0));
    wanted.timeout = Some(SEARCH_LIMIT);
    let found = timeout(SEARCH_LIMIT, search_gateway(wanted)).await;
    let found = found.map_err(|_| "UPnP: no answer".to_owned())?;
    let gateway = found.map_err(|error| format!("UPnP: {error}"))?;
    if gateway.addr.ip() == IpAddr::V4(router.gateway) {
        Ok(gateway)
    } else {
        Err(format!("UPnP: {} is not our router", gateway.addr.ip()))
    }
}

/// `external_port` is that of a mapping which is renewed.
async fn by_upnp(
    router: Router,
    port: NonZeroU16,
    gateway: Gateway<Tokio>,
    external_port: Option<NonZeroU16>,
) -> Result<Held, String> {
    let words = |error: String| format!("UPnP: {error}");
    let late = || words("no answer".to_owned());
    let external_ip = timeout(UPNP_LIMIT, gateway.get_external_ip()).await;
    let external_ip = external_ip.map_err(|_| late())?;
    let IpAddr::V4(external_ip) = external_ip.map_err(|error| words(error.to_string()))? else {
        return Err(words("its address is no IPv4 one".to_owned()));
    };
    let client = SocketAddr::from((router.client, port.get()));
    let wanted = external_port.unwrap_or(port).get();
    let asking = upnp_port(&gateway, client, wanted, MAPPING_LIFETIME_SECS);
    let granted = timeout(UPNP_LIMIT, asking).await.map_err(|_| late())?;
    let (granted, lifetime) = match granted {
        Ok(granted) => (granted, MAPPING_LIFETIME_SECS),
        // Old routers know no leases: what they open stays open until we close it.
        Err(AddAnyPortError::OnlyPermanentLeasesSupported) => {
            let asking = upnp_port(&gateway, client, wanted, 0);
            let granted = timeout(UPNP_LIMIT, asking).await.map_err(|_| late())?;
            (granted.map_err(|error| words(error.to_string()))?, 0)
        }
        Err(error) => return Err(words(error.to_string())),
    };
    let external = SocketAddrV4::new(external_ip, granted);
    Ok(Held::new(
        router,
        port,
        (MappingProtocol::Upnp, external, lifetime),
        How::Upnp(Box::new(gateway)),
    ))
}

/// Our own number if it is free, else any.
async fn upnp_port(
    gateway: &Gateway<Tokio>,
    client: SocketAddr,
    wanted: u16,
    lifetime: u32,
) -> Result<u16, AddAnyPortError> {
    let udp = PortMappingProtocol::UDP;
    match gateway
        .add_port(udp, wanted, client, lifetime, DESCRIPTION)
        .await
    {
        Ok(()) => Ok(wanted),
        Err(AddPortError::OnlyPermanentLeasesSupported) => {
            Err(AddAnyPortError::OnlyPermanentLeasesSupported)
        }
        Err(AddPortError::ActionNotAuthorized) => Err(AddAnyPortError::ActionNotAuthorized),
        Err(_) => {
            gateway
                .add_any_port(udp, client, lifetime, DESCRIPTION)
                .await
        }
    }
}

/// Which protocols the router answers, beside what is held or was refused.
pub(super) async fn survey(held: Option<Held>, refusal: Option<Refusal>) -> PortMappingReport {
    let known = held.as_ref().map(Held::router);
    let Some(router) = (match known {
        Some(router) => Some(router),
        None => Router::find().await,
    }) else {
        return PortMappingReport {
            problem: refusal.map(|refusal| refusal.words),
            ..PortMappingReport::default()
        };
    };
    let mapping = held.as_ref().map(Held::mapping);
    let (nat_pmp, upnp) = tokio::join!(
        natpmp::external_address(router.address(), Some(TIMING)),
        search(router)
    );
    let by = |protocol| mapping.is_some_and(|mapping| mapping.protocol == protocol);
    let offers = [
        (MappingProtocol::Pcp, false),
        (MappingProtocol::NatPmp, nat_pmp.is_ok()),
        (MappingProtocol::Upnp, upnp.is_ok()),
    ];
    let offers = offers
        .into_iter()
        .filter(|(protocol, answers)| *answers || by(*protocol));
    PortMappingReport {
        router: Some(router.gateway.into()),
        offers: offers.map(|(protocol, _)| protocol).collect(),
        mapping,
        problem: refusal
            .filter(|_| mapping.is_none())
            .map(|refusal| refusal.words),
    }
}

impl Held {
    fn new(
        router: Router,
        port: NonZeroU16,
        (protocol, external, lifetime_secs): (MappingProtocol, SocketAddrV4, u32),
        how: How,
    ) -> Self {
        Self {
            router,
            port,
            mapping: PortMapping {
                protocol,
                external,
                lifetime_secs,
            },
            how,
        }
    }

    pub(super) fn mapping(&self) -> PortMapping {
        self.mapping
    }

    pub(super) fn router(&self) -> Router {
        self.router
    }

    async fn renew(self) -> Result<Self, String> {
        let external = NonZeroU16::new(self.mapping.external.port()).unwrap_or(self.port);
        match self.how {
            How::Pcp(nonce) => by_pcp(self.router, self.port, nonce, external)
                .await
                .map_err(|error| error.to_string()),
            How::NatPmp => by_nat_pmp(self.router, self.port, external).await,
            How::Upnp(gateway) => by_upnp(self.router, self.port, *gateway, Some(external)).await,
        }
    }

    /// Gives it back; what does not work ends with the mapping's lifetime.
    pub(super) async fn release(self) {
        let (address, client) = (self.router.address(), IpAddr::V4(self.router.client));
        let protocol = InternetProtocol::Udp;
        let released = match self.how {
            How::Pcp(nonce) => {
                let internal_port = self.port;
                let range = pcp::DropMappingRange::Single {
                    internal_port,
                    protocol,
                };
                pcp::try_drop_mapping(address, client, nonce, range, Some(TIMING))
                    .await
                    .map_err(|error| error.to_string())
            }
            How::NatPmp => {
                natpmp::try_drop_mapping(address, protocol, Some(self.port), Some(TIMING))
                    .await
                    .map_err(|error| error.to_string())
            }
            How::Upnp(gateway) => {
                let port = self.mapping.external.port();
                let removal = gateway.remove_port(PortMappingProtocol::UDP, port);
                timeout(UPNP_LIMIT, removal).await.map_or_else(
                    |_| Err("no answer".to_owned()),
                    |removed| removed.map_err(|error| error.to_string()),
                )
            }
        };
        match released {
            Ok(()) => debug!(external = %self.mapping.external, "the port is given back"),
            Err(error) => debug!(error, "the port could not be given back"),
        }
    }
}
