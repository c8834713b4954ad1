//! The parts of the model: a wire, a call over it, a CUBIC flow beside it, and what is measured.

mod call;
mod cubic;
mod measure;
mod wire;

use std::time::Duration;

use p2p_net_sim::Clock;

pub(crate) use call::{Call, Setup};
pub(crate) use cubic::Cubic;
pub(crate) use measure::Row;
pub(crate) use wire::Wire;

/// The model's step: as often as the pacer is woken.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// The second of two calls begins so much later.
const LATER: Duration = Duration::from_secs(5);

/// One call alone.
pub(crate) fn run(setup: Setup, mut wire: Wire) -> Row {
    let seconds = setup.seconds;
    let mut call = Call::new(setup);
    call.run_to(&mut wire, seconds);
    call.row()
}

/// One call beside a flow that fills the queue.
pub(crate) fn run_beside(setup: Setup, mut wire: Wire, mut cubic: Cubic) -> Row {
    let seconds = setup.seconds;
    let mut call = Call::new(setup);
    let mut at = 0.0;
    while at < seconds {
        at += TICK.as_secs_f64();
        call.run_to(&mut wire, at);
        cubic.step(call.now(), |now, bytes| wire.send(now, bytes));
    }
    let mut row = call.row();
    let call_bytes = call.arrived_bytes_after(cubic.settled());
    let cubic_bytes = cubic.arrived_bytes();
    row.share = call_bytes / (call_bytes + cubic_bytes).max(1.0);
    row
}

/// Two calls over one wire.
pub(crate) fn run_two(seed: u64, seconds: u32, mut wire: Wire) -> (Row, Row) {
    let start = Clock::new().now();
    let mut one = Call::at(Setup::new(seed, seconds), start);
    let mut other = Call::at(Setup::new(seed + 1_000, seconds), start + LATER);
    let mut at = 0.0;
    while at < f64::from(seconds) {
        at += TICK.as_secs_f64();
        one.run_to(&mut wire, at);
        other.run_to(&mut wire, at - LATER.as_secs_f64());
    }
    (one.row(), other.row())
}
