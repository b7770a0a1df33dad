"""One trace shows the cycle, received by an independent collector; a bad collector delays nothing."""

import socket
import statistics

import pytest

from harness import smtp, wait
from harness.line import Line
from harness.otlp import Collector, attributes
from harness.relay import seconds_between

SHOWN = (
    "relay.link.name",
    "relay.cycle.trigger",
    "relay.cycle.sent",
    "relay.cycle.received",
    "relay.cycle.outcome",
    "relay.etrn.node",
    "relay.smtp.reply_code",
    "error.type",
)

# The call that started a cycle; the cycle links to it, and is a trace of its own.
RUN = "linkmail.relay.v1.CycleService/RunCycle"

# One line a span.
CYCLE = """
relay.cycle INTERNAL UNSET relay.link.name=isp relay.cycle.trigger=api relay.cycle.sent=2 \
relay.cycle.received=1 relay.cycle.outcome=complete -> linkmail.relay.v1.CycleService/RunCycle
  relay.dial CLIENT UNSET relay.link.name=isp
  relay.inbound.window INTERNAL UNSET relay.link.name=isp relay.cycle.received=1
    receive inbound CONSUMER UNSET relay.link.name=isp
      process inbound CONSUMER UNSET
{sessions}
  relay.hangup INTERNAL UNSET relay.link.name=isp
""".strip()


# The round of requests and the forwarding go beside each other: either may be the first.
ASKING = """
  relay.smtp.session CLIENT UNSET
    relay.etrn CLIENT UNSET relay.etrn.node=branch.example relay.smtp.reply_code=250
""".strip("\n")
FORWARDING = """
  relay.smtp.session CLIENT UNSET
    send outbound CLIENT UNSET -> create outbound
    send outbound CLIENT UNSET -> create outbound
    relay.etrn CLIENT UNSET relay.etrn.node=branch.example relay.smtp.reply_code=250
""".strip("\n")
TREES = [
    CYCLE.format(sessions=f"{first}\n{second}") for first, second in [(ASKING, FORWARDING), (FORWARDING, ASKING)]
]


def telemetry(url):
    return f'[telemetry]\notlp = "{url}"\n'


def span_of(collector, cycle):
    """The root span of a cycle's trace; it is the last of the trace to be exported."""
    id = cycle["name"].rsplit("/", 1)[-1]
    return collector.wait_for_span("relay.cycle", relay__cycle__id=id)


def test_tree(scene, running):
    """Must show: an independent receiver on the official OTLP protobufs gets the trace of the cycle; the tree is
    compared as text."""
    collector = running(Collector())
    stage = scene(extra=telemetry(collector.url))
    stage.hold(1)
    stage.send(2)
    cycle = stage.relay.run_cycle()
    stage.mailbox.wait_for(1)

    root = span_of(collector, cycle)

    assert root.trace_id.hex() == cycle["trace_id"]
    wait.until(
        lambda: len(collector.spans(cycle["trace_id"])) >= len(TREES[0].splitlines()),
        lambda: "the whole trace, have\n" + collector.tree(cycle["trace_id"], SHOWN),
    )
    assert collector.tree(cycle["trace_id"], SHOWN) in TREES, collector.tree(cycle["trace_id"], SHOWN)
    # Each link goes to the creation context of one message, which is a trace of its own.
    links = [link for span in collector.spans(cycle["trace_id"]) if span.name == "send outbound" for link in span.links]
    created = {span.span_id: span for span in collector.spans() if span.name == "create outbound"}
    assert sorted(link.span_id for link in links) == sorted(created)
    traces = {span.trace_id.hex() for span in created.values()}
    assert len(traces) == 2 and cycle["trace_id"] not in traces
    by_origin = {
        message["trace_id"] for message in stage.relay.messages() if message["reverse_path"] == "alice@branch.example"
    }
    assert by_origin == traces, "the API tells the same trace ids"
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in collector.spans())
    [resource] = {resource["service.name"] for resource in collector.resources}
    assert resource == "relay-svc"


