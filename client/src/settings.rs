//! What was typed → what it means: flags, environment and the settings file become one [`Settings`].
//!
//! The file (`settings.toml` in the data folder, 0600) belongs to the user: what we write into it keeps
//! their comments and order. It may hold the relay's token, so it is never logged.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use p2p_net::{Discovery, LocalNetwork, RelayAddress, Token};
use toml_edit::DocumentMut;

use crate::Problem;
use crate::args::{Accept, Global};

/// The file in the data folder.
pub const FILE_NAME: &str = "settings.toml";
/// The most that is read of it, bytes.
const MAX_FILE_LEN: u64 = 1 << 20;
/// The longest name that we claim, bytes of UTF-8; the wire has the same bound.
pub const MAX_NAME_LEN: usize = 128;
/// Rates of pictures that make sense, 1,000 bits a second.
const KILOBITS: std::ops::RangeInclusive<u32> = 50..=100_000;

const TEMPLATE: &str = "\
# Landline's settings. Edit freely; comments stay.
#
# relay = \"host:port#fingerprint.token\"   # as `landline-relay` prints it
# name = \"Your Name\"                      # shown to others beside your id, a claim only
#
# [receive]
# accept = \"ask\"                          # all, contacts, none or ask
# into = \"/home/you/Downloads\"
#
# [network]
# port_mapping = true                     # ask the router to open our port (PCP, NAT-PMP, UPnP)
# lan = true                              # find contacts on this network while there is no relay
# port = 0                                # the UDP port to use; 0 is any free one
#
# [call]                                  # what `call` and `answer` use when it is not said
# video = \"camera\"                      # as `landline devices` names them
# audio = \"microphone\"
# speaker = \"speaker\"
# size = \"1280x720\"
# max_rate = 2500                         # what our pictures take at most, 1000 bits a second
# max_rate_in = 2500                      # what the other side is asked for at most
";

/// Everything that a command must know, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where identity, store, settings and the engine's lock are.
    pub data_dir: PathBuf,
    /// The relay to log in at; `Debug` hides its token.
    pub relay: Option<RelayAddress>,
    /// The relay was typed and the file has none yet: to be remembered once it has proven good.
    pub relay_is_new: bool,
    /// The name that we claim, empty if none.
    pub name: String,
    /// Print JSON lines.
    pub json: bool,
    /// `-v`, counted.
    pub verbose: u8,
    /// Whose offers `receive` takes when it is not said.
    pub accept: Option<Accept>,
    /// Where received files go when it is not said.
    pub into: Option<PathBuf>,
    /// What calls use when it is not said.
    pub call: CallDefaults,
    /// What may be done in the network around us, beside the relay.
    pub local: LocalNetwork,
    /// The UDP port to use; 0 is any free one.
    pub port: u16,
    /// Use no relay; the text, if there is one, says where the peer is (`HOST:PORT`).
    pub direct: Option<String>,
}

/// What a call sends and hears when it is not said on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallDefaults {
    /// The camera.
    pub video: Option<String>,
    /// The microphone.
    pub audio: Option<String>,
    /// The loudspeaker.
    pub speaker: Option<String>,
    /// What the camera is asked for, as `WxH`.
    pub size: Option<String>,
    /// Pictures take at most this, 1,000 bits a second.
    pub max_rate: Option<u32>,
    /// The other side is asked for at most this, 1,000 bits a second.
    pub max_rate_in: Option<u32>,
}

