"""The monitor, on a real Postfix as provider: what a bounce proves, and what none does."""

import base64

import pytest

from harness import smtp, wait
from harness.grpc_client import failure
from harness.monitor import Monitor, Webhook
from harness.otlp import Collector, attributes

FALSE_USER = "no-such-user@remote.example"
REFUSED = {FALSE_USER: "550 5.1.1 no such user"}
REPORT = '\n[[route]]\nrecipients = ["probe-*@branch.example"]\nto = "report"\n'
CALM = 'interval = "1h"\ninterval_unwell = "1h"\nwarn_after = "2h"\nalert_after = "3h"'
"""One probe at the start, and no further one while a test runs."""


@pytest.fixture
def watched(scene, running, place):
    """`watched(...)`: a site with Postfix as provider and a monitor. `beyond`: the world behind Postfix refuses the false
    user, so that Postfix writes the bounce; else Postfix refuses it at RCPT."""

    def build(beyond=True, settings=CALM, start=True, extra="", monitor_extra="", webhook=None, **more):
        stage = scene(
            refuse=None if beyond else REFUSED,
            relay=False,
            bounce_wait="2s",
            quiet="2s",
            extra=extra,
            **more,
        )
        if beyond:
            stage.world.refuse.update(REFUSED)
        stage.relay.write(stage.relay.config.read_text() + REPORT)
        stage.relay.start()
        stage.webhook = webhook or running(Webhook())
        stage.monitor = running(Monitor(place, stage.relay, settings, webhook=stage.webhook, extra=monitor_extra))
        if start:
            stage.monitor.start()
        return stage

    return build


def inject(stage, recipient, reverse_path="", to=None):
    """Hands in a report that nobody asked for, on the link's listener unless said otherwise."""
    content, _ = smtp.message(sender="mailer-daemon@provider.example", to=recipient)
    smtp.submit(to or stage.relay.released, reverse_path, [recipient], content)


def token_of(stage, probe):
    """The address that the probe's report came to."""
    report = stage.relay.client.call("ReportService/GetReport", name=probe["report"])
    return report["recipients"][0]


def test_a_bounce_of_postfix_proves_the_round_trip_within_the_cycle(watched):
    """Must show: with a real Postfix as provider the bounce that it writes for the false user proves ROUND_TRIP, within the
    cycle that the probe started."""
    stage = watched()
    probe = stage.monitor.wait_for_probe("RETURNED")
    assert probe["proof"] == "ROUND_TRIP"
    assert probe["report_cycle"] == probe["cycle"] != ""
    assert (probe["reporting_mta"], probe["status"]) == ("isp.provider.example", "5.1.1")
    cycle = stage.relay.ended(probe["cycle"])
    assert (cycle["outcome"], cycle["trigger"]) == ("COMPLETE", "PROBE")
    assert (cycle["sent"], cycle["received"]) == (1, 1)
    assert probe["report_trace_id"] == cycle["trace_id"]
    shown = stage.monitor.wait_for_state("PROVEN")
    assert (shown["last_proof"], shown["latest_probe"]) == (probe["name"], probe["name"])
    assert shown["round_trip"] == probe["round_trip"]
    report = stage.relay.client.call("ReportService/GetReport", name=probe["report"])
    assert (report["state"], report["acknowledged_by"]) == ("ACKNOWLEDGED", "monitor-svc")
    # The original of the probe went out marked as automatic (RFC 3834), and nothing came into a mailbox.
    returned = base64.b64decode(report["content"]).decode()
    assert "Auto-Submitted: auto-generated" in returned
    assert stage.mailbox.mails == []
    wait.until(lambda: stage.webhook.states() == ["PROVEN"], lambda: f"one notice, have {stage.webhook.notices}")


