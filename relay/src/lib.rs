//! Landline's relay server as a library: introduces peers, tells them their addresses, and carries their
//! sealed packets. It knows no media and cannot read what it forwards.

mod config;
mod server;

pub use config::{Config, Limits};
pub use server::{Relay, StartError, Stats};
