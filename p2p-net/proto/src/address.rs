//! The one string that a person pastes to use a relay: `host[:port][#fingerprint[.token]]`
//! (`wire.md` §1).

use std::fmt;
use std::str::FromStr;

/// SHA-256 of a certificate's SubjectPublicKeyInfo DER; as text 52 characters of base32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A relay's admission secret, 16 to 64 characters of `a-z2-7`. `Debug` hides it; `Display`, for the
/// address to paste and the settings file, does not: never give it to a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Where a relay is, which key it must show, and what it wants to hear.
///
/// `Display` gives the full string with the token; `Debug` and [`RelayAddress::redacted`] hide it.
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
    #[error("no usable host in the relay address; it looks like relay.example.org:443#fingerprint.token")]
    Host,
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
        Self(crate::ids::base32(&bytes))
    }

    /// The secret text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let _ = text;
        todo!()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
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
        todo!()
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
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
        let _ = text;
        todo!()
    }
}