def test_no_address_in_spans(scene, running):
    """Acceptance check C9 of the telemetry conventions: no mail address is in any span or metric."""
    collector = running(Collector())
    stage = scene(
        extra=telemetry(collector.url), refuse={"nobody@remote.example": "550 5.1.1 No nobody@remote.example"}
    )
    stage.send(1, recipients=["bob@remote.example", "nobody@remote.example"])
    span_of(collector, stage.relay.run_cycle())
    stage.mailbox.wait_for(1)
    for span in collector.spans():
        events = [(event.name, attributes(event)) for event in span.events]
        said = f"{span.name} {attributes(span)} {span.status.message} {events}"
        assert "@" not in said, said


def test_line_missing_marks_the_attempt(place, scene, running):
    """A dial that fails is an error on its attempt; on the cycle too when no attempt succeeded; there is no session."""
    collector = running(Collector())
    line = running(Line(place, "127.0.0.1:9"))
    line.blackhole()
    stage = scene(
        provider=False,
        smart_host=lambda far: line.endpoint,
        extra=telemetry(collector.url),
        dial='{ driver = "implicit", patience = "1s", attempts = 2, pause = "100ms" }',
    )
    cycle = stage.relay.run_cycle(expected="LINE_MISSING")
    root = span_of(collector, cycle)
    lines = collector.tree(root.trace_id.hex()).splitlines()
    assert lines[:3] == [f"relay.cycle INTERNAL ERROR -> {RUN}"] + ["  relay.dial CLIENT ERROR"] * 2
    assert not any("relay.smtp.session" in one for one in lines)
    dials = [span for span in collector.spans(root.trace_id.hex()) if span.name == "relay.dial"]
    assert all(attributes(span).get("error.type") for span in dials + [root])


def test_redial_leaves_the_cycle_unset(place, scene, running):
    """C5: the first attempt fails and the second succeeds: the attempt is an error, the cycle is not."""
    collector = running(Collector())
    flag = place.folder / "second"
    up = place.folder / "up"
    up.write_text(f"#!/bin/sh\ntest -e {flag} && exit 0\ntouch {flag}\nexit 1\n")
    up.chmod(0o755)
    stage = scene(
        provider=False,
        extra=telemetry(collector.url),
        dial=(
            f'{{ driver = "command", up = ["{up}"], down = ["/bin/true"], timeout = "5s", patience = "2s", '
            'attempts = 2, pause = "100ms" }'
        ),
    )
    root = span_of(collector, stage.relay.run_cycle())
    lines = collector.tree(root.trace_id.hex()).splitlines()
    assert lines[:3] == [
        f"relay.cycle INTERNAL UNSET -> {RUN}",
        "  relay.dial CLIENT ERROR",
        "  relay.dial CLIENT UNSET",
    ]


def test_caller_trace_is_kept(scene, running):
    """W3C context from gRPC: the message's creation context is in the caller's trace, and survives a restart of the
    relay; the cycle's send span links to it."""
    collector = running(Collector())
    stage = scene(provider=False, extra=telemetry(collector.url))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    content, _ = smtp.message()
    submitted = stage.relay.client.call(
        "MessageService/SubmitMessage",
        metadata=[("traceparent", f"00-{trace}-00f067aa0ba902b7-01")],
        reverse_path="alice@branch.example",
        recipients=["bob@remote.example"],
        content=content,
    )
    assert submitted["trace_id"] == trace
    created = collector.wait_for_span("create outbound")
    assert created.trace_id.hex() == trace and created.parent_span_id
    assert stage.relay.terminate() == 0
    stage.relay.start()
    cycle = stage.relay.run_cycle()
    span_of(collector, cycle)
    sent = wait.until(
        lambda: [span for span in collector.spans(cycle["trace_id"]) if span.name == "send outbound"], "the send span"
    )
    assert [(link.trace_id.hex(), link.span_id) for link in sent[0].links] == [(trace, created.span_id)]


