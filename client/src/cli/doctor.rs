//! `landline doctor [PEER]`: how the network is, what carries the connection to a peer, and what to do about
//! either. Looks through the engine that runs, or starts one for the purpose.

use std::time::Duration;

use console::{Alignment, measure_text_width, pad_str};
use p2p_net::{
    Allocation, FamilyReport, Filtering, Mapping, NetworkReport, NotDirect, PathKind, PeerId,
    PortMappingReport,
};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::out::Out;
use super::terminal::local_time;
use crate::command::{Command, Reply};
use crate::contacts::Standing;
use crate::diagnosis::{self, ConnectionReport, Finding, Grade, PathEntry, PeerReport};
use crate::event::{RelayStep, RelayView};
use crate::session::Session;
use crate::settings::Settings;
use crate::{Exit, Problem, face, interrupt};

/// How long the login may take before the network is looked at without it.
const LOGIN_WAIT: Duration = Duration::from_secs(3);
/// How long a connection that stands may seek its direct path before it is judged: ordinary ones take two round
/// trips, guessing ports some seconds.
const DIRECT_WAIT: Duration = Duration::from_secs(8);
/// Between looks whether it has found one.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Entries of the history that are shown to people.
const SHOWN_HISTORY: usize = 10;

pub(super) async fn run(
    settings: &Settings,
    out: Out,
    peer: Option<String>,
) -> Result<Exit, Problem> {
    let mut session = Session::open(settings).await?;
    let result = tokio::select! {
        result = examine(&mut session, out, peer) => result,
        () = interrupt::interrupted() => Err(Problem::failure("interrupted")),
    };
    session.close().await;
    result
}

async fn examine(session: &mut Session, out: Out, peer: Option<String>) -> Result<Exit, Problem> {
    let peer = match peer {
        Some(text) => Some(session.resolve(&text).await?),
        None => None,
    };
    // Whether it succeeds is part of the findings.
    let _ = timeout(LOGIN_WAIT, session.wait_online()).await;
    let Reply::Network(report) = session.caller.call(Command::Network).await? else {
        return Err(face::gone());
    };
    let relay = session.status().await?.relay;
    let found = diagnosis::network(&relay, &report);
    tell_network(out, &relay, &report, &found);
    let mut works = found.grade != Grade::Bad;
    if let Some(peer) = peer {
        out.text("");
        let way = diagnose(session, peer).await?;
        let found = diagnosis::peer(&way, &report);
        tell_peer(out, &way, &found);
        works &= found.grade != Grade::Bad;
    }
    Ok(if works {
        Exit::Success
    } else {
        Exit::Unreachable
    })
}

