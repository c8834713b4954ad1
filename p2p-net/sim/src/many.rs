//! Many lives: one test with thousands of seeds, spread over the machine's cores; which of them failed, how
//! each is lived again, and how many passed a minute.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::SEED_VARIABLE;

/// Set to a number, it replaces the count of [`many_lives`].
pub const LIVES_VARIABLE: &str = "LANDLINE_LIVES";

/// Failures after which the rest is not lived: one cause seldom needs more examples.
const MAX_FAILURES: usize = 10;
/// Threads at most, however many cores there are.
const MAX_THREADS: usize = 16;

/// Lives the seeds `0..count` on all cores and returns what each showed, in the order of seeds; with
/// [`SEED_VARIABLE`] only that one, with [`LIVES_VARIABLE`] so many. `again` is the command that lives a seed
/// again, without its variable.
///
/// # Panics
/// If a life panicked, with every failed seed and its command.
pub fn many_lives<T: Send>(
    count: u64,
    again: &str,
    life: impl Fn(u64) -> T + Sync,
) -> Vec<(u64, T)> {
    let number = |variable| std::env::var(variable).ok()?.parse::<u64>().ok();
    let seeds = match number(SEED_VARIABLE) {
        Some(seed) => seed..seed + 1,
        None => 0..number(LIVES_VARIABLE).unwrap_or(count),
    };
    let began = wall_clock();
    let (mut lived, failed) = live(seeds, &life);
    let took = began.elapsed();
    lived.sort_by_key(|(seed, _)| *seed);
    eprintln!(
        "{} lives in {:.1} s, {:.0} a minute; {} failed",
        lived.len() + failed.len(),
        took.as_secs_f64(),
        (lived.len() + failed.len()) as f64 * 60.0
            / took.max(Duration::from_millis(1)).as_secs_f64(),
        failed.len()
    );
    if !failed.is_empty() {
        for (seed, why) in &failed {
            eprintln!("seed {seed}: {why}\n  again: {SEED_VARIABLE}={seed} {again}");
        }
        panic!(
            "{} lives failed: {:?}",
            failed.len(),
            failed.iter().map(|(seed, _)| seed).collect::<Vec<_>>()
        );
    }
    lived
}

type Lived<T> = Vec<(u64, T)>;

fn live<T: Send>(
    seeds: std::ops::Range<u64>,
    life: &(impl Fn(u64) -> T + Sync),
) -> (Lived<T>, Vec<(u64, String)>) {
    let next = AtomicU64::new(seeds.start);
    let lived = Mutex::new(Vec::new());
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = lock(&failed).len() >= MAX_FAILURES;
            if seed >= seeds.end || enough {
                return;
            }
            match panic::catch_unwind(AssertUnwindSafe(|| life(seed))) {
                Ok(shown) => lock(&lived).push((seed, shown)),
                Err(panicked) => lock(&failed).push((seed, message(&*panicked))),
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for core in 0..cores.min(MAX_THREADS) {
            std::thread::Builder::new()
                .name(format!("lives-{core}"))
                .spawn_scoped(scope, work)
                .expect("a thread for each core");
        }
    });
    (
        lived.into_inner().unwrap_or_else(PoisonError::into_inner),
        failed.into_inner().unwrap_or_else(PoisonError::into_inner),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::disallowed_methods,
    reason = "how fast lives pass is a question to the real clock; no life sees it"
)]
fn wall_clock() -> Instant {
    Instant::now()
}

fn message(panicked: &(dyn std::any::Any + Send)) -> String {
    let text = panicked.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panicked.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked without words")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_come_back_in_order_and_failed_ones_are_named() {
        let (mut lived, failed) = live(3..103, &|seed| seed * 2);
        lived.sort_unstable();
        assert!(failed.is_empty() && lived.len() == 100);
        assert!(lived.iter().all(|(seed, twice)| *twice == seed * 2));

        let (lived, failed) = live(0..20, &|seed| assert_ne!(seed, 7, "unlucky"));
        assert_eq!((lived.len(), failed.len()), (19, 1));
        assert!(failed[0].0 == 7 && failed[0].1.contains("unlucky"));
        let (lived, failed) = live(0..1_000_000, &|_| panic!("all of them"));
        assert!(lived.is_empty() && failed.len() <= MAX_FAILURES + MAX_THREADS);
    }
}
