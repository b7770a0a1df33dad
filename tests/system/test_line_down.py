"""The line missing is not an attempt: nothing bounces, nothing is counted, the next cycle carries all of it."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from harness import dns, wait
from harness.line import Line
from harness.relay import seconds_between

# Ten times shorter than the tests wait: an expiry clock that ran while the line is missing would show.
SHORT_EXPIRE = ('expire = "1h"', 'expire = "1s"')


@pytest.fixture
def line(place, running):
    """`line(far)` puts a line before `far`; for the `smart_host` of a scene."""
    made = []

    def before(far):
        made.append(running(Line(place, far)))
        return made[0].endpoint

    before.get = lambda: made[0]
    return before


def program(place, name, text):
    """An executable shell script in the test's folder."""
    path = place.folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def command(up, down="/bin/true", timeout="2s", patience="1s"):
    return (
        f'{{ driver = "command", up = ["{up}"], down = ["{down}"], timeout = "{timeout}", '
        f'patience = "{patience}", attempts = 1, pause = "100ms" }}'
    )


def start(stage):
    stage.relay.write(stage.relay.config.read_text().replace(*SHORT_EXPIRE))
    stage.relay.start()


def assert_waits(stage, ids, cycle):
    """After a cycle without a line: all queued, no attempt, no report, nothing sent, and a reason is given."""
    assert (cycle["sent"], cycle["deferred"], cycle["refused"]) == (0, 0, 0)
    assert cycle["error"], cycle
    messages = stage.relay.messages()
    assert len(messages) == len(ids), "a report was written"
    for message in messages:
        for recipient in message["recipients"]:
            assert (recipient["state"], recipient["attempts"]) == ("QUEUED", 0), recipient
    assert stage.world.mails == [] and stage.mailbox.mails == []


def assert_next_cycle_carries(stage, ids):
    """Longer than the expiry has passed without a line; now the line is up."""
    before = time.monotonic()
    wait.until(lambda: time.monotonic() - before > 1.2, "longer than retry.expire")
    cycle = stage.relay.run_cycle()
    assert cycle["sent"] == len(ids)
    stage.world.wait_for(len(ids))
    assert stage.world.ids() == Counter(ids)
    assert stage.mailbox.mails == [], "something was reported"
    assert {state for state, _ in stage.relay.recipients().values()} == {"DELIVERED"}


def test_implicit_connect_times_out(scene, line):
    """Must show: a line that is down, driver implicit, connect times out."""
    stage = scene(provider=False, relay=False, smart_host=line)
    line.get().blackhole()
    start(stage)
    ids = stage.send(5)
    for _ in range(2):
        assert_waits(stage, ids, stage.relay.run_cycle(expected="LINE_MISSING"))
    line.get().up()
    assert_next_cycle_carries(stage, ids)


def test_implicit_attempts_within_one_cycle(scene, line):
    """A line that comes up while it is being dialled: the first attempt fails, a later one succeeds, the outcome is
    COMPLETE, and the failed attempt is on the record."""
    dial = '{ driver = "implicit", patience = "1s", attempts = 3, pause = "100ms" }'
    stage = scene(provider=False, relay=False, smart_host=line, dial=dial)
    line.get().blackhole()
    stage.relay.start()
    ids = stage.send(2)
    started = stage.relay.client.call("CycleService/RunCycle", parent="links/isp")

    def first_failed():
        return stage.relay.client.call("CycleService/GetCycle", name=started["name"])["dial_attempts"]

    wait.until(first_failed, "a failed dial attempt")
    line.get().up()
    cycle = stage.relay.ended(started["name"])
    assert (cycle["outcome"], cycle["sent"]) == ("COMPLETE", 2)
    errors = [attempt["error"] for attempt in cycle["dial_attempts"]]
    assert errors[0] and not errors[-1], errors
    stage.world.wait_for(2)
    assert stage.world.ids() == Counter(ids)


