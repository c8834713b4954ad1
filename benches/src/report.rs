//! Rows: one target each, with its bar and what was measured, as a table for people or as JSON lines for
//! programs.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// The figure or more.
    AtLeast(f64),
    /// The figure or less.
    AtMost(f64),
    /// It must hold; the figure is 1 or 0.
    Holds,
    /// Nothing: the figure is shown for itself, where the run is too small to be judged by it.
    Shown,
}

impl Bar {
    fn admits(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(bar) => measured >= bar,
            Self::AtMost(bar) => measured <= bar,
            Self::Holds => measured == 1.0,
            Self::Shown => measured.is_finite(),
        }
    }
}

impl std::fmt::Display for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(f, "≥ {}", figure(*bar)),
            Self::AtMost(bar) => write!(f, "≤ {}", figure(*bar)),
            Self::Holds => f.write_str("holds"),
            Self::Shown => f.write_str("shown"),
        }
    }
}

impl Serialize for Bar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One target and how it fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What is measured.
    pub target: String,
    /// What it must reach.
    pub bar: Bar,
    /// What was reached; absent where the measurement itself failed.
    pub measured: Option<f64>,
    /// Of `bar` and `measured`.
    pub unit: &'static str,
    /// Both sides with their spread, the number of runs, and what else the figure was measured beside.
    pub beside: String,
    /// Whether the bar is reached.
    pub ok: bool,
}

impl Row {
    /// A figure against its bar.
    pub fn new(
        target: impl Into<String>,
        bar: Bar,
        measured: f64,
        unit: &'static str,
        beside: impl Into<String>,
    ) -> Self {
        Self {
            target: target.into(),
            bar,
            measured: Some(measured),
            unit,
            beside: beside.into(),
            ok: bar.admits(measured),
        }
    }

    /// Something that is true or is not.
    pub fn holds(target: impl Into<String>, ok: bool, beside: impl Into<String>) -> Self {
        Self::new(target, Bar::Holds, f64::from(u8::from(ok)), "", beside)
    }

    /// A measurement that could not be made, with the reason: never taken for success.
    pub fn failed(
        target: impl Into<String>,
        bar: Bar,
        unit: &'static str,
        why: impl std::fmt::Display,
    ) -> Self {
        let beside = format!("failed: {why}");
        Self {
            target: target.into(),
            bar,
            measured: None,
            unit,
            beside,
            ok: false,
        }
    }

    /// The same figure, only shown; a measurement that failed stays failed.
    pub fn unjudged(self) -> Self {
        match self.measured {
            Some(measured) => Self::new(self.target, Bar::Shown, measured, self.unit, self.beside),
            None => self,
        }
    }

    fn measured_text(&self) -> String {
        match (self.measured, self.bar) {
            (None, _) => "–".to_owned(),
            (Some(_), Bar::Holds) => if self.ok { "yes" } else { "no" }.to_owned(),
            (Some(measured), _) => figure(measured),
        }
    }
}

/// Prints rows, as a table or (`json`) one object a line, and says whether all bars are reached.
///
/// # Errors
/// What writing gives.
pub fn print(rows: &[Row], json: bool, mut out: impl Write) -> io::Result<bool> {
    if json {
        for row in rows {
            serde_json::to_writer(&mut out, row)?;
            writeln!(out)?;
        }
    } else {
        out.write_all(table(rows).as_bytes())?;
    }
    out.flush()?;
    Ok(!rows.is_empty() && rows.iter().all(|row| row.ok))
}

/// The rows as an aligned table.
pub fn table(rows: &[Row]) -> String {
    let head = ["target", "bar", "measured", "unit", "ok", "beside"].map(str::to_owned);
    let lines: Vec<[String; 6]> = std::iter::once(head)
        .chain(rows.iter().map(|row| {
            [
                row.target.clone(),
                row.bar.to_string(),
                row.measured_text(),
                row.unit.to_owned(),
                if row.ok { "ok" } else { "FALLS SHORT" }.to_owned(),
                row.beside.clone(),
            ]
        }))
        .collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut table = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            // The last column runs on without padding.
            let pad = if column == 5 {
                0
            } else {
                width - cell.chars().count()
            };
            // Writing to a string cannot fail.
            let _ = write!(table, "{gap}{cell}{:pad$}", "");
        }
        table.push('\n');
    }
    table
}

/// Three digits that count, without an exponent.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Median, smallest and largest of some figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one, or the mean of the two middle ones.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of `figures`; `None` if there are none.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}–{})",
            figure(self.median),
            figure(self.min),
            figure(self.max)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_judge_both_ways() {
        assert!(Row::new("rate", Bar::AtLeast(0.75), 0.75, "ratio", "").ok);
        assert!(!Row::new("rate", Bar::AtLeast(0.75), 0.7499, "ratio", "").ok);
        assert!(Row::new("memory", Bar::AtMost(128.0), 127.9, "MiB", "").ok);
        assert!(!Row::new("memory", Bar::AtMost(128.0), f64::NAN, "MiB", "").ok);
        assert!(!Row::holds("agrees", false, "").ok);
        assert!(Row::new("rate", Bar::Shown, 0.1, "ratio", "").ok);
        assert!(!Row::new("rate", Bar::Shown, f64::NAN, "ratio", "").ok);
        assert!(!Row::failed("rate", Bar::AtLeast(0.0), "ratio", "no relay").ok);
        assert!(
            Row::new("rate", Bar::AtLeast(1.0), 0.1, "", "")
                .unjudged()
                .ok
        );
        assert!(!Row::failed("rate", Bar::Holds, "", "").unjudged().ok);
    }

    #[test]
    fn json_rows_have_the_keys_that_were_promised() {
        let rows = [
            Row::new("rate", Bar::AtLeast(0.75), 0.9, "ratio", "raw 3 s"),
            Row::failed("x", Bar::AtMost(2.0), "R", "no"),
        ];
        let mut out = Vec::new();
        assert!(!print(&rows, true, &mut out).expect("a vector takes everything"));
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"target":"rate","bar":"≥ 0.75","measured":0.9,"unit":"ratio","beside":"raw 3 s","ok":true}"#
        );
        assert!(lines[1].contains(r#""measured":null"#) && lines[1].ends_with(r#""ok":false}"#));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn an_empty_report_is_no_success() {
        assert!(!print(&[], true, Vec::new()).expect("a vector takes everything"));
    }

    #[test]
    fn columns_are_aligned() {
        let text = table(&[
            Row::new("a", Bar::AtMost(3.5), 2.25, "R", "20 seeds"),
            Row::holds("longer name", true, ""),
        ]);
        assert_eq!(
            text,
            "target       bar    measured  unit  ok  beside\n\
             a            ≤ 3.5  2.25      R     ok  20 seeds\n\
             longer name  holds  yes             ok  \n"
        );
    }

    #[test]
    fn spreads_are_of_the_sorted_figures() {
        assert_eq!(Spread::of(&[]), None);
        let odd = Spread::of(&[3.0, 1.0, 2.0]).expect("figures");
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[1.0, 2.0]).expect("figures").median, 1.5);
        assert_eq!(odd.to_string(), "2 (1–3)");
    }
}
