//! A relay that reads, alters, drops, reorders, replays, swaps keys and lies never gets plaintext, never
//! gets a forged peer accepted, and never makes a peer attack a bystander (`THREATS.md`).
//!
//! Each test is one kind of deed. The relay is real code on a real loopback port
//! (`malicious/relay.rs`), the peers are ordinary endpoints.

mod malicious;

#[path = "malicious/tests_data.rs"]
mod data;
#[path = "malicious/tests_identity.rs"]
mod identity;
#[path = "malicious/tests_lies.rs"]
mod lies;
#[path = "malicious/tests_privacy.rs"]
mod privacy;
#[path = "malicious/tests_self.rs"]
mod self_test;
#[path = "malicious/tests_signals.rs"]
mod signals;
