//! Everything that a run starts and must stop again: the receivers in this process, the daemons as its children.

use std::{
    future::pending,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use linkmail_service::listen::GrpcAddress;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    child::{Child, ChildError},
    configuration::{self, Refuser},
    folder::{Folder, FolderError},
    mail::NOBODY,
    receiver::{Notice, Receiver, ReceiverError, Refusal, Rules},
    scene::{Door, Ports},
    watch,
};

/// A daemon that does not serve after this has failed to start.
pub const START: Duration = Duration::from_secs(20);
/// The receivers get so long to say 421 to whoever is connected.
const STOP: Duration = Duration::from_secs(5);
/// Notices of a receiver that wait to be shown.
const WAITING: usize = 256;

/// Why a run cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The receivers.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// Somebody listens on every row of ports.
    #[error("no {} ports in a row are free on 127.0.0.1", Door::ALL.len())]
    NoPorts,
    /// This program does not know where it is.
    #[error("this program's own folder is unknown: {0}")]
    Nowhere(io::Error),
    /// A daemon cannot be started.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// A daemon ended by itself.
    #[error("the {name} ended: {how}; {last_words}")]
    Ended {
        /// Which.
        name: &'static str,
        /// How it ended.
        how: String,
        /// The end of its log.
        last_words: String,
    },
    /// A daemon runs and does not serve.
    #[error("the {name} does not serve after {START:?}; {last_words}")]
    NotServing {
        /// Which.
        name: &'static str,
        /// The end of its log.
        last_words: String,
    },
}

/// One of the three daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// relay-svc at the far end.
    Provider,
    /// relay-svc at the site.
    Edge,
    /// monitor-svc.
    Monitor,
}

impl Daemon {
    fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Edge => "edge",
            Self::Monitor => "monitor",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Provider | Self::Edge => "relay-svc",
            Self::Monitor => "monitor-svc",
        }
    }

    fn grpc(self) -> Door {
        match self {
            Self::Provider => Door::ProviderGrpc,
            Self::Edge => Door::EdgeGrpc,
            Self::Monitor => Door::MonitorGrpc,
        }
    }
}

/// What runs.
#[derive(Debug)]
pub struct Stage {
    /// Where the files are.
    pub folder: Folder,
    /// Where everybody listens.
    pub ports: Ports,
    /// Where the programs are: beside this one.
    pub programs: PathBuf,
    /// What the outside world tells.
    pub world: mpsc::Receiver<Notice>,
    /// What the site's mailbox server tells.
    pub mailbox: mpsc::Receiver<Notice>,
    receiving: TaskTracker,
    cancel: CancellationToken,
    children: [Option<Child>; 3],
}

impl Stage {
    /// Takes a folder and ports, writes the configurations, and starts the receivers.
    ///
    /// # Errors
    /// Something of it cannot be had.
    pub async fn set(path: &Path, keep: bool, refuser: Refuser) -> Result<Self, StageError> {
        let own = std::env::current_exe().map_err(StageError::Nowhere)?;
        let programs = own.parent().unwrap_or(Path::new("/")).to_owned();
        let folder = Folder::open(path, keep)?;
        let (ports, world, mailbox) = claim(&folder).await?;
        folder.remember(ports)?;
        let state = |daemon: Daemon| folder.file(daemon.name());
        let provider = configuration::provider(&state(Daemon::Provider), ports, refuser);
        folder.write("provider.toml", &provider)?;
        folder.write(
            "edge.toml",
            &configuration::edge(&state(Daemon::Edge), ports),
        )?;
        let monitor = configuration::monitor(&state(Daemon::Monitor), ports);
        folder.write("monitor.toml", &monitor)?;
        let (receiving, cancel) = (TaskTracker::new(), CancellationToken::new());
        let start = |receiver: Receiver| {
            let (sender, notices) = mpsc::channel(WAITING);
            receiving.spawn(receiver.serve(sender, cancel.clone()));
            notices
        };
        Ok(Self {
            world: start(world),
            mailbox: start(mailbox),
            folder,
            ports,
            programs,
            receiving,
            cancel,
            children: [None, None, None],
        })
    }

    /// The gRPC address of a daemon.
    #[must_use]
    pub fn grpc(&self, daemon: Daemon) -> GrpcAddress {
        GrpcAddress::Tcp(self.ports.at(daemon.grpc()))
    }

