//! Rows in virtual time: a real relay and real endpoints as whole programs on simulated networks. Times are
//! what the protocol takes, in round trips; processors and disks cost nothing here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use p2p_net::{
    Config, Connection, Endpoint, Identity, PathKind, RecvStream, RelayAddress, RelayState,
    SendStream, SocketProvider,
};
use p2p_net_sim::{LinkConfig, NatConfig, SimHost, SimNet};
use tokio::time::{Instant, sleep, timeout};

use crate::report::{Bar, Row, Spread};
use crate::scenario::Effort;

/// One-way delays of every link, milliseconds; a round trip through the relay (R) is four of them.
const DELAYS_MILLIS: [u64; 5] = [10, 25, 50, 100, 200];
/// What every link adds to its delay at random, as a share of it.
const JITTER: f64 = 0.02;
/// Deliveries wait for the next tick of tokio's timers, half a tick on average: the network that is
/// simulated is slower by so much, and so is its R.
const TICK: Duration = Duration::from_millis(1);
/// Longest wait for anything, virtual: a bound for runs that fail.
const PATIENCE: Duration = Duration::from_secs(60);
/// The rate of the links that a transfer is cut on.
const CUT_RATE_BITS_PER_SEC: u64 = 20_000_000;
const RELAY_PORT: u16 = 443;

/// What one pair of peers lived through.
#[derive(Debug, Clone, Copy)]
struct Met {
    /// From `connect()` until an answer to the first byte was there.
    first_byte: Duration,
    /// From `connect()` until the dialler's bytes reached the other side directly.
    direct: Duration,
    /// The nominal round trip through the relay.
    round_trip: Duration,
}

/// The rows of the area "first line" that need no real network.
///
/// # Errors
/// Where a temporary folder cannot be made; a simulation that fails is a row that fails.
pub fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = meeting_rows(effort)?;
    rows.extend(cut_rows(effort)?);
    Ok(rows)
}

fn meeting_rows(effort: Effort) -> Result<Vec<Row>> {
    let seeds = effort.pick(4, 27);
    let (mut first, mut direct) = (Vec::new(), Vec::new());
    let mut failed = None;
    for delay in DELAYS_MILLIS.map(Duration::from_millis) {
        for seed in 0..seeds {
            match simulate(|| meet(seed, delay)) {
                Ok(met) => {
                    first.push(met.first_byte.div_duration_f64(met.round_trip));
                    direct.push(met.direct.div_duration_f64(met.round_trip));
                }
                Err(error) => {
                    failed
                        .get_or_insert_with(|| format!("seed {seed}, delay {delay:?}: {error:#}"));
                }
            }
        }
    }
    let beside = format!(
        "{seeds} seeds at each of 10, 25, 50, 100, 200 ms a link (R is four links), 9 pairs of full cone, \
         address- and port-restricted NATs"
    );
    Ok(vec![
        worst_row(
            "first byte through the relay acknowledged",
            2.0,
            &first,
            &failed,
            &beside,
        ),
        worst_row("traffic on the direct path", 3.5, &direct, &failed, &beside),
    ])
}

/// A row whose figure is the worst of all runs, in R.
fn worst_row(
    target: &str,
    bar: f64,
    figures: &[f64],
    failed: &Option<String>,
    beside: &str,
) -> Row {
    match (Spread::of(figures), failed) {
        (Some(spread), None) => {
            let beside = format!("p50 (least–worst) {spread} R; {beside}");
            Row::new(target, Bar::AtMost(bar), spread.max, "R, worst", beside)
        }
        (_, why) => {
            let why = why.as_deref().unwrap_or("no run");
            Row::failed(target, Bar::AtMost(bar), "R, worst", why)
        }
    }
}

fn cut_rows(effort: Effort) -> Result<Vec<Row>> {
    let seeds = effort.pick(3, 20);
    let (mut stalls, mut returns) = (Vec::new(), Vec::new());
    let mut failed = None;
    for seed in 0..seeds {
        match simulate(|| cut(seed)) {
            Ok((stall, back)) => {
                stalls.push(stall.as_secs_f64());
                returns.push(back.as_secs_f64());
            }
            Err(error) => {
                failed.get_or_insert_with(|| format!("seed {seed}: {error:#}"));
            }
        }
    }
    let target = "direct path cut in mid-transfer: moving again (simulator)";
    let bar = Bar::AtMost(2.0);
    Ok(vec![
        match (Spread::of(&stalls), Spread::of(&returns), failed) {
            (Some(stall), Some(back), None) => {
                let beside = format!(
                    "p50 (least–worst) {stall} s, back on the direct path {back} s after it healed; {seeds} seeds, \
                 20 Mbit/s, 25 ms a link"
                );
                Row::new(target, bar, stall.max, "s, worst", beside)
            }
            (_, _, why) => Row::failed(
                target,
                bar,
                "s, worst",
                why.unwrap_or_else(|| "no run".to_owned()),
            ),
        },
    ])
}

