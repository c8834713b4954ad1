//! What is done to the call, and when: shares of its length, so that a smoke run sees all of it.

use std::time::Duration;

/// Something that is done to the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The direct path is cut: all goes through the relay.
    Cut,
    /// It is open again.
    Mend,
    /// The relay is killed.
    RelayDown,
    /// It is started again, with the same folder.
    RelayUp,
    /// The callee's loudspeaker and microphone are taken away.
    DevicesGone,
    /// Others come, which nobody has asked for.
    DevicesBack,
}

/// A step, its moment, and what the rows call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// After the call began.
    pub at: Duration,
    /// What is done.
    pub step: Step,
    /// What is done, in words.
    pub name: &'static str,
}

/// How long the relay stays away, and how long the callee has no devices.
pub const AWAY: Duration = Duration::from_secs(3);
/// The shortest run whose steps do not run into each other.
pub const SHORTEST: Duration = Duration::from_secs(120);

/// Steps of a call of this length, in their order. The direct path is there at first, between them, and at
/// the end.
pub fn plan(length: Duration) -> Vec<Planned> {
    let planned = |share: f64, after: Duration, step, name| Planned {
        at: length.mul_f64(share) + after,
        step,
        name,
    };
    let now = Duration::ZERO;
    vec![
        planned(0.15, now, Step::Cut, "direct → relay"),
        planned(0.25, now, Step::Mend, "relay → direct"),
        planned(
            0.35,
            now,
            Step::RelayDown,
            "relay killed while the call is direct",
        ),
        planned(0.35, AWAY, Step::RelayUp, "relay back while it is direct"),
        planned(
            0.45,
            now,
            Step::Cut,
            "direct → relay, after the relay's restart",
        ),
        planned(
            0.55,
            now,
            Step::RelayDown,
            "relay killed while it carries the call",
        ),
        planned(0.55, AWAY, Step::RelayUp, "relay back to carry the call"),
        planned(
            0.65,
            now,
            Step::Mend,
            "relay → direct, after the relay's restart",
        ),
        planned(0.75, now, Step::DevicesGone, "the callee's devices go"),
        planned(0.75, AWAY, Step::DevicesBack, "other devices come"),
    ]
}

/// The stretch after step `index` in which its mark on the call is looked for: until the next step, 15 s at
/// most.
pub fn stretch(plan: &[Planned], index: usize, length: Duration) -> (Duration, Duration) {
    let from = plan[index].at;
    let next = plan.get(index + 1).map_or(length, |next| next.at);
    (from, next.min(from + Duration::from_secs(15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_order_and_end_as_they_began() {
        for length in [SHORTEST, Duration::from_secs(1_800)] {
            let plan = plan(length);
            assert!(plan.is_sorted_by(|one, two| one.at + AWAY <= two.at));
            assert!(plan.iter().all(|step| step.at < length.mul_f64(0.8)));
            let (mut direct, mut relay, mut devices) = (true, true, true);
            for planned in &plan {
                let (now, wanted) = match planned.step {
                    Step::Cut => (&mut direct, false),
                    Step::Mend => (&mut direct, true),
                    Step::RelayDown => (&mut relay, false),
                    Step::RelayUp => (&mut relay, true),
                    Step::DevicesGone => (&mut devices, false),
                    Step::DevicesBack => (&mut devices, true),
                };
                assert_ne!(*now, wanted, "{planned:?}");
                *now = wanted;
            }
            assert!(direct && relay && devices);
        }
    }

    #[test]
    fn stretches_do_not_run_into_each_other() {
        let length = Duration::from_secs(1_800);
        let plan = plan(length);
        assert_eq!(
            stretch(&plan, 0, length),
            (Duration::from_secs(270), Duration::from_secs(285))
        );
        assert_eq!(stretch(&plan, 2, length).1, plan[3].at);
        let last = plan.len() - 1;
        assert!(stretch(&plan, last, length).1 <= length);
    }
}
