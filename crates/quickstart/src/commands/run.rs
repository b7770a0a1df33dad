//! `run`: the quick start itself.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::{
    configuration::Refuser,
    run::{self, Options},
};

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Stop after the proof, and print one line of JSON on standard output
    #[arg(long)]
    once: bool,
    /// Where configurations, logs, spools and mail go
    #[arg(long, value_name = "DIR", default_value = "./quickstart-state")]
    state: PathBuf,
    /// Let the provider refuse the probe's false user itself, so that only the way out is proven
    #[arg(long)]
    smart_host_refuses: bool,
    /// Go on with the mail, queues and history of the run before, instead of starting anew
    #[arg(long)]
    keep: bool,
}

impl Run {
    pub(super) async fn run(self) -> ExitCode {
        let refuser = if self.smart_host_refuses {
            Refuser::SmartHost
        } else {
            Refuser::World
        };
        run::run(Options {
            once: self.once,
            folder: self.state,
            keep: self.keep,
            refuser,
        })
        .await
    }
}