@pytest.mark.parametrize("driver", ["implicit", "command"])
@pytest.mark.parametrize("answer", [dns.NXDOMAIN, dns.SERVFAIL, dns.SILENT])
def test_name_does_not_resolve(place, running, scene, driver, answer):
    """Must show: a line that is down, both drivers, name does not resolve, in each way a name server can fail; it is
    always temporary."""
    server = running(dns.Dns(place, answer))
    settings = {"dial": command("/bin/true")} if driver == "command" else {}
    stage = scene(
        provider=False,
        relay=False,
        wrapper=server.wrapper,
        smart_host=lambda far: f"mail.isp.example:{far.rsplit(':')[-1]}",
        **settings,
    )
    start(stage)
    ids = stage.send(3)
    assert_waits(stage, ids, stage.relay.run_cycle(expected="LINE_MISSING"))
    assert "mail.isp.example" in server.asked
    server.answer = place.address
    assert_next_cycle_carries(stage, ids)


def test_a_name_in_the_hosts_file_needs_no_name_server(place, running, scene):
    """A site may have its smart host in /etc/hosts, and no name server while the line is down: nothing waits for one."""
    server = running(dns.Dns(place, dns.SILENT))
    hosts = place.folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{place.address} mail.isp.example\n")
    own = ["unshare", "--mount", "sh", "-c", f"mount --bind '{hosts}' /etc/hosts && exec \"$@\"", "sh"]
    stage = scene(
        provider=False,
        wrapper=[*server.wrapper, *own],
        smart_host=lambda far: f"mail.isp.example:{far.rsplit(':')[-1]}",
    )
    stage.send(1)
    assert stage.relay.run_cycle()["sent"] == 1
    assert server.asked == []


def test_command_driver_fails(place, scene):
    """Must show: a line that is down, driver command, the program fails: its output is kept."""
    up = program(
        place, "up", f'test -e {place.folder}/line && exit 0; echo "NO CARRIER"; echo "tried /dev/ttyS0" >&2; exit 3'
    )
    stage = scene(provider=False, relay=False, dial=command(up))
    start(stage)
    ids = stage.send(5)
    cycle = stage.relay.run_cycle(expected="LINE_MISSING")
    assert_waits(stage, ids, cycle)
    [attempt] = cycle["dial_attempts"]
    assert "NO CARRIER" in attempt["output"] and "tried /dev/ttyS0" in attempt["output"], attempt
    (place.folder / "line").touch()
    assert_next_cycle_carries(stage, ids)


