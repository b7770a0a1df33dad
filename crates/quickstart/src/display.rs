//! What is shown (pure): the picture of who is who, the timeline, the hints. At most [`WIDTH`] columns, except for
//! commands that are to be copied.

use std::{path::Path, time::Duration};

use crate::{
    account::{Account, Proof},
    mail::{ALICE, BOB},
    scene::{Door, Ports},
};

/// Columns of a terminal that everybody has.
pub const WIDTH: usize = 80;
/// Where the words of a line of the timeline begin.
const INDENT: usize = 17;

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// By the escape sequences of ECMA-48.
    On,
    /// Text alone.
    Off,
}

/// A colour of the sixteen that every terminal has.
#[derive(Debug, Clone, Copy)]
enum Ink {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Magenta = 35,
    Cyan = 36,
}

impl Colours {
    /// On a terminal, unless the environment has a `NO_COLOR` that is not empty (<https://no-color.org>).
    #[must_use]
    pub fn for_terminal(is_terminal: bool, no_color: Option<&std::ffi::OsStr>) -> Self {
        if is_terminal && no_color.is_none_or(std::ffi::OsStr::is_empty) {
            Self::On
        } else {
            Self::Off
        }
    }

    fn paint(self, ink: Ink, text: &str) -> String {
        match self {
            Self::On => format!("\x1b[{}m{text}\x1b[0m", ink as u8),
            Self::Off => text.to_owned(),
        }
    }
}

/// Who does or says something in the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// At the site.
    Alice,
    /// In the world.
    Bob,
    /// The edge, in a cycle.
    Edge,
    /// The outside world, where mail arrives.
    World,
    /// The site's mailbox server, where mail arrives.
    Mailbox,
    /// The monitor.
    Monitor,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Alice => "alice",
            Self::Bob => "bob",
            Self::Edge => "edge",
            Self::World => "world",
            Self::Mailbox => "mailbox",
            Self::Monitor => "monitor",
        }
    }

    fn ink(self) -> Ink {
        match self {
            Self::Alice | Self::Bob => Ink::Yellow,
            Self::Edge => Ink::Cyan,
            Self::World => Ink::Blue,
            Self::Mailbox => Ink::Blue,
            Self::Monitor => Ink::Magenta,
        }
    }
}

/// Who is who, and where.
#[must_use]
pub fn picture(ports: Ports, folder: &Path, colours: Colours) -> String {
    let port = |door| colours.paint(Ink::Dim, &format!(":{}", ports.at(door).port()));
    let name = |who: Who, text: &str| colours.paint(who.ink(), text);
    format!(
        "{title}

   {the_site}               {the_line}                 {the_far_side}

   {alice} ──▶ {edge} ════════════════ isp ════════════════▶ provider ──▶ {world}
             {site}                                      {provider}       {world_port}
              │ ▲ {released}                                     │
              │ └───────── what it held, after ETRN ─────────┘
              ▼
             {mailbox} {mailbox_port}

   {monitor} {monitor_port} ──▶ {edge} {edge_port}   proves the line by a probe that must bounce

   {files}
",
        title = colours.paint(
            Ink::Bold,
            "linkmail: a site, its line, its provider, and a monitor that proves the line"
        ),
        the_site = colours.paint(Ink::Dim, "branch.example"),
        the_line = colours.paint(Ink::Dim, "the line"),
        the_far_side = colours.paint(Ink::Dim, "far away"),
        alice = name(Who::Alice, "alice"),
        edge = name(Who::Edge, "edge"),
        world = name(Who::World, "the world"),
        mailbox = name(Who::Mailbox, "mailbox server"),
        monitor = name(Who::Monitor, "monitor"),
        site = port(Door::Site),
        provider = port(Door::Provider),
        world_port = port(Door::World),
        released = port(Door::Released),
        mailbox_port = port(Door::Mailbox),
        monitor_port = port(Door::MonitorGrpc),
        edge_port = port(Door::EdgeGrpc),
        files = colours.paint(
            Ink::Dim,
            &format!(
                "everything on 127.0.0.1; configurations and logs in {}",
                folder.display()
            )
        ),
    )
}

/// One line of the timeline: when since the start, who, what. Long words go on in lines below.
#[must_use]
pub fn line(since: Duration, who: Who, what: &str, colours: Colours) -> String {
    let seconds = since.as_secs_f64();
    let decimals = if seconds < 1000.0 { 2 } else { 0 };
    let time = colours.paint(Ink::Dim, &format!("{seconds:6.decimals$}"));
    let name = colours.paint(who.ink(), &format!("{:<7}", who.name()));
    let mut text = String::new();
    for (number, part) in wrapped(what, WIDTH - INDENT).iter().enumerate() {
        if number > 0 {
            text.push('\n');
            text.push_str(&" ".repeat(INDENT));
        }
        text.push_str(part);
    }
    format!("{time}  {name}  {text}")
}

