//! `receive`: the receiver by itself, for tests and for trying things out.

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use clap::Args;
use linkmail_service::{exit::Exit, shutdown};
use tokio::sync::mpsc;

use super::PROGRAM;
use crate::receiver::{Notice, Receiver, ReceiverError, Refusal, Rules};

/// Notices that wait to be printed. When whoever reads them is slow, clients wait for their 250.
const WAITING: usize = 256;

#[derive(Debug, Args)]
pub(super) struct Receive {
    /// Where to listen, IP:PORT; port 0 lets the system choose
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<SocketAddr>,
    /// A recipient to refuse and the reply to it, such as "nobody@world.example=550 5.1.1 no such user"
    #[arg(long, value_name = "ADDRESS=REPLY")]
    refuse: Vec<Refusal>,
    /// Keep each message as a file ID.eml in this folder
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The name to greet with
    #[arg(long, value_name = "NAME", default_value = "receiver.example")]
    hostname: String,
}

impl Receive {
    pub(super) async fn run(self) -> Result<(), Exit> {
        let rules = Rules {
            hostname: self.hostname,
            refusals: self.refuse,
            folder: self.folder,
        };
        let receiver = Receiver::bind(&self.addresses, rules)
            .await
            .map_err(|error| PROGRAM.complain(exit_of(&error), &error))?;
        let cancel =
            shutdown::signals().map_err(|error| PROGRAM.complain(Exit::OsError, &error))?;
        for address in receiver.addresses() {
            eprintln!("{}: receiving on {address}", PROGRAM.0);
        }
        let (sender, notices) = mpsc::channel(WAITING);
        let printed = cancel.clone();
        let printing = tokio::task::spawn_blocking(move || {
            let done = print(notices);
            // When nobody reads any more there is nothing left to receive for.
            printed.cancel();
            done
        });
        receiver.serve(sender, cancel).await;
        match printing.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(PROGRAM.complain(Exit::OsError, &error)),
            Err(defect) => Err(PROGRAM.complain(Exit::Software, &defect)),
        }
    }
}

fn exit_of(error: &ReceiverError) -> Exit {
    match error {
        ReceiverError::Listen { .. } => Exit::OsError,
        ReceiverError::NotAFolder(_) => Exit::CannotCreate,
    }
}

/// Prints until every session has ended, or nobody reads any more.
fn print(mut notices: mpsc::Receiver<Notice>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    while let Some(notice) = notices.blocking_recv() {
        let Notice::Arrived(arrival) = notice else {
            continue;
        };
        serde_json::to_writer(&mut out, &arrival)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}
