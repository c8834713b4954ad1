//! What was typed: flags and arguments as clap reads them, not yet resolved. [`crate::settings`] says what
//! they mean.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const AFTER_HELP: &str = "\
Exit codes:
  0  done                      4  peer or relay not reachable
  1  failed                    5  refused by the other side
  2  wrong use                 6  complete, but some files were skipped
  3  stored, goes out later    7  a digest or a key did not match

PEER is a contact's name, at least 4 characters of a contact's id, or a full id.
Environment: LANDLINE_RELAY, LANDLINE_TOKEN, LANDLINE_DATA_DIR, NO_COLOR, RUST_LOG.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "landline",
    version,
    about = "Calls, chat and files over a direct, end-to-end encrypted line"
)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The relay's address as it was typed.
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        help = "The relay's address, as the relay prints it: host[:port][#fingerprint[.token]]; the \
                first one that works is remembered",
        env = "LANDLINE_RELAY",
        hide_env_values = true
    )]
    pub relay: Option<String>,
    /// The relay's admission token, if the address does not contain it
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "LANDLINE_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// Where identity, contacts, messages and settings are kept
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "LANDLINE_DATA_DIR",
        hide_env_values = true
    )]
    pub data_dir: Option<PathBuf>,
    /// Use no relay: find contacts on this network, or PEER at HOST:PORT
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    pub direct: Option<String>,
    /// The UDP port to use; any free one if not said
    #[arg(long, global = true, value_name = "PORT")]
    pub port: Option<u16>,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Our name, a claim that others see beside our id; remembered. With `contacts add`: the contact's
    #[arg(long, global = true, value_name = "NAME")]
    pub name: Option<String>,
    /// Say more; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show our own id, to be given to others
    Id,
    /// Show who is at the relay
    Peers {
        /// Stay, and show who comes and goes
        #[arg(long)]
        watch: bool,
    },
    /// Show and change the address book
    Contacts {
        /// What to do with it; lists it when nothing is said
        #[command(subcommand)]
        action: Option<ContactsAction>,
    },
    /// Chat with a peer, or send one message
    Chat(ChatArgs),
    /// Send files and folders
    Send(SendArgs),
    /// Stay, and take what others send
    Receive(ReceiveArgs),
    /// Call somebody, with picture and sound
    Call(CallArgs),
    /// Stay, and answer calls
    Answer(AnswerArgs),
    /// See or change the call that runs, from another terminal or a script
    InCall(InCallArgs),
    /// Show past and missed calls
    Calls {
        /// Only those that nobody here answered
        #[arg(long)]
        missed: bool,
        /// How many, newest last
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Say how good the network is, what carries the connection to a peer, and what to do about either
    Doctor {
        /// Whose connection to look at as well; a contact that is connected to if it is not yet
        peer: Option<String>,
    },
    /// Show cameras, screens, microphones and speakers
    Devices,
    /// Hear and see oneself through encoder, an emulated link and decoder, with the numbers
    Loopback(LoopbackArgs),
    /// Show stored messages
    History(HistoryArgs),
    /// Show past transfers with the MD5 of each file
    Transfers {
        /// How many, newest first
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show or set the relay
    Relay {
        /// What to do; shows it when nothing is said
        #[command(subcommand)]
        action: Option<RelayAction>,
    },
    /// Show all of it on this machine alone: a relay, two peers, chat, files and a call, in a temporary folder
    Demo,
}

/// What to do with the address book.
#[derive(Debug, Subcommand)]
pub enum ContactsAction {
    /// List it
    List,
    /// Add somebody by full id; --name NAME says how we call the contact
    Add {
        /// The full id, 52 characters
        id: String,
    },
    /// Give a contact another name
    Rename {
        /// Whom
        peer: String,
        /// The new name
        new_name: String,
    },
    /// Compare the safety number with the contact, and mark it verified
    Verify {
        /// Whom
        peer: String,
        /// It was compared and agrees
        #[arg(long)]
        yes: bool,
    },
    /// Keep our addresses from a contact: nothing but the relay, at once, though it costs time on the way
    RelayOnly {
        /// From whom
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        peer: Option<String>,
        /// From everybody
        #[arg(long)]
        all: bool,
        /// No longer
        #[arg(long)]
        off: bool,
    },
    /// Never hear from somebody again
    Block {
        /// Whom
        peer: String,
    },
    /// Undo `block`
    Unblock {
        /// Whom
        peer: String,
    },
    /// Forget a contact; messages stay
    Remove {
        /// Whom
        peer: String,
    },
}

/// `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// With whom
    pub peer: String,
    /// Send this one message and end
    #[arg(long, value_name = "TEXT")]
    pub send: Option<String>,
    /// With --send: how long to wait for the delivery, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "send")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub wait: u64,
}

