//! JSON lines on standard error, each with the ids of the span that was active when it was written.
//!
//! One line is one write call, so that lines of threads do not mix; a line that cannot be written is
//! lost, because there is nowhere to say so. Fields never overwrite the line's own members.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::sync::Mutex;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The prefix of the OpenTelemetry crates' targets. What they say about failed exports we say
/// ourselves, once a minute; so they are silent unless the filter names them.
const OPENTELEMETRY: &str = "opentelemetry";

/// Reads a filter such as `info,relay_svc::cycle=debug`.
pub(super) fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    // A bare word that is no level would be taken as a target, and a misspelt level silence the log.
    let words = filter.split(',').map(str::trim);
    for word in words.filter(|word| !word.contains(['=', '['])) {
        if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) {
            let levels = LEVELS.join(", ");
            return Err(format!(
                "unknown level {word:?}; one of {levels}, or TARGET=LEVEL"
            ));
        }
    }
    let mut directives = filter.to_owned();
    if !filter.contains(OPENTELEMETRY) {
        directives.push_str(&format!(",{OPENTELEMETRY}=off"));
    }
    EnvFilter::builder()
        .parse(directives)
        .map_err(|error| error.to_string())
}

/// Makes this the process's log, unless it has one.
pub(super) fn install(filter: &str) -> Result<(), String> {
    let subscriber = Registry::default()
        .with(parse_filter(filter)?)
        .with(JsonLines::new(std::io::stderr()));
    // The error says only that there is a log already; it stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// The layer that writes.
pub(super) struct JsonLines<W> {
    writer: Mutex<W>,
}

impl<W: Write> JsonLines<W> {
    pub(super) fn new(writer: W) -> Self {
        JsonLines {
            writer: Mutex::new(writer),
        }
    }
}

impl<S: Subscriber, W: Write + Send + 'static> Layer<S> for JsonLines<W> {
    fn on_event(&self, event: &Event<'_>, _context: LayerContext<'_, S>) {
        let line = line(event);
        // A writer that panicked once still writes whole lines.
        let mut writer = match self.writer.lock() {
            Ok(writer) => writer,
            Err(poisoned) => poisoned.into_inner(),
        };
        let _ = writer.write_all(&line);
    }
}

/// One line, with its end. It is written as it is read, for a busy service has two for each message.
fn line(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut line = Members(Vec::with_capacity(512));
    line.push("time", &format_args!("{:.6}", jiff::Timestamp::now()));
    line.push("level", metadata.level().as_str());
    line.push("target", metadata.target());
    line.push("message", &fields.message);
    line.0.append(&mut fields.others.0);
    let current = Context::current();
    let span = current.span();
    let ids = span.span_context();
    if ids.is_valid() {
        line.push("trace_id", &ids.trace_id().to_string());
        line.push("span_id", &ids.span_id().to_string());
    }
    // The first member has a comma before it, too.
    line.0[0] = b'{';
    line.0.extend_from_slice(b"}\n");
    line.0
}

/// A field that is named like a member of the line gets an underscore.
fn free_name(name: &'static str) -> Cow<'static, str> {
    match name {
        "time" | "level" | "target" | "trace_id" | "span_id" => format!("{name}_").into(),
        name => name.into(),
    }
}

/// Members of a JSON object in the order in which they come, a comma before each.
#[derive(Default)]
struct Members(Vec<u8>);

impl Members {
    fn push(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.0.push(b',');
        self.json(name);
        self.0.push(b':');
        self.json(value);
    }

    fn json(&mut self, value: &(impl Serialize + ?Sized)) {
        let begun = self.0.len();
        // Neither writing to memory nor a text or number fails; whatever does leaves the line whole.
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.0.truncate(begun);
            self.0.extend_from_slice(b"null");
        }
    }
}

/// The fields of one event; the message apart.
#[derive(Default)]
struct Fields {
    message: String,
    others: Members,
}

impl Fields {
    fn set(&mut self, field: &Field, value: &(impl Serialize + fmt::Display + ?Sized)) {
        match field.name() {
            "message" => self.message = value.to_string(),
            name => self.others.push(&free_name(name), value),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.set(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, &format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Writes {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push(octets.to_vec());
            Ok(octets.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Runs `work` under a log with this filter and returns what each write call wrote.
    fn written(filter: &str, work: impl FnOnce()) -> Vec<String> {
        let writes = Writes::default();
        let subscriber = Registry::default()
            .with(parse_filter(filter).unwrap())
            .with(JsonLines::new(writes.clone()));
        tracing::subscriber::with_default(subscriber, work);
        let writes = writes.0.lock().unwrap();
        let texts = writes
            .iter()
            .map(|octets| String::from_utf8(octets.clone()));
        texts.collect::<Result<_, _>>().unwrap()
    }

    fn active() -> Context {
        let ids = SpanContext::new(
            TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").unwrap(),
            SpanId::from_hex("b7ad6b7169203331").unwrap(),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        );
        Context::new().with_remote_span_context(ids)
    }

    #[test]
    fn a_line_is_one_object_with_the_ids_of_the_active_span() {
        let lines = written("info", || {
            let _current = active().attach();
            let text = "tab\t \"quote\" \u{1} \u{2028} ä\nnext";
            tracing::info!(text, count = 3, ratio = 0.5, level = "mine", "sent {}", 7);
        });
        assert_eq!(lines.len(), 1, "one write for one line");
        assert!(lines[0].ends_with("}\n"));
        assert_eq!(lines[0].matches('\n').count(), 1);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["target"], "linkmail_service::telemetry::logs::tests");
        assert_eq!(line["message"], "sent 7");
        assert_eq!(line["text"], "tab\t \"quote\" \u{1} \u{2028} ä\nnext");
        assert_eq!(line["count"], 3);
        assert_eq!(line["ratio"], 0.5);
        assert_eq!(line["level_"], "mine");
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(line["span_id"], "b7ad6b7169203331");
        let time = line["time"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok());
        assert_eq!(time.len(), "2026-01-02T03:04:05.123456Z".len());
        assert!(lines[0].starts_with("{\"time\":"));
    }

    #[test]
    fn without_a_span_there_are_no_ids_and_odd_values_do_no_harm() {
        let lines = written("info", || {
            let error = std::io::Error::other("broken\r\nline");
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(error, nan = f64::NAN, nothing = ?None::<u8>, big = u128::MAX);
        });
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["error"], "broken\r\nline");
        assert_eq!(line["nan"], Value::Null);
        assert_eq!(line["nothing"], "None");
        assert_eq!(line["message"], "");
        assert!(line.get("trace_id").is_none());
    }

    #[test]
    fn the_filter_decides() {
        let work = || {
            tracing::debug!("below");
            tracing::info!(target: "opentelemetry_sdk", "theirs");
            tracing::info!("ours");
        };
        assert_eq!(written("info", work).len(), 1);
        assert_eq!(written("debug", work).len(), 2);
        assert_eq!(written("info,opentelemetry=info", work).len(), 2);
        assert_eq!(
            written("off,linkmail_service::telemetry=debug", work).len(),
            2
        );
        assert_eq!(
            parse_filter("infoo").unwrap_err(),
            "unknown level \"infoo\"; one of off, error, warn, info, debug, trace, or TARGET=LEVEL"
        );
        assert!(parse_filter("").is_err());
        assert!(parse_filter("a=loud").is_err());
    }
}
