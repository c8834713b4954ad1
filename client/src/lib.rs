//! Landline's client: one engine (`Command` in, `Event` out) that owns the endpoint and the store, and
//! the command line as one of its faces.

// What was typed, and what it means.
pub mod args;
pub mod identity;
pub mod problem;
pub mod settings;

// What is decided, purely.
pub mod call;
pub mod chat;
pub mod contacts;
pub mod diagnosis;
pub mod wire;

// What is kept.
pub mod book;
pub mod store;

// What is done.
pub mod command;
pub mod engine;
pub mod event;
pub mod face;
mod interrupt;
pub mod ipc;
mod prompt;
pub mod session;
pub mod transfer;

// What people see.
pub mod cli;
pub mod demo;

pub use problem::{Exit, Problem};
