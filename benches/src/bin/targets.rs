//! Measures what is claimed, one row a target: `targets AREA [--quick] [--json]`. Exits with 1 when a row
//! falls short, and with 2 for an area that has no measurements yet.

use std::io::{Write as _, stdout};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use benches::calls::{Pinned, Stand};
use benches::raw_quinn::Side;
use benches::report::{Row, print};
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
    /// Sound and pictures of calls, under the conditions of a bad network
    Calls(CallsHow),
    /// The same inside the namespaces that `calls` makes
    #[command(hide = true)]
    CallsInside(CallsHow),
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

#[derive(Args)]
struct CallsHow {
    #[command(flatten)]
    how: Shown,
    /// Only parts whose name contains this: conditions as the table names them, "both ways", "sound server"
    #[arg(long, default_value = "")]
    only: String,
    /// The path that the calls are held to
    #[arg(long, value_enum, default_value_t = Pinned::Direct)]
    path: Pinned,
}

#[derive(Args)]
struct Shown {
    /// A smoke run: one short call
    #[arg(long)]
    quick: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
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
        Area::Calls(calls) => calls_in_namespaces(calls.how.quick),
        Area::CallsInside(calls) => {
            let stand = Stand::from_environment(Effort::of(calls.how.quick), calls.path)?;
            report(&stand.rows(&calls.only)?, calls.how.json)
        }
        Area::Connectivity(_) | Area::Files(_) | Area::Window(_) | Area::Relay(_) => {
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
    report(&rows, how.json)
}

/// What `lab/call-link` ends with where no namespaces can be made.
const NO_NAMESPACES: i32 = 77;

/// Builds the programs, and starts this one again where `lab/call-link` has made the namespaces. A smoke run
/// passes over a machine that cannot have them, and says so.
fn calls_in_namespaces(quick: bool) -> Result<ExitCode> {
    let skip = |why: &str| {
        writeln!(stdout(), "skipped: calls over an emulated link: {why}")?;
        Ok(ExitCode::SUCCESS)
    };
    match missing() {
        Some(why) if quick => return skip(&why),
        Some(why) => bail!("calls cannot be measured here: {why}"),
        None => {}
    }
    process::build_programs()?;
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/call-link");
    let arguments = std::env::args_os().skip(1).map(|argument| {
        let inside = argument == "calls";
        if inside {
            "calls-inside".into()
        } else {
            argument
        }
    });
    let mut command = Command::new(&lab);
    command.arg(std::env::current_exe()?).args(arguments);
    let status = command
        .status()
        .with_context(|| format!("starting {}", lab.display()))?;
    if quick && status.code() == Some(NO_NAMESPACES) {
        return skip("this machine lets nobody make network namespaces here");
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// What calls over an emulated link need and this machine has not.
fn missing() -> Option<String> {
    if !Path::new("/dev/net/tun").exists() {
        return Some("/dev/net/tun is missing".to_owned());
    }
    // Debian keeps it where only root looks.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .collect();
    let missing = |program: &str| !folders.iter().any(|folder| folder.join(program).is_file());
    ["ip", "espeak-ng", "sox"]
        .into_iter()
        .find(|program| missing(program))
        .map(|program| format!("{program} is missing (.ci/setup test installs it)"))
}

fn report(rows: &[Row], json: bool) -> Result<ExitCode> {
    let good = print(rows, json, stdout().lock())?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
