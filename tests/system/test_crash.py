"""kill -9 at random moments, under load and while mail is delivered: what a crash may repeat, and what it may not do.

CRASH_ROUNDS is how often the relay is killed, 5 unless given; CRASH_SEED makes the same choices again:

    CRASH_ROUNDS=50 tests/run system -k kill_at_random -s
"""

import contextlib
import os
import random
import re
import shutil
import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass, field

import pytest

from harness import smtp, wait
from harness.peer import Peer

CLIENTS = 6
DELIVERED = 2
# How far a round goes before its kill: messages accepted and recipients served, together. By the least of it some client
# has its 250.
STEPS = (20, 400)


@dataclass
class Crash:
    """What was there when the relay had been killed: (id, end) of each recipient whose outcome the spool had recorded, of
    each that it had not; how much had come to each end."""

    recorded: set
    unrecorded: set
    came: dict


@dataclass
class History:
    """A run: Message-IDs that clients attempted, and that got 250; what came to each end, in order."""

    attempted: set = field(default_factory=set)
    accepted: set = field(default_factory=set)
    came: dict = field(default_factory=dict)
    crashes: list = field(default_factory=list)


# The two ends: a fixed host, and one over a link. Each message goes to both.
ENDS = {"site": "branch.example", "world": "remote.example"}


def judge(history):
    """(faults, explained): what must not be, as text, and how many repeats a crash explains: the message had come before it,
    and its outcome was not in the spool when the relay had been killed."""
    faults, explained = [], 0
    for end, ids in history.came.items():
        faults += [f"{id}: accepted and lost to {end}" for id in history.accepted - set(ids)]
        faults += [f"{id}: never handed in, came to {end}" for id in set(ids) - history.attempted]
        for number, crash in enumerate(history.crashes):
            later = Counter(ids[crash.came[end] :])
            faults += [
                f"{id}: to {end} again, recorded before crash {number}" for id in later if (id, end) in crash.recorded
            ]
        last = {}
        for place, id in enumerate(ids):
            if id in last:
                between = [one for one in history.crashes if last[id] < one.came[end] <= place]
                if any((id, end) in one.unrecorded for one in between):
                    explained += 1
                else:
                    faults.append(f"{id}: to {end} twice without a crash that explains it")
            last[id] = place
    return faults, explained