def test_logs_carry_the_trace(scene, running):
    """Log lines are JSON; those of a cycle carry its trace id."""
    collector = running(Collector())
    stage = scene(provider=False, extra=telemetry(collector.url))
    stage.send(1)
    cycle = stage.relay.run_cycle()
    lines = [line for line in stage.relay.log() if line.get("trace_id") == cycle["trace_id"]]
    assert lines and all(len(line["span_id"]) == 16 for line in lines)
    for line in stage.relay.log():
        assert {"message", "level", "time"} <= line.keys(), line


def test_first_metrics(scene, running):
    """Metrics reach the collector: cycles by outcome, deliveries, ETRN requests, queue depth."""
    collector = running(Collector())
    stage = scene(extra=telemetry(collector.url))
    stage.hold(1)
    stage.send(2)
    stage.relay.run_cycle()
    stage.mailbox.wait_for(1)
    # A graceful stop exports what has been counted.
    assert stage.relay.terminate() == 0
    [(labels, count)] = collector.metric("relay.cycles")
    assert count == 1 and labels["relay.link.name"] == "isp", labels
    assert {"relay.cycle.duration", "relay.message.deliveries", "relay.etrn.requests"} <= collector.metric_names()


class Mute:
    """Accepts connections and never reads or writes: a collector behind a line that swallows everything."""

    def __init__(self, place):
        self._socket = socket.socket()
        self._socket.bind((place.address, 0))
        self._socket.listen(64)
        self.url = "http://{}:{}".format(*self._socket.getsockname())

    def stop(self):
        self._socket.close()


@pytest.fixture
def collectors(place, running):
    """The kinds of collector that a cycle must not notice: none, dead, never connecting, mute, never answering."""
    blackhole = running(Line(place, "127.0.0.1:9"))
    blackhole.blackhole()
    return {
        "none": "",
        "dead": telemetry(f"http://{place.endpoint()}"),
        "blackhole": telemetry(f"http://{blackhole.endpoint}"),
        "mute": telemetry(running(Mute(place)).url),
        "never answering": telemetry(running(Collector(silent=True)).url),
    }


def duration(stage, sends):
    """Seconds from RunCycle to the end as the record tells it, for a cycle that forwards `sends` messages."""
    stage.send(sends)
    cycle = stage.relay.run_cycle()
    assert cycle["sent"] == sends
    return seconds_between(cycle["start_time"], cycle["end_time"])


def test_bad_collector_delays_no_cycle(place, running, collectors):
    """Must show (deliver 5): a missing, dead or never-answering collector delays no cycle by more than 50 ms."""
    from harness.scene import Scene

    rounds, took = 5, {}
    for kind, text in collectors.items():
        stage = Scene(place, running, provider=False, extra=text)
        duration(stage, 20)  # the first one warms up
        took[kind] = statistics.median(duration(stage, 20) for _ in range(rounds))
        stage.relay.stop()
    base = took.pop("none")
    assert {kind: seconds for kind, seconds in took.items() if seconds > base + 0.050} == {}, (base, took)


def test_what_is_dropped_is_counted(place, scene, running):
    """Must show (deliver 5): what a dead collector did not get is counted, and told when one is there again."""
    endpoint = place.endpoint()
    stage = scene(provider=False, extra=telemetry(f"http://{endpoint}"))
    for _ in range(3):
        duration(stage, 20)
    collector = running(Collector(endpoint))

    def dropped():
        return sum(value for _, value in collector.metric("relay.telemetry.dropped"))

    # 3 cycles of 20 messages are more than 60 spans in all.
    wait.until(lambda: dropped() >= 60, lambda: f"counted {dropped()}; metrics {collector.metric_names()}", 90)
