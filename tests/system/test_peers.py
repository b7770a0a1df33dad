"""Smart hosts with habits: limits per session, stalls, a disk that is full on our side."""

import contextlib
import re
import subprocess
import threading

import pytest

from harness import smtp, wait
from harness.peer import Peer
from harness.relay import Relay


def subjects(bodies):
    return sorted(re.search(rb"Message-ID: <([^>]*)>", body, re.I).group(1).decode() for body in bodies)


def test_a_limit_of_messages_per_session(place, scene, running):
    """A host that takes three messages per connection gets four connections in one cycle; no attempt is counted for what
    stood behind its 421."""
    peer = running(Peer(place.endpoint(), per_session=3))
    stage = scene(provider=False, smart_host=lambda far: peer.endpoint, connections=1)
    ids = stage.send(10)

    cycle = stage.relay.run_cycle()

    assert (cycle["sent"], cycle["deferred"], cycle["error"]) == (10, 0, "")
    assert subjects(peer.bodies) == sorted(ids)
    assert peer.sessions == 4
    attempts = [one["attempts"] for message in stage.relay.messages() for one in message["recipients"]]
    assert attempts == [1] * 10


def test_a_fixed_host_gets_as_many_connections_as_the_mail_justifies(place, running):
    """Mail that came while the first session was busy goes over others beside it, up to the number of its [[host]]."""
    host = running(Peer(place.endpoint()))
    host.on_body = lambda: wait.until(lambda: host.most_open >= 3, lambda: f"{host.open} connections")
    extra = f'[[host]]\nat = "smtp://{host.endpoint}"\nconnections = 3\n'
    relay = running(Relay(place, host.endpoint, place.endpoint(), extra=extra)).start()
    ids = set()
    for _ in range(12):
        content, id = smtp.message()
        smtp.submit(relay.site, "alice@branch.example", ["user@branch.example"], content)
        ids.add(id)

    wait.until(lambda: len(host.bodies) == 12, lambda: f"{len(host.bodies)} messages")

    assert subjects(host.bodies) == sorted(ids)
    assert host.most_open == 3


def test_stop_with_a_stalled_peer(place, scene, running):
    """SIGTERM while the smart host never answers: the line is hung up by its program and the message is kept."""
    peer = running(Peer(place.endpoint(), stall=True))
    hung_up = place.folder / "hung-up"
    down = place.folder / "down"
    down.write_text(f"#!/bin/sh\ntouch {hung_up}\n")
    down.chmod(0o755)
    dial = f'{{ driver = "command", up = ["/bin/true"], down = ["{down}"], timeout = "5s" }}'
    stage = scene(provider=False, smart_host=lambda far: peer.endpoint, dial=dial)
    stage.send(1)
    started = stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
    assert peer.stalled.wait(30)

    assert stage.relay.terminate(seconds=24) == 0

    assert hung_up.exists()
    peer.stall = False
    stage.relay.start()
    assert stage.relay.ended(started["name"])["outcome"] == "INTERRUPTED"
    stage.relay.run_cycle()
    assert len(peer.bodies) == 1


# A disk that others fill up is full for the queue, too.
NO_RESERVE = '[limits]\nreserve = "0B"\n'


@pytest.fixture
def small_disk(place):
    """A folder on a disk of 24 MiB."""
    folder = place.folder / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(filler):
    """Writes until nothing more fits."""
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as out:
        while out.write(b"x" * 512):
            pass


def test_a_disk_that_fills_up_sends_nothing_twice(place, scene, running, small_disk):
    """What was delivered while its outcome could not be recorded is not sent again; with room it goes on."""
    peer = running(Peer(place.endpoint()))
    stage = scene(provider=False, smart_host=lambda far: peer.endpoint, state=small_disk / "state", extra=NO_RESERVE)
    ids = stage.send(200)
    filler = small_disk / "filler"
    full, one_at_a_time = threading.Event(), threading.Lock()

    def fill_once():
        with one_at_a_time:
            if not full.is_set():
                full.set()
                fill(filler)

    peer.on_body = fill_once
    stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
    assert full.wait(30)
    for _ in range(3):
        # Whether a cycle can be kept and run at all now is not the point.
        stage.relay.cli("cycle", "run", "isp")
    assert len(peer.bodies) < len(ids), "the disk was not full"
    filler.unlink()
    wait.until(lambda: stage.relay.cli("cycle", "run", "isp").returncode == 0, "a complete cycle")
    assert subjects(peer.bodies) == sorted(ids)


def test_a_body_that_is_gone_ends_no_cycle_and_hangs_none(place, scene, running):
    """The only message of a link has lost its body file: it is set aside, and the cycle ends."""
    peer = running(Peer(place.endpoint()))
    stage = scene(provider=False, smart_host=lambda far: peer.endpoint)
    stage.send(1, body="\n".join(["x" * 70] * 2000))
    (body,) = (stage.relay.state / "bodies").iterdir()
    body.unlink()

    stage.relay.run_cycle()

    assert stage.relay.recipients()["bob@remote.example"][0] == "SET_ASIDE"
    assert peer.bodies == []
