//! One long call through everything that happens to calls; `benches/lab/soak` makes the network and runs this.

use std::io::stdout;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use benches::report::print;
use benches::soak::{Config, rows};

#[derive(Parser)]
#[command(about = "A long call through loss, path switches, relay restarts and a device change")]
struct Cli {
    /// How long the call lasts
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=1_440))]
    minutes: u64,
    /// Keep logs and measurements in this folder (23 MB a minute)
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let rows = rows(&Config {
        length: Duration::from_secs(cli.minutes * 60),
        keep: cli.keep,
    })?;
    let good = print(&rows, cli.json, stdout().lock())?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