impl Settings {
    /// Resolves the flags against the settings file in the data folder, which is made if missing. A name on
    /// the command line is remembered if the file has none yet. `contact_name` says that `--name` names a
    /// contact and not ourselves.
    ///
    /// # Errors
    /// A folder or file cannot be used, or a value makes no sense.
    pub fn resolve(global: &Global, contact_name: bool) -> Result<Self, Problem> {
        let typed = global
            .data_dir
            .as_ref()
            .filter(|dir| !dir.as_os_str().is_empty());
        let data_dir = match typed {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        };
        prepare_dir(&data_dir)?;
        let data_dir = std::path::absolute(&data_dir)
            .map_err(|e| Problem::io(format!("cannot use {}", data_dir.display()), &e))?;
        let mut file = SettingsFile::load(&data_dir)?;
        let typed_token = global.token.as_deref().filter(|text| !text.is_empty());
        let token = match typed_token {
            Some(text) => Some(parse_token(text, "--token")?),
            None => file
                .string("token")?
                .map(|text| parse_token(&text, FILE_NAME))
                .transpose()?,
        };
        let typed = global.relay.as_deref().filter(|text| !text.is_empty());
        let mut relay = match typed {
            Some(text) => Some(parse_relay(text, "--relay")?),
            None => file
                .string("relay")?
                .map(|text| parse_relay(&text, FILE_NAME))
                .transpose()?,
        };
        // The token in the file belongs to the relay in the file; one that is typed wins over all.
        if let Some(relay) = &mut relay
            && (typed_token.is_some() || (typed.is_none() && relay.token.is_none()))
        {
            relay.token = token.or_else(|| relay.token.take());
        }
        let claimed = global.name.as_deref().filter(|_| !contact_name);
        let name = match claimed {
            Some(name) => name.to_owned(),
            None => file.string("name")?.unwrap_or_default(),
        };
        check_name(&name)?;
        if let (Some(name), false) = (claimed, file.has("name")) {
            file.set("name", name);
        }
        file.save()?;
        Ok(Self {
            relay_is_new: typed.is_some() && !file.has("relay"),
            relay,
            name,
            json: global.json,
            verbose: global.verbose,
            accept: file.accept()?,
            into: file.nested("receive", "into")?.map(PathBuf::from),
            call: file.call()?,
            local: LocalNetwork {
                port_mapping: file.switch("network", "port_mapping")?.unwrap_or(true),
                discovery: if global.direct.is_some() {
                    Discovery::Always
                } else if file.switch("network", "lan")?.unwrap_or(true) {
                    Discovery::WithoutRelay
                } else {
                    Discovery::Off
                },
            },
            port: match global.port {
                Some(port) => port,
                None => file.port()?.unwrap_or(0),
            },
            direct: global.direct.clone(),
            data_dir,
        })
    }

    /// The relay, or the error that says how to get one.
    ///
    /// # Errors
    /// None is configured.
    pub fn require_relay(&self) -> Result<&RelayAddress, Problem> {
        self.relay.as_ref().ok_or_else(|| {
            Problem::usage("no relay is configured").with_next(
                "run `landline relay set ADDRESS` (or add --relay ADDRESS) with the address that \
                 `landline-relay` printed; --direct needs none on one network, `landline demo` none at all",
            )
        })
    }

    /// Remembers the relay if it is new.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remember_new_relay(&self) -> Result<(), Problem> {
        match &self.relay {
            Some(relay) if self.relay_is_new => remember_relay(&self.data_dir, relay),
            _ => Ok(()),
        }
    }

    /// Where received files go.
    pub fn downloads_dir(&self) -> PathBuf {
        self.into.clone().unwrap_or_else(default_downloads_dir)
    }
}

/// Remembers `address` as the relay in the settings file of `data_dir`.
///
/// # Errors
/// The file cannot be read or written.
pub fn remember_relay(data_dir: &Path, address: &RelayAddress) -> Result<(), Problem> {
    let mut file = SettingsFile::load(data_dir)?;
    file.set("relay", &address.to_string());
    // In an address a token follows a fingerprint: without that it has a line of its own.
    match &address.token {
        Some(token) if address.fingerprint.is_none() => file.set("token", token.reveal()),
        _ => file.remove("token"),
    }
    file.save()
}

/// A relay address, with an error that says where the bad one stood.
///
/// # Errors
/// It is none.
pub fn parse_relay(text: &str, place: &str) -> Result<RelayAddress, Problem> {
    text.parse()
        .map_err(|error| Problem::usage(format!("{place}: {error}")))
}

fn parse_token(text: &str, place: &str) -> Result<Token, Problem> {
    text.parse()
        .map_err(|error| Problem::usage(format!("{place}: {error}")))
}