/// `send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// To whom
    pub peer: String,
    /// Files and folders
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// Whose offers `receive` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accept {
    /// Everybody's
    All,
    /// Those of contacts
    Contacts,
    /// Nobody's: only chat
    None,
    /// Asks for each
    Ask,
}

/// `receive`.
#[derive(Debug, Args)]
pub struct ReceiveArgs {
    /// Whose offers to take; asks if there is a terminal
    #[arg(long, value_enum)]
    pub accept: Option<Accept>,
    /// Where to put what comes [default: the downloads folder]
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// Replace files of the same name instead of keeping both
    #[arg(long)]
    pub overwrite: bool,
    /// End after the first transfer
    #[arg(long)]
    pub once: bool,
}

/// What is sent and heard in a call.
#[derive(Debug, Clone, Args)]
pub struct MediaArgs {
    /// Our picture
    #[arg(
        long,
        value_name = "SOURCE",
        help = "Our picture: camera[:NAME], pattern[:WxH@FPS], FILE.y4m, screen, window:TITLE or none [default: camera]"
    )]
    pub video: Option<String>,
    /// Share a screen as well
    #[arg(
        long,
        value_name = "SOURCE",
        help = "Share a screen as well: screen[:MONITOR] or window:TITLE"
    )]
    pub screen: Option<String>,
    /// Our sound
    #[arg(
        long,
        value_name = "SOURCE",
        help = "Our sound: microphone[:NAME], tone[:HERTZ], FILE.wav or none [default: microphone]"
    )]
    pub audio: Option<String>,
    /// Where the other side is heard
    #[arg(
        long,
        value_name = "SINK",
        help = "Where the other side is heard: speaker[:NAME], FILE.wav or none [default: speaker]"
    )]
    pub speaker: Option<String>,
    /// Record the other side, as MP4
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Keep the other side's pictures, uncompressed
    #[arg(long, value_name = "FILE.y4m")]
    pub save_video: Option<PathBuf>,
    /// Begin with the microphone muted
    #[arg(long)]
    pub muted: bool,
    /// No echo and noise suppression and no gain control
    #[arg(long)]
    pub raw_voice: bool,
    /// Pictures take at most this, 1000 bits a second
    #[arg(long, value_name = "KILOBITS", value_parser = clap::value_parser!(u32).range(50..=100_000))]
    pub max_rate: Option<u32>,
    /// The other side is asked for at most this, 1000 bits a second
    #[arg(long, value_name = "KILOBITS", value_parser = clap::value_parser!(u32).range(50..=100_000))]
    pub max_rate_in: Option<u32>,
    /// What the camera is asked for, such as 640x360
    #[arg(long, value_name = "WxH")]
    pub size: Option<String>,
    /// Print the numbers of each second; with =FILE write all of them there, as JSON, one object a line
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub stats: Option<Option<PathBuf>>,
    /// Hang up after so long
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub for_seconds: Option<u64>,
    /// Write down what passes when, into this folder, to measure calls by
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub measure: Option<PathBuf>,
    /// Which way the call takes [default: whichever is best]
    #[arg(long, value_enum)]
    pub path: Option<PathChoice>,
}

/// A way to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PathChoice {
    /// Straight; the call waits until there is such a way
    Direct,
    /// Through the relay
    Relay,
}

/// `call`.
#[derive(Debug, Args)]
pub struct CallArgs {
    /// Whom
    pub peer: String,
    /// Picture and sound.
    #[command(flatten)]
    pub media: MediaArgs,
}

