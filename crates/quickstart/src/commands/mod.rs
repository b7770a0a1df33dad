//! The command line.

mod receive;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use linkmail_service::{command::Program, exit::Exit};

const PROGRAM: Program = Program("linkmail-quickstart");

/// A whole system on one machine, to be looked at.
#[derive(Debug, Parser)]
#[command(name = "linkmail-quickstart", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive mail, and print one line of JSON for each message, until SIGTERM or SIGINT
    Receive(receive::Receive),
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(run(cli.command));
            runtime.shutdown_background();
            exit
        }
        Err(error) => PROGRAM.complain(Exit::OsError, &error).into(),
    }
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Receive(receive) => receive.run().await.err().unwrap_or(Exit::Ok).into(),
    }
}