/// Runs one simulation in a runtime of its own with its clock paused: time passes only while all wait.
fn simulate<T, F: Future<Output = Result<T>>>(run: impl FnOnce() -> F) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?
        .block_on(async {
            timeout(10 * PATIENCE, run())
                .await
                .context("it went on for ever")?
        })
}

/// A relay and two peers behind NATs of kinds that `seed` chooses.
struct Pair {
    net: SimNet,
    hosts: [SimHost; 2],
    endpoints: [Endpoint; 2],
    // Dropped last.
    _relay: relay::Relay,
    _folder: tempfile::TempDir,
}

impl Pair {
    async fn new(seed: u64, link: LinkConfig) -> Result<Self> {
        let net = SimNet::new(seed);
        let kinds = [
            NatConfig::full_cone(),
            NatConfig::address_restricted(),
            NatConfig::port_restricted(),
        ];
        let kind = |number: u64| kinds[usize::try_from(number % 3).unwrap_or(0)];
        let relay_host = net.host();
        let hosts = [net.host_behind(kind(seed)), net.host_behind(kind(seed / 3))];
        net.set_default_link(link);

        let folder = tempfile::tempdir()?;
        let relay = start_relay(&relay_host, folder.path()).await?;
        let address = RelayAddress {
            host: relay_host.address().to_string(),
            port: RELAY_PORT,
            ..relay.address()
        };
        let endpoint = |host: &SimHost, secret: u8| {
            Endpoint::bind(Config {
                identity: Identity::from_secret([secret; 32]),
                relay: Some(address.clone()),
                port: 0,
                sockets: Some(Arc::new(Sockets(host.clone()))),
            })
        };
        let endpoints = [endpoint(&hosts[0], 1)?, endpoint(&hosts[1], 2)?];
        for endpoint in &endpoints {
            let mut state = endpoint.watch_relay();
            timeout(
                PATIENCE,
                state.wait_for(|state| matches!(state, RelayState::Online { .. })),
            )
            .await
            .context("no login at the relay")??;
        }
        let [one, other] = &endpoints;
        one.set_accepted(other.id(), true);
        other.set_accepted(one.id(), true);
        // Both know their round trip to the relay by now, as programs that have been up for a moment do.
        sleep(Duration::from_secs(7)).await;
        Ok(Self {
            net,
            hosts,
            endpoints,
            _relay: relay,
            _folder: folder,
        })
    }
}

async fn start_relay(host: &SimHost, folder: &Path) -> Result<relay::Relay> {
    let main = SocketAddr::new(host.address(), RELAY_PORT);
    let config = relay::Config {
        data_dir: folder.to_owned(),
        listen: vec![main],
        stun_port: Some(3_478),
        public_address: Some(main.to_string()),
        token: None,
        open: false,
        allow: Vec::new(),
        limits: relay::Limits::default(),
        sockets: Some(vec![host.socket(RELAY_PORT), host.socket(3_478)]),
    };
    relay::Relay::start(config)
        .await
        .context("starting the relay")
}

/// A host's sockets for an [`Endpoint`].
struct Sockets(SimHost);

impl SocketProvider for Sockets {
    fn bind(&self, port: u16) -> io::Result<Vec<Arc<dyn quinn::AsyncUdpSocket>>> {
        Ok(vec![self.0.socket(port)])
    }

    fn bind_extra(&self) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        Ok(self.0.socket(0))
    }

    fn interfaces(&self) -> Vec<(IpAddr, u8)> {
        self.0.prefixes()
    }

    fn resolve(
        &self,
        host: String,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        let parsed = host.parse::<IpAddr>().map_err(io::Error::other);
        Box::pin(async move { Ok(vec![SocketAddr::new(parsed?, port)]) })
    }
}