/// `answer`.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// Whose calls to take at once; asks if there is a terminal
    #[arg(long, value_enum)]
    pub accept: Option<Accept>,
    /// End after the first call
    #[arg(long)]
    pub once: bool,
    /// Picture and sound.
    #[command(flatten)]
    pub media: MediaArgs,
}

/// A switch of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On
    On,
    /// Off
    Off,
}

/// `in-call`.
#[derive(Debug, Args)]
pub struct InCallArgs {
    /// The microphone is muted, or no longer
    #[arg(long, value_enum)]
    pub mute: Option<Switch>,
    /// The camera is on, or off
    #[arg(long, value_enum)]
    pub camera: Option<Switch>,
    /// The call rests, or goes on
    #[arg(long, value_enum)]
    pub hold: Option<Switch>,
    /// Another picture instead of the camera, as `call --video`
    #[arg(long, value_name = "SOURCE")]
    pub video: Option<String>,
    /// Share a screen or window, as `call --screen`; none ends that
    #[arg(long, value_name = "SOURCE")]
    pub screen: Option<String>,
    /// Another sound, as `call --audio`
    #[arg(long, value_name = "SOURCE")]
    pub audio: Option<String>,
    /// Hear the other side elsewhere, as `call --speaker`
    #[arg(long, value_name = "SINK")]
    pub speaker: Option<String>,
    /// Ask the other side for at most this, 1000 bits a second; 0 for no bound
    #[arg(long, value_name = "KILOBITS", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub max_rate_in: Option<u32>,
    /// End it
    #[arg(long)]
    pub hang_up: bool,
}

/// `loopback`.
#[derive(Debug, Args)]
pub struct LoopbackArgs {
    /// Picture and sound.
    #[command(flatten)]
    pub media: MediaArgs,
    /// The link carries so much, 1000 bits a second
    #[arg(long, value_name = "KILOBITS", value_parser = clap::value_parser!(u64).range(10..=10_000_000))]
    pub rate: Option<u64>,
    /// It takes so long, ms
    #[arg(long, value_name = "MILLIS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=5_000))]
    pub delay: u64,
    /// It loses so many of 100 packets
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    pub loss: f64,
    /// It adds up to so much, ms
    #[arg(long, value_name = "MILLIS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=5_000))]
    pub jitter: u64,
}

fn percent(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..100.0).contains(share))
        .ok_or_else(|| "a number from 0 to 99.9".to_owned())
}

/// `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// With whom; everybody if not said
    pub peer: Option<String>,
    /// Only messages with these words
    #[arg(long, value_name = "TEXT")]
    pub search: Option<String>,
    /// How many, newest last
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// What to do with the relay setting.
#[derive(Debug, Subcommand)]
pub enum RelayAction {
    /// Show it, without the token
    Show,
    /// Remember another one
    Set {
        /// As the relay prints it
        address: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        let cli =
            Cli::try_parse_from(["landline", "--json", "peers", "--watch", "--data-dir", "/d"])
                .expect("valid");
        assert!(cli.global.json);
        assert_eq!(
            cli.global.data_dir.as_deref(),
            Some(std::path::Path::new("/d"))
        );
        assert!(matches!(cli.action, Action::Peers { watch: true }));
    }

    #[test]
    fn wait_needs_send_and_paths_are_required() {
        assert!(Cli::try_parse_from(["landline", "chat", "bob", "--wait", "3"]).is_err());
        assert!(Cli::try_parse_from(["landline", "send", "bob"]).is_err());
        let cli = Cli::try_parse_from(["landline", "chat", "bob", "--send", "hi", "--wait", "3"]);
        let Ok(Cli {
            action: Action::Chat(chat),
            ..
        }) = cli
        else {
            panic!("valid")
        };
        assert_eq!(
            (chat.peer.as_str(), chat.send.as_deref(), chat.wait),
            ("bob", Some("hi"), 3)
        );
    }

    #[test]
    fn contacts_without_action_is_a_list() {
        let cli = Cli::try_parse_from(["landline", "contacts"]).expect("valid");
        assert!(matches!(cli.action, Action::Contacts { action: None }));
    }
}