def test_a_refusal_at_rcpt_proves_the_way_out_only(watched):
    """Must show: the smart host that refuses the false user at RCPT gives OUTBOUND: our own relay wrote the report. It does
    not count for a monitor that wants the round trip, and does for one that wants the way out."""
    stage = watched(beyond=False)
    probe = stage.monitor.wait_for_probe("RETURNED")
    assert (probe["proof"], probe["report_cycle"]) == ("OUTBOUND", "")
    assert (probe["status"], probe["reporting_mta"]) == ("5.1.1", "relay.branch.example")
    assert probe["report_trace_id"] == stage.relay.ended(probe["cycle"])["trace_id"]
    assert stage.monitor.show()["state"] == "PENDING"
    assert stage.monitor.terminate() == 0
    text = stage.monitor.config.read_text()
    stage.monitor.write(text + 'proof = "outbound"\n')
    stage.monitor.start()
    stage.monitor.run_probe()
    assert stage.monitor.wait_for_state("PROVEN")["wanted_proof"] == "OUTBOUND"


def test_forged_and_replayed_reports_prove_nothing(watched):
    """Must show: a wrong token, a used one, a sender that is not null, a report that did not come over the link: each proves
    nothing, is counted, and is acknowledged all the same."""
    stage = watched()
    probe = stage.monitor.wait_for_probe("RETURNED")
    before = stage.monitor.wait_for_state("PROVEN")
    used = token_of(stage, probe)
    inject(stage, used)
    inject(stage, "probe-00000000000000000000000000000000@branch.example")
    inject(stage, "probe-@branch.example")
    # An open token that someone inside got hold of: the newest probe's, whose bounce Postfix keeps for now.
    stage.world.refuse.clear()
    stage.monitor.run_probe()
    open_token = stage.world.wait_for(1)[0].reverse_path
    inject(stage, open_token, reverse_path="someone@remote.example")
    inject(stage, open_token, to=stage.relay.site)

    def rejected():
        return int(stage.monitor.show()["rejected_reports"])

    wait.until(lambda: rejected() == 5, lambda: f"5 rejected, are {rejected()}")
    after = stage.monitor.show()
    assert (after["state"], after["last_proof_time"]) == ("PROVEN", before["last_proof_time"])
    listed = stage.relay.client.call("ReportService/ListReports", state="UNACKNOWLEDGED")["reports"]
    assert listed == []
    # The token is still good for the true one.
    inject(stage, open_token)
    wait.until(lambda: stage.monitor.show()["last_proof_time"] != before["last_proof_time"], "the true one proves")


def test_a_false_user_that_exists_is_no_proof(watched):
    """Mail that is delivered beyond gives no bounce, and no proof; the probe stays open."""
    stage = watched()
    stage.relay.ended(stage.monitor.wait_for_probe("RETURNED")["cycle"])
    stage.world.refuse.clear()
    probe = stage.monitor.run_probe()
    stage.relay.ended(wait.until(lambda: stage.monitor.probes()[0]["cycle"], "a cycle"))
    stage.world.wait_for(1)
    cycle = stage.relay.ended(stage.monitor.client.call("ProbeService/GetProbe", name=probe["name"])["cycle"])
    assert (cycle["sent"], cycle["received"]) == (1, 0)
    assert stage.postfix.queue() == [], "no bounce is under way"
    assert stage.monitor.client.call("ProbeService/GetProbe", name=probe["name"])["state"] == "OPEN"
    assert stage.monitor.show()["last_proof"] != probe["name"]


def test_restarts_of_either_lose_nothing(watched):
    """kill -9 of both while the bounce is under way: after the start it is matched, once, with the true round trip."""
    stage = watched(start=False)
    keep = stage.postfix
    stage.monitor.start()
    # Killed before the cycle is asked for, it asks for it after its start; here the cycle goes on without it.
    probe = wait.until(lambda: [one for one in stage.monitor.probes() if one["cycle"]], "a probe with its cycle")[0]
    stage.monitor.kill()
    # The relay goes on with the cycle, the report waits there.
    wait.until(lambda: stage.relay.client.call("ReportService/ListReports")["reports"], "the report", 30)
    stage.relay.kill()
    stage.relay.start()
    stage.monitor.start()
    returned = stage.monitor.wait_for_probe("RETURNED")
    assert (returned["name"], returned["proof"]) == (probe["name"], "ROUND_TRIP")
    assert [one["name"] for one in stage.monitor.probes()] == [probe["name"]], "no further message was made"
    assert int(stage.monitor.show()["rejected_reports"]) == 0
    assert keep.queue() == []


