//! Shows that the real programs work behind NATs; `benches/lab/two-nats` makes the network and runs this.

use std::io::stdout;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use benches::lab::{Lab, Nat, PeerArguments, peer};
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
    /// How often and how soon fresh pairs behind these two kinds of NAT talk directly
    Guesses {
        /// The NAT of one side
        one: Nat,
        /// The NAT of the other
        other: Nat,
        /// How many pairs
        #[arg(long, default_value_t = 200)]
        runs: u32,
    },
    /// One side of such a pair
    #[command(hide = true)]
    Peer(PeerArguments),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(What::Peer(arguments)) = cli.what {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_env_filter(EnvFilter::from_default_env())
            .init();
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(peer(arguments))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lab = Lab::from_environment(Effort::of(cli.quick))?;
    let rows = match cli.what {
        None => lab.rows()?,
        Some(What::Pair { one, other }) => lab.pair(one, other)?,
        Some(What::Guesses { one, other, runs }) => lab.guesses(one, other, runs)?,
        Some(What::Peer(_)) => Vec::new(),
    };
    let good = print(&rows, cli.json, stdout().lock())?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
