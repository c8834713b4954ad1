//! Landline's client: one engine (`Command` in, `Event` out) that owns the endpoint and the store, and
//! the command line as one of its faces.

pub mod args;
pub mod chat;
pub mod contacts;
pub mod identity;
pub mod problem;
pub mod settings;
pub mod store;
pub mod wire;

pub use problem::{Exit, Problem};
