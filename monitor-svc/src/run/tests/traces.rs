//! The traces of a probe, also over a restart.

use opentelemetry::{
    global,
    trace::{SpanId, SpanKind, Status, TraceContextExt},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};

use super::*;
use crate::{relay::RelayError, telemetry, world::CYCLE_TRACE};

/// Spans that have ended. Each test is a process of its own, and has the tracers of the process to itself.
fn exporter() -> InMemorySpanExporter {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    global::set_tracer_provider(provider);
    exporter
}

fn only(spans: &[SpanData], name: &str) -> SpanData {
    let mut found = spans.iter().filter(|span| span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no {name}")).clone();
    assert!(found.next().is_none(), "more than one {name}");
    span
}

/// What a span is linked to, as `traceparent`s.
fn links(span: &SpanData) -> Vec<String> {
    let links = span.links.iter().map(|link| {
        let context =
            opentelemetry::Context::new().with_remote_span_context(link.span_context.clone());
        telemetry::to_text(&context)
    });
    links.collect()
}

fn of(span: &SpanData) -> String {
    let context = opentelemetry::Context::new().with_remote_span_context(span.span_context.clone());
    telemetry::to_text(&context)
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| attribute.value.as_str().into_owned())
}

#[tokio::test(start_paused = true)]
async fn a_match_links_to_its_probe_and_to_its_cycle_also_after_a_restart() {
    let exporter = exporter();
    let scene = Scene::new(monitor());
    let process = scene.start().await;
    scene.until(0.1).await;
    process.kill().await;
    let process = scene.start().await;
    scene.until(1.0).await;
    let probe = process.probes().await.remove(0);
    let spans = exporter.get_finished_spans().unwrap();

    let submit = only(&spans, "monitor.probe.submit");
    assert_eq!(of(&submit), probe.traceparent);
    assert_eq!(submit.parent_span_id, SpanId::INVALID);
    assert_eq!(attribute(&submit, "monitor.name").unwrap(), "branch");
    assert_eq!(attribute(&submit, "monitor.probe.run").unwrap(), "1");

    let matched = only(&spans, "monitor.bounce.match");
    assert_eq!(matched.span_kind, SpanKind::Consumer);
    assert_eq!(matched.parent_span_id, SpanId::INVALID);
    assert_ne!(
        matched.span_context.trace_id(),
        submit.span_context.trace_id()
    );
    assert_eq!(links(&matched), [CYCLE_TRACE.to_owned(), of(&submit)]);
    let id = probe.id.to_string();
    for (key, value) in [
        ("monitor.name", "branch"),
        ("monitor.probe.id", id.as_str()),
        ("monitor.probe.verdict", "round_trip"),
        ("monitor.probe.round_trip", "10"),
    ] {
        assert_eq!(attribute(&matched, key).unwrap(), value, "{key}");
    }

    let evaluated = only(&spans, "monitor.evaluate");
    assert_eq!(links(&evaluated), [of(&matched)]);
    assert_eq!(attribute(&evaluated, "monitor.state").unwrap(), "PROVEN");
    let told = only(&spans, "monitor.notify");
    assert_eq!(told.span_kind, SpanKind::Client);
    assert_eq!(links(&told), [of(&evaluated)]);
    without_addresses(&spans);
}

/// No address of a person stands in a span.
fn without_addresses(spans: &[SpanData]) {
    for span in spans {
        let said = format!("{:?} {:?} {:?}", span.attributes, span.status, span.events);
        assert!(!said.contains('@'), "an address in {}: {said}", span.name);
    }
}

/// What a relay says of a probe, and a channel of a notice, may name people.
#[tokio::test(start_paused = true)]
async fn what_fails_is_described_without_addresses() {
    let exporter = exporter();
    let scene = Scene::new(monitor());
    scene.people.deafen(scene.world.at(600.0));
    let error = "relay: recipients[0]: no-such-user@isp.example: denied".to_owned();
    scene.world.refuse(Some(RelayError::Refused(error.clone())));
    let process = scene.start().await;
    scene.until(31.0).await;
    scene.world.refuse(Some(RelayError::NotNow(error)));
    scene.until(41.0).await;
    scene.world.refuse(None);
    scene.world.route("smtp://mail.branch.example:25");
    scene.until(46.0).await;
    let probes = process.probes().await;
    assert!(
        probes
            .iter()
            .all(|probe| probe.error.contains("no-such-user@"))
    );
    let spans = exporter.get_finished_spans().unwrap();
    without_addresses(&spans);
    for (name, kind, description) in [
        (
            "monitor.probe.submit",
            "not_submitted",
            "the probe is not on its way",
        ),
        ("monitor.notify", "not_taken", "the channel did not take it"),
    ] {
        let mut failed = spans.iter().filter(|span| span.name == name);
        assert!(failed.clone().count() > 1);
        assert!(failed.all(|span| span.status == Status::error(description)));
        let span = spans.iter().find(|span| span.name == name).unwrap();
        assert_eq!(attribute(span, "error.type").unwrap(), kind);
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_time_changed_links_to_the_probe_that_was_awaited() {
    let exporter = exporter();
    let scene = Scene::new(monitor());
    scene.world.line_down(0.0, 60.0);
    let process = scene.start().await;
    scene.until(31.0).await;
    let probe = process.probes().await.remove(0);
    let spans = exporter.get_finished_spans().unwrap();
    let evaluated = only(&spans, "monitor.evaluate");
    assert_eq!(attribute(&evaluated, "monitor.state").unwrap(), "WARNING");
    assert_eq!(links(&evaluated), [probe.traceparent]);
}
