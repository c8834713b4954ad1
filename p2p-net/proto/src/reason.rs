//! Why the packets of a peer do not go straight to it: one code for each way in which that ends, with what it
//! means and what a person can do about it. Codes are stable: programs and bug reports quote them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a path is not direct. Exactly one holds at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NotDirect {
    /// Nobody wants a connection, or neither relay nor direct path is there to begin with.
    Idle,
    /// We have not accepted this peer: it does not get our addresses.
    NotAccepted,
    /// We go through the relay on principle, to this peer or to all: nobody gets our addresses then.
    RelayOnly,
    /// The peer does not tell its addresses: it has not accepted us, or goes through the relay on principle.
    PeerDeclines,
    /// No relay has told us yet where we are seen.
    NoAddress,
    /// Addresses are exchanged or probed right now.
    Trying,
    /// The peer did not answer our offer of addresses.
    NoAnswer,
    /// Nothing came through although ordinary translators would let it: a firewall, or UDP blocked between us.
    Blocked,
    /// Which kind of translator is in the way could not be told: the relay did not answer on both ports, or
    /// the peer does not say.
    NatUnknown,
    /// Both translators take another port for each destination, in an order that cannot be foreseen.
    BothSymmetric,
    /// One translator takes another port for each destination; its ports were guessed in vain.
    GuessFailed,
    /// The same, and guessing must wait: it failed lately, or somebody else's ports are being guessed.
    GuessWaits,
    /// The direct path died, and a new one is being sought.
    Lost,
    /// A direct path exists, but the relay is clearly faster.
    RelayFaster,
}

impl NotDirect {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Idle,
        Self::NotAccepted,
        Self::RelayOnly,
        Self::PeerDeclines,
        Self::NoAddress,
        Self::Trying,
        Self::NoAnswer,
        Self::Blocked,
        Self::NatUnknown,
        Self::BothSymmetric,
        Self::GuessFailed,
        Self::GuessWaits,
        Self::Lost,
        Self::RelayFaster,
    ];

    /// The code as it is printed and quoted, equal to its form in JSON.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::NotAccepted => "not-accepted",
            Self::RelayOnly => "relay-only",
            Self::PeerDeclines => "peer-declines",
            Self::NoAddress => "no-address",
            Self::Trying => "trying",
            Self::NoAnswer => "no-answer",
            Self::Blocked => "blocked",
            Self::NatUnknown => "nat-unknown",
            Self::BothSymmetric => "both-symmetric",
            Self::GuessFailed => "guess-failed",
            Self::GuessWaits => "guess-waits",
            Self::Lost => "lost",
            Self::RelayFaster => "relay-faster",
        }
    }

    /// What it means, a sentence without its full stop.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Idle => "no connection is wanted",
            Self::NotAccepted => "this peer is not accepted and does not get our addresses",
            Self::RelayOnly => "relay-only is set: our addresses are kept back",
            Self::PeerDeclines => "the peer does not tell its addresses",
            Self::NoAddress => "no relay has told us yet where we are seen",
            Self::Trying => "a direct path is being sought",
            Self::NoAnswer => "the peer did not answer our offer of addresses",
            Self::Blocked => "nothing comes through, though the translators would allow it",
            Self::NatUnknown => "the kind of translator in the way could not be told",
            Self::BothSymmetric => {
                "both translators (NATs) take an unforeseeable port for each destination"
            }
            Self::GuessFailed => "the port of a symmetric translator (NAT) was guessed in vain",
            Self::GuessWaits => "guessing the port of a symmetric translator (NAT) has to wait",
            Self::Lost => "the direct path died, and a new one is being sought",
            Self::RelayFaster => "the relay is clearly faster than the direct path",
        }
    }

    /// What a person can do, a sentence without its full stop; `None` where nothing needs to be done.
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Self::Idle | Self::Trying | Self::Lost | Self::RelayFaster => None,
            Self::NotAccepted => Some("accept the contact"),
            Self::RelayOnly => Some("lift `relay-only` where a direct path is worth our addresses"),
            Self::PeerDeclines => Some("ask the peer to accept you, or to lift `relay-only`"),
            Self::NoAddress => Some("look at the relay: is it reachable by UDP"),
            Self::NoAnswer => Some("ask the peer to update, or to come online again"),
            Self::Blocked => Some("look for a firewall that drops UDP on either side"),
            Self::NatUnknown => Some("open both UDP ports of the relay"),
            Self::BothSymmetric => Some("use IPv6 on both sides, or another network on one"),
            Self::GuessFailed => Some(
                "use IPv6 on both sides, or another network on one; it is tried again in an hour",
            ),
            Self::GuessWaits => Some("wait: it is tried again by itself"),
        }
    }
}

impl fmt::Display for NotDirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How serde writes the name of a variant.
    fn kebab(name: &str) -> String {
        let mut out = String::new();
        for (at, letter) in name.char_indices() {
            if letter.is_ascii_uppercase() && at > 0 {
                out.push('-');
            }
            out.push(letter.to_ascii_lowercase());
        }
        out
    }

    #[test]
    fn each_code_is_that_of_json_and_unique() {
        let mut codes: Vec<_> = NotDirect::ALL.iter().map(|why| why.code()).collect();
        for why in NotDirect::ALL {
            assert_eq!(kebab(&format!("{why:?}")), why.code());
            assert!(!why.meaning().ends_with('.') && !why.meaning().is_empty());
            assert!(why.advice().is_none_or(|advice| !advice.ends_with('.')));
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), NotDirect::ALL.len());
    }
}
