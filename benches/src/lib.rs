//! Landline's benchmarks and network lab: claims about the programs, measured, as rows of targets.

pub mod calls;
pub mod emulator;
pub mod lab;
pub mod process;
pub mod programs;
pub mod raw_quinn;
pub mod report;
pub mod scenario;
pub mod sim;
pub mod soak;
pub mod transfer;
