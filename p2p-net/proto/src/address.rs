//! The one string that a person pastes to use a relay: `host[:port][#fingerprint[.token]]`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The port of a relay whose address names none.
const DEFAULT_PORT: u16 = 443;

/// SHA-256 of a certificate's SubjectPublicKeyInfo DER; as text 52 characters of base32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A relay's admission secret, 16 to 64 characters of `a-z2-7`. `Debug` hides it; `Display`, for the
/// address to paste and the settings file, does not: never give it to a log.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

/// Where a relay is, which key it must show, and what it wants to hear.
///
/// `Display` gives the full string with the token; `Debug` and [`RelayAddress::redacted`] hide it.
/// Parsing drops whitespace around the text and brings host names into lower case. The text form has
/// no place for a token without a fingerprint; `Display` leaves such a token out.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayAddress {
    /// A DNS name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// UDP (and TCP) port; 443 where the text names none.
    pub port: u16,
    /// The key that the relay must present; without one, the web's authorities or the user vouch.
    pub fingerprint: Option<Fingerprint>,
    /// The admission secret.
    pub token: Option<Token>,
}

/// Why a text is not a relay address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Nothing before the port or `#`, or something that no host name has.
    #[error(
        "no usable host in the relay address; it looks like relay.example.org:443#fingerprint.token"
    )]
    Host,
    /// An IPv6 address whose last group could as well be a port.
    #[error("write the IPv6 address of the relay in brackets, as in [2001:db8::1]:443")]
    Brackets,
    /// Not a number from 1 to 65535.
    #[error("the port of the relay address is not a number from 1 to 65535")]
    Port,
    /// Not 52 characters of base32.
    #[error("the fingerprint in the relay address is damaged: it has 52 characters of a-z and 2-7")]
    Fingerprint,
    /// Not 16 to 64 characters of base32.
    #[error("the token in the relay address is damaged: it has 16 to 64 characters of a-z and 2-7")]
    Token,
}

impl Token {
    /// The token made from 16 random bytes: 26 characters.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self(Zeroizing::new(crate::ids::base32(&*bytes)))
    }

    /// Whether `other` is this token; how long it takes tells nothing but the length.
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }

    /// The secret text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Token {}

impl FromStr for Token {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let alphabet = text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        if !alphabet || !(16..=64).contains(&text.len()) {
            return Err(AddressError::Token);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        crate::ids::unbase32(text)
            .map(Self)
            .map_err(|_| AddressError::Fingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::ids::base32(&self.0))
    }
}

impl RelayAddress {
    /// The same string without the token, for logs and messages.
    pub fn redacted(&self) -> String {
        let mut text = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port != DEFAULT_PORT {
            text.push_str(&format!(":{}", self.port));
        }
        if let Some(fingerprint) = &self.fingerprint {
            text.push_str(&format!("#{fingerprint}"));
        }
        text
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())?;
        match (&self.fingerprint, &self.token) {
            (Some(_), Some(token)) => write!(f, ".{token}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl FromStr for RelayAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let (place, secrets) = match text.split_once('#') {
            Some((place, secrets)) => (place, Some(secrets)),
            None => (text, None),
        };
        let (host, port) = parse_place(place)?;
        let Some(secrets) = secrets else {
            return Ok(Self {
                host,
                port,
                fingerprint: None,
                token: None,
            });
        };
        let (fingerprint, token) = match secrets.split_once('.') {
            Some((fingerprint, token)) => (fingerprint, Some(token)),
            None => (secrets, None),
        };
        let fingerprint = Some(fingerprint.parse()?);
        let token = token.map(str::parse).transpose()?;
        Ok(Self {
            host,
            port,
            fingerprint,
            token,
        })
    }
}

/// `host[:port]`.
fn parse_place(text: &str) -> Result<(String, u16), AddressError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(AddressError::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| AddressError::Host)?;
        let port = match port {
            "" => DEFAULT_PORT,
            _ => parse_port(port.strip_prefix(':').ok_or(AddressError::Port)?)?,
        };
        return Ok((address.to_string(), port));
    }
    if text.contains('/') {
        // A URL: what is wrong with it is not its port.
        return Err(AddressError::Host);
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(AddressError::Brackets);
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => Err(match host.parse::<Ipv6Addr>() {
            Ok(_) => AddressError::Brackets,
            Err(_) => AddressError::Host,
        }),
        Some((host, port)) => Ok((parse_host(host)?, parse_port(port)?)),
        None => Ok((parse_host(text)?, DEFAULT_PORT)),
    }
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AddressError::Port);
    }
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(AddressError::Port),
    }
}

