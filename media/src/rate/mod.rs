//! How much the path carries, and who gets it.
//!
//! [`Estimator`] turns what was sent and what came of it into one number, the *estimate*: bits a second of
//! everything on the wire, headers included. It is the congestion control of the connection while a call runs.
//! [`allocate`] splits the estimate, [`Ladder`] chooses the size of the picture, [`TargetFilter`] says when the
//! encoder is told, [`skip_capture`] when a picture is not even encoded.
//!
//! Nothing here has a clock or does I/O: time is an argument.

mod allocate;
mod arrival;
mod capacity;
mod compete;
mod control;
mod delay;
mod estimator;
mod ladder;
mod loss;
mod path;
mod probe;
mod trend;

pub use allocate::{
    Demand, ScreenDemand, Shares, SkipInputs, SkipReason, TargetFilter, allocate, skip_capture,
};
pub use estimator::{Config, Estimator, Event, LossView, Mode, PathHint, ProbeOrder, Snapshot};
pub use ladder::{Ladder, Step};

#[cfg(test)]
mod estimator_tests;
