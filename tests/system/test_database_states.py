"""The spool in PostgreSQL: the table of docs/02-spool.md, walked. After each statement that a relay changes messages by, and
after each commit, some relay dies and others lose their connection, before the server heard of it or after it did it."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import smtp, states, wait
from harness.grpc_client import Failure
from harness.peer import Peer
from harness.pg_proxy import AFTER, BEFORE, KILL, Proxy
from harness.place import Place
from harness.postgres import Postgres
from harness.relay import Relay

AT_ONCE = 4
COLUMNS = ["with PostgreSQL, while", "the last step", "a crash after it leaves", "who cleans up", "the connection breaks"]


def content(size):
    return smtp.message(id=f"of-{size}@test.example", body="x" * 70 + ("\n" + "y" * 70) * (size // 72))[0]


# The second is a row of `large_bodies`, and four pieces.
SCENARIOS = {"a small body": (content(200), False), "a large body": (content(200_000), False), "outcomes of it": (content(200_000), True)}


class Run:
    """A relay in a place of its own, with a database of its own of `server`, behind a proxy."""

    def __init__(self, server, name):
        self.place, self.server, self.name = Place("step"), server, name
        self.peer = Peer(f"{self.place.address}:0")
        server.value(f"create database {name}")
        self.proxy = Proxy(self.place.folder / "pg", server.folder)
        self.relay = Relay(self.place, self.peer.endpoint, self.peer.endpoint)
        url = f"postgres://linkmail@localhost/{name}?host={self.proxy.folder}"
        self.relay.write(f'spool = "{url}"\n' + self.relay.config.read_text())
        self.relay.start()

    def end(self):
        if self.relay.process is not None:
            self.relay.process.kill()
            self.relay.process.wait(timeout=10)
        self.proxy.stop()
        self.peer.stop()
        self.place.remove()

    def value(self, sql):
        return self.server.value(sql, database=self.name)

    def number(self, sql):
        return int(self.value(f"select count(*) from {sql}"))

    def submit(self, octets):
        """The reply, or nothing if the connection broke."""
        try:
            with smtp.Dialogue(self.relay.site) as dialogue:
                dialogue.expect(250, "EHLO client.branch.example")
                return dialogue.transaction("alice@branch.example", ["bob@remote.example"], smtp.stuffed(octets)) or None
        except (OSError, AssertionError):
            return None

    def cycle(self):
        """Whether one came to its end."""

        def begun():
            try:
                return self.relay.client.call("CycleService/RunCycle", parent="links/isp")["name"]
            except Failure:
                assert self.relay.process.poll() is None
                return None

        try:
            return self.relay.ended(wait.until(begun, "the lease of the link", 25))
        except (Failure, AssertionError):
            return None

    def left(self):
        """What lies in the database, as the table says it."""
        self.has_ended()
        told = []
        if self.number("messages"):
            told.append("the message" + (", delivered" if self.number("recipients where state = 2") else ""))
        unnamed = "large_bodies where not exists (select 1 from messages where body_file = name)"
        if self.number(unnamed):
            told.append("a body")
        assert self.number("recipients") == self.number("messages"), "half a message"
        return " and ".join(told) or "nothing"

    def has_ended(self):
        clients = f"pg_stat_activity where application_name = 'linkmail' and datname = '{self.name}'"
        wait.until(lambda: self.number(clients) == 0, "the end of its connections")


def walked(server, name, at=0, how=None):
    """A run in which it happens at that step; the steps it took, and (step, what came of it)."""
    octets, delivers = SCENARIOS[name]
    run = Run(server, f"{name.replace(' ', '_')}_{at}_{[None, BEFORE, AFTER, KILL].index(how)}")
    try:
        if delivers:
            assert run.submit(octets) == 250
        run.proxy.arm(at, how, lambda: os.kill(run.relay.pid, signal.SIGKILL))
        heard = run.cycle() and "it goes on" if delivers else run.submit(octets)
        run.proxy.disarm()
        steps = run.proxy.steps
        assert how is None or run.proxy.hit.is_set(), f"{heard}, only {steps}; {run.relay.log_text()[-2000:]}"
        if how == KILL:
            assert run.relay.ended_by_itself() == -signal.SIGKILL
            left = run.left()
            # As if they had waited for the end of its leases, and a day for that of its bodies.
            run.value("update leases set expires_ms = 0")
            run.value("update large_bodies set created_ms = 0")
            run.relay.start()
            came = left
        else:
            came = str(heard)
            if delivers:
                # Whose commit was done and not answered knows nothing more of its body.
                run.value("update large_bodies set created_ms = 0")
                assert run.relay.terminate() == 0
                run.relay.start()
        try:
            settle(run, octets)
        except AssertionError as error:
            raise AssertionError(f"{name}, step {at} {steps[at - 1 : at]} {how}: {error}; {run.relay.log_text()[-2000:]}") from error
        return steps, (steps[at - 1], how, came) if how else None
    finally:
        run.end()


def settle(run, octets):
    """What is there is sent with its content, but not what has its outcome, and leaves nothing."""
    before, waiting = len(run.peer.bodies), run.number("recipients where state = 1")
    if waiting:
        assert run.cycle()
    assert len(run.peer.bodies) == before + waiting
    assert all(body.endswith(octets) for body in run.peer.bodies)
    assert run.number("messages") <= 1, "one message was stored twice"
    wait.until(lambda: run.number("large_bodies") + run.number("body_chunks") + run.number("bodies") == 0, "no body", 25)


def rows(name, seen):
    """What was seen as rows of the table, in the order of the steps."""
    found = {}
    for step, how, came in seen:
        row = found.setdefault(step, {column: set() for column in COLUMNS[2:]})
        if how == KILL:
            row["a crash after it leaves"].add(came)
            row["who cleans up"].add("a day's sweep" if "a body" in came else "")
        else:
            row["the connection breaks"].add(came)
    return [
        dict(zip(COLUMNS, [name, step, *(", or ".join(sorted(row[column])) for column in COLUMNS[2:])]))
        for step, row in found.items()
    ]


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_statement_leaves_what_the_table_says(place, running, name):
    """Must show: a relay that dies after any statement leaves what the table says, and the next start sends what was accepted
    and has no body that nobody needs; one whose connection breaks before or after the statement goes on, stores one message
    and not two, and the client hears what the table says."""
    server = running(Postgres(place, synced=False)).start()
    clean, _ = walked(server, name)
    runs = [(at, how) for at in range(1, len(clean) + 1) for how in (BEFORE, AFTER, KILL)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        seen = [one for _, one in pool.map(lambda run: walked(server, name, *run), runs)]
    found = rows(name, seen)
    print(f"{len(runs)} runs")
    print("\n".join("| " + " | ".join(row.values()) + " |" for row in found))
    assert found == [row for row in states.table(COLUMNS[0]) if row[COLUMNS[0]] == name]
