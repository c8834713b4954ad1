//! What a process holds while it runs: memory, threads and open files, looked at once a second, and whether
//! they grow.

use std::fs;
use std::time::Duration;

use crate::report::{Bar, Row, Spread};

/// Memory may be this much more in the last fifth than in the second, MiB; or a tenth, if that is more:
/// allocators keep what a burst of work once took.
const MORE_MIB: f64 = 8.0;
/// Threads and files that may come and go: those of devices and of the runtime's blocking calls.
const MORE_HANDLES: f64 = 2.0;

/// What a process held at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// Since the call began.
    pub at: Duration,
    /// Resident memory, MiB.
    pub mib: f64,
    /// Threads.
    pub threads: f64,
    /// Open files and sockets.
    pub files: f64,
}

impl Held {
    /// Looks at a process; `None` if it is gone.
    pub fn look(pid: u32, at: Duration) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        Some(Self {
            at,
            mib: field("VmRSS:")? / 1_024.0,
            threads: field("Threads:")?,
            files: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as f64,
        })
    }
}

/// The rows of one process over a call of this length.
pub fn rows(who: &str, held: &[Held], length: Duration) -> Vec<Row> {
    let of = |figure: fn(&Held) -> f64, from: f64, until: f64| {
        let within: Vec<f64> = held
            .iter()
            .filter(|held| held.at >= length.mul_f64(from) && held.at < length.mul_f64(until))
            .map(figure)
            .collect();
        Spread::of(&within)
    };
    let row = |what: &str, unit, figure: fn(&Held) -> f64, allowed: fn(f64) -> f64| {
        let name = format!("{who}: {what}, last fifth beyond the second");
        match (of(figure, 0.2, 0.4), of(figure, 0.8, 1.0)) {
            (Some(early), Some(late)) => {
                let bar = Bar::AtMost(allowed(early.median));
                let beside = format!("{early} → {late}");
                Row::new(name, bar, late.median - early.median, unit, beside)
            }
            _ => Row::failed(name, Bar::Holds, unit, "the process was gone"),
        }
    };
    vec![
        row(
            "memory",
            "MiB",
            |held| held.mib,
            |early| MORE_MIB.max(early / 10.0),
        ),
        row("threads", "", |held| held.threads, |_| MORE_HANDLES),
        row("open files", "", |held| held.files, |_| MORE_HANDLES),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(mib_per_sec: f64) -> Vec<Held> {
        (0..1_000)
            .map(|second| Held {
                at: Duration::from_secs(second),
                mib: 60.0 + mib_per_sec * second as f64,
                threads: 20.0,
                files: 30.0,
            })
            .collect()
    }

    #[test]
    fn growth_falls_short_and_rest_does_not() {
        let length = Duration::from_secs(1_000);
        assert!(rows("x", &grown(0.0), length).iter().all(|row| row.ok));
        // 60 kB a second: 36 MiB from one fifth to the other.
        let rows = rows("x", &grown(0.06), length);
        assert_eq!(
            rows.iter().map(|row| row.ok).collect::<Vec<_>>(),
            [false, true, true]
        );
        let early = &grown(0.0)[..300];
        assert!(super::rows("x", early, length).iter().all(|row| !row.ok));
    }

    #[test]
    fn this_process_is_seen() {
        let held = Held::look(std::process::id(), Duration::ZERO).expect("it lives");
        assert!(held.mib > 1.0 && held.threads >= 1.0 && held.files >= 3.0);
        assert_eq!(Held::look(u32::MAX, Duration::ZERO), None);
    }
}
