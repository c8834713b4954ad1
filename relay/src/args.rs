//! What is typed: flags, their help, and what they mean.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use p2p_net_proto::{PeerId, Token};
use relay::{Config, Limits};

/// The port that networks block last, and the one of STUN.
const PORT: u16 = 443;
const STUN_PORT: u16 = 3478;

/// Landline's relay: introduces peers to each other and carries their sealed packets where no
/// direct path exists. It prints the one address that its users paste.
#[derive(Debug, Parser)]
#[command(
    name = "landline-relay",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    folder: Folder,

    /// Address and UDP port to listen on; may be repeated. By default port 443 of all addresses, or 3478
    /// where 443 may not be bound.
    #[arg(long, value_name = "IP:PORT", value_parser = listen_address)]
    listen: Vec<SocketAddr>,

    /// The second UDP port, on the same addresses; it serves everything, too. By default 3478 beside 443,
    /// else the next number.
    #[arg(long, value_name = "PORT")]
    stun_port: Option<u16>,

    /// Host name or address (and port) under which others reach this relay, where it cannot know:
    /// behind a cloud's address translation, or with a name.
    #[arg(long, value_name = "HOST[:PORT]")]
    public_address: Option<String>,

    /// The admission token, 16 to 64 characters of a-z and 2-7, instead of the one in the data
    /// folder.
    #[arg(long, env = "LANDLINE_TOKEN", hide_env_values = true, value_parser = token)]
    token: Option<Token>,

    /// Admit anybody, without a token.
    #[arg(long)]
    open: bool,

    /// Admit the peers in this file without a token: one id a line, `#` begins a remark.
    #[arg(long, value_name = "FILE")]
    allow: Option<PathBuf>,

    #[command(flatten)]
    limits: LimitArgs,

    /// How to write the log, which goes to standard error; RUST_LOG says what goes into it.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// See [`Args::command`].
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the full address, token included, of the relay that uses this data folder.
    Address(Folder),
}

/// Where the relay keeps what it needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Folder {
    /// Folder for key, certificate, token and address. [default: $STATE_DIRECTORY if set,
    /// /var/lib/landline-relay for root, else landline-relay in the user's data folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// See [`Args::log_format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Peers logged in at one time.
    #[arg(long, value_name = "N", default_value_t = Limits::default().peers)]
    max_peers: usize,
    /// New connections a minute from one source (IPv4 address or IPv6 /64).
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_minute)]
    connections_per_minute: u32,
    /// Connections at one time from one source.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_source)]
    connections_per_source: u32,
    /// Channels at one time of one peer.
    #[arg(long, value_name = "N", default_value_t = Limits::default().channels_per_peer)]
    channels_per_peer: u32,
    /// Channel offers and signals a minute of one peer.
    #[arg(long, value_name = "N", default_value_t = Limits::default().signals_per_minute)]
    signals_per_minute: u32,
    /// Relayed bytes a second of one peer; 0 is unlimited.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().relayed_bytes_per_second)]
    relayed_bytes_per_second: u64,
    /// STUN answers a second to one source.
    #[arg(long, value_name = "N", default_value_t = Limits::default().stun_per_second)]
    stun_per_second: u32,
}

impl Args {
    /// Reads the command line; ends the program where it makes no sense.
    pub(crate) fn read() -> Self {
        Self::parse()
    }

    /// What was typed, resolved.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let listen = if self.listen.is_empty() {
            vec![SocketAddr::from(([0u16; 8], PORT))]
        } else {
            self.listen.clone()
        };
        let stun_port = self.stun_port.unwrap_or_else(|| second_port(&listen));
        let limits = &self.limits;
        Ok(Config {
            data_dir: self.folder.path()?,
            listen,
            stun_port: Some(stun_port),
            public_address: self.public_address.clone(),
            token: self.token.clone(),
            open: self.open,
            allow: self
                .allow
                .as_deref()
                .map(read_list)
                .transpose()?
                .unwrap_or_default(),
            limits: Limits {
                peers: limits.max_peers,
                connections_per_minute: limits.connections_per_minute,
                connections_per_source: limits.connections_per_source,
                channels_per_peer: limits.channels_per_peer,
                signals_per_minute: limits.signals_per_minute,
                relayed_bytes_per_second: limits.relayed_bytes_per_second,
                stun_per_second: limits.stun_per_second,
            },
            sockets: None,
        })
    }

    /// The configuration for who may not bind port 443, if nobody asked for certain ports.
    pub(crate) fn unprivileged(&self) -> anyhow::Result<Option<Config>> {
        if !self.listen.is_empty() {
            return Ok(None);
        }
        let config = self.config()?;
        let stun_port = self.stun_port.or(Some(STUN_PORT + 1));
        let listen = vec![SocketAddr::from(([0u16; 8], STUN_PORT))];
        Ok(Some(Config {
            listen,
            stun_port,
            ..config
        }))
    }
}

