//! The relay over real sockets on loopback, and the program as a process.

mod client;

mod channels;
mod login;
mod presence;
#[cfg(unix)]
mod program;
mod strangers;
mod tcp;
