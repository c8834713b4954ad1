//! Measures what is claimed, one row a target: `targets AREA [--quick] [--json]`. Exits with 1 when a row
//! falls short, and with 2 for an area that has no measurements yet.

use std::io::stdout;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use benches::raw_quinn::Side;
use benches::report::print;
use benches::scenario::Effort;
use benches::{process, sim, transfer};

#[derive(Parser)]
#[command(
    about = "Measures the claims of an area, one row a target; exits with 1 when one falls short"
)]
struct Cli {
    #[command(subcommand)]
    area: Area,
}

#[derive(Subcommand)]
enum Area {
    /// Relay, direct path, chat and files: the first line
    FirstLine(How),
    /// Every kind of NAT (no measurements yet)
    Connectivity(How),
    /// Transfers at speed (no measurements yet)
    Files(How),
    /// Sound and pictures (no measurements yet)
    Calls(How),
    /// The desktop window (no measurements yet)
    Window(How),
    /// The relay under load (no measurements yet)
    Relay(How),
    /// One side of the raw-quinn baseline, in a process of its own.
    #[command(flatten)]
    Raw(Side),
}

#[derive(Args)]
struct How {
    /// A smoke run: small files, one pair, few seeds
    #[arg(long)]
    quick: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Only this part
    #[arg(long, value_enum)]
    part: Option<Part>,
}

/// Parts of the first line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Whole transfers of the real programs
    Transfers,
    /// Virtual time
    Simulator,
}

fn main() -> Result<ExitCode> {
    match Cli::parse().area {
        Area::FirstLine(how) => first_line(&how),
        Area::Raw(side) => {
            side.run()?;
            Ok(ExitCode::SUCCESS)
        }
        Area::Connectivity(_)
        | Area::Files(_)
        | Area::Calls(_)
        | Area::Window(_)
        | Area::Relay(_) => {
            eprintln!("this area has no measurements yet: they come with what they measure");
            Ok(ExitCode::from(2))
        }
    }
}

fn first_line(how: &How) -> Result<ExitCode> {
    let effort = Effort::of(how.quick);
    let mut rows = Vec::new();
    if how.part != Some(Part::Simulator) {
        process::build_programs()?;
        rows.extend(transfer::rows(effort)?);
    }
    if how.part != Some(Part::Transfers) {
        rows.extend(sim::rows(effort)?);
    }
    let good = print(&rows, how.json, stdout().lock())?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
