//! The dial drivers: bring a line up and down, each step bounded, each child reaped.
//!
//! `implicit`: connecting is dialling. The connection that brought the line up is handed on, so that the first
//! session does not wait for a second one. `command`: a program dials; the line is up when it has ended well.

use std::{
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use crate::{
    config::{Dial, Driver},
    names::HostPort,
    outbound::{ConnectError, connect},
};

/// Of what a dial program prints its last octets are kept.
const OUTPUT: usize = 4096;
/// After its end a program's output is read so long: a child of its own may hold the pipe.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// A line that came up.
#[derive(Debug, Default)]
pub struct Dialled {
    /// The connection that brought it up, and to whom.
    pub connection: Option<(HostPort, TcpStream)>,
    /// What the program printed, its end.
    pub output: String,
}

/// A line that did not come up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DialError {
    /// Why.
    pub reason: String,
    /// What the program printed, its end.
    pub output: String,
}

/// Tries once to bring the line up. `hosts` are those that the cycle will speak to, the smart host first.
///
/// # Errors
/// The line is not up.
pub async fn dial(settings: &Dial, hosts: &[HostPort]) -> Result<Dialled, DialError> {
    match &settings.driver {
        Driver::Implicit => by_connecting(hosts, settings.patience).await,
        Driver::Command { up, timeout, .. } => {
            let output = run(up, *timeout).await?;
            Ok(Dialled {
                connection: None,
                output,
            })
        }
    }
}

/// Brings the line down. Under `implicit` that is the router's business.
///
/// # Errors
/// The program failed; the line may be up still.
pub async fn hang_up(settings: &Dial) -> Result<(), DialError> {
    match &settings.driver {
        Driver::Command { down, timeout, .. } if !down.is_empty() => {
            run(down, *timeout).await.map(drop)
        }
        Driver::Command { .. } | Driver::Implicit => Ok(()),
    }
}

/// The first host that answers, be it by refusing, shows that the line is up.
async fn by_connecting(hosts: &[HostPort], patience: Duration) -> Result<Dialled, DialError> {
    let mut reasons = Vec::new();
    for host in hosts {
        match connect(host, patience).await {
            Ok(stream) => {
                return Ok(Dialled {
                    connection: Some((host.clone(), stream)),
                    output: String::new(),
                });
            }
            Err(ConnectError::Refused(_)) => return Ok(Dialled::default()),
            Err(ConnectError::Missing(reason) | ConnectError::TimedOut(reason)) => {
                reasons.push(reason)
            }
        }
    }
    Err(DialError {
        reason: reasons.join("; "),
        output: String::new(),
    })
}

/// Runs a program to its end, kills it with all its children when it is late, and gives what it printed.
async fn run(words: &[String], limit: Duration) -> Result<String, DialError> {
    let failed = |reason: String, output: String| DialError { reason, output };
    let Some((program, arguments)) = words.split_first() else {
        return Err(failed("no program is configured".into(), String::new()));
    };
    let (reader, writer) =
        std::io::pipe().map_err(|error| failed(format!("{program}: {error}"), String::new()))?;
    let errors = writer
        .try_clone()
        .map_err(|error| failed(format!("{program}: {error}"), String::new()))?;
    // A group of its own, so that killing it reaches what it started.
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child =
        spawned.map_err(|error| failed(format!("{program}: {error}"), String::new()))?;
    let mut group = Group::of(&child);
    let output = Arc::new(Mutex::new(Vec::new()));
    let reading = tokio::spawn(last_output(reader, Arc::clone(&output)));
    let ended = timeout(limit, child.wait()).await;
    let reason = match ended {
        Ok(Ok(status)) if status.success() => None,
        Ok(Ok(status)) => Some(format!("{program}: {status}")),
        Ok(Err(error)) => Some(format!("{program}: {error}")),
        Err(_) => {
            group.kill();
            // Killed, it ends at once; this reaps it.
            let _ = child.wait().await;
            Some(format!("{program}: not done after {limit:?}, killed"))
        }
    };
    if reason.is_none() {
        group.release();
    }
    // What the program left running may hold the pipe: what was printed until now is there all the same.
    let _ = timeout(LAST_OUTPUT, reading).await;
    let printed = String::from_utf8_lossy(&output.lock().unwrap_or_else(PoisonError::into_inner))
        .into_owned();
    match reason {
        None => Ok(printed),
        Some(reason) => Err(failed(reason, printed)),
    }
}

/// The process group of a dial program. Killed when dropped: also when the cycle that waits for it is given up.
struct Group {
    leader: Option<rustix::process::Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            leader: id.and_then(rustix::process::Pid::from_raw),
        }
    }

    fn kill(&mut self) {
        if let Some(leader) = self.leader.take() {
            // It may have ended by itself in this very moment.
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }

    /// The program ended well: what it left running, such as `pppd`, is the line.
    fn release(&mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads until the end, keeping the last [`OUTPUT`] octets.
async fn last_output(pipe: std::io::PipeReader, kept: Arc<Mutex<Vec<u8>>>) {
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(pipe));
    let mut pipe = tokio::fs::File::from_std(file);
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut piece).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&piece[..count]);
        let excess = kept.len().saturating_sub(OUTPUT);
        kept.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(String::from).to_vec()
    }

    #[tokio::test]
    async fn a_program_that_ends_well_has_dialled_and_its_output_is_kept() {
        let output = run(
            &shell("echo CONNECT 115200; echo carrier >&2"),
            Duration::from_secs(10),
        )
        .await
        .unwrap();
        assert_eq!(output, "CONNECT 115200\ncarrier\n");
    }

    #[tokio::test]
    async fn a_program_that_fails_says_how() {
        let error = run(&shell("echo BUSY; exit 7"), Duration::from_secs(10))
            .await
            .unwrap_err();
        assert_eq!(
            (error.reason.as_str(), error.output.as_str()),
            ("/bin/sh: exit status: 7", "BUSY\n")
        );
        let error = run(&["/no/such/program".into()], Duration::from_secs(10))
            .await
            .unwrap_err();
        assert!(
            error.reason.starts_with("/no/such/program: No such file"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script = format!("sleep 60 & echo $! $$ > {}; wait", pids.display());
        let begun = Instant::now();
        let error = run(&shell(&script), Duration::from_millis(500))
            .await
            .unwrap_err();
        assert!(
            error.reason.ends_with("not done after 500ms, killed"),
            "{error}"
        );
        assert!(begun.elapsed() < Duration::from_secs(10));
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            // A killed grandchild is reaped by init, in its own time.
            let gone = async {
                while runs(pid) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(Duration::from_secs(10), gone)
                .await
                .expect("it still runs");
        }
    }

    fn runs(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|state| !state.contains(") Z "))
    }

    #[tokio::test]
    async fn a_program_that_leaves_the_line_running_is_not_waited_for() {
        let begun = Instant::now();
        let output = run(&shell("sleep 3 & echo up"), Duration::from_secs(30))
            .await
            .unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{output}");
        assert_eq!(output, "up\n");
    }
}