/// Makes a connection to a contact if there is none, and gives it time to find its path. Strangers are not
/// dialled: that would make them contacts.
async fn diagnose(session: &Session, peer: PeerId) -> Result<PeerReport, Problem> {
    let mut report = ask(session, peer).await?;
    if report.connection.is_none() {
        if report.peer.standing != Standing::Accepted {
            let what = format!("{} is not a contact", report.peer.label());
            let next = format!("landline contacts add {peer}");
            report.problem = Some(Problem::failure(what).with_next(next));
            return Ok(report);
        }
        if let Err(problem) = session.caller.call(Command::Connect { peer }).await {
            report.problem = Some(problem);
            return Ok(report);
        }
    }
    let deadline = Instant::now() + DIRECT_WAIT;
    loop {
        report = ask(session, peer).await?;
        let seeks = report.connection.as_ref().is_some_and(is_seeking);
        if !seeks || Instant::now() >= deadline {
            return Ok(report);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn is_seeking(connection: &ConnectionReport) -> bool {
    let passing = [NotDirect::Idle, NotDirect::Trying, NotDirect::Lost];
    connection
        .not_direct
        .is_some_and(|why| passing.contains(&why))
}

async fn ask(session: &Session, peer: PeerId) -> Result<PeerReport, Problem> {
    match session.caller.call(Command::Diagnose { peer }).await? {
        Reply::Way(report) => Ok(*report),
        _ => Err(face::gone()),
    }
}

#[derive(Serialize)]
struct Told<'a, T> {
    report: &'static str,
    #[serde(flatten)]
    finding: &'a Finding,
    details: T,
}

#[derive(Serialize)]
struct NetworkDetails<'a> {
    login: &'a RelayView,
    udp: Option<bool>,
    kind: Vec<&'static str>,
    network: &'a NetworkReport,
}

fn tell_network(out: Out, relay: &RelayView, report: &NetworkReport, found: &Finding) {
    out.json(&Told {
        report: "network",
        finding: found,
        details: NetworkDetails {
            login: relay,
            udp: report.udp(),
            kind: report.families().map(|family| family.nat.name()).collect(),
            network: report,
        },
    });
    tell(out, found, &network_rows(relay, report));
}

fn tell_peer(out: Out, way: &PeerReport, found: &Finding) {
    out.json(&Told {
        report: "peer",
        finding: found,
        details: way,
    });
    tell(out, found, &peer_rows(way));
}

/// The verdict, a table, what speaks for the verdict, and advice.
fn tell(out: Out, found: &Finding, rows: &[(&'static str, String)]) {
    let (mark, style) = match found.grade {
        Grade::Good => ("✔", "32"),
        Grade::Fair => ("!", "33"),
        Grade::Bad => ("✘", "31"),
    };
    out.text(&format!(
        "{} {}",
        out.paint(style, mark),
        out.bold(&found.verdict)
    ));
    out.text("");
    let width = rows.iter().map(|(name, _)| measure_text_width(name)).max();
    for (name, value) in rows {
        let name = pad_str(name, width.unwrap_or(0), Alignment::Left, None).into_owned();
        out.text(&format!("  {}  {value}", out.dim(&name)));
    }
    for (title, lines) in [("Why", &found.evidence), ("What you can do", &found.advice)] {
        if !lines.is_empty() {
            out.text("");
            out.text(&format!("  {}", out.bold(title)));
            for line in lines {
                out.text(&format!("    - {line}"));
            }
        }
    }
}

fn network_rows(relay: &RelayView, report: &NetworkReport) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let place = report.relay.as_deref().unwrap_or("none is configured");
    let login = match relay.state {
        RelayStep::Online => "logged in",
        RelayStep::Connecting => "no login yet",
        RelayStep::Failed => "the login failed",
        RelayStep::None => "no login",
    };
    rows.push(("Relay", format!("{place}, {login}{}", relay.by())));
    for (name, family) in [("IPv4", &report.ipv4), ("IPv6", &report.ipv6)] {
        let text = family
            .as_ref()
            .map_or_else(|| "not used".to_owned(), family_text);
        rows.push((name, text));
        if let Some(family) = family.as_ref().filter(|family| family.is_reached()) {
            rows.push(("", nat_text(family)));
        }
    }
    if let Some(ports) = &report.port_mapping {
        rows.push(("Open port", ports_text(ports)));
    }
    if let Some(ahead) = report.clock_ahead_millis {
        rows.push(("Clock", clock_text(ahead)));
    }
    let addresses: Vec<String> = report
        .interfaces
        .iter()
        .map(|interface| format!("{}/{}", interface.address, interface.prefix))
        .collect();
    rows.push(("Addresses", addresses.join(", ")));
    rows
}

/// "reached by UDP in 41 ms on port 443 and 43 ms on port 3478".
fn family_text(family: &FamilyReport) -> String {
    if !family.is_reached() {
        return "UDP gets no answer".to_owned();
    }
    let ports: Vec<String> = family
        .servers
        .iter()
        .map(|server| match server.round_trip_micros {
            Some(micros) => format!("port {} in {}", server.address.port(), millis(micros)),
            None => format!("not port {}", server.address.port()),
        })
        .collect();
    format!("UDP reaches {}", ports.join(", "))
}

/// What stands between us and the relay, in one line.
fn nat_text(family: &FamilyReport) -> String {
    let nat = &family.nat;
    let mut text = nat.name().to_owned();
    if let Some((_, seen)) = nat.seen.first()
        && nat.mapping != Some(Mapping::None)
    {
        text.push_str(&format!("; you are seen as {}", seen.ip()));
    }
    let mut add = |more: &str| {
        text.push_str("; ");
        text.push_str(more);
    };
    match (nat.allocation, nat.block) {
        (Some(Allocation::Preserving), _) => add("keeps port numbers"),
        (_, Some((first, last))) => add(&format!("ports {first} to {last}")),
        _ => {}
    }
    if nat.filtering == Some(Filtering::AddressAndPortDependent)
        && nat.mapping == Some(Mapping::DestinationDependent)
    {
        add("lets in only what was spoken to");
    }
    match nat.hairpin {
        Some(true) => add("hairpin"),
        Some(false) => add("no hairpin"),
        None => {}
    }
    text
}

/// What the router offers, and what it has granted.
fn ports_text(ports: &PortMappingReport) -> String {
    if ports.router.is_none() {
        return "no router to ask".to_owned();
    }
    let names: Vec<&str> = ports.offers.iter().map(|offer| offer.name()).collect();
    let offers = if names.is_empty() {
        "the router offers none (no PCP, NAT-PMP or UPnP)".to_owned()
    } else {
        format!("the router offers {}", names.join(", "))
    };
    match (&ports.mapping, &ports.problem) {
        (Some(mapping), _) => {
            let until = match mapping.lifetime_secs {
                0 => "until it is closed".to_owned(),
                seconds => format!("for {seconds} s, renewed at half"),
            };
            let use_of_it = if mapping.is_public() {
                ""
            } else {
                ", which is no public address: another router stands before it"
            };
            format!(
                "{} by {}, {until}{use_of_it}; {offers}",
                mapping.external,
                mapping.protocol.name()
            )
        }
        (None, Some(problem)) if !names.is_empty() => format!("none: {problem}; {offers}"),
        (None, _) => offers,
    }
}

fn clock_text(ahead_millis: i64) -> String {
    let seconds = ahead_millis.unsigned_abs() as f64 / 1_000.0;
    match ahead_millis {
        -1_000..=1_000 => "right".to_owned(),
        1_001.. => format!("{seconds:.1} s ahead of the relay's"),
        _ => format!("{seconds:.1} s behind the relay's"),
    }
}

fn peer_rows(way: &PeerReport) -> Vec<(&'static str, String)> {
    let mut rows = vec![("Peer", format!("{} ({})", way.peer.label(), way.peer.id))];
    let Some(connection) = &way.connection else {
        let there = if way.peer.online {
            "at the relay"
        } else {
            "not at the relay"
        };
        rows.push(("State", there.to_owned()));
        return rows;
    };
    rows.push(("Path", path_text(connection.path, connection.remote)));
    if let Some(why) = connection.not_direct {
        rows.push(("Not direct", format!("{why}: {}", why.meaning())));
    }
    let micros = connection.direct_round_trip_micros;
    let micros = micros.unwrap_or(connection.round_trip_micros);
    rows.push(("Round trip", millis(micros)));
    rows.push(("Loss", loss_text(connection)));
    rows.push(("Packets", format!("up to {} bytes", connection.mtu)));
    let skipped = connection.history.len().saturating_sub(SHOWN_HISTORY);
    for (at, entry) in connection.history.iter().skip(skipped).enumerate() {
        let name = if at == 0 { "History" } else { "" };
        rows.push((name, entry_text(entry)));
    }
    rows
}

fn loss_text(connection: &ConnectionReport) -> String {
    let (lost, sent) = (connection.lost_packets, connection.sent_packets);
    let share = match connection.loss_permille() {
        Some(permille) => format!("{}.{} %, ", permille / 10, permille % 10),
        None => String::new(),
    };
    format!("{share}{lost} of {sent} packets")
}

fn path_text(path: PathKind, remote: Option<std::net::SocketAddr>) -> String {
    match (path, remote) {
        (PathKind::Direct, Some(remote)) => format!("direct, {remote}"),
        (PathKind::Direct, None) => "direct".to_owned(),
        (PathKind::Relayed, _) => "through the relay".to_owned(),
        (PathKind::None, _) => "none".to_owned(),
    }
}

fn entry_text(entry: &PathEntry) -> String {
    let mut text = format!(
        "{}  {}",
        local_time(entry.since_millis),
        path_text(entry.path, entry.remote)
    );
    if let Some(micros) = entry.round_trip_micros {
        text.push_str(&format!(", {}", millis(micros)));
    }
    if let Some(why) = entry.not_direct.filter(|why| *why != NotDirect::Idle) {
        text.push_str(&format!(" ({why})"));
    }
    text
}

fn millis(micros: u64) -> String {
    if micros < 10_000 {
        format!("{:.1} ms", micros as f64 / 1_000.0)
    } else {
        format!("{} ms", micros / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use p2p_net::{MappingProtocol, NatReport, PortMapping, ServerReport};

    use super::*;

    fn family(mapping: Mapping) -> FamilyReport {
        let server = |port: u16, round_trip_micros: Option<u64>| ServerReport {
            address: ([192, 0, 2, 1], port).into(),
            round_trip_micros,
        };
        FamilyReport {
            servers: vec![server(443, Some(41_300)), server(3_478, None)],
            nat: NatReport {
                seen: vec![(
                    ([192, 0, 2, 1], 443).into(),
                    ([198, 51, 100, 1], 30_300).into(),
                )],
                silent: Vec::new(),
                mapping: Some(mapping),
                allocation: Some(Allocation::Block),
                block: Some((30_208, 30_719)),
                filtering: Some(Filtering::AddressAndPortDependent),
                hairpin: Some(false),
            },
        }
    }

    #[test]
    fn a_family_fits_two_lines() {
        let family = family(Mapping::DestinationDependent);
        assert_eq!(
            family_text(&family),
            "UDP reaches port 443 in 41 ms, not port 3478"
        );
        assert_eq!(
            nat_text(&family),
            "symmetric NAT, ports out of a small block; you are seen as 198.51.100.1; ports 30208 to \
             30719; lets in only what was spoken to; no hairpin"
        );
    }

    #[test]
    fn what_the_router_opens_is_told() {
        let mut ports = PortMappingReport::default();
        assert_eq!(ports_text(&ports), "no router to ask");
        ports.router = Some([192, 168, 1, 1].into());
        let none = "the router offers none (no PCP, NAT-PMP or UPnP)";
        assert_eq!(ports_text(&ports), none);
        ports.offers = vec![MappingProtocol::NatPmp, MappingProtocol::Upnp];
        ports.problem = Some("PCP: not authorized".to_owned());
        assert_eq!(
            ports_text(&ports),
            "none: PCP: not authorized; the router offers NAT-PMP, UPnP"
        );
        ports.mapping = Some(PortMapping {
            protocol: MappingProtocol::NatPmp,
            external: "198.51.100.2:4000".parse().expect("an address"),
            lifetime_secs: 3_600,
        });
        assert_eq!(
            ports_text(&ports),
            "198.51.100.2:4000 by NAT-PMP, for 3600 s, renewed at half; the router offers NAT-PMP, UPnP"
        );
    }

    #[test]
    fn small_figures_are_told_finely() {
        assert_eq!(millis(340), "0.3 ms");
        assert_eq!(millis(41_900), "41 ms");
        assert_eq!(clock_text(-300), "right");
        assert_eq!(clock_text(-61_500), "61.5 s behind the relay's");
        assert_eq!(clock_text(2_000), "2.0 s ahead of the relay's");
    }
}
