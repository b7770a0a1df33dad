"""The disk of the spool is full, or dies: what was answered 250 is kept, and nothing more is answered 250."""

import re
import threading

import pytest

from harness import smtp, wait
from harness.grpc_client import failure
from harness.loop_disk import LoopDisk
from harness.peer import Peer

CLIENTS = 4
# Of a message in the database, of one in a file of its own.
SMALL, LARGE = 3_000, 150_000


def text_of(size):
    return "x" * 70 + ("\n" + "y" * 70) * (size // 72)


def arrived(peer):
    """The Message-IDs that came, each so often as it came."""
    return sorted(re.search(rb"Message-ID: <([^>]*)>", body).group(1).decode() for body in peer.bodies)


class Client(threading.Thread):
    """Hands in messages of these sizes in turn until one is not taken; notes the Message-IDs of those that were, and the
    (code, [text, …]) of the one that was not; (0, []) is a connection that broke."""

    def __init__(self, endpoint, sizes):
        super().__init__(daemon=True)
        self._endpoint, self._sizes = endpoint, sizes
        self.accepted, self.refused, self.fault = [], None, None

    def run(self):
        try:
            with smtp.Dialogue(self._endpoint, timeout=60) as dialogue:
                dialogue.expect(250, "EHLO client.branch.example")
                while self.refused is None:
                    size = self._sizes[len(self.accepted) % len(self._sizes)]
                    content, id = smtp.message(body=text_of(size))
                    self._hand_in(dialogue, content, id)
        except OSError:
            self.refused = (0, [])
        except AssertionError as error:
            # Whatever else went wrong is told by who asks for `answer`.
            self.fault = error

    def _hand_in(self, dialogue, content, id):
        dialogue.send(b"MAIL FROM:<alice@branch.example>\r\nRCPT TO:<bob@remote.example>\r\nDATA\r\n")
        for code in (250, 250, 354):
            answer = dialogue.reply()
            if answer[0] != code:
                self.refused = answer
                return
        dialogue.send(smtp.stuffed(content))
        answer = dialogue.reply()
        if answer[0] == 250:
            self.accepted.append(id)
        else:
            self.refused = answer

    def answer(self):
        """Waits for its end; how the last one was refused."""
        self.join(timeout=120)
        assert not self.is_alive() and self.fault is None, self.fault
        return self.refused


def load(stage, sizes, clients=CLIENTS):
    clients = [Client(stage.relay.site, sizes) for _ in range(clients)]
    for client in clients:
        client.start()
    return clients


# Of a disk of some tens of megabytes.
RESERVE = '[limits]\nreserve = "8MiB"\n'


def fill_up(stage):
    """Clients hand in until nothing more is taken; the Message-IDs of what was. Each refusal must be 452 4.3.1."""
    # A large one may find no room where a small one still does.
    clients = []
    for sizes in ([LARGE, SMALL], [SMALL]):
        clients += (more := load(stage, sizes))
        answers = [client.answer() for client in more]
        assert {(code, text[0][:5]) for code, text in answers} == {(452, "4.3.1")}, answers
    return sorted(id for client in clients for id in client.accepted)


def refused_over_grpc(stage):
    content, _ = smtp.message()
    submission = {"reverse_path": "alice@branch.example", "recipients": ["bob@remote.example"], "content": content}
    refusal = failure(stage.relay.client.call, "MessageService/SubmitMessage", **submission)
    return refusal.code, refusal.reason


def test_a_full_disk_refuses_and_goes_on_once_there_is_room(place, scene, running):
    """Must show: a spool on a full disk says 452 4.3.1 and RESOURCE_EXHAUSTED; with room it sends what it has and accepts
    again, without a restart; nothing is lost, nothing comes twice."""
    disk = running(LoopDisk(place, size=40))
    taken = disk.occupy(8)
    far = place.endpoint()
    stage = scene(provider=False, smart_host=lambda _: far, state=disk.folder / "state", extra=RESERVE)
    accepted = fill_up(stage)
    assert len(accepted) > 50, "the disk was small"
    assert refused_over_grpc(stage) == ("RESOURCE_EXHAUSTED", "SPOOL_FULL")
    peer = running(Peer(far))

    taken.unlink()
    accepted += stage.send(5)
    stage.relay.run_cycle()
    assert arrived(peer) == sorted(accepted)
    assert stage.relay.outcomes() == {("DELIVERED", 1): len(accepted)}


@pytest.mark.parametrize("to", ["link:isp", "smtp://{far}"])
def test_a_full_disk_drains(place, scene, running, to):
    """Must show: a spool that mail has filled up sends that mail, and takes more as room comes back."""
    disk = running(LoopDisk(place, size=24))
    far = place.endpoint()
    state = disk.folder / "state"
    stage = scene(provider=False, relay=False, smart_host=lambda _: far, state=state, extra=RESERVE)
    stage.relay.write(stage.relay.config.read_text().replace('to = "link:isp"', f'to = "{to.format(far=far)}"'))
    stage.relay.start()
    accepted = fill_up(stage)
    peer = running(Peer(far))
    if to.startswith("link"):
        ran = stage.relay.cli("cycle", "run", "isp")
        assert ran.returncode == 0, ran.stderr
    wait.until(lambda: len(peer.bodies) >= len(accepted), lambda: f"{len(peer.bodies)} of {len(accepted)}", 10)
    stage.send(1)
    assert arrived(peer)[: len(accepted)] == accepted


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_sync_that_fails_ends_the_process(place, scene, running, size):
    """Must show: after a commit whose sync failed nothing is answered 250 and the process ends with 74; with the disk
    repaired, a restart has everything that was answered 250, and delivers it once."""
    disk = running(LoopDisk(place, size=96, room=24))
    far = place.endpoint()
    stage = scene(provider=False, smart_host=lambda _: far, state=disk.folder / "state", extra=RESERVE)
    clients = load(stage, [size])
    assert stage.relay.ended_by_itself(60) == 74
    answers = [client.answer() for client in clients]
    assert {code for code, _ in answers} == {0}, answers
    accepted = sorted(id for client in clients for id in client.accepted)
    assert len(accepted) > 20, "the disk was broken from the start"

    disk.repair()
    stage.relay.start()
    peer = running(Peer(far))
    stage.relay.run_cycles()
    came = arrived(peer)
    assert set(accepted) <= set(came), "accepted and lost"
    assert len(came) == len(set(came)), "delivered twice"
    assert len(set(came) - set(accepted)) <= CLIENTS, "more than was in flight"


def test_a_failed_sync_of_the_folder_of_bodies_ends_the_process(place, scene):
    """Must show: a failed sync is fatal where it is that of a body, too: the next one would say nothing of what was lost."""
    bodies = place.folder / "state" / "bodies"
    bodies.mkdir(parents=True)
    fail = ("strace", "-f", "-o", place.folder / "strace.out", "-P", bodies, "-e", "inject=fsync:error=EIO")
    stage = scene(provider=False, wrapper=[str(part) for part in fail])
    [client] = load(stage, [LARGE], clients=1)
    answer = client.answer()
    assert client.accepted == [] and "EIO" in (place.folder / "strace.out").read_text(), "the sync did not fail"
    assert answer == (0, [])
    assert stage.relay.ended_by_itself() == 74
