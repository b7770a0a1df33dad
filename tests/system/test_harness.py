"""The harness against the real tools alone: what the other tests take for granted about their peers."""

import socket
import subprocess
import sys

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from harness import smtp, strace, wait
from harness.cut import FAR, FIN, NEAR, RESET, Cut, Point
from harness.exim import Exim
from harness.host import Host
from harness.line import Line
from harness.mailbox import Mailbox
from harness.otlp import Collector
from harness.place import split
from harness.postfix import Postfix


@pytest.fixture
def provider(place, running):
    """A Postfix that sends everything to one mailbox server and keeps branch.example for another until ETRN."""
    world = running(Mailbox(place.endpoint()))
    site = running(Mailbox(place.endpoint()))
    postfix = running(
        Postfix(
            place,
            "isp",
            sink=world.endpoint,
            hold={"branch.example": site.endpoint},
            refuse={"nobody@remote.example": "550 5.1.1 No such user"},
        )
    ).start()
    return postfix, world, site


def test_postfix_is_a_smart_host(place, provider):
    """Postfix takes a message from swaks and delivers the same bytes behind its trace lines."""
    postfix, world, _ = provider
    content, id = smtp.message(body=".leading dot\n..two\n\nend")
    smtp.swaks(postfix.endpoint, "alice@branch.example", ["bob@remote.example"], content, place.folder)
    [mail] = world.wait_for(1)
    assert mail.id == id
    assert mail.content.endswith(content), mail.content
    assert mail.content[: -len(content)].startswith(b"Received: ")
    assert (mail.reverse_path, mail.recipients) == ("alice@branch.example", ("bob@remote.example",))


def test_postfix_refuses_one(provider):
    """A refused recipient is answered 550, the others are taken."""
    postfix, _, _ = provider
    with smtp.Dialogue(postfix.endpoint) as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
        dialogue.expect(550, "RCPT TO:<nobody@remote.example>")
        dialogue.expect(250, "RCPT TO:<bob@remote.example>")


def test_postfix_holds_until_etrn(provider):
    """Mail for the site waits; ETRN for its domain releases it to the site's address; another node is 459."""
    postfix, _, site = provider
    content, id = smtp.message(to="user@branch.example", sender="bob@remote.example")
    smtp.submit(postfix.endpoint, "bob@remote.example", ["user@branch.example"], content)
    postfix.wait_for_held(1)
    assert site.mails == []
    with smtp.Dialogue(postfix.endpoint) as dialogue:
        dialogue.expect(250, "EHLO branch.example")
        dialogue.expect(459, "ETRN other.example")
        dialogue.expect(250, "ETRN branch.example")
    [mail] = site.wait_for(1)
    assert mail.id == id and mail.content.endswith(content)


def test_exim_is_a_smart_host(place, running):
    """Exim takes a message from swaks and delivers the same bytes behind its trace lines; a refused recipient is answered
    550."""
    world = running(Mailbox(place.endpoint()))
    exim = running(Exim(place, "exim", sink=world.endpoint, refuse={"nobody@remote.example": "550 No such user"})).start()
    content, id = smtp.message(body=".leading dot\n..two\n\nend")
    smtp.swaks(exim.endpoint, "alice@branch.example", ["bob@remote.example"], content, place.folder)
    [mail] = world.wait_for(1)
    assert mail.id == id
    assert mail.content.endswith(content), mail.content
    assert mail.content[: -len(content)].startswith(b"Received: ")
    assert (mail.reverse_path, mail.recipients) == ("alice@branch.example", ("bob@remote.example",))
    with smtp.Dialogue(exim.endpoint) as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
        dialogue.expect(550, "RCPT TO:<nobody@remote.example>")
        dialogue.expect(250, "RCPT TO:<bob@remote.example>")


def test_exim_queues_until_told(place, running):
    """Exim that queues only keeps what it takes until a queue run, which sends it over one connection."""
    world = running(Mailbox(place.endpoint()))
    exim = running(Exim(place, "exim", sink=world.endpoint, settings={"queue_only": "true"})).start()
    for _ in range(3):
        smtp.submit(exim.endpoint, "alice@branch.example", ["bob@remote.example"], smtp.message()[0])
    assert exim.waiting() == 3 and world.mails == []
    exim.run_queue(two_stages=True)
    world.wait_for(3)
    wait.until(lambda: exim.waiting() == 0, lambda: f"an empty spool; log: {exim.log()}")


def test_line_states(place, running):
    """The line refuses at once, swallows a SYN, stays silent, carries, and hangs up, all on one port."""
    far = running(Mailbox(place.endpoint()))
    line = running(Line(place, far.endpoint))

    def knock():
        try:
            with socket.create_connection(split(line.endpoint), timeout=0.5) as near:
                near.settimeout(0.5)
                return near.recv(3)
        except OSError as error:
            return type(error).__name__

    assert knock() == "ConnectionRefusedError"
    line.up()
    assert knock() == b"220"
    line.blackhole()
    with pytest.raises(TimeoutError):
        socket.create_connection(split(line.endpoint), timeout=0.5)
    line.silent()
    assert knock() == "TimeoutError"
    line.up()
    with smtp.Dialogue(line.endpoint) as dialogue:
        line.hang_up()
        assert dialogue.reply() == (0, [])


