//! The faces on the command line: `serve` and `check` read the configuration; the others speak gRPC to the service.

mod cycle;
mod queue;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use linkmail_service::{command::Program, exit::Exit, listen::GrpcAddress};

use crate::{config, daemon};

const PROGRAM: Program = Program("relay-svc");

/// Where the configuration lies unless said otherwise.
const CONFIG: &str = "/etc/linkmail/relay.toml";

/// Mail for a site behind a line that is dialled.
#[derive(Debug, Parser)]
#[command(name = "relay-svc", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until SIGTERM or SIGINT
    Serve(ConfigFile),
    /// Check a configuration, and say everything that is wrong with it
    Check(ConfigFile),
    /// Work with cycles
    #[command(subcommand)]
    Cycle(CycleCommand),
    /// Work with the queue
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Ask the relay whether it serves: exit 0 if it does
    Healthcheck(Service),
}

#[derive(Debug, Subcommand)]
enum CycleCommand {
    /// Run a cycle on a link now, and show it as it happens
    Run {
        /// The link, such as isp
        link: String,
        #[command(flatten)]
        service: Service,
    },
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// List what waits, and what was set aside
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Also what is delivered, bounced or discarded
        #[arg(long)]
        all: bool,
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

#[derive(Debug, Args)]
struct Service {
    /// The configuration file that names the service's address
    #[arg(long, value_name = "FILE", conflicts_with = "address")]
    config: Option<PathBuf>,
    /// The service's address, IP:PORT or unix:/path
    #[arg(long, value_name = "ADDRESS")]
    address: Option<GrpcAddress>,
}

impl Service {
    /// The address: as given, or that of the configuration, or the default.
    fn address(&self) -> Result<GrpcAddress, Exit> {
        if let Some(address) = &self.address {
            return Ok(address.clone());
        }
        let file = match &self.config {
            Some(file) => file.clone(),
            None if Path::new(CONFIG).exists() => PathBuf::from(CONFIG),
            None => {
                return Ok(GrpcAddress::Tcp(std::net::SocketAddr::from((
                    [127, 0, 0, 1],
                    7025,
                ))));
            }
        };
        Ok(load(&file)?.grpc.listen)
    }
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
        }
    };
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let exit = runtime.block_on(run(cli.command));
            // A look-up of a name that never ends must not hold the process.
            runtime.shutdown_background();
            exit
        }
        Err(error) => PROGRAM.complain(Exit::OsError, &error),
    }
}

async fn run(command: Command) -> Exit {
    let done = match command {
        Command::Serve(file) => serve(&file.config).await,
        Command::Check(file) => check(&file.config),
        Command::Cycle(CycleCommand::Run { link, service }) => match service.address() {
            Ok(address) => cycle::run(&link, &address).await,
            Err(exit) => Err(exit),
        },
        Command::Queue(QueueCommand::List { json, all, service }) => match service.address() {
            Ok(address) => queue::list(&address, json, all).await,
            Err(exit) => Err(exit),
        },
        Command::Healthcheck(service) => match service.address() {
            Ok(address) => PROGRAM.healthcheck(&address).await,
            Err(exit) => Err(exit),
        },
    };
    done.err().unwrap_or(Exit::Ok)
}

async fn serve(file: &Path) -> Result<(), Exit> {
    let config = load(file)?;
    daemon::serve(config)
        .await
        .map_err(|error| PROGRAM.complain(error.exit(), &error))
}

fn check(file: &Path) -> Result<(), Exit> {
    let config = load(file)?;
    let count = |number: usize, noun: &str| {
        format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
    };
    println!(
        "{}: good: {}, {}",
        file.display(),
        count(config.listeners.len(), "listener"),
        count(config.links.len(), "link")
    );
    Ok(())
}

fn load(file: &Path) -> Result<config::Config, Exit> {
    config::load(file).map_err(|errors| {
        eprintln!("{errors}");
        Exit::Config
    })
}
