"""kill -9 at random moments, under load and while mail is delivered: what a crash may repeat, and what it may not do.

CRASH_ROUNDS is how often the relay is killed, unless given as `ENGINES` says; CRASH_SEED makes the same choices again:

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

import pytest

from harness import smtp, wait
from harness.account import Crash, History, judge
from harness.grpc_client import Failure
from harness.peer import Peer
from harness.postgres import Postgres

CLIENTS = 6
DELIVERED = 2
# How far a round goes before its kill: messages accepted and recipients served, together. By the least of it some client
# has its 250.
STEPS = (20, 400)


# The two ends: a fixed host, and one over a link. Each message goes to both.
ENDS = {"site": "branch.example", "world": "remote.example"}


class Folder:
    """The spool in the folder of the relay."""

    def __init__(self, place, _running):
        self._folder = place.folder

    def configure(self, relay):
        self._state = relay.state

    def rows(self):
        """(address, state) of each recipient, by a copy: whoever opens a spool repairs it, and the relay is to do that
        itself."""
        copy = self._folder / "copy"
        copy.mkdir()
        for file in self._state.glob("spool.sqlite*"):
            shutil.copy(file, copy)
        rows = sqlite3.connect(copy / "spool.sqlite").execute("SELECT address, state FROM recipients").fetchall()
        shutil.rmtree(copy)
        return [(address.decode(), state) for address, state in rows]

    def left(self, _relay):
        """Large bodies, at the end."""
        return [path.name for path in (self._state / "bodies").iterdir()]


class Database:
    """The spool in PostgreSQL."""

    def __init__(self, place, running):
        self._server = running(Postgres(place)).start()

    def configure(self, relay):
        relay.write(f'spool = "{self._server.url}"\n' + relay.config.read_text())

    def rows(self):
        # A commit that was on its way is done, or not.
        clients = "select count(*) from pg_stat_activity where application_name = 'linkmail'"
        wait.until(lambda: self._server.value(clients) == "0", "the end of its connections")
        # As if they had waited for the end of its leases.
        self._server.value("update leases set expires_ms = 0")
        rows = self._server.value("select encode(address, 'escape'), state from recipients").splitlines()
        return [(address, int(state)) for address, state in (row.split("|") for row in rows)]

    def left(self, relay):
        # What a crash left there is swept once it is a day old.
        self._server.value("update large_bodies set created_ms = 0")
        assert relay.terminate() == 0
        relay.start()
        count = "select count(*) from large_bodies"
        wait.until(lambda: self._server.value(count) == "0", lambda: f"no body; {self._server.value(count)}", 30)
        return self._server.value("select name from body_chunks").splitlines()


# How often the relay is killed, unless CRASH_ROUNDS says so.
ENGINES = {Folder: 5, Database: 10}


class World:
    """A relay between clients that never rest and two ends that take everything."""

    def __init__(self, place, scene, running, chosen, engine=Folder):
        self.history, self._chosen = History(), chosen
        self.spool = engine(place, running)
        self.peers = {end: running(Peer(place.endpoint())) for end in ENDS}
        self.stage = scene(provider=False, relay=False, smart_host=lambda _: self.peers["world"].endpoint)
        relay = self.stage.relay
        relay.write(
            relay.config.read_text().replace(
                f"smtp://{self.stage.mailbox.endpoint}", f"smtp://{self.peers['site'].endpoint}"
            )
        )
        self.spool.configure(relay)
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

    def begin_cycle(self):
        try:
            return self.stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
        except Failure as failed:
            assert failed.code == "UNAVAILABLE", failed
            return None

    def crash(self, tamper):
        """One round: up to a random point of progress, kill, look, start."""
        relay = self.stage.relay
        # A database may still be asked for the lease of the link.
        wait.until(self.begin_cycle, "a cycle")
        goal = self.progress() + self._chosen.randint(*STEPS)
        wait.until(lambda: self.progress() >= goal, lambda: f"progress {self.progress()} of {goal}", 30)
        relay.kill()
        # What had left the relay has arrived.
        wait.until(lambda: not any(peer.open for peer in self.peers.values()), "the end of every session")
        crash = self.look()
        missing = {id for id in self.history.accepted if (id, "site") not in crash.recorded | crash.unrecorded}
        assert not missing, f"accepted and not in the spool: {missing}"
        self.history.crashes.append(crash)
        tamper(self)
        relay.start()

    def look(self):
        states = {}
        for address, state in self.spool.rows():
            local, domain = address.split("@")
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
            for _ in range(rounds):
                self.crash(tamper)
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


@pytest.mark.parametrize("engine", ENGINES)
def test_kill_at_random_moments(place, scene, running, engine):
    """Must show: however often and whenever the relay is killed, no accepted message is lost, no recipient whose outcome was
    recorded gets a message again, and each repeat was in flight and not recorded."""
    world = World(place, scene, running, seeded(), engine)
    rounds = int(os.environ.get("CRASH_ROUNDS", ENGINES[engine]))
    faults, explained = world.run(rounds, untouched)
    came = {end: len(ids) for end, ids in world.history.came.items()}
    print(f"{rounds} kills, {len(world.history.accepted)} accepted, came {came}, {explained} repeats that crashes explain")
    assert faults == []
    assert world.spool.left(world.stage.relay) == [], "bodies without a message"


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