fn check_name(name: &str) -> Result<(), Problem> {
    if name.len() > MAX_NAME_LEN || name.chars().any(char::is_control) {
        return Err(Problem::usage(format!(
            "the name must have at most {MAX_NAME_LEN} bytes and no control characters"
        )));
    }
    Ok(())
}

fn default_data_dir() -> Result<PathBuf, Problem> {
    etcetera::base_strategy::choose_native_strategy()
        .map(|strategy| strategy.data_dir().join("landline"))
        .map_err(|_| Problem::usage("there is no home folder").with_next("say --data-dir DIR"))
}

fn default_downloads_dir() -> PathBuf {
    etcetera::home_dir()
        .map(|home| home.join("Downloads"))
        .ok()
        .filter(|dir| dir.is_dir())
        .unwrap_or_else(|| PathBuf::from("."))
}

/// Makes the folder if it is missing, for its owner alone.
fn prepare_dir(dir: &Path) -> Result<(), Problem> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder
        .create(dir)
        .map_err(|e| Problem::io(format!("cannot use the data folder {}", dir.display()), &e))
}

/// The settings file as a document that keeps comments and order.
struct SettingsFile {
    path: PathBuf,
    document: DocumentMut,
    changed: bool,
}

impl SettingsFile {
    fn load(data_dir: &Path) -> Result<Self, Problem> {
        let path = data_dir.join(FILE_NAME);
        let mut text = String::new();
        let changed = match fs::File::open(&path) {
            Ok(file) => {
                file.take(MAX_FILE_LEN)
                    .read_to_string(&mut text)
                    .map_err(|e| Problem::io(format!("cannot read {}", path.display()), &e))?;
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                TEMPLATE.clone_into(&mut text);
                true
            }
            Err(error) => {
                return Err(Problem::io(
                    format!("cannot read {}", path.display()),
                    &error,
                ));
            }
        };
        let document = text.parse::<DocumentMut>().map_err(|error| {
            Problem::usage(format!(
                "{} is not valid TOML: {}",
                path.display(),
                error.message()
            ))
        })?;
        Ok(Self {
            path,
            document,
            changed,
        })
    }

    fn has(&self, key: &str) -> bool {
        self.document.contains_key(key)
    }

    fn string(&self, key: &str) -> Result<Option<String>, Problem> {
        self.text_of(self.document.get(key), key)
    }

    fn nested(&self, table: &str, key: &str) -> Result<Option<String>, Problem> {
        let item = self.document.get(table).and_then(|table| table.get(key));
        self.text_of(item, &format!("{table}.{key}"))
    }

    fn text_of(
        &self,
        item: Option<&toml_edit::Item>,
        name: &str,
    ) -> Result<Option<String>, Problem> {
        let Some(item) = item else { return Ok(None) };
        item.as_str()
            .map(|text| Some(text.to_owned()))
            .ok_or_else(|| {
                Problem::usage(format!(
                    "{}: {name} must be a text in quotes",
                    self.path.display()
                ))
            })
    }

    fn accept(&self) -> Result<Option<Accept>, Problem> {
        let Some(text) = self.nested("receive", "accept")? else {
            return Ok(None);
        };
        <Accept as clap::ValueEnum>::from_str(&text, true)
            .map(Some)
            .map_err(|_| {
                Problem::usage(format!(
                    "{}: receive.accept is all, contacts, none or ask, not {text:?}",
                    self.path.display()
                ))
            })
    }

    fn call(&self) -> Result<CallDefaults, Problem> {
        let text = |key| self.nested("call", key);
        Ok(CallDefaults {
            video: text("video")?,
            audio: text("audio")?,
            speaker: text("speaker")?,
            size: text("size")?,
            max_rate: self.kilobits("max_rate")?,
            max_rate_in: self.kilobits("max_rate_in")?,
        })
    }

    fn switch(&self, table: &str, key: &str) -> Result<Option<bool>, Problem> {
        let Some(item) = self.document.get(table).and_then(|table| table.get(key)) else {
            return Ok(None);
        };
        item.as_bool().map(Some).ok_or_else(|| {
            Problem::usage(format!(
                "{}: {table}.{key} must be true or false",
                self.path.display()
            ))
        })
    }

