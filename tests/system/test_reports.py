"""`report` routes: mail for a program, streamed until it is acknowledged."""

import base64
import threading

import pytest

from harness import smtp, wait
from harness.grpc_client import Failure, failure
from harness.mailbox import Mailbox
from harness.otlp import Collector
from harness.peer import Peer
from harness.relay import Relay

REPORT = '[[route]]\nrecipients = ["probe-*@branch.example"]\nto = "report"\n'


@pytest.fixture
def stage(place, running):
    """`relay` takes what goes to probe-…@branch.example as reports; `world` is its smart host, `mailbox` the site's."""

    class Stage:
        def __init__(self, extra=""):
            self.world = running(Mailbox(place.endpoint()))
            self.mailbox = running(Mailbox(place.endpoint()))
            self.relay = running(Relay(place, self.mailbox.endpoint, self.world.endpoint, extra=extra))
            self.relay.write(self.relay.config.read_text() + REPORT)
            self.relay.start()

        def submit(self, *recipients, reverse_path="", to=None):
            """Hands in one message; its content and Message-ID."""
            content, id = smtp.message()
            smtp.submit(to or self.relay.site, reverse_path, recipients, content)
            return content, id

        def watch(self, consumer="test", **settings):
            return self.relay.client.watch("ReportService/WatchReports", consumer=consumer, **settings)

        def acknowledge(self, name, consumer="test"):
            return self.relay.client.call("ReportService/AcknowledgeReport", name=name, consumer=consumer)

        def get(self, name):
            return self.relay.client.call("ReportService/GetReport", name=name)

    return Stage


def test_a_report_is_streamed_until_it_is_acknowledged(stage):
    """What waits comes first, what comes follows; not acknowledged, it comes again on a new stream, also after kill -9."""
    scene = stage()
    content, _ = scene.submit("probe-1@branch.example")
    stream = scene.watch()
    first = next(stream)["report"]
    assert base64.b64decode(first["content"]).endswith(content)
    assert (first["reverse_path"], first["recipients"]) == ("", ["probe-1@branch.example"])
    assert (first["origin"], first["link"], first["state"]) == ("smtp", "", "UNACKNOWLEDGED")
    scene.submit("PROBE-2@Branch.Example", "user@branch.example", reverse_path="bob@world.example")
    second = next(stream)["report"]
    assert second["reverse_path"] == "bob@world.example"
    assert second["recipients"] == ["PROBE-2@Branch.Example"]
    # The other recipient of the same message has it as usual.
    assert scene.mailbox.wait_for(1)[0].recipients == ("user@branch.example",)
    assert scene.acknowledge(first["name"])["state"] == "ACKNOWLEDGED"
    stream.close()

    scene.relay.kill()
    scene.relay.start()
    again = next(scene.watch())
    assert (again["report"]["name"], again["delivery_attempt"]) == (second["name"], 1)
    scene.acknowledge(second["name"])
    # Acknowledged, it is kept, and a repeat changes nothing.
    assert scene.acknowledge(second["name"], "other")["acknowledged_by"] == "test"
    kept = scene.get(second["name"])
    assert (kept["state"], kept["content"]) == ("ACKNOWLEDGED", again["report"]["content"])
    listed = scene.relay.client.call("ReportService/ListReports", state="ACKNOWLEDGED", page_size=1)
    assert [report["name"] for report in listed["reports"]] == [first["name"]] and listed["next_page_token"]


def test_what_is_not_acknowledged_comes_again_after_thirty_seconds(stage):
    """The one test that waits out the half minute: it is the contract's."""
    scene = stage()
    scene.submit("probe-1@branch.example")
    stream = scene.watch(seconds=60)
    begun = wait.time.monotonic()
    attempts = [next(stream)["delivery_attempt"] for _ in range(2)]
    assert attempts == [1, 2]
    assert 29 < wait.time.monotonic() - begun < 40


def test_one_stream_per_consumer(stage):
    """A second stream of a consumer ends the first; another consumer has its own, and sees the same."""
    scene = stage()
    scene.submit("probe-1@branch.example")
    first, other = scene.watch("monitor"), scene.watch("other")
    assert next(first)["report"]["name"] == next(other)["report"]["name"]
    second = scene.watch("monitor")
    assert next(second)["delivery_attempt"] == 1
    with pytest.raises(Failure) as ended:
        next(first)
    assert (ended.value.code, ended.value.reason) == ("ABORTED", "CONSUMER_REPLACED")
    name = scene.relay.client.call("ReportService/ListReports")["reports"][0]["name"]
    scene.acknowledge(name, "other")
    scene.submit("probe-2@branch.example")
    assert next(second)["report"]["recipients"] == ["probe-2@branch.example"]


