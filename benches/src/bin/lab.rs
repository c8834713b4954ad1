//! Shows that the real programs work behind NATs; `benches/lab/two-nats` makes the network and runs this.

use std::io::stdout;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use benches::lab::{Lab, Nat};
use benches::report::print;
use benches::scenario::Effort;

#[derive(Parser)]
#[command(about = "Runs the programs behind two NATs; started by benches/lab/two-nats")]
struct Cli {
    /// Small files
    #[arg(long)]
    quick: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Only whether these two kinds of NAT chat and talk directly; started by benches/lab/matrix
    Pair {
        /// The NAT of one side
        one: Nat,
        /// The NAT of the other
        other: Nat,
    },
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let lab = Lab::from_environment(Effort::of(cli.quick))?;
    let rows = match cli.what {
        None => lab.rows()?,
        Some(What::Pair { one, other }) => lab.pair(one, other)?,
    };
    let good = print(&rows, cli.json, stdout().lock())?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
