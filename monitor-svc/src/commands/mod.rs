//! The faces on the command line: `serve` and `check` read the configuration; the others speak gRPC to the service.

mod monitor;
mod probe;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use linkmail_service::{
    command::{Program, Service, say},
    exit::Exit,
    listen::GrpcAddress,
};

use crate::{config, daemon, names::MonitorName};

const PROGRAM: Program = Program("monitor-svc");

/// The port of the gRPC services unless said otherwise.
const PORT: u16 = 7026;
/// Where the configuration lies unless said otherwise.
const CONFIG: &str = "/etc/linkmail/monitor.toml";

/// Proves that mail crosses a link out and back, and tells when it does not.
#[derive(Debug, Parser)]
#[command(name = "monitor-svc", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the monitor until SIGTERM or SIGINT
    Serve(ConfigFile),
    /// Check a configuration, and say everything that is wrong with it
    Check(ConfigFile),
    /// Work with monitors
    #[command(subcommand)]
    Monitor(MonitorCommand),
    /// Work with probes
    #[command(subcommand)]
    Probe(ProbeCommand),
    /// Ask the monitor whether it serves: exit 0 if it does
    Healthcheck(Service),
}

#[derive(Debug, Subcommand)]
enum MonitorCommand {
    /// List the monitors and how they stand
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: Service,
    },
}

#[derive(Debug, Subcommand)]
enum ProbeCommand {
    /// Run a probe now, and show its fate as it happens: exit 0 if the wanted proof came, 75 if not
    Run {
        /// The monitor, such as branch
        monitor: String,
        /// How long to wait for its report, such as 90s or 5m
        #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
        wait: Duration,
        #[command(flatten)]
        service: Service,
    },
    /// List the probes of a monitor, newest first
    List {
        /// The monitor, such as branch
        monitor: String,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: Service,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

/// Where the service is that a client command speaks to.
fn address(service: &Service) -> Result<GrpcAddress, Exit> {
    service.address(CONFIG, PORT, |file| Ok(load(file)?.grpc.listen))
}

/// Reads `90s`, `5m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s, 5m or 2h");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(unit) * number)
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> Exit {
    PROGRAM.run(|cli: Cli| run(cli.command))
}

async fn run(command: Command) -> Result<(), Exit> {
    match command {
        Command::Serve(file) => serve(&file.config).await,
        Command::Check(file) => check(&file.config),
        client => call(client).await,
    }
}

/// The commands that speak to the service.
async fn call(command: Command) -> Result<(), Exit> {
    match command {
        Command::Serve(_) | Command::Check(_) => Ok(()),
        Command::Monitor(MonitorCommand::List { json, service }) => {
            monitor::list(&address(&service)?, json).await
        }
        Command::Probe(ProbeCommand::Run {
            monitor,
            wait,
            service,
        }) => {
            let address = address(&service)?;
            probe::run(&named(&monitor)?, wait, &address).await
        }
        Command::Probe(ProbeCommand::List {
            monitor,
            json,
            service,
        }) => {
            let address = address(&service)?;
            probe::list(&named(&monitor)?, &address, json).await
        }
        Command::Healthcheck(service) => PROGRAM.healthcheck(&address(&service)?).await,
    }
}

fn named(monitor: &str) -> Result<MonitorName, Exit> {
    MonitorName::parse(monitor).map_err(|wrong| PROGRAM.complain(Exit::Usage, &wrong))
}

async fn serve(file: &Path) -> Result<(), Exit> {
    let config = load(file)?;
    daemon::serve(config)
        .await
        .map_err(|error| PROGRAM.complain(error.exit(), &error))
}

fn check(file: &Path) -> Result<(), Exit> {
    let config = load(file)?;
    let number = config.monitors.len();
    let plural = if number == 1 { "" } else { "s" };
    say(format_args!(
        "{}: good: {number} monitor{plural}",
        file.display()
    ))
}

fn load(file: &Path) -> Result<config::Config, Exit> {
    config::load(file).map_err(|errors| {
        eprintln!("{errors}");
        Exit::Config
    })
}
