//! `queue`: what waits, and what an operator does with it.

mod filter;
mod list;
mod show;
mod steer;

use clap::{Args, Subcommand};
use linkmail_service::{command::Service, exit::Exit};

use super::{
    address,
    export::{self, Export, Import},
};
use filter::Filter;
use steer::Change;

/// The commands of the queue.
#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// List what waits, what is on hold, and what was set aside
    List {
        #[command(flatten)]
        filter: Filter,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Also what is delivered, bounced or discarded, and what is held for its site
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        service: Service,
    },
    /// Write a message with its envelope to a file
    Export(Export),
    /// Take a message from a file, that was exported or comes from elsewhere
    Import(Import),
    /// Show a message with what happened to each recipient
    Show {
        /// The message, as the list names it
        message: String,
        /// As a JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        service: Service,
    },
    /// Keep mail until it is released: it is not tried, and does not expire
    Hold(Meant),
    /// Take up again what is on hold or was set aside
    Release(Meant),
    /// Try mail now, or as soon as the line is there
    Expedite(Meant),
    /// Give mail up, and tell nobody
    Delete(Meant),
    /// Give mail up, with a report to its sender
    Bounce {
        /// Why, for the report
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        reason: String,
        #[command(flatten)]
        meant: Meant,
    },
    /// Send mail another way
    Reroute {
        #[command(flatten)]
        way: Way,
        #[command(flatten)]
        meant: Meant,
    },
}

/// Which mail is meant.
#[derive(Debug, Args)]
pub(super) struct Meant {
    #[command(flatten)]
    filter: Filter,
    /// Everything that waits is meant
    #[arg(long)]
    all: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    service: Service,
}

/// Where it goes.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Way {
    /// To this next hop of the configuration, such as link:isp or smtp://mail.branch.example:25
    #[arg(long, value_name = "HOP")]
    to: Option<String>,
    /// Where the routes say
    #[arg(long)]
    by_routes: bool,
}

pub(super) async fn run(command: QueueCommand) -> Result<(), Exit> {
    match command {
        QueueCommand::List {
            filter,
            json,
            all,
            service,
        } => list::list(&address(&service)?, filter, json, all).await,
        QueueCommand::Show {
            message,
            json,
            service,
        } => show::show(&address(&service)?, &message, json).await,
        QueueCommand::Export(command) => export::export(command).await,
        QueueCommand::Import(command) => export::import(command).await,
        QueueCommand::Hold(meant) => steer::run(Change::Hold, meant).await,
        QueueCommand::Release(meant) => steer::run(Change::Release, meant).await,
        QueueCommand::Expedite(meant) => steer::run(Change::Expedite, meant).await,
        QueueCommand::Delete(meant) => steer::run(Change::Delete, meant).await,
        QueueCommand::Bounce { reason, meant } => steer::run(Change::Bounce(reason), meant).await,
        QueueCommand::Reroute { way, meant } => {
            let to = way.to.filter(|_| !way.by_routes).unwrap_or_default();
            steer::run(Change::Reroute(to), meant).await
        }
    }
}
