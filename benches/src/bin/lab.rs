//! Shows that the real programs work behind NATs; `benches/lab/two-nats` makes the network and runs this.

use std::io::stdout;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use benches::lab::Lab;
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
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let rows = Lab::from_environment(Effort::of(cli.quick))?.rows()?;
    let good = print(&rows, cli.json, stdout().lock())?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
