//! The order of a run: start everything, hand in two messages, run a probe, show what happens, conclude.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use linkmail_service::{clock::Stamp, exit::Exit, shutdown};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    account::{Account, Way},
    configuration::Refuser,
    display::{self, Colours, Who},
    mail::{ALICE, BOB, Letter, LetterError, NOBODY},
    receiver::{Arrival, Notice},
    stage::{Daemon, START, Stage, StageError},
    watch::{self, Cycles, Told, WatchError},
};

/// A run that is not complete after this is concluded as it stands.
const PATIENCE: Duration = Duration::from_secs(60);
/// When nothing happened for so long after a cycle and something is missing, one more cycle is asked for.
const ANOTHER_CYCLE: Duration = Duration::from_secs(5);
/// When all is there the conclusion waits so long for words that are still under way.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Things told by the daemons that wait to be shown.
const WAITING: usize = 256;
/// Names where telemetry goes; the daemons read it themselves.
const OTLP: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What the command line asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Stop after the proof, and sum up on standard output.
    pub once: bool,
    /// Where the files go.
    pub folder: PathBuf,
    /// Go on with the mail, queues and history of the run before.
    pub keep: bool,
    /// Who refuses the false user.
    pub refuser: Refuser,
}

/// Why a run ended before it was concluded.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Letter(#[from] LetterError),
    #[error("{0}")]
    Watch(#[from] WatchError),
    #[error("a thread of our own ended by a defect: {0}")]
    Defect(#[from] tokio::task::JoinError),
    /// After everything had started.
    #[error(transparent)]
    Lost(StageError),
}

impl RunError {
    fn code(&self) -> ExitCode {
        match self {
            // What ran once and was lost makes a run incomplete.
            Self::Lost(_) => ExitCode::FAILURE,
            _ => Exit::Software.into(),
        }
    }
}

/// Runs it. 0 is complete, or ended by Ctrl-C when it was to stay up; 1 incomplete; 70 could not start.
pub async fn run(options: Options) -> ExitCode {
    let could_not_start = |error: &dyn std::fmt::Display| {
        eprintln!("linkmail-quickstart: {error}");
        ExitCode::from(Exit::Software)
    };
    let signals = match shutdown::signals() {
        Ok(signals) => signals,
        Err(error) => return could_not_start(&error),
    };
    let mut stage = match Stage::set(&options.folder, options.keep, options.refuser).await {
        Ok(stage) => stage,
        Err(error) => return could_not_start(&error),
    };
    let no_color = std::env::var_os("NO_COLOR");
    let mut show = Show {
        account: Account::new(),
        colours: Colours::for_terminal(std::io::stderr().is_terminal(), no_color.as_deref()),
        began: Instant::now(),
        letters: Vec::new(),
        monitor_said: String::new(),
        probing: false,
        concluded: false,
    };
    let played = tokio::select! {
        biased;
        () = signals.cancelled() => {
            show.interrupted(&options);
            Ok(())
        }
        played = show.play(&mut stage, &options) => played,
    };
    let code = match played {
        Ok(()) if show.is_good(&options) => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("linkmail-quickstart: {error}");
            error.code()
        }
    };
    for trouble in stage.stop().await {
        eprintln!("linkmail-quickstart: {trouble}");
    }
    if options.once && show.probing {
        match serde_json::to_string(&show.account.summary()) {
            Ok(summary) => println!("{summary}"),
            Err(error) => return could_not_start(&error),
        }
    }
    code
}

/// What is shown, and what is known.
struct Show {
    account: Account,
    colours: Colours,
    began: Instant,
    letters: Vec<(Way, Letter)>,
    /// The newest words of the monitor.
    monitor_said: String,
    /// Whether everything has started, and the probe is under way.
    probing: bool,
    /// Whether the first round is over: the account is closed then.
    concluded: bool,
}

impl Show {
    fn is_good(&self, options: &Options) -> bool {
        !options.once || (self.concluded && self.account.missing().is_empty())
    }

    fn interrupted(&self, options: &Options) {
        if options.once && !self.concluded {
            eprintln!("linkmail-quickstart: interrupted before the end");
        }
    }

    fn say(&self, who: Who, what: &str) {
        let since = self.began.elapsed();
        eprintln!("{}", display::line(since, who, what, self.colours));
    }

    async fn play(&mut self, stage: &mut Stage, options: &Options) -> Result<(), RunError> {
        let folder = shortest(stage.folder.path());
        eprintln!("{}", display::picture(stage.ports, &folder, self.colours));
        if let Ok(endpoint) = std::env::var(OTLP) {
            eprintln!("  Traces and metrics go to {endpoint}.\n");
        }
        let (teller, mut told) = mpsc::channel(WAITING);
        let mut cycles = self.open(stage, options, teller).await?;
        let mut quiet_since = Instant::now();
        let (serving, deadline) = (quiet_since + START, quiet_since + PATIENCE);
        let mut may_ask_again = true;
        loop {
            let (world, mailbox, children) = stage.parts();
            let open = !self.concluded;
            let wants_cycle = open && may_ask_again && self.account.wants_another_cycle();
            tokio::select! {
                ended = Stage::daemon_ended(children) => {
                    return Err(if self.probing { RunError::Lost(ended) } else { ended.into() });
                }
                () = sleep_until(serving), if !self.probing => {
                    return Err(stage.not_serving(Daemon::Monitor).into());
                }
                Some(notice) = world.recv() => self.notice(Who::World, notice).await,
                Some(notice) = mailbox.recv() => self.notice(Who::Mailbox, notice).await,
                Some(one) = told.recv() => self.told(one),
                () = sleep_until(quiet_since + ANOTHER_CYCLE), if wants_cycle => {
                    may_ask_again = false;
                    self.say(Who::Edge, "something is missing: one more cycle");
                    // It may have started by itself meanwhile.
                    let _ = cycles.run().await;
                }
                () = sleep_until(quiet_since + LAST_WORDS), if open && self.account.is_over() => {
                    self.conclude();
                }
                () = sleep_until(deadline), if open => self.conclude(),
            }
            quiet_since = Instant::now();
            if open && self.concluded {
                if options.once {
                    return Ok(());
                }
                let programs = shortest(&stage.programs);
                eprintln!("{}", display::hints(&programs, &folder, self.colours));
            }
        }
    }

