//! Figures of the pictures of a call, from the numbers that they bear.

use std::collections::HashMap;

use super::records::Moment;

/// A gap between two shown pictures longer than this is a stall, µs.
const STALL_MICROS: u64 = 200_000;

/// How the pictures of one stretch of a call fared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pictures {
    /// Distinct numbers shown ÷ handed over, %.
    pub shown_percent: f64,
    /// From hand-over to shown, ms: median and 95th percentile.
    pub latency_millis: (f64, f64),
    /// The sum of all gaps over 200 ms, ms.
    pub stall_millis: f64,
}

/// Judges what was handed over from `from` to `until`, µs.
pub fn judge(sent: &[Moment], shown: &[Moment], from: u64, until: u64) -> Option<Pictures> {
    let mut first_shown: HashMap<u32, u64> = HashMap::new();
    for moment in shown {
        let at = first_shown.entry(moment.number).or_insert(moment.micros);
        *at = (*at).min(moment.micros);
    }
    let window = || sent.iter().filter(|m| (from..until).contains(&m.micros));
    let handed = window().count();
    let mut latencies: Vec<f64> = window()
        .filter_map(|m| Some(first_shown.get(&m.number)?.saturating_sub(m.micros) as f64 / 1e3))
        .collect();
    if handed == 0 {
        return None;
    }
    let shown_percent = 100.0 * latencies.len() as f64 / handed as f64;
    let stall = stalls(shown, from, until);
    let latency_millis = (
        percentile(&mut latencies, 0.5).unwrap_or(f64::INFINITY),
        percentile(&mut latencies, 0.95).unwrap_or(f64::INFINITY),
    );
    Some(Pictures {
        shown_percent,
        latency_millis,
        stall_millis: stall as f64 / 1e3,
    })
}

/// The sum of the gaps over 200 ms between pictures shown in a stretch, its ends included, µs.
pub fn stalls(shown: &[Moment], from: u64, until: u64) -> u64 {
    let mut times: Vec<u64> = shown.iter().map(|m| m.micros).collect();
    times.retain(|at| (from..until).contains(at));
    times.push(from);
    times.push(until);
    times.sort_unstable();
    times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .filter(|gap| *gap > STALL_MICROS)
        .sum()
}

/// How long after `since` the latency of all that is handed over stays below `limit_millis` for a second, s.
pub fn recovered_after(
    sent: &[Moment],
    shown: &[Moment],
    since: u64,
    limit_millis: f64,
) -> Option<f64> {
    (0..600).map(|step| since + step * 50_000).find_map(|from| {
        let pictures = judge(sent, shown, from, from + 1_000_000)?;
        let good = pictures.latency_millis.1 < limit_millis && pictures.shown_percent > 50.0;
        good.then(|| (from - since) as f64 / 1e6)
    })
}

/// The value below which `share` of the figures lie.
pub fn percentile(figures: &mut [f64], share: f64) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let at = ((figures.len() as f64 - 1.0) * share).round();
    figures.get(at as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_33_ms(numbers: impl Iterator<Item = u32>, delay: u64) -> Vec<Moment> {
        numbers
            .map(|number| Moment {
                number,
                micros: u64::from(number) * 33_333 + delay,
            })
            .collect()
    }

    #[test]
    fn a_call_that_loses_nothing_is_whole() {
        let sent = every_33_ms(0..300, 0);
        let shown = every_33_ms(0..300, 50_000);
        let figures = judge(&sent, &shown, 1_000_000, 9_000_000).expect("figures");
        assert_eq!(figures.shown_percent, 100.0);
        assert_eq!(figures.latency_millis, (50.0, 50.0));
        assert_eq!(figures.stall_millis, 0.0);
    }

    #[test]
    fn a_hole_is_a_stall_and_missing_pictures() {
        let sent = every_33_ms(0..300, 0);
        let shown = every_33_ms((0..100).chain(130..300), 50_000);
        let figures = judge(&sent, &shown, 1_000_000, 9_000_000).expect("figures");
        assert!((figures.shown_percent - 87.5).abs() < 0.5, "{figures:?}");
        assert!((figures.stall_millis - 1_033.0).abs() < 1.0, "{figures:?}");
    }

    #[test]
    fn a_call_that_shows_nothing_is_one_stall() {
        let sent = every_33_ms(0..300, 0);
        let figures = judge(&sent, &[], 0, 9_000_000).expect("figures");
        assert_eq!(figures.shown_percent, 0.0);
        assert_eq!(figures.stall_millis, 9_000.0);
        assert!(figures.latency_millis.0.is_infinite());
        assert_eq!(judge(&[], &[], 0, 1), None);
    }

    #[test]
    fn recovery_is_found_where_latency_falls() {
        let sent = every_33_ms(0..300, 0);
        let mut shown = every_33_ms(0..150, 400_000);
        shown.extend(every_33_ms(150..300, 60_000));
        let after = recovered_after(&sent, &shown, 2_000_000, 200.0).expect("it recovers");
        assert!((2.9..3.2).contains(&after), "{after}");
    }
}
