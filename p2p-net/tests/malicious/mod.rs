//! A relay built to be malicious, for tests: it speaks the relay's protocol well enough that honest
//! endpoints use it, keeps everything that it sees, and does harm on request. See `THREATS.md`.

mod control;
mod deeds;
mod forward;
mod honest;
mod mallory;
mod record;
mod relay;
mod socket;

pub(crate) use control::welcome;
pub(crate) use deeds::{PacketDeeds, Sealed, Tamper};
pub(crate) use honest::{
    Pair, Victim, becomes_direct, caught_up, echo, endpoint, no_panic, noise, online, sees, within,
};
pub(crate) use mallory::Mallory;
pub(crate) use record::Record;
pub(crate) use relay::EvilRelay;
pub(crate) use socket::DemuxSocket;
