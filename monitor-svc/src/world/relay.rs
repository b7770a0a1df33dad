//! A relay with a line, a smart host that takes everything, and beyond it a host that bounces what it does not know.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::Steps;
use crate::{
    bounce::Bounce,
    clock::{Clock, Stamp},
    names::{LinkName, RequestId},
    relay::{Asked, Message, Relay, RelayError, Reports, Submission},
    verdict::{Origin, Report},
};

/// From the start of a cycle until its mail is with the smart host.
const SENT_AFTER: Duration = Duration::from_secs(5);
/// From the start of a cycle until the bounces are back.
pub(crate) const BOUNCE_AFTER: Duration = Duration::from_secs(10);
/// From the start of a cycle to its end.
const CYCLE: Duration = Duration::from_secs(20);

/// The span of the relay in which each report comes.
pub(crate) const CYCLE_TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The world. Cheap to clone; it outlives the process that is tested.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    state: Arc<Mutex<State>>,
    reports: Arc<watch::Sender<usize>>,
    steps: Steps,
}

#[derive(Default)]
struct State {
    messages: Vec<Stored>,
    cycles: Vec<Cycle>,
    reports: Vec<(Report, bool)>,
    requests: HashMap<RequestId, String>,
    line_down: Vec<(Stamp, Stamp)>,
    unreachable: Vec<(Stamp, Stamp)>,
    bounce_after: Option<Duration>,
    refusal: Option<RelayError>,
    cycle_refusal: Option<RelayError>,
    cycles_asked: usize,
    route: Option<String>,
    answer_after: Duration,
}

struct Stored {
    submission: Submission,
    message: Message,
}

struct Cycle {
    name: String,
    start: Stamp,
    end: Stamp,
}

fn within(spans: &[(Stamp, Stamp)], now: Stamp) -> bool {
    spans.iter().any(|(from, to)| (*from..*to).contains(&now))
}

