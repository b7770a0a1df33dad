//! The command line.

mod receive;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use linkmail_service::{command::Program, exit::Exit};

use crate::child;

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
    /// Start a provider, an edge and a monitor, send mail both ways, run a probe, and show it
    Run(run::Run),
    /// Receive mail, and print one line of JSON for each message, until SIGTERM or SIGINT
    Receive(receive::Receive),
    /// Become a daemon that ends with its parent; how `run` starts them
    #[command(hide = true)]
    Child {
        /// The process that must be the parent
        parent: u32,
        /// The daemon
        program: PathBuf,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
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
    if let Command::Child {
        parent,
        program,
        arguments,
    } = &cli.command
    {
        // Before any thread is there: the process is replaced.
        let error = child::become_daemon(*parent, program, arguments);
        return PROGRAM.complain(Exit::OsError, &error).into();
    }
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
        Command::Run(run) => run.run().await,
        Command::Receive(receive) => receive.run().await.err().unwrap_or(Exit::Ok).into(),
        // Done before there was a runtime.
        Command::Child { .. } => Exit::Usage.into(),
    }
}
