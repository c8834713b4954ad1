//! What to resend, protect or copy after loss: the table that decides ([`Policy`]), the sender's memory of
//! what can go again ([`ResendStore`]), parity over fragments ([`parity`]) and copies of sound ([`copies`]).
//!
//! Nothing here does I/O or reads a clock, and nothing here waits: what is due comes out of a `poll` at its
//! time.

pub mod copies;
pub mod parity;

#[cfg(test)]
mod model;
mod policy;
mod resend;
#[cfg(test)]
pub(crate) mod testing;

pub use policy::{Network, Plan, Policy};
pub use resend::{Failed, ResendCounters, ResendStore};