impl World {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Arc::default(),
            reports: Arc::new(watch::Sender::new(0)),
            steps: Steps::default(),
        }
    }

    /// The same world, as another process sees it.
    pub(crate) fn seen_by(&self, steps: Steps) -> Self {
        Self {
            steps,
            ..self.clone()
        }
    }

    /// A time after the start of the world.
    pub(crate) fn at(&self, minutes: f64) -> Stamp {
        self.clock
            .start()
            .plus(Duration::from_secs_f64(minutes * 60.0))
    }

    /// The line is down from one minute to another.
    pub(crate) fn line_down(&self, from: f64, to: f64) {
        let span = (self.at(from), self.at(to));
        self.state.lock().unwrap().line_down.push(span);
    }

    /// The relay cannot be reached from one minute to another.
    pub(crate) fn unreachable(&self, from: f64, to: f64) {
        let span = (self.at(from), self.at(to));
        self.state.lock().unwrap().unreachable.push(span);
    }

    /// Bounces take so long from the start of a cycle.
    pub(crate) fn bounce_after(&self, time: Duration) {
        self.state.lock().unwrap().bounce_after = Some(time);
    }

    /// Submissions are refused, or are not any more.
    pub(crate) fn refuse(&self, error: Option<RelayError>) {
        self.state.lock().unwrap().refusal = error;
    }

    /// Cycles are refused, or are not any more.
    pub(crate) fn refuse_cycles(&self, error: Option<RelayError>) {
        self.state.lock().unwrap().cycle_refusal = error;
    }

    /// How often a cycle was asked for.
    pub(crate) fn cycles_asked(&self) -> usize {
        self.state.lock().unwrap().cycles_asked
    }

    /// Submissions are answered after so long.
    pub(crate) fn answer_after(&self, time: Duration) {
        self.state.lock().unwrap().answer_after = time;
    }

    /// Mail is routed elsewhere, also what waits.
    pub(crate) fn route(&self, route: &str) {
        let mut state = self.state.lock().unwrap();
        state.route = Some(route.to_owned());
        for stored in &mut state.messages {
            stored.message.route = route.to_owned();
        }
    }

    /// A cycle that nobody asked for is running from now on, and sends nothing.
    pub(crate) fn be_busy(&self, time: Duration) {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap();
        let name = format!("links/isp/cycles/{}", state.cycles.len());
        state.cycles.push(Cycle {
            name,
            start: now,
            end: now.plus(time),
        });
    }

    /// When each message was accepted.
    pub(crate) fn messages(&self) -> Vec<Stamp> {
        let state = self.state.lock().unwrap();
        state
            .messages
            .iter()
            .map(|stored| stored.message.accepted)
            .collect()
    }

    /// The reverse path of a message, by its place.
    pub(crate) fn reverse_path(&self, place: usize) -> String {
        let state = self.state.lock().unwrap();
        state.messages[place].submission.reverse_path.clone()
    }

    /// When each cycle began.
    pub(crate) fn cycles(&self) -> Vec<Stamp> {
        let state = self.state.lock().unwrap();
        state.cycles.iter().map(|cycle| cycle.start).collect()
    }

    /// The reports that were not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        let state = self.state.lock().unwrap();
        state.reports.iter().filter(|(_, settled)| !settled).count()
    }

    /// A report comes in. `origin`: over which link, or written by the relay.
    pub(crate) fn report(&self, recipient: &str, null_sender: bool, origin: Origin, status: &str) {
        let accepted = self.clock.now();
        let mut state = self.state.lock().unwrap();
        let number = state.reports.len();
        let report = Report {
            name: format!("reports/{number}"),
            accepted,
            null_sender,
            recipients: vec![recipient.to_owned()],
            origin,
            cycle: String::new(),
            traceparent: CYCLE_TRACE.into(),
            bounce: Bounce {
                reporting_mta: "mx.isp.example".into(),
                status: status.into(),
                diagnostic_type: "smtp".into(),
                ..Bounce::default()
            },
        };
        state.reports.push((report, false));
        drop(state);
        self.reports.send_modify(|count| *count = number + 1);
    }

    /// What a cycle does, in a task of the world.
    async fn cycle(self, from: Stamp) {
        let bounce_after = self.state.lock().unwrap().bounce_after;
        let bounce_after = bounce_after.unwrap_or(BOUNCE_AFTER);
        let sent_after = SENT_AFTER.min(bounce_after);
        self.clock.sleep_until(from.plus(sent_after)).await;
        let sent = {
            let mut state = self.state.lock().unwrap();
            let mut sent = Vec::new();
            for stored in state
                .messages
                .iter_mut()
                .filter(|stored| stored.message.waits)
            {
                stored.message.waits = false;
                sent.push(stored.submission.reverse_path.clone());
            }
            sent
        };
        self.clock.sleep_until(from.plus(bounce_after)).await;
        let isp = LinkName::parse("isp").unwrap();
        for sender in sent {
            self.report(&sender, true, Origin::Smtp(Some(isp.clone())), "5.1.1");
        }
    }

    fn reachable(&self) -> Result<(), RelayError> {
        let state = self.state.lock().unwrap();
        if within(&state.unreachable, self.clock.now()) {
            Err(RelayError::NotNow("relay: unreachable".into()))
        } else {
            Ok(())
        }
    }
}

impl World {
    fn take(&self, submission: Submission) -> Result<Message, RelayError> {
        self.reachable()?;
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap();
        if let Some(error) = &state.refusal {
            return Err(error.clone());
        }
        if let Some(known) = state.requests.get(&submission.request) {
            let stored = state
                .messages
                .iter()
                .find(|stored| stored.message.name == *known);
            let stored = stored.unwrap();
            assert_eq!(stored.submission, submission, "a repeat is the same");
            return Ok(stored.message.clone());
        }
        let message = Message {
            name: format!("messages/{}", state.messages.len()),
            accepted: now,
            waits: true,
            route: state.route.clone().unwrap_or("link:isp".into()),
        };
        state
            .requests
            .insert(submission.request, message.name.clone());
        state.messages.push(Stored {
            submission,
            message: message.clone(),
        });
        Ok(message)
    }

