//! The faces on the command line: `serve` and `check` read the configuration; the others speak gRPC to the service.

mod credentials;
mod cycle;
mod eml;
mod export;
mod node;
mod queue;
mod spool;
mod submit;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use linkmail_service::{
    command::{Program, Service, say},
    exit::Exit,
    listen::GrpcAddress,
};

use crate::{config, daemon};
use queue::QueueCommand;

const PROGRAM: Program = Program("relay-svc");

/// The port of the gRPC services unless said otherwise.
const PORT: u16 = 7025;
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
    /// Work with the nodes that mail is held for
    #[command(subcommand)]
    Node(NodeCommand),
    /// Work with the file of credentials
    #[command(subcommand)]
    Credentials(CredentialsCommand),
    /// Work with the spool as a whole
    #[command(subcommand)]
    Spool(spool::SpoolCommand),
    /// Hand in the message on standard input
    Submit {
        /// The reverse path, such as alice@branch.example; left out: the null reverse path
        #[arg(long, default_value = "", hide_default_value = true)]
        from: String,
        /// The recipients
        #[arg(required = true)]
        to: Vec<String>,
        #[command(flatten)]
        service: Service,
    },
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
enum NodeCommand {
    /// List the nodes, with what is held for each
    List {
        #[command(flatten)]
        service: Service,
    },
    /// Release what is held for a node now, as its site does by ETRN
    Release {
        /// The domain, such as branch.example
        domain: String,
        #[command(flatten)]
        service: Service,
    },
}

#[derive(Debug, Subcommand)]
enum CredentialsCommand {
    /// Add a name, or give it another password: asked for on a terminal, else the first line of standard input
    Add {
        /// The name, such as scanner
        name: String,
        /// The password is the first line of this file
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Store the password in clear, too, for devices that know CRAM-MD5 alone
        #[arg(long)]
        cram_md5: bool,
        /// How often PBKDF2 turns the password over
        #[arg(long, value_name = "COUNT", default_value_t = 15_000)]
        iterations: u32,
        #[command(flatten)]
        file: CredentialsFile,
    },
    /// List the names, with the mechanisms that each can use
    List {
        #[command(flatten)]
        file: CredentialsFile,
    },
    /// Remove a name
    Remove {
        /// The name
        name: String,
        #[command(flatten)]
        file: CredentialsFile,
    },
}

#[derive(Debug, Args)]
struct CredentialsFile {
    /// The configuration file that names the file of credentials
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// The file of credentials
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
}

/// Where the service is that a client command speaks to.
fn address(service: &Service) -> Result<GrpcAddress, Exit> {
    service.address(CONFIG, PORT, |file| {
        config::api_address(file).map_err(|errors| {
            eprintln!("{errors}");
            Exit::Config
        })
    })
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
        Command::Credentials(command) => credentials(command),
        Command::Spool(command) => spool::run(command).await,
        client => call(client).await,
    }
}

/// The commands that speak to the service.
async fn call(command: Command) -> Result<(), Exit> {
    match command {
        Command::Serve(_) | Command::Check(_) | Command::Credentials(_) | Command::Spool(_) => {
            Ok(())
        }
        Command::Cycle(CycleCommand::Run { link, service }) => {
            cycle::run(&link, &address(&service)?).await
        }
        Command::Queue(command) => queue::run(command).await,
        Command::Node(NodeCommand::List { service }) => node::list(&address(&service)?).await,
        Command::Node(NodeCommand::Release { domain, service }) => {
            node::release(&domain, &address(&service)?).await
        }
        Command::Submit { from, to, service } => submit::run(from, to, &address(&service)?).await,
        Command::Healthcheck(service) => PROGRAM.healthcheck(&address(&service)?).await,
    }
}

fn credentials(command: CredentialsCommand) -> Result<(), Exit> {
    match command {
        CredentialsCommand::Add {
            name,
            password_file,
            cram_md5,
            iterations,
            file,
        } => {
            let way = credentials::Way {
                password_file,
                cram_md5,
                iterations,
            };
            credentials::add(&credentials_file(file)?, &name, &way)
        }
        CredentialsCommand::List { file } => credentials::list(&credentials_file(file)?),
        CredentialsCommand::Remove { name, file } => {
            credentials::remove(&credentials_file(file)?, &name)
        }
    }
}

fn credentials_file(named: CredentialsFile) -> Result<PathBuf, Exit> {
    match named.file {
        Some(file) => Ok(file),
        None => config::credentials_path(&named.config).map_err(|errors| {
            eprintln!("{errors}");
            Exit::Config
        }),
    }
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
    say(format_args!(
        "{}: good: {}, {}",
        file.display(),
        count(config.listeners.len(), "listener"),
        count(config.links.len(), "link")
    ))
}

fn load(file: &Path) -> Result<config::Config, Exit> {
    config::load(file).map_err(|errors| {
        eprintln!("{errors}");
        Exit::Config
    })
}
