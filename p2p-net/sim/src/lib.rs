//! Simulated networks for Landline's tests: virtual time, seeded links, address translators, and whole
//! worlds of them. The same seed gives the same run; a failing one is named and can be run again
//! ([`SEED_VARIABLE`]). Never published.
//!
//! [`World`] alone moves packets; [`pair`] puts two `Peer` state machines and a relay on it;
//! [`sockets`] puts quinn endpoints, and with them whole programs, on it in tokio's paused time.

mod clock;
pub mod kinds;
mod link;
mod many;
mod nat;
pub mod pair;
mod seed;
pub mod sockets;
mod world;

pub use clock::Clock;
pub use link::{DEFAULT_QUEUE_BYTES, Fate, Link, LinkConfig, Loss};
pub use many::{LIVES_VARIABLE, many_lives};
pub use nat::{Dependence, Nat, NatConfig, Ports};
pub use seed::{SEED_VARIABLE, for_seeds};
pub use sockets::{Captured, SimHost, SimNet};
pub use world::{Counters, Delivery, HostId, NatId, Payload, Place, World};