    /// Starts the daemons, hands in both messages, and runs the probe whose cycle takes them along.
    async fn open(
        &mut self,
        stage: &mut Stage,
        options: &Options,
        teller: mpsc::Sender<Told>,
    ) -> Result<Cycles, RunError> {
        stage.start(Daemon::Provider).await?;
        stage.start(Daemon::Edge).await?;
        let mut cycles = Cycles::connect(&stage.grpc(Daemon::Edge)).await?;
        cycles.watch(teller.clone()).await?;
        self.began = Instant::now();
        self.hand_in(stage).await?;
        // Not waited for: what happens from here on is shown as it happens.
        let started = Stamp::now();
        stage.launch(Daemon::Monitor)?;
        let words = format!("probes: mail to {NOBODY}, a false user");
        self.say(Who::Monitor, &words);
        let monitor = stage.grpc(Daemon::Monitor);
        tokio::spawn(watch::prove(monitor, !options.keep, started, teller));
        Ok(cycles)
    }

    async fn hand_in(&mut self, stage: &Stage) -> Result<(), RunError> {
        use crate::scene::Door::{Provider, Site};
        let out = Letter::write(
            ALICE,
            BOB,
            "Hello, Bob",
            "This waits at the site until the line is up.\r\n",
        )?;
        let back = Letter::write(
            BOB,
            ALICE,
            "Hello, Alice",
            "The provider holds this until the site asks for it.\r\n",
        )?;
        for (way, letter, who, server, words) in [
            (
                Way::Out,
                out,
                (Who::Alice, ALICE),
                stage.ports.at(Site),
                format!("hands the edge a message for {BOB}"),
            ),
            (
                Way::In,
                back,
                (Who::Bob, BOB),
                stage.ports.at(Provider),
                format!("hands the provider a message for {ALICE}: held"),
            ),
        ] {
            self.letters.push((way, letter.clone()));
            tokio::task::spawn_blocking(move || letter.hand_in(who.1, server)).await??;
            self.say(who.0, &words);
        }
        Ok(())
    }

    fn told(&mut self, told: Told) {
        let open = !self.concluded;
        let (who, words) = match told {
            Told::Cycle(cycle, words) => {
                if open {
                    self.account.cycle(cycle);
                }
                (Who::Edge, words)
            }
            Told::Monitor(probe, words) => {
                if let Some(probe) = probe.filter(|_| open) {
                    self.account.probe(probe);
                }
                (Who::Monitor, self.without_repetition(words))
            }
            Told::Probing => return self.probing = true,
            Told::Trouble(words) => (Who::Monitor, words),
        };
        // What is done in a phase is told by itself.
        if !words.is_empty() && !words.starts_with("phase: ") {
            self.say(who, &words);
        }
    }

    /// A change of state comes with its reason, which is what the monitor told just before.
    fn without_repetition(&mut self, words: String) -> String {
        if words.is_empty() {
            return words;
        }
        let new = words.strip_suffix(self.monitor_said.as_str());
        let new = new
            .and_then(|new| new.strip_suffix(": "))
            .map(str::to_owned);
        self.monitor_said.clone_from(&words);
        new.unwrap_or(words)
    }

    async fn notice(&mut self, who: Who, notice: Notice) {
        match notice {
            Notice::Refused { recipient, reply } => {
                self.say(who, &format!("refuses {recipient}: {reply}"));
            }
            Notice::Arrived(arrival) => self.arrived(who, arrival).await,
        }
    }

    async fn arrived(&mut self, who: Who, arrival: Arrival) {
        let expected = match who {
            Who::World => Way::Out,
            _ => Way::In,
        };
        let known = self
            .letters
            .iter()
            .find(|(way, letter)| *way == expected && letter.message_id == arrival.message_id);
        let how = match (known, &arrival.file) {
            (Some((way, letter)), Some(file)) => {
                let content = tokio::fs::read(file).await.unwrap_or_default();
                let unchanged = letter.came_through_in(&content);
                self.account.arrived(*way, unchanged);
                if unchanged {
                    ", unchanged"
                } else {
                    ", CHANGED on the way"
                }
            }
            _ => "",
        };
        let from = match arrival.reverse_path.as_str() {
            "" => "a relay (a bounce)",
            from => from,
        };
        let words = format!("gets \"{}\" from {from}{how}", arrival.subject);
        self.say(who, &words);
    }

    fn conclude(&mut self) {
        self.concluded = true;
        eprintln!("{}", display::conclusion(&self.account, self.colours));
    }
}

/// A path below the current folder as it may be typed there, any other as it is.
fn shortest(path: &Path) -> PathBuf {
    let current = std::env::current_dir().ok();
    let below = current.and_then(|current| path.strip_prefix(current).ok().map(Path::to_owned));
    below
        .filter(|below| below.components().next().is_some())
        .unwrap_or_else(|| path.to_owned())
}