class World:
    """A relay between clients that never rest and two ends that take everything."""

    def __init__(self, place, scene, running, chosen):
        self.history, self._chosen, self._place = History(), chosen, place
        self.peers = {end: running(Peer(place.endpoint())) for end in ENDS}
        self.stage = scene(provider=False, relay=False, smart_host=lambda _: self.peers["world"].endpoint)
        relay = self.stage.relay
        relay.write(
            relay.config.read_text().replace(
                f"smtp://{self.stage.mailbox.endpoint}", f"smtp://{self.peers['site'].endpoint}"
            )
        )
        self.over = threading.Event()

    def came(self, end):
        return [re.search(rb"Message-ID: <([^>]*)>", body).group(1).decode() for body in list(self.peers[end].bodies)]

    def progress(self):
        return len(self.history.accepted) + sum(len(peer.bodies) for peer in self.peers.values())

    def client(self, seed):
        """Hands in one message after the other, over connections that break whenever the relay is killed."""
        chosen = random.Random(seed)
        while not self.over.is_set():
            with contextlib.suppress(OSError, AssertionError), smtp.Dialogue(self.stage.relay.site) as dialogue:
                dialogue.expect(250, "EHLO client.branch.example")
                while not self.over.is_set():
                    # In the database, and in a file of its own.
                    size = chosen.choice([100, 2_000, 100_000])
                    content, id = smtp.message(body="x" * 70 + ("\n" + "y" * 70) * (size // 72))
                    local = id.split("@")[0]
                    self.history.attempted.add(id)
                    recipients = [f"{local}@{domain}" for domain in ENDS.values()]
                    code = dialogue.transaction("alice@branch.example", recipients, smtp.stuffed(content))
                    assert code == 250, f"answered {code}"
                    self.history.accepted.add(id)

    def crash(self, number, tamper):
        """One round: up to a random point of progress, kill, look, start."""
        relay = self.stage.relay
        relay.client.call("CycleService/RunCycle", parent="links/isp")
        goal = self.progress() + self._chosen.randint(*STEPS)
        wait.until(lambda: self.progress() >= goal, lambda: f"progress {self.progress()} of {goal}", 30)
        relay.kill()
        # What had left the relay has arrived.
        wait.until(lambda: not any(peer.open for peer in self.peers.values()), "the end of every session")
        crash = self.look(number)
        missing = {id for id in self.history.accepted if (id, "site") not in crash.recorded | crash.unrecorded}
        assert not missing, f"accepted and not in the spool: {missing}"
        self.history.crashes.append(crash)
        tamper(self)
        relay.start()

    def look(self, number):
        """Reads a copy of the spool: whoever opens it repairs it, and the relay is to do that itself."""
        copy = self._place.folder / f"crash-{number}"
        copy.mkdir()
        for file in self.stage.relay.state.glob("spool.sqlite*"):
            shutil.copy(file, copy)
        rows = sqlite3.connect(copy / "spool.sqlite").execute("SELECT address, state FROM recipients").fetchall()
        shutil.rmtree(copy)
        states = {}
        for address, state in rows:
            local, domain = address.decode().split("@")
            end = next(end for end, of_end in ENDS.items() if of_end == domain)
            states[f"{local}@test.example", end] = state
        assert set(states.values()) <= {1, DELIVERED}, Counter(states.values())
        return Crash(
            {key for key, state in states.items() if state == DELIVERED},
            {key for key, state in states.items() if state != DELIVERED},
            {end: len(peer.bodies) for end, peer in self.peers.items()},
        )

    def run(self, rounds, tamper):
        self.stage.relay.start()
        clients = [threading.Thread(target=self.client, args=(self._chosen.random(),), daemon=True) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            for number in range(rounds):
                self.crash(number, tamper)
        finally:
            self.over.set()
            for client in clients:
                client.join(timeout=30)
                assert not client.is_alive()
        self.stage.relay.run_cycles()
        self.history.came = {end: self.came(end) for end in ENDS}
        return judge(self.history)


def of_world(*ids, crash=None, accepted=("a",)):
    """A history in which these came to the world, and its only crash."""
    return History({"a", "b"}, set(accepted), {"world": list(ids)}, [crash] if crash else [])


IN_FLIGHT = Crash(set(), {("a", "world")}, {"world": 1})
RECORDED = Crash({("a", "world")}, set(), {"world": 1})


@pytest.mark.parametrize(
    ("history", "faults", "explained"),
    [
        (of_world("a", "b"), [], 0),
        (of_world("a", "a", crash=IN_FLIGHT), [], 1),
        (of_world("a", "a", "a", crash=IN_FLIGHT), ["a: to world twice without a crash that explains it"], 1),
        (of_world("a", "a"), ["a: to world twice without a crash that explains it"], 0),
        (of_world("b", crash=IN_FLIGHT), ["a: accepted and lost to world"], 0),
        (of_world("a", "c"), ["c: never handed in, came to world"], 0),
        (
            of_world("a", "a", crash=RECORDED),
            ["a: to world again, recorded before crash 0", "a: to world twice without a crash that explains it"],
            0,
        ),
    ],
)
def test_what_a_crash_explains(history, faults, explained):
    """The check itself: a repeat is explained by a crash between both, before which it had come and was not recorded."""
    assert judge(history) == (faults, explained)


def seeded():
    seed = int(os.environ.get("CRASH_SEED", random.randrange(2**32)))
    print(f"CRASH_SEED={seed}")
    return random.Random(seed)


def untouched(_world):
    """The spool as the crash left it."""


def test_kill_at_random_moments(place, scene, running):
    """Must show: however often and whenever the relay is killed, no accepted message is lost, no recipient whose outcome was
    recorded gets a message again, and each repeat was in flight and not recorded."""
    world = World(place, scene, running, seeded())
    rounds = int(os.environ.get("CRASH_ROUNDS", 5))
    faults, explained = world.run(rounds, untouched)
    came = {end: len(ids) for end, ids in world.history.came.items()}
    print(f"{rounds} kills, {len(world.history.accepted)} accepted, came {came}, {explained} repeats that crashes explain")
    assert faults == []
    left = [path.name for path in (world.stage.relay.state / "bodies").iterdir()]
    assert left == [], "bodies without a message"


def change(world, sql, *values):
    """Changes the spool of a relay that was killed."""
    with contextlib.closing(sqlite3.connect(world.stage.relay.state / "spool.sqlite")) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute(sql, values)


def forget_outcomes(world):
    """As if outcomes had never been recorded."""
    change(
        world,
        "UPDATE recipients SET state = 1 WHERE state = 2 AND seq IN (SELECT seq FROM messages WHERE done_ms IS NULL)",
    )


def lose_a_message(world):
    """As if a commit had not been durable."""
    address = f"{min(world.history.accepted).split('@')[0]}@{ENDS['site']}".encode()
    change(world, "DELETE FROM messages WHERE seq = (SELECT seq FROM recipients WHERE address = ?)", address)


def test_the_check_finds_what_is_sent_again(place, scene, running):
    """Must show: the same check with outcomes that are undone behind the relay's back fails."""
    faults, _ = World(place, scene, running, seeded()).run(5, forget_outcomes)
    assert any("recorded before crash" in fault for fault in faults), faults[:5]


def test_the_check_finds_what_is_lost(place, scene, running):
    """Must show: the same check with a message that is taken away behind the relay's back fails."""
    with pytest.raises(AssertionError, match="accepted and not in the spool"):
        World(place, scene, running, seeded()).run(2, lose_a_message)
