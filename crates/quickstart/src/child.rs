//! The daemons as child processes: started with a log file, stopped in bounded time, never left behind.
//!
//! A child is started by way of this program's own hidden command `child`, which asks the system to end it with its
//! parent (Linux: PR_SET_PDEATHSIG, which outlives exec) and then becomes the daemon. So even a kill -9 of the quick
//! start leaves no daemon. Elsewhere than on Linux only an orderly end does.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::process::{Child as Process, Command};

/// A daemon that is told to stop gets so long; then it is killed. Longer than a daemon takes to drain.
const STOP: Duration = Duration::from_secs(30);
/// So many lines of a log are shown.
const TAIL: usize = 12;

/// Why a daemon cannot be started, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The program is not where it should be.
    #[error("{0} is not there: build it with deploy/quickstart, or with cargo build")]
    Missing(PathBuf),
    /// The system refused.
    #[error("{name} cannot be started: {source}")]
    Refused {
        /// Which daemon.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A daemon that was started.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    log: PathBuf,
    process: Process,
    /// Whether somebody has heard already how it ended.
    told: bool,
}

impl Child {
    /// Starts `program serve --config FILE`, with what it writes in the file `log`.
    ///
    /// # Errors
    /// The program is not there, or the system refuses.
    pub fn start(
        name: &'static str,
        program: &Path,
        config: &Path,
        log: PathBuf,
    ) -> Result<Self, ChildError> {
        if !program.is_file() {
            return Err(ChildError::Missing(program.to_owned()));
        }
        let refused = |source| ChildError::Refused { name, source };
        let written = File::create(&log).map_err(refused)?;
        let also_written = written.try_clone().map_err(refused)?;
        let process = Command::new(std::env::current_exe().map_err(refused)?)
            .arg("child")
            .arg(std::process::id().to_string())
            .arg(program)
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(written)
            .stderr(also_written)
            // Ctrl-C is for the quick start alone, which then stops them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(refused)?;
        Ok(Self {
            name,
            log,
            process,
            told: false,
        })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns when it has ended by itself, with how it ended.
    pub async fn ended(&mut self) -> String {
        let ended = self.process.wait().await;
        self.told = true;
        match ended {
            Ok(status) => in_words(status),
            Err(error) => error.to_string(),
        }
    }

    /// Tells it to stop.
    pub fn tell_to_stop(&self) {
        let pid = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may have ended just now.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until it has stopped, and kills it if it takes too long; how it ended, unless well or told
    /// before.
    pub async fn stopped(mut self) -> Option<String> {
        match tokio::time::timeout(STOP, self.process.wait()).await {
            Ok(Ok(status)) => (!self.told && !status.success()).then(|| in_words(status)),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => {
                let _ = self.process.kill().await;
                Some(format!("killed: it did not stop within {STOP:?}"))
            }
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        format!("the end of {}:\n{}", self.log.display(), tail.join("\n"))
    }
}

fn in_words(status: ExitStatus) -> String {
    status.to_string()
}

/// Becomes the daemon, which ends when its parent does. Returns only if that fails.
pub fn become_daemon(parent: u32, program: &Path, arguments: &[String]) -> io::Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return error.into();
    }
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now != i32::try_from(parent).ok() {
        return io::Error::other("the quick start has ended meanwhile");
    }
    std::process::Command::new(program).args(arguments).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("relay-svc");
        let error = Child::start("edge", &program, Path::new("x"), folder.path().join("log"));
        let error = error.unwrap_err();
        assert!(matches!(&error, ChildError::Missing(path) if *path == program));
    }

    #[test]
    fn a_daemon_without_its_parent_is_not_started() {
        // Our parent is the test runner, not process 1 of some other name.
        let error = become_daemon(u32::MAX, Path::new("/bin/true"), &[]);
        assert!(error.to_string().contains("ended meanwhile"), "{error}");
    }
}