def test_states_and_notices_in_real_time(watched):
    """PENDING, PROVEN, then WARNING and ALERTING while nothing comes back, then PROVEN again: each told once, in order,
    although the webhook fails at first."""
    settings = 'interval = "1s"\ninterval_unwell = "1s"\nwarn_after = "8s"\nalert_after = "16s"'
    stage = watched(settings=settings)
    stage.monitor.wait_for_state("PROVEN")
    stage.webhook.status = 503
    # Delivered instead of refused: no bounce comes any more.
    stage.world.refuse.clear()
    stage.monitor.wait_for_state("WARNING")
    stage.monitor.wait_for_state("ALERTING")
    stage.webhook.status = 204
    stage.world.refuse.update(REFUSED)
    stage.monitor.wait_for_state("PROVEN", 60)
    expected = ["PROVEN", "WARNING", "ALERTING", "PROVEN"]
    wait.until(lambda: stage.webhook.states() == expected, lambda: f"{expected}, have {stage.webhook.notices}", 60)
    last = stage.webhook.notices[-1]
    assert last["previous_state"] == "ALERTING" and last["outage_seconds"] > 16
    assert all(notice["key"] == notice["id"] and notice["monitor"] == "isp" for notice in stage.webhook.notices)


def test_an_https_webhook_is_checked_by_the_certificates_of_the_system(watched, running, place):
    """One that nobody vouches for gets no notice, and the log says why; once it is trusted the notice that waited comes."""
    stage = watched(webhook=running(Webhook(place.folder)))
    stage.monitor.wait_for_state("PROVEN")

    def refused():
        return stage.monitor.logged("a notice was not taken", monitor="isp")

    wait.until(refused, lambda: f"a refusal, log\n{stage.monitor.log_text()[-3000:]}")
    assert "UnknownIssuer" in refused()[0]["error"] and stage.webhook.notices == []
    stage.monitor.terminate()
    stage.monitor.env["SSL_CERT_FILE"] = str(stage.webhook.certificate)
    stage.monitor.start()
    wait.until(lambda: stage.webhook.states() == ["PROVEN"], lambda: f"one notice, have {stage.webhook.notices}")
    assert len(stage.webhook.notices) == 1


def test_one_trace_over_both_services(watched, running):
    """Must show: the independent receiver sees that the monitor's client span, the relay's server span and `create outbound`
    share one trace; `send outbound` links to that `create outbound`; `relay.cycle` links to the call that started it;
    `monitor.bounce.match` links to probe and cycle; over a restart of both services between probe and bounce."""
    collector = running(Collector())
    telemetry = f'[telemetry]\notlp = "{collector.url}"\n'
    stage = watched(extra=telemetry, monitor_extra=telemetry, start=False)
    stage.monitor.start()
    probe = wait.until(lambda: [one for one in stage.monitor.probes() if one["cycle"]], "a probe with its cycle")[0]
    assert stage.monitor.terminate() == 0
    wait.until(lambda: stage.relay.client.call("ReportService/ListReports")["reports"], "the report", 30)
    cycle = stage.relay.ended(probe["cycle"])
    assert stage.relay.terminate() == 0
    stage.relay.start()
    stage.monitor.start()
    probe = stage.monitor.wait_for_probe("RETURNED")
    match = collector.wait_for_span("monitor.bounce.match")
    root = collector.wait_for_span("relay.cycle")

    submit = "linkmail.relay.v1.MessageService/SubmitMessage"
    run = "linkmail.relay.v1.CycleService/RunCycle"
    of_probe = collector.spans(probe["trace_id"])
    by_kind = {(span.name, span.kind): span for span in of_probe}
    client, server = by_kind[submit, 3], by_kind[submit, 2]
    [created] = [span for span in of_probe if span.name == "create outbound"]
    assert server.parent_span_id == client.span_id and created.parent_span_id == server.span_id

    of_cycle = collector.spans(cycle["trace_id"])
    [sent] = [span for span in of_cycle if span.name == "send outbound"]
    assert [(link.trace_id.hex(), link.span_id) for link in sent.links] == [(probe["trace_id"], created.span_id)]
    assert root.trace_id.hex() == cycle["trace_id"]
    assert [(link.trace_id.hex(), link.span_id) for link in root.links] == [
        (probe["trace_id"], by_kind[run, 2].span_id)
    ]
    [received] = [span for span in of_cycle if span.name == "receive inbound"]
    links = {(link.trace_id.hex(), link.span_id) for link in match.links}
    assert {trace for trace, _ in links} == {probe["trace_id"], cycle["trace_id"]}
    assert (cycle["trace_id"], received.span_id) in links
    assert {span for trace, span in links if trace == probe["trace_id"]} <= {span.span_id for span in of_probe}
    said = attributes(match)
    assert said["monitor.probe.id"] == probe["name"].rsplit("/", 1)[-1]
    assert said["relay.cycle.id"] == cycle["name"].rsplit("/", 1)[-1]
    for span in collector.spans():
        assert "@" not in f"{span.name} {attributes(span)} {span.status.message}", span


