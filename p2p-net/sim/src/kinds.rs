//! The kinds of NAT that pairs are made of, and what mathematics allows two of them.

use crate::NatConfig;

/// The seven kinds of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No translator.
    Open,
    /// Whoever knows the port gets in.
    FullCone,
    /// Whose address was sent to gets in.
    AddressRestricted,
    /// Whose address and port were sent to gets in.
    PortRestricted,
    /// Symmetric, ports drawn at random.
    Random,
    /// Symmetric, ports counted up.
    Sequential,
    /// Symmetric, ports out of a small block.
    Block,
}

impl Kind {
    /// All of them, from the kindest to the hardest.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Random,
        Self::Sequential,
        Self::Block,
    ];

    /// How the simulator makes one; nothing where there is no translator.
    pub fn nat(self) -> Option<NatConfig> {
        match self {
            Self::Open => None,
            Self::FullCone => Some(NatConfig::full_cone()),
            Self::AddressRestricted => Some(NatConfig::address_restricted()),
            Self::PortRestricted => Some(NatConfig::port_restricted()),
            Self::Random => Some(NatConfig::symmetric_common()),
            Self::Sequential => Some(NatConfig::symmetric_sequential()),
            Self::Block => Some(NatConfig::symmetric_block()),
        }
    }

    /// Whether each destination sees another port.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Random | Self::Sequential | Self::Block)
    }

    /// Whether a packet must come from the very port that one was sent to.
    pub fn looks_at_ports(self) -> bool {
        self.is_symmetric() || self == Self::PortRestricted
    }
}

/// What mathematics allows two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hope {
    /// Direct, at once.
    Ordinary,
    /// Ports must be guessed: direct nearly always.
    Guessed,
    /// Relayed for good.
    None,
}

/// What a pair of kinds may hope for.
pub fn hope(kinds: [Kind; 2]) -> Hope {
    let [one, other] = kinds;
    match (one.is_symmetric(), other.is_symmetric()) {
        (true, true) if kinds == [Kind::Sequential; 2] => Hope::Guessed,
        (true, true) => Hope::None,
        (true, false) if other.looks_at_ports() => Hope::Guessed,
        (false, true) if one.looks_at_ports() => Hope::Guessed,
        _ => Hope::Ordinary,
    }
}
