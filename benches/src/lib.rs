//! Landline's benchmarks and network lab: claims about the programs, measured, as rows of targets.

pub mod process;
pub mod raw_quinn;
pub mod report;
pub mod scenario;