def alive(mark):
    """Processes, zombies too, whose command line has `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "cmdline").read_bytes():
                found.append(path.name)
        except OSError:
            pass
    return found


def test_command_driver_hangs(place, scene):
    """Must show: a line that is down, driver command, the program hangs: it is killed when its time is over, with what
    it started, and reaped."""
    mark = f"hang-{os.getpid()}-{place.address}"
    up = program(
        place,
        mark,
        (
            f"test -e {place.folder}/line && exit 0\ntrap '' TERM INT HUP\necho dialling\n"
            f"sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' {mark} &\nwhile :; do sleep 0.1; done"
        ),
    )
    stage = scene(provider=False, relay=False, dial=command(up, timeout="1s"))
    start(stage)
    ids = stage.send(5)
    cycle = stage.relay.run_cycle(expected="LINE_MISSING")
    assert_waits(stage, ids, cycle)
    assert 1.0 <= seconds_between(cycle["start_time"], cycle["end_time"]) < 8.0
    assert "dialling" in cycle["dial_attempts"][0]["output"]
    wait.until(lambda: not alive(mark), lambda: f"{alive(mark)} still runs", 5)
    children = Path(f"/proc/{stage.relay.pid}/task/{stage.relay.pid}/children").read_text().split()
    assert children == [], "not reaped"
    (place.folder / "line").touch()
    assert_next_cycle_carries(stage, ids)


def test_command_driver_connect_times_out(place, scene, line):
    """Must show: a line that is down, driver command, connect times out though the program succeeded; the line is hung
    up again."""
    log = place.folder / "calls"
    up, down = program(place, "up", f"echo up >> {log}"), program(place, "down", f"echo down >> {log}")
    stage = scene(provider=False, relay=False, smart_host=line, dial=command(up, down))
    line.get().blackhole()
    start(stage)
    ids = stage.send(5)
    assert_waits(stage, ids, stage.relay.run_cycle(expected="LINE_MISSING"))
    assert log.read_text() == "up\ndown\n"
    line.get().up()
    assert_next_cycle_carries(stage, ids)
    assert log.read_text() == "up\ndown\n" * 2


def test_refused_connect_is_an_attempt(scene, line):
    """The other side of the table: a refused connection is an attempt and is counted; still nothing bounces."""
    stage = scene(provider=False, relay=False, smart_host=line)
    line.get().refuse()
    stage.relay.start()
    ids = stage.send(2)
    cycle = stage.relay.run_cycle(expected="INCOMPLETE")
    assert cycle["sent"] == 0
    states = [(one["state"], one["attempts"]) for message in stage.relay.messages() for one in message["recipients"]]
    assert states == [("QUEUED", 1)] * 2
    line.get().up()
    wait.until(lambda: stage.relay.run_cycle()["sent"] or stage.world.mails, "the retry is due after 1 s")
    stage.world.wait_for(2)
    assert stage.world.ids() == Counter(ids)


def test_lost_before_the_greeting_is_the_line(scene, line):
    """Connections that are lost before the greeting are a missing line."""
    stage = scene(provider=False, relay=False, smart_host=line)
    line.get().drop()
    start(stage)
    ids = stage.send(2)
    assert_waits(stage, ids, stage.relay.run_cycle(expected="LINE_MISSING"))
    line.get().up()
    assert_next_cycle_carries(stage, ids)


def test_no_greeting_in_time_is_no_bounce(scene, line):
    """A far end that accepts and never greets holds a cycle for a bounded time, and nothing is lost."""
    stage = scene(provider=False, relay=False, smart_host=line)
    line.get().silent()
    start(stage)
    ids = stage.send(2)
    started = stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
    wait.until(lambda: line.get().held, "the relay connects")
    line.get().up()
    cycle = stage.relay.ended(started["name"])
    assert cycle["outcome"] != "INTERRUPTED"
    wait.until(lambda: stage.world.mails or stage.relay.run_cycle()["sent"], "carried by this cycle or a later one")
    stage.world.wait_for(2)
    assert stage.world.ids() == Counter(ids)
    assert stage.mailbox.mails == []


def test_stop_while_dialling(place, scene):
    """SIGTERM while a dial program hangs: the relay still stops in time with exit 0, and the cycle is INTERRUPTED."""
    mark = f"hang-{os.getpid()}-{place.address}"
    up = program(place, mark, "while :; do sleep 0.1; done")
    stage = scene(provider=False, dial=command(up, timeout="600s"))
    ids = stage.send(1)
    started = stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
    wait.until(lambda: alive(mark), "the dial program runs")
    assert stage.relay.terminate(seconds=15) == 0
    assert alive(mark) == []
    stage.relay.start()
    cycle = stage.relay.client.call("CycleService/GetCycle", name=started["name"])
    assert (cycle["phase"], cycle["outcome"]) == ("ENDED", "INTERRUPTED")
    assert_waits(stage, ids, cycle | {"error": cycle["error"] or "stopped"})


def test_stop_while_dialling_hangs_up_what_was_dialled(place, scene):
    """The dial program may have brought the line up already: the one that hangs up runs to its end, however long it takes."""
    mark = f"half-{os.getpid()}-{place.address}"
    up = program(place, mark, "while :; do sleep 0.1; done")
    done = place.folder / "down"
    down = program(place, "down.sh", f"sleep 10; touch {done}")
    stage = scene(provider=False, dial=command(up, down=down, timeout="600s"))
    stage.send(1)
    stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
    wait.until(lambda: alive(mark), "the dial program runs")
    assert stage.relay.terminate(seconds=25) == 0
    assert done.exists()
