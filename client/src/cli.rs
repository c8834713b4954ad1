//! The command line as a face of the engine: one file a command. Results go to standard output, as text for
//! people or as one JSON object a line; progress, questions and errors go to standard error.

mod answer;
mod bars;
mod call;
mod calls;
mod chat;
mod contacts;
mod devices;
mod doctor;
mod figures;
mod history;
mod id;
mod in_call;
mod keys;
mod loopback;
mod menu;
mod out;
mod peers;
mod phone;
mod receive;
mod relay;
mod send;
mod status_line;
mod terminal;
mod transfers;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Action, Cli, ContactsAction, Global};
use crate::settings::Settings;
use crate::{Exit, Problem, demo, interrupt};

pub(crate) use figures::summary_text;
use out::Out;

/// The whole program: reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code());
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    // The local time zone can only be asked for while there is one thread.
    terminal::learn_time_zone();
    log_to_stderr(&cli.global);
    let json = cli.global.json;
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("landline")
        .build()
        .map_err(|error| Problem::io("cannot start", &error))
        .and_then(|runtime| {
            let result = runtime.block_on(run(cli));
            // A thread that waits for a line of input must not keep the program.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(problem) => {
            tell(&problem, json);
            ExitCode::from(problem.exit.code())
        }
    }
}

fn tell(problem: &Problem, json: bool) {
    if json {
        Out::new(true).json(&serde_json::json!({ "error": problem }));
    } else {
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "{} {problem}", terminal::err_paint("31", "error:"));
    }
}

fn log_to_stderr(global: &Global) {
    // The client of the sound server calls it an error when a device is closed.
    let default = match global.verbose {
        0 => "error,pulseaudio=off",
        1 => "warn,client=info,pulseaudio=off",
        2 => "warn,client=debug,p2p_net=debug,p2p_net_proto=debug",
        _ => "info,client=trace,p2p_net=trace,p2p_net_proto=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(terminal::stderr_has_color())
        .init();
}

async fn run(cli: Cli) -> Result<Exit, Problem> {
    interrupt::listen();
    let out = Out::new(cli.global.json);
    if matches!(cli.action, Action::Demo) {
        return tokio::select! {
            shown = demo::run(cli.global.json) => shown.map(|()| Exit::Success),
            () = interrupt::interrupted() => Err(Problem::failure("interrupted")),
        };
    }
    let names_contact = matches!(
        &cli.action,
        Action::Contacts {
            action: Some(ContactsAction::Add { .. })
        }
    );
    let settings = Settings::resolve(&cli.global, names_contact)?;
    match cli.action {
        Action::Id => id::run(&settings, out).await,
        Action::Peers { watch } => peers::run(&settings, out, watch).await,
        Action::Contacts { action } => {
            contacts::run(
                &settings,
                out,
                action.unwrap_or(ContactsAction::List),
                cli.global.name,
            )
            .await
        }
        Action::Chat(args) => chat::run(&settings, out, args).await,
        Action::Send(args) => send::run(&settings, out, args).await,
        Action::Receive(args) => receive::run(&settings, out, args).await,
        Action::Call(args) => call::run(&settings, out, args).await,
        Action::Answer(args) => answer::run(&settings, out, args).await,
        Action::Calls { missed, limit } => calls::run(&settings, out, missed, limit).await,
        Action::Doctor { peer } => doctor::run(&settings, out, peer).await,
        Action::Devices => devices::run(out).await,
        Action::InCall(args) => in_call::run(&settings, out, args).await,
        Action::Loopback(args) => loopback::run(&settings, out, args).await,
        Action::History(args) => history::run(&settings, out, args).await,
        Action::Transfers { limit } => transfers::run(&settings, out, limit).await,
        Action::Relay { action } => relay::run(&settings, out, action).await,
        Action::Demo => Ok(Exit::Success),
    }
}