def test_the_api_by_reflection(watched):
    """A client that knows nothing of the project lists, watches and runs; errors have their reasons; RunProbe is idempotent."""
    stage = watched()
    stage.monitor.wait_for_probe("RETURNED")
    client = stage.monitor.client
    assert {"linkmail.monitor.v1.MonitorService", "linkmail.monitor.v1.ProbeService"} <= client.services()
    assert client.health() == client.health("linkmail.monitor.v1.MonitorService") == "SERVING"
    [listed] = client.call("MonitorService/ListMonitors")["monitors"]
    assert listed["name"] == "monitors/isp" and listed["link"] == "links/isp" and listed["recipient"] == FALSE_USER
    assert failure(client.call, "MonitorService/GetMonitor", name="monitors/x").reason == "MONITOR_NOT_FOUND"
    assert failure(client.call, "MonitorService/GetMonitor", name="x").fields == ["name"]
    nowhere = "monitors/isp/probes/01a209f1-041b-75ca-8285-6d13e9d7e0f7"
    assert failure(client.call, "ProbeService/GetProbe", name=nowhere).reason == "PROBE_NOT_FOUND"
    assert failure(client.call, "ProbeService/ListProbes", parent="monitors/x").reason == "MONITOR_NOT_FOUND"
    stream = client.watch("MonitorService/WatchMonitors")
    first = next(stream)
    assert (first["kind"], first["monitor"]["state"]) == ("SNAPSHOT", "PROVEN")
    id = "8d2f3a30-7f3c-4d06-9a0e-1f6f8a6e7c11"
    made = [stage.monitor.run_probe(request_id=id)["name"] for _ in range(2)]
    assert made[0] == made[1]
    change = next(stream)
    assert change["kind"] == "CHANGE" and change["revision"] > first["revision"]
    # From the revision before, everything comes again.
    again = next(client.watch("MonitorService/WatchMonitors", since_revision=int(first["revision"])))
    assert again == change


def test_commands(watched):
    """What a person at a terminal has."""
    stage = watched()
    stage.monitor.wait_for_probe("RETURNED")
    listed = stage.monitor.cli("monitor", "list")
    assert listed.returncode == 0 and "isp" in listed.stdout, listed
    ran = stage.monitor.cli("probe", "run", "isp")
    assert ran.returncode == 0 and "ROUND_TRIP" in ran.stdout.upper().replace(" ", "_"), ran
    probes = stage.monitor.cli("probe", "list", "isp", "--json")
    assert probes.returncode == 0 and len(probes.stdout.splitlines()) == 2, probes
    assert stage.monitor.cli("probe", "run", "nowhere").returncode == 65
    assert stage.monitor.cli("healthcheck").returncode == 0
    assert stage.monitor.cli("check").returncode == 0