/// Dials, sends a byte, waits for its answer, and goes on until the direct path carries the traffic.
async fn meet(seed: u64, delay: Duration) -> Result<Met> {
    let jitter = delay.mul_f64(JITTER);
    let pair = Pair::new(seed, LinkConfig::delay(delay).with_jitter(jitter)).await?;
    let [caller, callee] = &pair.endpoints;
    let answering = tokio::spawn(answer(callee.clone()));

    let started = Instant::now();
    let connection = timeout(PATIENCE, caller.connect(callee.id()))
        .await
        .context("connect()")??;
    let (mut send, mut receive) = connection.open().await?;
    let talking = async {
        send.write_all(b"?").await?;
        let mut byte = [0];
        receive.read_exact(&mut byte).await?;
        let first_byte = started.elapsed();
        anyhow::Ok((first_byte, tokio::spawn(talk(send, receive))))
    };
    let moving = async {
        let answered = answering.await??;
        while answered.connection.stats().direct_received_bytes == 0
            || connection.path().borrow().kind != PathKind::Direct
        {
            sleep(Duration::from_millis(1)).await;
        }
        anyhow::Ok((started.elapsed(), answered))
    };
    let (talked, moved) = tokio::join!(timeout(PATIENCE, talking), timeout(PATIENCE, moving));
    let (first_byte, talking) = talked.context("the first answer")??;
    let (direct, answered) = moved.context("the direct path")??;
    talking.abort();
    answered.echo.abort();
    Ok(Met {
        first_byte,
        direct,
        round_trip: 4 * (delay + jitter / 2 + TICK / 2),
    })
}

struct Answered {
    connection: Connection,
    echo: tokio::task::JoinHandle<()>,
}

/// Accepts one connection, and sends back what comes on its first stream.
async fn answer(endpoint: Endpoint) -> Result<Answered> {
    let connection = endpoint.accept().await.context("the endpoint closed")?;
    let (mut send, mut receive) = connection.accept().await?;
    let echo = tokio::spawn(async move {
        let mut buffer = [0; 1_024];
        while let Ok(Some(length)) = receive.read(&mut buffer).await {
            if send.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    });
    Ok(Answered { connection, echo })
}

/// A little traffic, so that there is something to be moved to the direct path.
async fn talk(mut send: SendStream, mut receive: RecvStream) {
    let mut buffer = [0; 64];
    while send.write_all(&[b'.'; 64]).await.is_ok() && receive.read(&mut buffer).await.is_ok() {
        sleep(Duration::from_millis(2)).await;
    }
}

/// A transfer over the direct path, which is cut and healed: the longest time without a new byte, and how
/// long the way back took after the healing.
async fn cut(seed: u64) -> Result<(Duration, Duration)> {
    let link = LinkConfig::delay(Duration::from_millis(25))
        .with_jitter(Duration::from_millis(2))
        .with_rate(CUT_RATE_BITS_PER_SEC);
    let pair = Pair::new(seed, link).await?;
    let [caller, callee] = &pair.endpoints;
    let receiving = tokio::spawn({
        let callee = callee.clone();
        async move {
            let connection = callee.accept().await.context("the endpoint closed")?;
            let (_, receive) = connection.accept().await?;
            anyhow::Ok((connection, receive))
        }
    });
    let connection = timeout(PATIENCE, caller.connect(callee.id()))
        .await
        .context("connect()")??;
    let (mut send, _) = connection.open().await?;
    let sending = tokio::spawn(async move {
        let block = bytes::Bytes::from(vec![0; 64 << 10]);
        while send.write_chunk(block.clone()).await.is_ok() {}
    });
    let (_kept, mut receive) = timeout(PATIENCE, receiving)
        .await
        .context("the callee")???;

    until(&connection, &mut receive, PathKind::Direct)
        .await
        .context("before the cut")?;
    // Each seed cuts at another moment between two probes.
    let before = Duration::from_secs(2) + Duration::from_millis(37 * seed);
    flow(&mut receive, before).await?;
    let [one, other] = &pair.hosts;
    pair.net.cut(one, other);
    let stall = flow(&mut receive, Duration::from_secs(8))
        .await
        .context("after the cut")?;
    ensure!(
        connection.path().borrow().kind == PathKind::Relayed,
        "not on the relay"
    );
    pair.net.heal(one, other);
    let healed = Instant::now();
    until(&connection, &mut receive, PathKind::Direct)
        .await
        .context("after the healing")?;
    let back = healed.elapsed();
    ensure!(!connection.is_closed(), "the connection ended");
    sending.abort();
    Ok((stall, back))
}

/// Reads for `length`; the longest time without a byte.
async fn flow(receive: &mut RecvStream, length: Duration) -> Result<Duration> {
    let end = Instant::now() + length;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    while Instant::now() < end {
        match timeout(end - Instant::now(), receive.read_chunk(64 << 10, true)).await {
            Ok(Ok(Some(_))) => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Ok(Ok(None)) => bail!("the stream ended"),
            Ok(Err(error)) => return Err(error).context("the stream broke"),
            // What is missing at the end counts too.
            Err(_) => longest = longest.max(last.elapsed()),
        }
    }
    Ok(longest)
}

/// Reads until the path is of this kind.
async fn until(connection: &Connection, receive: &mut RecvStream, kind: PathKind) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while connection.path().borrow().kind != kind {
        ensure!(Instant::now() < end, "the path did not become {kind:?}");
        flow(receive, Duration::from_millis(10)).await?;
    }
    Ok(())
}