/// An IPv4 address, or a name with the limits of RFC 1035 §2.3.4 and the letters of RFC 1123 §2.1,
/// besides the underscore, which is in use.
fn parse_host(text: &str) -> Result<String, AddressError> {
    if text.parse::<Ipv4Addr>().is_ok() {
        return Ok(text.to_owned());
    }
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last_is_a_number = || {
        let last = text.rsplit('.').next();
        last.is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
    };
    // A last label of digits is a mistyped IPv4 address, never a name.
    if text.len() > 253 || !text.split('.').all(label_is_good) || last_is_a_number() {
        return Err(AddressError::Host);
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIN: &str = "abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrsa";
    const TOKEN: &str = "a2b3c4d5e6f7ghijklmnopqrst";

    fn parse(text: &str) -> Result<RelayAddress, AddressError> {
        text.parse()
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (text, host, port) in [
            ("relay.example.org", "relay.example.org", 443),
            (" relay.example.org:3478\n", "relay.example.org", 3478),
            ("Relay_1.Example", "relay_1.example", 443),
            ("localhost:1", "localhost", 1),
            ("192.0.2.7", "192.0.2.7", 443),
            ("192.0.2.7:65535", "192.0.2.7", 65535),
            ("[2001:DB8::1]", "2001:db8::1", 443),
            ("[::1]:8443", "::1", 8443),
            ("xn--bcher-kva.example", "xn--bcher-kva.example", 443),
        ] {
            let address = parse(text).expect(text);
            assert_eq!(
                (address.host.as_str(), address.port),
                (host, port),
                "{text}"
            );
            assert_eq!((address.fingerprint, address.token), (None, None));
        }
    }

    #[test]
    fn fingerprint_and_token_follow_the_place() {
        let pinned = parse(&format!("[::1]:8443#{PIN}")).expect("a pinned address");
        assert_eq!(
            pinned.fingerprint.map(|pin| pin.to_string()).as_deref(),
            Some(PIN)
        );
        assert_eq!(pinned.token, None);

        let whole = parse(&format!("relay.example#{PIN}.{TOKEN}")).expect("a whole address");
        assert_eq!(whole.fingerprint, pinned.fingerprint);
        assert_eq!(whole.token.as_ref().map(Token::reveal), Some(TOKEN));
        assert_eq!(whole.to_string(), format!("relay.example#{PIN}.{TOKEN}"));
    }

    #[test]
    fn the_token_shows_only_where_it_is_asked_for() {
        let address = parse(&format!("relay.example:3478#{PIN}.{TOKEN}")).expect("an address");
        let redacted = format!("relay.example:3478#{PIN}");
        assert_eq!(address.redacted(), redacted);
        assert_eq!(format!("{address:?}"), redacted);
        assert!(!format!("{:?}", address.token).contains(TOKEN));
    }

    #[test]
    fn damaged_addresses_say_which_part_is_damaged() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for host in [
            "",
            " ",
            ":443",
            "#",
            ".",
            "a..b",
            "a.",
            ".a",
            "a b",
            "ä.example",
            "a/b",
            "-a",
            "a-",
            "a@b",
            "[::1",
            "[]",
            "[192.0.2.1]",
            "[::1%eth0]",
            "192.0.2.999",
            "192.0.2",
            "1",
            "a:b:1",
            "https://relay.example",
            &long_label,
            &long_name,
        ] {
            assert_eq!(parse(host), Err(AddressError::Host), "{host}");
        }
        for port in [
            "a:", "a:0", "a:65536", "a:+1", "a:-1", "a:1x", "a: 1", "[::1]443", "[::1]:", "[::1]x",
        ] {
            assert_eq!(parse(port), Err(AddressError::Port), "{port}");
        }
        for bare in [
            "::1",
            "2001:db8::1",
            "::ffff:192.0.2.1:443",
            "2001:db8:0:0:0:0:0:1:443",
        ] {
            assert_eq!(parse(bare), Err(AddressError::Brackets), "{bare}");
        }
        let short = &PIN[1..];
        for pin in [
            "a#",
            "a#.",
            &format!("a#.{TOKEN}"),
            &format!("a#{short}"),
            &format!("a#{short}1"),
        ] {
            assert_eq!(parse(pin), Err(AddressError::Fingerprint), "{pin}");
        }
        let long = "a".repeat(65);
        for token in [
            "",
            "aaaaaaaaaaaaaaa",
            "AAAAAAAAAAAAAAAA",
            "aaaaaaaaaaaaaaa1",
            "aaaaaaaa.aaaaaaaaa",
            &long,
        ] {
            assert_eq!(
                parse(&format!("a#{PIN}.{token}")),
                Err(AddressError::Token),
                "{token}"
            );
        }
    }

    #[test]
    fn tokens_match_themselves_alone() {
        let token = Token::from_random([0xa5; 16]);
        assert_eq!(token.reveal().len(), 26);
        assert_eq!(token.reveal().parse(), Ok(token.clone()));
        assert!(token.matches(token.reveal()));
        assert!(!token.matches(&token.reveal()[1..]) && !token.matches(""));
        assert!(!token.matches(&token.reveal().replace(&token.reveal()[..1], "7")));
        assert_ne!(token, Token::from_random([0xa6; 16]));
    }

    fn hosts() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z0-9_]{1,20}(\\.[a-z][a-z0-9]{0,20}){1,4}",
            any::<Ipv4Addr>().prop_map(|address| address.to_string()),
            any::<Ipv6Addr>().prop_map(|address| address.to_string()),
        ]
    }

    proptest! {
        #[test]
        fn addresses_survive_their_text_form(
            host in hosts(),
            port in 1u16..,
            secrets in proptest::option::of((any::<[u8; 32]>(), proptest::option::of("[a-z2-7]{16,64}"))),
        ) {
            let (fingerprint, token) = match secrets {
                Some((pin, token)) => (Some(Fingerprint(pin)), token.map(|token| token.parse().expect("a token"))),
                None => (None, None),
            };
            let address = RelayAddress { host, port, fingerprint, token };
            prop_assert_eq!(parse(&address.to_string()), Ok(address.clone()));
            let bare = RelayAddress { token: None, ..address.clone() };
            prop_assert_eq!(parse(&address.redacted()), Ok(bare));
        }

        #[test]
        fn any_text_is_judged_without_panic(text in "\\PC{0,300}") {
            let _ = parse(&text);
            let _ = text.parse::<Token>();
        }

        #[test]
        fn what_is_taken_is_written_in_one_way(text in "[a-zA-Z0-9.:#\\[\\]_-]{0,80}") {
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()), Ok(address));
            }
        }
    }
}
