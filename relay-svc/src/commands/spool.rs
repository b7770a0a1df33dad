//! `spool`: the embedded spool as a thing: copied, put back, moved. Works on the state folder itself, without the service.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use linkmail_service::{command::say, exit::Exit};

use super::{CONFIG, PROGRAM};
use crate::{
    config::{self, Database},
    spool::{self, BackupError, Contents, MoveError, RestoreError, SpoolError},
};

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// Copy the spool to an empty folder, also while the relay runs on it
    Backup {
        /// The folder; made if it is missing
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        #[command(flatten)]
        state: State,
    },
    /// Make a backup the spool of a relay that has none; what was delivered since goes again
    Restore {
        /// The folder of the backup
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Also messages whose bodies are damaged; they are set aside when they are to be sent
        #[arg(long)]
        damaged: bool,
        #[command(flatten)]
        state: State,
    },
    /// Move the spool of a stopped relay to an empty PostgreSQL database
    Move {
        /// The state folder
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// The database, postgres://USER@HOST/NAME, with the parameters that `spool` of a configuration takes
        #[arg(long, value_name = "ADDRESS")]
        to: String,
        /// The password is the first line of this file
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

/// Which spool.
#[derive(Debug, Args)]
pub(super) struct State {
    /// The configuration file that names the state folder
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// The state folder
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
}

impl State {
    fn folder(self) -> Result<PathBuf, Exit> {
        match self.state {
            Some(folder) => Ok(folder),
            None => match config::state_folder(&self.config) {
                Ok(Some(folder)) => Ok(folder),
                Ok(None) => {
                    let what = format!(
                        "{}: spool: the spool lies in PostgreSQL, whose own tools copy it (pg_dump)",
                        self.config.display()
                    );
                    Err(PROGRAM.complain(Exit::Config, &what))
                }
                Err(errors) => {
                    eprintln!("{errors}");
                    Err(Exit::Config)
                }
            },
        }
    }
}

pub(super) async fn run(command: SpoolCommand) -> Result<(), Exit> {
    match command {
        SpoolCommand::Backup { to, state } => backup(&state.folder()?, &to),
        SpoolCommand::Restore {
            from,
            damaged,
            state,
        } => restore(&from, &state.folder()?, damaged),
        SpoolCommand::Move {
            from,
            to,
            password_file,
        } => move_to(&from, &to, password_file).await,
    }
}

fn backup(state: &Path, to: &Path) -> Result<(), Exit> {
    let contents = spool::back_up(state, to)
        .map_err(|error| PROGRAM.complain(exit_of_backup(&error), &error))?;
    say(in_words("backed up", &contents))?;
    complain_of_damage(&contents)
}

fn restore(from: &Path, state: &Path, damaged_too: bool) -> Result<(), Exit> {
    let contents = spool::restore(from, state, damaged_too)
        .map_err(|error| PROGRAM.complain(exit_of_restore(&error), &error))?;
    say(in_words("restored", &contents))?;
    if contents.queued + contents.held > 0 {
        say("what of it was delivered after the backup was made goes again")?;
    }
    complain_of_damage(&contents)
}

async fn move_to(from: &Path, to: &str, password_file: Option<PathBuf>) -> Result<(), Exit> {
    let database = Database::at(to, password_file)
        .map_err(|wrong| PROGRAM.complain(Exit::Usage, &format!("--to: {wrong}")))?;
    let options = database
        .options()
        .map_err(|error| PROGRAM.complain(Exit::DataError, &format!("--password-file: {error}")))?;
    let moved = spool::move_to(from, options, to)
        .await
        .map_err(|error| PROGRAM.complain(exit_of_move(&error), &error))?;
    let Some(contents) = moved else {
        return say("moved before, and now ended");
    };
    say(in_words("moved", &contents))?;
    say(format_args!(
        "no relay starts on {} any more: set spool = \"{to}\" in the configuration",
        from.display()
    ))?;
    complain_of_damage(&contents)
}

fn in_words(what: &str, contents: &Contents) -> String {
    format!(
        "{what}: {} messages, {} recipients queued, {} held; {} bodies in files",
        contents.messages, contents.queued, contents.held, contents.files
    )
}

/// Everything else was done; who looks at the exit status alone shall hear of it too.
fn complain_of_damage(contents: &Contents) -> Result<(), Exit> {
    if contents.damages == 0 {
        return Ok(());
    }
    for one in &contents.damaged {
        eprintln!("damaged: {one}");
    }
    let count = contents.damages;
    let what = format!("done, but {count} messages are damaged and cannot be sent");
    Err(PROGRAM.complain(Exit::DataError, &what))
}

fn exit_of_backup(error: &BackupError) -> Exit {
    match error {
        BackupError::NoSpool(_) | BackupError::NotEmpty(_) | BackupError::Damaged { .. } => {
            Exit::DataError
        }
        BackupError::Busy(_) => Exit::TempFail,
        BackupError::File { .. } => Exit::CannotCreate,
        BackupError::Spool(error) => exit_of_spool(error),
    }
}

fn exit_of_restore(error: &RestoreError) -> Exit {
    match error {
        RestoreError::NoBackup(_)
        | RestoreError::NotEmpty { .. }
        | RestoreError::Damaged { .. } => Exit::DataError,
        RestoreError::Copy(error) => exit_of_backup(error),
    }
}

fn exit_of_move(error: &MoveError) -> Exit {
    match error {
        MoveError::NoSpool(_)
        | MoveError::AlreadyMoved { .. }
        | MoveError::NotEmpty { .. }
        | MoveError::Differ(_)
        | MoveError::File { .. } => Exit::DataError,
        MoveError::InUse(_)
        | MoveError::Overtaken(_)
        | MoveError::NotTheSame(_)
        | MoveError::TimedOut(_)
        | MoveError::Server { .. } => Exit::TempFail,
        MoveError::Spool(error) => exit_of_spool(error),
    }
}

fn exit_of_spool(error: &SpoolError) -> Exit {
    match error {
        SpoolError::InUse { .. } | SpoolError::Unavailable(_) => Exit::TempFail,
        SpoolError::TooNew { .. } | SpoolError::Damaged(_) | SpoolError::Moved { .. } => {
            Exit::DataError
        }
        _ => Exit::CannotCreate,
    }
}
