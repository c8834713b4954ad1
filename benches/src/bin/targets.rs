//! Measures what `README.md` claims, one row a target: `targets AREA [--quick] [--json]`. Exits with 1 when
//! a row falls short, with 2 for an area that has no measurements yet.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use benches::raw_quinn::Side;

#[derive(Parser)]
#[command(
    about = "Measures the claims of one area, one row a target; exits with 1 when a row falls short"
)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    #[command(flatten)]
    Raw(Side),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().what {
        What::Raw(side) => side.run()?,
    }
    Ok(ExitCode::SUCCESS)
}
