//! `landline-relay`: the relay server as a program.

mod args;
mod program;

use std::process::ExitCode;

fn main() -> ExitCode {
    match program::run(args::Args::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            program::report(&error);
            ExitCode::FAILURE
        }
    }
}