    /// Starts a daemon, and returns when it serves.
    ///
    /// # Errors
    /// It does not come to serve.
    pub async fn start(&mut self, daemon: Daemon) -> Result<(), StageError> {
        self.launch(daemon)?;
        let address = self.grpc(daemon);
        tokio::select! {
            biased;
            ended = Self::daemon_ended(&mut self.children) => Err(ended),
            () = watch::until_serving(&address) => Ok(()),
            () = tokio::time::sleep(START) => Err(self.not_serving(daemon)),
        }
    }

    /// Starts a daemon, and leaves it to the caller to wait until it serves.
    ///
    /// # Errors
    /// The system refuses.
    pub fn launch(&mut self, daemon: Daemon) -> Result<(), StageError> {
        let name = daemon.name();
        let started = Child::start(
            name,
            &self.programs.join(daemon.program()),
            &self.folder.file(&format!("{name}.toml")),
            self.folder.file(&format!("{name}.log")),
        )?;
        self.children[daemon as usize] = Some(started);
        Ok(())
    }

    /// What is to be said of a daemon that was launched and does not serve after [`START`].
    #[must_use]
    pub fn not_serving(&self, daemon: Daemon) -> StageError {
        let child = self.children[daemon as usize].as_ref();
        StageError::NotServing {
            name: daemon.name(),
            last_words: child.map(Child::last_words).unwrap_or_default(),
        }
    }

    /// Returns when a daemon has ended by itself, with what is to be said about it.
    pub async fn daemon_ended(children: &mut [Option<Child>; 3]) -> StageError {
        async fn ended(child: &mut Option<Child>) -> StageError {
            match child {
                Some(child) => StageError::Ended {
                    how: child.ended().await,
                    name: child.name(),
                    last_words: child.last_words(),
                },
                None => pending().await,
            }
        }
        let [provider, edge, monitor] = children;
        tokio::select! {
            error = ended(provider) => error,
            error = ended(edge) => error,
            error = ended(monitor) => error,
        }
    }

    /// The notices and the daemons, to wait for all at once.
    pub fn parts(
        &mut self,
    ) -> (
        &mut mpsc::Receiver<Notice>,
        &mut mpsc::Receiver<Notice>,
        &mut [Option<Child>; 3],
    ) {
        (&mut self.world, &mut self.mailbox, &mut self.children)
    }

    /// Stops everything, in bounded time; what did not stop well, in words.
    pub async fn stop(mut self) -> Vec<String> {
        // The monitor first: it needs the edge.
        let children: Vec<_> = self
            .children
            .iter_mut()
            .rev()
            .filter_map(Option::take)
            .collect();
        children.iter().for_each(Child::tell_to_stop);
        let mut troubles = Vec::new();
        for child in children {
            let name = child.name();
            let how = child.stopped().await;
            troubles.extend(how.map(|how| format!("the {name} did not stop well: {how}")));
        }
        self.cancel.cancel();
        self.receiving.close();
        // Nobody reads the notices any more; who still tells of one is not waited for.
        drop((self.world, self.mailbox));
        let _ = tokio::time::timeout(STOP, self.receiving.wait()).await;
        troubles
    }
}

/// A row of free ports, with the receivers on the first two of them: they hold the row against other quick starts.
async fn claim(folder: &Folder) -> Result<(Ports, Receiver, Receiver), StageError> {
    let in_use = |error: &ReceiverError| matches!(error, ReceiverError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
    for ports in Ports::rows(folder.ports()).filter(|row| row.are_free()) {
        let world = Rules {
            hostname: "mx.world.example".into(),
            refusals: Refusal::no_such_user(NOBODY).into_iter().collect(),
            folder: Some(folder.file("mail/world")),
        };
        let mailbox = Rules {
            hostname: "mail.branch.example".into(),
            refusals: Vec::new(),
            folder: Some(folder.file("mail/mailbox")),
        };
        match Receiver::bind(&[ports.at(Door::World)], world).await {
            Ok(world) => {
                let mailbox = Receiver::bind(&[ports.at(Door::Mailbox)], mailbox).await?;
                return Ok((ports, world, mailbox));
            }
            Err(error) if in_use(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StageError::NoPorts)
}
