//! Seeds: many runs of one test, and how a failed one is run again.

/// Set to a number, it makes [`for_seeds`] run that seed alone.
pub const SEED_VARIABLE: &str = "LANDLINE_SIM_SEED";

/// Runs `test` with the seeds `0..count`, or with the one in [`SEED_VARIABLE`]; a panic names the seed.
pub fn for_seeds(count: u64, mut test: impl FnMut(u64)) {
    let wanted = std::env::var(SEED_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok());
    let seeds = wanted.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let named = NameOnPanic(seed);
        test(seed);
        drop(named);
    }
}

struct NameOnPanic(u64);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {0}; again: {SEED_VARIABLE}={0}", self.0);
        }
    }
}

/// A seed for one part of a simulation, so that parts do not share their fortune.
pub(crate) fn derive(seed: u64, part: u64) -> u64 {
    // The finalizer of SplitMix64: neighbouring numbers become unrelated ones.
    let mut mixed = seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