impl Folder {
    /// The data folder, named or found.
    pub(crate) fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.data_dir {
            return Ok(path.clone());
        }
        // systemd may name several, joined by colons.
        if let Some(paths) = std::env::var_os("STATE_DIRECTORY")
            && let Some(first) = std::env::split_paths(&paths).next()
        {
            return Ok(first);
        }
        if is_root() {
            return Ok(PathBuf::from("/var/lib/landline-relay"));
        }
        use etcetera::BaseStrategy;
        let platform = etcetera::choose_base_strategy()
            .context("this user has no home folder; say where to keep things with --data-dir")?;
        Ok(platform.data_dir().join("landline-relay"))
    }
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// 3478 beside 443, else the next number, any free one beside any free one (`wire.md` §1).
fn second_port(listen: &[SocketAddr]) -> u16 {
    match listen.first().map_or(PORT, SocketAddr::port) {
        PORT => STUN_PORT,
        0 => 0,
        u16::MAX => u16::MAX - 1,
        port => port + 1,
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, like 0.0.0.0:443, [::]:443 or 127.0.0.1:0".to_owned()
    })
}

fn token(text: &str) -> Result<Token, String> {
    text.parse()
        .map_err(|_| "a token has 16 to 64 characters of a-z and 2-7".to_owned())
}

fn read_list(path: &Path) -> anyhow::Result<Vec<PeerId>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the list of peers {}", path.display()))?;
    parse_list(&text).with_context(|| format!("the list of peers {}", path.display()))
}

fn parse_list(text: &str) -> anyhow::Result<Vec<PeerId>> {
    let lines = text.lines().enumerate().map(|(number, line)| {
        (
            number + 1,
            line.split_once('#').map_or(line, |(id, _)| id).trim(),
        )
    });
    lines
        .filter(|(_, id)| !id.is_empty())
        .map(|(number, id)| id.parse().with_context(|| format!("line {number}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        let data = ["landline-relay", "--data-dir", "data"];
        Args::try_parse_from(data.iter().chain(args))
    }

    fn config(args: &[&str]) -> Config {
        parse(args)
            .expect("good arguments")
            .config()
            .expect("a configuration")
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_443_and_3478() {
        let config = config(&[]);
        assert_eq!(config.listen, ["[::]:443".parse().expect("an address")]);
        assert_eq!(config.stun_port, Some(3478));
        assert!(!config.open && config.allow.is_empty() && config.token.is_none());
        assert_eq!(config.limits, Limits::default());
        let fallback = parse(&[])
            .expect("good")
            .unprivileged()
            .expect("good")
            .expect("a fallback");
        assert_eq!(fallback.listen, ["[::]:3478".parse().expect("an address")]);
        assert_eq!(fallback.stun_port, Some(3479));
    }

    #[test]
    fn the_second_port_follows_the_first() {
        assert_eq!(
            config(&["--listen", "127.0.0.1:5000"]).stun_port,
            Some(5001)
        );
        assert_eq!(config(&["--listen", "127.0.0.1:0"]).stun_port, Some(0));
        assert_eq!(
            config(&["--listen", "127.0.0.1:65535"]).stun_port,
            Some(65534)
        );
        assert_eq!(
            config(&["--listen", "[::1]:443", "--stun-port", "9"]).stun_port,
            Some(9)
        );
        let chosen = parse(&["--listen", "0.0.0.0:443"]).expect("good");
        assert!(
            chosen.unprivileged().expect("good").is_none(),
            "what was asked for is not changed"
        );
    }

    #[test]
    fn bad_values_are_refused() {
        for args in [
            ["--listen", "localhost"],
            ["--listen", "443"],
            ["--stun-port", "70000"],
            ["--token", "tooshort"],
            ["--token", "UPPERCASE-AND-WRONG"],
            ["--log-format", "xml"],
            ["--max-peers", "-1"],
            ["--no-such-flag", "1"],
        ] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn lists_have_ids_and_remarks() {
        let id = PeerId::from_bytes([7; 32]);
        let text = format!(
            "# friends\n\n  {id}  # Ann\n{}\n",
            id.to_string().to_uppercase()
        );
        assert_eq!(parse_list(&text).expect("a list"), [id, id]);
        let wrong = parse_list(&format!("{id}\nnonsense")).expect_err("line 2 is no id");
        assert!(format!("{wrong:#}").contains("line 2"), "{wrong:#}");
    }
}