def test_collector_renders(running):
    """A span made by hand on the official protobufs comes out as one line of the tree, with kind, status and link."""
    collector = running(Collector())
    trace, root, made = b"t" * 16, b"r" * 8, b"m" * 8
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(trace_id=b"o" * 16, span_id=made, name="create outbound", kind=4, start_time_unix_nano=1)
    spans.add(trace_id=trace, span_id=root, name="relay.cycle", kind=1, start_time_unix_nano=1)
    spans.add(
        trace_id=trace,
        span_id=b"d" * 8,
        parent_span_id=root,
        name="relay.dial",
        kind=3,
        status=Status(code=2),
        start_time_unix_nano=3,
    )
    spans.add(
        trace_id=trace, span_id=b"s" * 8, parent_span_id=root, name="send outbound", kind=3, start_time_unix_nano=2
    ).links.add(trace_id=b"o" * 16, span_id=made)
    with grpc.insecure_channel(collector.endpoint) as channel:
        TraceServiceStub(channel).Export(request, timeout=10)
    assert collector.tree(trace.hex()) == (
        "relay.cycle INTERNAL UNSET\n  send outbound CLIENT UNSET -> create outbound\n  relay.dial CLIENT ERROR"
    )


# Takes one message, stores it and its envelope, and syncs at the moment `when` names.
STORE = """
import os, socket, sys
state, when = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
near, _ = listener.accept()
data = near.recv(65536)
file = os.open(state + "/spool", os.O_CREAT | os.O_WRONLY)
if when == "early":
    os.fdatasync(file)
os.write(file, data)
if when == "before":
    os.fdatasync(file)
near.sendall(b"250 2.0.0 OK\\r\\n")
os.fdatasync(file)
"""


@pytest.mark.parametrize("when, fault", [("before", None), ("early", "not synced"), ("after", "not synced")])
def test_strace_judges(place, when, fault):
    """The durability check itself: it passes a store that syncs before its 250, and finds one that syncs before it has
    written, and one that syncs after its reply."""
    output = place.folder / "strace.out"
    command = [*strace.wrapper(output), sys.executable, "-c", STORE, str(place.folder), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as store:
        with socket.create_connection(("127.0.0.1", int(store.stdout.readline()))) as near:
            near.sendall(b"to-1@remote.example Message-ID: <one@test.example>")
            assert near.recv(100).startswith(b"250 ")
        assert store.wait(timeout=10) == 0
    faults = strace.unsynced(strace.read(output), str(place.folder), {"one@test.example": "to-1@remote.example"})
    if fault is None:
        assert faults == {}
    else:
        assert list(faults) == ["one@test.example"] and fault in faults["one@test.example"]


@pytest.mark.parametrize("how", [RESET, FIN])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("side", [NEAR, FAR])
def test_a_cut_is_where_it_should_be(place, running, side, after, how):
    """The second time the word is said all connections are cut, before or behind its line; what comes then is carried."""
    word = rb"RSET" if side == NEAR else rb"250 2.0.0 OK"
    host = running(Host(place.endpoint()))
    cut = running(Cut(place, host.endpoint, Point(side, word, nth=2, after=after), how))
    with smtp.Dialogue(cut.endpoint) as idle, smtp.Dialogue(cut.endpoint) as dialogue:
        dialogue.expect(250, "EHLO client.example")
        dialogue.expect(250, "RSET")
        assert not cut.happened.is_set()
        dialogue.send(b"RSET\r\n")
        assert dialogue.closed() == ([250] if side == FAR and after else [])
        assert idle.closed() == []
    assert cut.happened.is_set()

    def heard():
        return sum(bytes(session.clear).count(b"RSET\r\n") for session in host.sessions)

    # What was sent before the end may be read after it.
    expected = 1 if side == NEAR and not after else 2
    wait.until(lambda: heard() >= expected, lambda: f"RSET {expected} times; heard {heard()}")
    assert heard() == expected
    with smtp.Dialogue(cut.endpoint) as dialogue:
        for _ in range(3):
            dialogue.expect(250, "RSET")


def test_a_host_notes_what_is_too_much(place, running):
    """A transaction or a recipient too many is refused and noted."""
    host = running(Host(place.endpoint(), mail_max=1, recipients_max=1))
    with smtp.Dialogue(host.endpoint) as dialogue:
        dialogue.expect(250, "EHLO client.example")
        dialogue.expect(250, "MAIL FROM:<a@branch.example>")
        dialogue.expect(250, "RCPT TO:<b@remote.example>")
        assert host.broken == []
        dialogue.expect(452, "RCPT TO:<c@remote.example>")
        dialogue.expect(451, "MAIL FROM:<a@branch.example>")
    assert host.broken == ["recipient 2 of a transaction", "transaction 2 of a session"]
