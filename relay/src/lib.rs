//! Landline's relay server as a library: introduces peers, tells them their addresses, and carries
//! their sealed packets. It knows no media and cannot read what it forwards.
//!
//! ```no_run
//! # async fn example() -> Result<(), relay::StartError> {
//! let relay = relay::Relay::start(relay::Config::loopback("/tmp/relay")).await?;
//! println!("{}", relay.address());
//! relay.shutdown().await;
//! # Ok(())
//! # }
//! ```

// What the operator wants, and what is kept.
mod config;
mod keys;
mod place;

// Pure: who may come in, who is there, who called whom, which packet goes where, what strangers are told.
mod admission;
mod core;
mod forward;
mod questions;
mod registry;
mod rendezvous;

// Tasks and sockets around it.
mod net;
mod quic;
mod server;
mod session;
mod tcp;

pub use config::{Config, Limits};
pub use keys::stored_address;
pub use place::is_private_host;
pub use server::{Relay, StartError, Stats};