def test_a_watcher_may_name_its_recipients(stage):
    """Two programs at one relay see each its own, also behind more reports of the other than one stream holds."""
    scene = stage()
    with smtp.Dialogue(scene.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client.example")
        for number in range(70):
            raw = smtp.stuffed(smtp.message()[0])
            assert dialogue.transaction("", [f"probe-a{number}@branch.example"], raw) == 250
    scene.submit("PROBE-B1@branch.example")
    [report] = [next(scene.watch("b", recipients=["probe-b*@branch.example"]))["report"]]
    assert report["recipients"] == ["PROBE-B1@branch.example"]
    with pytest.raises(Failure) as failed:
        next(scene.watch("b", recipients=["probe-*@branch.example", "nobody"]))
    assert failed.value.fields == ["recipients[1]"]


def test_a_slow_watcher_has_a_bounded_number_in_hand(stage):
    """64 wait for their acknowledgement; each that is given lets the next one come."""
    scene = stage()
    with smtp.Dialogue(scene.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client.example")
        for number in range(70):
            raw = smtp.stuffed(smtp.message()[0])
            assert dialogue.transaction("", [f"probe-{number}@branch.example"], raw) == 250
    stream, names = scene.watch(), []
    for _ in range(64):
        names.append(next(stream)["report"]["name"])
    came = threading.Event()
    more = []

    def read():
        for _ in range(6):
            more.append(next(stream)["report"]["name"])
        came.set()

    threading.Thread(target=read, daemon=True).start()
    wait.stays(lambda: not more, "a report beyond the 64", 0.5)
    for name in names[:6]:
        scene.acknowledge(name)
    assert came.wait(20)
    assert len(set(names + more)) == 70


def test_own_bounce_is_a_report_in_the_trace_of_the_cycle(stage, running):
    """A recipient that the smart host refuses: the relay writes the report itself, and it is found in the cycle's trace."""
    collector = running(Collector())
    scene = stage(extra=f'[telemetry]\notlp = "{collector.url}"\n')
    scene.world.refuse["nobody@remote.example"] = "550 5.1.1 no such user"
    scene.submit("nobody@remote.example", reverse_path="probe-7@branch.example")
    cycle = scene.relay.run_cycle()
    report = next(scene.watch())["report"]
    assert (report["origin"], report["reverse_path"], report["link"]) == ("report", "", "")
    assert report["recipients"] == ["probe-7@branch.example"]
    assert report["traceparent"].split("-")[1] == cycle["trace_id"]
    sent = collector.wait_for_span("send outbound")
    assert report["traceparent"].split("-")[2] == sent.span_id.hex()


def test_what_comes_over_the_link_says_so(place, stage, running):
    """A report that a provider releases during a cycle names the link and the cycle, and its trace is the cycle's."""
    scene = stage()
    text = scene.relay.config.read_text().replace('quiet = "500ms"', 'quiet = "3s"')
    scene.relay.write(text)
    scene.relay.terminate()
    provider = running(Peer(place.endpoint()))
    provider.on_etrn = lambda: scene.submit("probe-9@branch.example", to=scene.relay.released)
    host = provider.endpoint
    text = text.replace("dequeue = []", f'dequeue = [{{ host = "smtp://{host}", etrn = ["branch.example"] }}]')
    scene.relay.write(text)
    scene.relay.start()
    cycle = scene.relay.run_cycle()
    report = next(scene.watch())["report"]
    assert (report["link"], report["cycle"], report["origin"]) == ("links/isp", cycle["name"], "smtp")
    assert report["traceparent"].split("-")[1] == cycle["trace_id"]


def test_errors(stage):
    """Each error has its reason."""
    scene = stage()
    nowhere = "reports/01a209f1-041b-75ca-8285-6d13e9d7e0f7"
    call = scene.relay.client.call
    assert failure(call, "ReportService/GetReport", name=nowhere).reason == "REPORT_NOT_FOUND"
    assert failure(scene.acknowledge, nowhere).reason == "REPORT_NOT_FOUND"
    assert failure(call, "ReportService/GetReport", name="reports/x").fields == ["name"]
    assert failure(scene.acknowledge, nowhere, "not a name").fields == ["consumer"]
    with pytest.raises(Failure) as failed:
        next(scene.watch(""))
    assert failed.value.fields == ["consumer"]
    # An ordinary message is no report.
    scene.submit("user@branch.example")
    [message] = scene.relay.messages()
    assert failure(call, "ReportService/GetReport", name=message["name"].replace("messages", "reports")).code == "NOT_FOUND"
