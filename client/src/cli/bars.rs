//! Progress of transfers on standard error: bars with rate and time left where that is a terminal, else
//! nothing but their start and end.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2p_net::PathKind;

use super::terminal::remark;
use crate::contacts::printable;
use crate::event::TransferStep;
use crate::transfer::Phase;

const WITH_TOTAL: &str = "{prefix} {bar:28.green} {percent:>3} %  {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta}  {msg}";
const WITHOUT_TOTAL: &str = "{prefix} {spinner} {bytes}  {binary_bytes_per_sec}  {msg}";
/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// The bars of all transfers that run.
pub(super) struct Bars {
    area: Option<MultiProgress>,
    bars: HashMap<i64, ProgressBar>,
}

impl Bars {
    pub(super) fn new(is_json: bool) -> Self {
        let wanted = !is_json && io::stderr().is_terminal();
        let area =
            wanted.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self {
            area,
            bars: HashMap::new(),
        }
    }

    /// Says something above the bars.
    pub(super) fn say(&self, text: &str) {
        match &self.area {
            Some(area) => area.suspend(|| remark(text)),
            None => remark(text),
        }
    }

    /// Runs `print` while no bar is drawn.
    pub(super) fn suspended(&self, print: impl FnOnce()) {
        match &self.area {
            Some(area) => area.suspend(print),
            None => print(),
        }
    }

    /// Shows what a transfer does.
    pub(super) fn show(&mut self, number: i64, prefix: &str, step: &TransferStep) {
        if let TransferStep::Ended { .. } = step {
            if let Some(bar) = self.bars.remove(&number) {
                bar.finish_and_clear();
            }
            return;
        }
        let Some(area) = &self.area else { return };
        let bar = self.bars.entry(number).or_insert_with(|| {
            let bar = area.add(ProgressBar::new_spinner());
            bar.set_style(style(WITHOUT_TOTAL));
            bar.set_prefix(prefix.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        });
        match step {
            TransferStep::Started { label } => bar.set_message(printable(label, " ")),
            TransferStep::Accepted => bar.reset_eta(),
            TransferStep::Phase { phase } => bar.set_message(match phase {
                Phase::Preparing => "looking at the files",
                Phase::Waiting => "waiting for a yes",
                Phase::Transferring => "",
                Phase::Verifying => "verifying",
                Phase::Publishing => "finishing",
            }),
            TransferStep::Bytes {
                done,
                total,
                files_done,
                files_total,
                path,
                ..
            } => {
                if let (Some(total), None) = (total, bar.length()) {
                    bar.set_length(*total);
                    bar.set_style(style(WITH_TOTAL));
                }
                bar.set_position(*done);
                let path = match path {
                    PathKind::Direct => "direct",
                    PathKind::Relayed => "relayed",
                    PathKind::None => "no path",
                };
                bar.set_message(match files_total {
                    Some(1) | None => path.to_owned(),
                    Some(total) => format!("{files_done}/{total} files, {path}"),
                });
            }
            TransferStep::Ended { .. } => {}
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [WITH_TOTAL, WITHOUT_TOTAL] {
            ProgressStyle::with_template(template).expect("valid");
        }
    }
}