    fn port(&self) -> Result<Option<u16>, Problem> {
        let table = self.document.get("network");
        let Some(item) = table.and_then(|table| table.get("port")) else {
            return Ok(None);
        };
        item.as_integer()
            .and_then(|number| u16::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| {
                Problem::usage(format!(
                    "{}: network.port must be a number from 0 to 65535",
                    self.path.display()
                ))
            })
    }

    fn kilobits(&self, key: &str) -> Result<Option<u32>, Problem> {
        let Some(item) = self.document.get("call").and_then(|table| table.get(key)) else {
            return Ok(None);
        };
        item.as_integer()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| KILOBITS.contains(number))
            .map(Some)
            .ok_or_else(|| {
                Problem::usage(format!(
                    "{}: call.{key} must be a number from {} to {}, 1000 bits a second",
                    self.path.display(),
                    KILOBITS.start(),
                    KILOBITS.end()
                ))
            })
    }

    /// Sets a key at the top level. The decor of a value that is replaced (a comment behind it) stays.
    fn set(&mut self, key: &str, text: &str) {
        let mut value = toml_edit::Value::from(text);
        if let Some(old) = self.document.get(key).and_then(toml_edit::Item::as_value) {
            *value.decor_mut() = old.decor().clone();
            self.document[key] = toml_edit::Item::Value(value);
        } else {
            let trailing = self
                .document
                .trailing()
                .as_str()
                .unwrap_or_default()
                .to_owned();
            self.document.insert(key, toml_edit::Item::Value(value));
            // A file of comments alone is all trailing text: it belongs above the first key.
            if !trailing.is_empty() && self.document.len() == 1 {
                if let Some(mut key) = self.document.key_mut(key) {
                    key.leaf_decor_mut().set_prefix(trailing);
                }
                self.document.set_trailing("");
            }
        }
        self.changed = true;
    }

    fn remove(&mut self, key: &str) {
        self.changed |= self.document.remove(key).is_some();
    }

    /// Writes the file anew in one step, if something changed.
    fn save(&self) -> Result<(), Problem> {
        if !self.changed {
            return Ok(());
        }
        let explain =
            |error: io::Error| Problem::io(format!("cannot write {}", self.path.display()), &error);
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        // Temporary files are 0600 from the start.
        let mut part = tempfile::NamedTempFile::new_in(folder).map_err(explain)?;
        part.write_all(self.document.to_string().as_bytes())
            .map_err(explain)?;
        part.as_file().sync_all().map_err(explain)?;
        part.persist(&self.path)
            .map_err(|error| explain(error.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "relay.example.org:4433";

    fn global(dir: &Path) -> Global {
        Global {
            data_dir: Some(dir.to_owned()),
            ..Global::default()
        }
    }

    #[test]
    fn the_first_relay_is_remembered_and_later_ones_are_not() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = Global {
            relay: Some(ADDRESS.to_owned()),
            ..global(dir.path())
        };
        Settings::resolve(&first, false).expect("valid");
        let settings = Settings::resolve(&first, false).expect("valid");
        assert!(
            settings.relay_is_new,
            "not remembered before it has proven good"
        );
        settings.remember_new_relay().expect("written");
        let other = Global {
            relay: Some("other.example.org".to_owned()),
            ..global(dir.path())
        };
        let settings = Settings::resolve(&other, false).expect("valid");
        settings.remember_new_relay().expect("nothing to do");
        assert_eq!(settings.relay.expect("typed").host, "other.example.org");
        let settings = Settings::resolve(&global(dir.path()), false).expect("valid");
        assert_eq!(
            settings.relay.expect("remembered").host,
            "relay.example.org"
        );
    }

    #[test]
    fn a_persons_comments_survive() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(FILE_NAME);
        fs::write(
            &path,
            "# mine\nname = \"Ann\"  # that is me\n\n[receive]\naccept = \"none\"\n",
        )
        .expect("ours");
        let address = ADDRESS.parse().expect("valid");
        remember_relay(dir.path(), &address).expect("written");
        let text = fs::read_to_string(&path).expect("there");
        assert!(
            text.contains("# mine\n") && text.contains("# that is me"),
            "{text}"
        );
        let settings = Settings::resolve(&global(dir.path()), false).expect("valid");
        assert_eq!(settings.name, "Ann");
        assert_eq!(settings.accept, Some(Accept::None));
        assert_eq!(settings.relay, Some(address));
    }

    #[test]
    fn the_template_stays_above_the_first_key() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let named = Global {
            name: Some("Ann".to_owned()),
            ..global(dir.path())
        };
        Settings::resolve(&named, false).expect("valid");
        let text = fs::read_to_string(dir.path().join(FILE_NAME)).expect("there");
        assert!(text.starts_with("# Landline's settings"), "{text}");
        assert!(text.ends_with("name = \"Ann\"\n"), "{text}");
        let contact = Global {
            name: Some("Bob".to_owned()),
            ..global(dir.path())
        };
        assert_eq!(
            Settings::resolve(&contact, true).expect("valid").name,
            "Ann"
        );
    }

    #[test]
    fn what_is_done_in_the_network_can_be_switched_off() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let settings = Settings::resolve(&global(dir.path()), false).expect("valid");
        assert!(settings.local.port_mapping);
        assert_eq!(settings.local.discovery, Discovery::WithoutRelay);
        assert_eq!(settings.port, 0);
        let text = "[network]\nport_mapping = false\nlan = false\nport = 4000\n";
        fs::write(dir.path().join(FILE_NAME), text).expect("ours");
        let settings = Settings::resolve(&global(dir.path()), false).expect("valid");
        assert_eq!(settings.local, LocalNetwork::default());
        assert_eq!(settings.port, 4_000);
        let direct = Global {
            direct: Some(String::new()),
            port: Some(4_001),
            ..global(dir.path())
        };
        let settings = Settings::resolve(&direct, false).expect("valid");
        assert_eq!(settings.local.discovery, Discovery::Always);
        assert_eq!(
            (settings.port, settings.direct.as_deref()),
            (4_001, Some(""))
        );
    }

    #[test]
    fn nonsense_is_named_with_its_place() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (text, part) in [
            ("relay = 3", "relay must be a text"),
            ("relay = \"a b\"", "settings.toml"),
            ("[receive]\naccept = \"maybe\"", "receive.accept"),
            ("[network]\nport_mapping = \"no\"", "network.port_mapping"),
            ("[network]\nport = 65536", "network.port"),
            ("= x", "not valid TOML"),
        ] {
            fs::write(dir.path().join(FILE_NAME), text).expect("ours");
            let problem = Settings::resolve(&global(dir.path()), false).expect_err("nonsense");
            assert!(problem.to_string().contains(part), "{problem}");
            assert_eq!(problem.exit, crate::Exit::Usage);
        }
        fs::write(dir.path().join(FILE_NAME), "").expect("ours");
        let settings = Settings::resolve(&global(dir.path()), false).expect("empty is fine");
        assert!(
            settings
                .require_relay()
                .expect_err("none")
                .to_string()
                .contains("relay set")
        );
    }

    #[test]
    fn a_token_joins_the_relay_and_debug_hides_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let token = "abcdefghijklmnop234567";
        let global = Global {
            relay: Some(ADDRESS.to_owned()),
            token: Some(token.to_owned()),
            ..global(dir.path())
        };
        let settings = Settings::resolve(&global, false).expect("valid");
        assert!(!format!("{settings:?}").contains(token));
        let token_of = |settings: Settings| settings.relay.and_then(|relay| relay.token);
        settings.remember_new_relay().expect("written");
        assert_eq!(token_of(settings).expect("set").reveal(), token);
        // An address without key cannot carry the token: it is remembered all the same.
        let plain = Global {
            data_dir: global.data_dir.clone(),
            ..Global::default()
        };
        let settings = Settings::resolve(&plain, false).expect("valid");
        assert_eq!(token_of(settings).expect("remembered").reveal(), token);
        let other = Global {
            relay: Some("other.example.org".to_owned()),
            ..plain
        };
        assert_eq!(
            token_of(Settings::resolve(&other, false).expect("valid")),
            None
        );
    }
}