    fn dial(&self, request: RequestId) -> Result<Asked, RelayError> {
        self.reachable()?;
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap();
        state.cycles_asked += 1;
        if let Some(error) = &state.cycle_refusal {
            return Err(error.clone());
        }
        if let Some(known) = state.requests.get(&request) {
            return Ok(Asked::Started(known.clone()));
        }
        if let Some(running) = state.cycles.iter().find(|cycle| cycle.end > now) {
            return Ok(Asked::Busy(running.name.clone()));
        }
        let name = format!("links/isp/cycles/{}", state.cycles.len());
        state.requests.insert(request, name.clone());
        // In a world that is quick, cycles are, too.
        let takes = state.bounce_after.map_or(CYCLE, |time| CYCLE.min(time));
        state.cycles.push(Cycle {
            name: name.clone(),
            start: now,
            end: now.plus(takes),
        });
        if !within(&state.line_down, now) {
            tokio::spawn(self.clone().cycle(now));
        }
        Ok(Asked::Started(name))
    }
}

impl Relay for World {
    async fn submit(&self, submission: Submission) -> Result<Message, RelayError> {
        let step = self.steps.before().await;
        let answer_after = self.state.lock().unwrap().answer_after;
        tokio::time::sleep(answer_after).await;
        let taken = self.take(submission);
        self.steps.after(step).await;
        taken
    }

    async fn message(&self, name: &str) -> Result<Message, RelayError> {
        let step = self.steps.before().await;
        let found = self.reachable().and_then(|()| {
            let state = self.state.lock().unwrap();
            let mut messages = state.messages.iter();
            let found = messages.find(|stored| stored.message.name == name);
            found
                .map(|stored| stored.message.clone())
                .ok_or(RelayError::NotFound(format!("no {name}")))
        });
        self.steps.after(step).await;
        found
    }

    async fn run_cycle(&self, _: &LinkName, request: RequestId) -> Result<Asked, RelayError> {
        let step = self.steps.before().await;
        let asked = self.dial(request);
        self.steps.after(step).await;
        asked
    }

    async fn has_ended(&self, cycle: &str) -> Result<bool, RelayError> {
        let step = self.steps.before().await;
        let ended = self.reachable().map(|()| {
            let state = self.state.lock().unwrap();
            let mut cycles = state.cycles.iter();
            let cycle = cycles.find(|known| known.name == cycle).unwrap();
            cycle.end <= self.clock.now()
        });
        self.steps.after(step).await;
        ended
    }

    /// Each stream begins with what is not acknowledged.
    async fn reports(&self) -> Result<Reports, RelayError> {
        self.reachable()?;
        let (sender, stream) = mpsc::channel(64);
        let (world, mut grown) = (self.clone(), self.reports.subscribe());
        tokio::spawn(async move {
            let mut given = 0;
            loop {
                grown.mark_unchanged();
                let reports = {
                    let state = world.state.lock().unwrap();
                    state.reports[given..].to_vec()
                };
                given += reports.len();
                for (report, settled) in reports {
                    if !settled && sender.send(Ok(report)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = sender.closed() => return,
                    grew = grown.changed() => if grew.is_err() { return },
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    async fn acknowledge(&self, report: &str) -> Result<(), RelayError> {
        let step = self.steps.before().await;
        let settled = self.reachable().map(|()| {
            let mut state = self.state.lock().unwrap();
            let mut reports = state.reports.iter_mut();
            let known = reports.find(|(known, _)| known.name == report);
            known.unwrap().1 = true;
        });
        self.steps.after(step).await;
        settled
    }
}
