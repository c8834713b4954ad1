//! The program around the library: log, address, signals, and errors that say what to do.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use p2p_net_proto::RelayAddress;
use relay::{Relay, StartError};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command, LogFormat};

/// Does what the arguments ask for.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Command::Address(folder)) = &args.command {
        let path = folder.path()?;
        let address = relay::stored_address(&path)
            .context("no relay has run with this data folder yet, or you may not read it")?;
        return say(&address);
    }
    start_log(args.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(&args))
}

/// Tells of an error that ends the program.
pub(crate) fn report(error: &anyhow::Error) {
    // Where even this cannot be written, the exit code has to do.
    drop(writeln!(io::stderr(), "landline-relay: {error:#}"));
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    // Before the address is printed: whoever waits for it may send a signal at once.
    let stop = stop_signal()?;
    let relay = match Relay::start(args.config()?).await {
        Err(StartError::Listen { address, source })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let denied = StartError::Listen { address, source };
            match args.unprivileged()? {
                None => return Err(explained(denied)),
                Some(config) => {
                    say("Port 443 may not be bound by this user: using 3478 and 3479 instead.")?;
                    Relay::start(config).await.map_err(explained)?
                }
            }
        }
        result => result.map_err(explained)?,
    };
    announce(&relay)?;
    let signal = stop.await;
    info!(signal, "stopping");
    relay.shutdown().await;
    info!("stopped");
    Ok(())
}

/// Prints where the relay is. The token goes to a person's terminal or to a file that somebody
/// asked for, never into a journal (`wire.md` §1).
fn announce(relay: &Relay) -> anyhow::Result<()> {
    let address = relay.address();
    let local: Vec<_> = relay
        .local_addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    say(&format!("Listening on UDP {}", local.join(", ")))?;
    let tcp: Vec<_> = relay
        .tcp_addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    if !tcp.is_empty() {
        say(&format!("Listening on TCP {}", tcp.join(", ")))?;
    }
    if relay::is_private_host(&address.host) && !address.host.starts_with("127.") {
        say(&format!(
            "{} is a private address: behind an address translation (a cloud VM, a home router) give \
             --public-address",
            address.host
        ))?;
    }
    say("Address to paste:")?;
    say(&shown(
        &address,
        std::env::var_os("JOURNAL_STREAM").is_some(),
    ))?;
    info!(address = address.redacted(), "serving");
    Ok(())
}

fn shown(address: &RelayAddress, journal: bool) -> String {
    if journal {
        format!(
            "{} (full address: `landline-relay address`)",
            address.redacted()
        )
    } else {
        address.to_string()
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

/// The error with what to do about it.
fn explained(error: StartError) -> anyhow::Error {
    let hint = match &error {
        StartError::Listen { source, .. } => match source.kind() {
            io::ErrorKind::AddrInUse => Some(
                "another program has this port; stop it, or choose other ports with --listen and \
                 --stun-port",
            ),
            io::ErrorKind::PermissionDenied => Some(
                "ports below 1024 need a right: run as root, give the program CAP_NET_BIND_SERVICE, or \
                 choose a higher port with --listen",
            ),
            io::ErrorKind::AddrNotAvailable => Some("this machine does not have that address"),
            _ => None,
        },
        StartError::DataDir { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("choose a folder that this user may write with --data-dir")
        }
        StartError::DataDir { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
            Some("restore it from a copy, or remove it to have a new one made")
        }
        _ => None,
    };
    let error = anyhow::Error::new(error);
    match hint {
        // The chain is printed from the outside in; the hint reads best at its end.
        Some(hint) => anyhow::anyhow!("{error:#}: {hint}"),
        None => error,
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Completes with the name of the first signal that asks the program to stop.
#[cfg(unix)]
fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Completes with the name of the first signal that asks the program to stop.
#[cfg(not(unix))]
fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    Ok(async {
        // Where signals cannot be had, the program serves until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    })
}

#[cfg(test)]
mod tests {
    use p2p_net_proto::{Fingerprint, Token};

    use super::*;

    #[test]
    fn a_journal_never_sees_the_token() {
        let token = Token::from_random([3; 16]);
        let address = RelayAddress {
            host: "relay.example.org".into(),
            port: 443,
            fingerprint: Some(Fingerprint([1; 32])),
            token: Some(token.clone()),
        };
        assert!(shown(&address, false).contains(token.reveal()));
        assert!(!shown(&address, true).contains(token.reveal()));
        assert!(shown(&address, true).contains("landline-relay address"));
    }
}
