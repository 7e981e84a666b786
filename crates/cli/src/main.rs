//! The command `deponent`: what was typed, and what it means.
//!
//! Exit codes are a contract: 0 holds, 1 findings, 2 could not tell, 3 valid
//! prefix, 64 usage, 69 unavailable.

mod brought;
mod client;
mod clock;
mod cmd;
#[cfg(feature = "serve")]
mod demo;
mod output;
mod settings;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cmd::Command;

/// Usage error, everywhere.
const EXIT_USAGE: u8 = 64;
/// A file, folder or server cannot be reached or used.
const EXIT_UNAVAILABLE: u8 = 69;

/// Keeps sworn, checkable evidence of what AI agents and data pipelines did.
#[derive(Debug, Parser)]
#[command(
    name = "deponent",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers; everything else is usage.
            let usage = error.use_stderr();
            let _ = error.print();
            return ExitCode::from(if usage { EXIT_USAGE } else { 0 });
        }
    };
    match args.command.run(&mut Args::command()) {
        Ok(code) => match output::unwritten() {
            None => ExitCode::from(code),
            Some(why) => {
                output::error(&anyhow::anyhow!("stdout cannot be written: {why}"));
                // Any other code says what was found, and holds without its words.
                ExitCode::from(if code == 0 { EXIT_UNAVAILABLE } else { code })
            }
        },
        Err(error) => {
            let code = error
                .downcast_ref::<output::Usage>()
                .map_or(EXIT_UNAVAILABLE, |_| EXIT_USAGE);
            output::error(&error);
            ExitCode::from(code)
        }
    }
}