/// How it came out: what the run shows, or what is missing.
#[must_use]
pub fn conclusion(account: &Account, colours: Colours) -> String {
    let summary = account.summary();
    let missing = account.missing();
    let plural = if summary.cycles == 1 { "" } else { "s" };
    let numbers = format!(
        "{} sent, {} received, {} cycle{plural}, {:.1} s on the line; proof {}",
        summary.sent, summary.received, summary.cycles, summary.cycle_seconds, summary.proof
    );
    let trace = colours.paint(Ink::Dim, &format!("trace {}", summary.trace_id));
    let mut text = String::from("\n");
    if missing.is_empty() {
        let done = "Complete. Both messages arrived unchanged, and the probe came back.";
        text.push_str(&format!("  {}\n", colours.paint(Ink::Green, done)));
    } else {
        let ink = match summary.proof {
            Proof::None => Ink::Red,
            Proof::Outbound | Proof::RoundTrip => Ink::Yellow,
        };
        text.push_str(&format!("  {}\n", colours.paint(ink, "Not complete:")));
        for one in missing {
            let parts = wrapped(&one, WIDTH - 6);
            text.push_str(&format!("    - {}\n", parts.join("\n      ")));
        }
    }
    text.push_str(&format!("  {numbers}\n  {trace}\n"));
    text
}

/// What may be tried while everything stays up. `programs` and `folder` as they are to be typed.
#[must_use]
pub fn hints(programs: &Path, folder: &Path, colours: Colours) -> String {
    let relay = programs.join("relay-svc").display().to_string();
    let monitor = programs.join("monitor-svc").display().to_string();
    let folder = folder.display();
    let head = |text: &str| colours.paint(Ink::Bold, text);
    format!(
        "
  Everything stays up until Ctrl-C; what happens is shown. In another terminal:

  {send}
    printf 'Subject: hi\\r\\n\\r\\nHello.\\r\\n' |
      {relay} submit --config {folder}/edge.toml \\
        --from {ALICE} {BOB}
  {cycle}
    {relay} cycle run isp \\
        --config {folder}/edge.toml
  {queue}
    {relay} queue list \\
        --config {folder}/edge.toml
  {probe}
    {monitor} probe run isp \\
        --config {folder}/monitor.toml
",
        send = head("hand in a message of your own; it waits for the next cycle"),
        cycle = head("run a cycle"),
        queue = head("see what waits"),
        probe = head("run a probe, and with it a cycle"),
    )
}

/// Cuts a text into lines of at most `columns`, between words where it can.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        for piece in pieces(&brief(word), columns) {
            let length = piece.chars().count();
            if used > 0 && used + 1 + length > columns {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(&piece);
            used += length;
        }
    }
    if used > 0 || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// A word in which each UUID is its last four digits: enough to tell two probes apart.
fn brief(word: &str) -> String {
    /// Octets of a UUID with its hyphens.
    const LENGTH: usize = 36;
    let is_uuid = |at: &usize| {
        let text = word.get(*at..*at + LENGTH);
        text.is_some_and(|text| uuid::Uuid::parse_str(text).is_ok())
    };
    match (0..word.len().saturating_sub(LENGTH - 1)).find(is_uuid) {
        Some(at) => {
            let end = at + LENGTH;
            format!(
                "{}…{}{}",
                &word[..at],
                &word[end - 4..end],
                brief(&word[end..])
            )
        }
        None => word.to_owned(),
    }
}

/// A word in pieces of at most `columns`, its control characters made visible.
fn pieces(word: &str, columns: usize) -> Vec<String> {
    let shown = |character: char| {
        if character.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            character
        }
    };
    let characters: Vec<char> = word.chars().map(shown).collect();
    characters
        .chunks(columns)
        .map(|piece| piece.iter().collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn nothing_is_wider_than_a_terminal() {
        let ports = Ports::beginning_at(31_990).unwrap();
        fits(&picture(ports, Path::new("quickstart-state"), Colours::Off));
        fits(&conclusion(&Account::new(), Colours::Off));
        let (folder, programs) = (Path::new("quickstart-state"), Path::new("target/debug"));
        fits(&hints(programs, folder, Colours::Off));
        let long = format!("{} {}", "word ".repeat(50), "x".repeat(200));
        let text = line(Duration::from_secs(9999), Who::Monitor, &long, Colours::Off);
        fits(&text);
        assert!(text.lines().count() > 5);
        assert_eq!(text.matches('x').count(), 200);
    }

    #[test]
    fn colours_are_for_terminals_and_change_no_text() {
        for (terminal, no_color, wanted) in [
            (true, None, Colours::On),
            (true, Some(""), Colours::On),
            (true, Some("1"), Colours::Off),
            (false, None, Colours::Off),
        ] {
            let no_color = no_color.map(std::ffi::OsStr::new);
            assert_eq!(Colours::for_terminal(terminal, no_color), wanted);
        }
        let shown = |colours| line(Duration::ZERO, Who::Edge, "line up", colours);
        assert_eq!(shown(Colours::Off), "  0.00  edge     line up");
        let mut plain = shown(Colours::On);
        for escape in ["\x1b[2m", "\x1b[36m", "\x1b[0m"] {
            plain = plain.replace(escape, "");
        }
        assert_eq!(plain, shown(Colours::Off));
    }

    #[test]
    fn long_names_are_brief() {
        let probe = "01a20c3f-51a9-73c9-96c2-f343188ce075";
        for (word, shown) in [
            (format!("probe {probe} came back"), "probe …e075 came back"),
            (
                format!("links/{probe}:messages/{probe},"),
                "links/…e075:messages/…e075,",
            ),
            (format!("é{probe}é"), "é…e075é"),
            (probe[1..].to_owned(), &probe[1..]),
        ] {
            let text = line(Duration::ZERO, Who::Monitor, &word, Colours::Off);
            assert_eq!(&text[INDENT..], shown);
        }
    }

    #[test]
    fn what_a_peer_says_cannot_steer_the_terminal() {
        let text = line(Duration::ZERO, Who::World, "got \x1b[2Jmail", Colours::Off);
        assert!(!text.contains('\x1b'), "{text}");
    }
}
