"""The spool in a folder: the table of docs/02-spool.md, walked. Each step that a relay takes on its files is the last one of
some relay, and fails in two others; what is left then, what the client heard, and what the start makes of it is what the table
says. The steps are those that are taken, not those that somebody thought of."""

import contextlib
import errno
import hashlib
import shutil
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import pytest

from harness import smtp, states, strace, wait
from harness.grpc_client import Failure
from harness.peer import Peer
from harness.place import Place
from harness.relay import Relay
from harness.steps import LOG, Steps, built, said

ADDRESS = "bob@remote.example"
AT_ONCE = 4
QUEUED = 1
GOES_ON = "it goes on"
# Fewer octets are kept free, so that the log is moved into the database after 71 pages of it: more than the tables and two
# messages take, and fewer than these and a third.
SOON = '[limits]\nreserve = "2300KiB"\n'
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


def content(size):
    """Always the same, so that each run takes the same steps."""
    return smtp.message(id=f"of-{size}@test.example", body="x" * 70 + ("\n" + "y" * 70) * (size // 72))[0]


SMALL, LARGE = content(200), content(200_000)


@dataclass(frozen=True)
class Seen:
    """What came of a run that died at a step, or in which the step failed: what the table calls the scenario and the step, what
    that left, what cleaned up, and, where it failed, what came of that."""

    scenario: str
    step: str
    error: str
    left: str = ""
    cleaned: str = ""
    came: str = ""


class Run:
    """A relay in a place of its own, on a copy of the state folder `base`, with a far end that takes everything."""

    def __init__(self, library, base=None, wrapper=(), extra=""):
        self.place = Place("step")
        self.peer = Peer(f"{self.place.address}:0")
        self.state = self.place.folder / "state"
        if base:
            shutil.copytree(base, self.state)
        self.at = (0, 0)
        self.steps = Steps(self.place.folder, library, self.state)
        env = self.steps.environment
        far = self.peer.endpoint
        self.relay = Relay(self.place, far, far, state=self.state, extra=extra, env=env, wrapper=wrapper)

    def end(self):
        if self.relay.process is not None:
            self.relay.process.kill()
            self.relay.process.wait(timeout=10)
        self.peer.stop()
        self.place.remove()

    def submit(self, octets):
        """The reply, or nothing if the connection broke."""
        try:
            with smtp.Dialogue(self.relay.site) as dialogue:
                dialogue.expect(250, "EHLO client.branch.example")
                dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
                dialogue.expect(250, f"RCPT TO:<{ADDRESS}>")
                dialogue.expect(354, "DATA")
                dialogue.send(smtp.stuffed(octets))
                return dialogue.reply()[0] or None
        except (OSError, AssertionError):
            return None

    def look(self):
        """The messages, as (state, name of its file), and the names in bodies/; by a copy, which whoever opens it repairs. Each
        body that is still needed must be what was accepted."""
        copy = self.place.folder / "copy"
        copy.mkdir()
        for file in self.state.glob("spool.sqlite*"):
            shutil.copy(file, copy)
        with contextlib.closing(sqlite3.connect(copy / "spool.sqlite")) as database:
            [(whole,)] = database.execute("PRAGMA integrity_check").fetchall()
            assert whole == "ok", whole
            sql = (
                "SELECT state, body_file, hash, content FROM messages JOIN recipients USING (seq) LEFT JOIN bodies USING (seq) "
                "ORDER BY seq"
            )
            rows = database.execute(sql).fetchall()
        shutil.rmtree(copy)
        bodies = self.state / "bodies"
        for state, file, hash, body in rows:
            if state == QUEUED:
                body = (bodies / file).read_bytes() if file else body
                assert hashlib.sha256(body).digest() == hash, f"the body of {file} is not what was accepted"
        return [(state, file) for state, file, *_ in rows], {path.name for path in bodies.iterdir()}

    def begin(self):
        """Starts it; says whether that went well."""
        try:
            self.relay.start()
        except (AssertionError, ValueError):
            # It ended, with a line for a person.
            return False
        return True

    def status(self):
        """How it ended by itself."""
        return self.relay.ended_by_itself(10)


class Accept:
    """A client hands in a message of the given content, to a spool that has taken `before` others."""

    def __init__(self, octets, before=0):
        self.octets, self.before = octets, [SMALL] * before
        self.extra = SOON if before else ""

    def do(self, run):
        return run.submit(self.octets)

    def message(self, rows):
        return ["the message"] if len(rows) > len(self.before) else []

    def prepare(self, run):
        """What else lies in the folder."""

    def reach(self, taken):
        """How many of the steps of a whole run are walked: all."""
        return len(taken)

    def phase(self, name, _taken):
        """What the table calls what was done when these steps had been taken."""
        return name


class Deliver(Accept):
    """A cycle sends a message that waits."""

    def __init__(self):
        super().__init__(LARGE)
        self.before = [LARGE]

    def do(self, run):
        try:
            started = run.relay.client.call("CycleService/RunCycle", parent="links/isp")
            run.relay.ended(started["name"], seconds=5)
        except AssertionError:
            # It could not be recorded that it ended.
            return GOES_ON
        except Failure as failed:
            # The connection broke, or it is an answer.
            return None if failed.code == "UNAVAILABLE" else failed.code
        return GOES_ON

    def message(self, rows):
        [(state, _)] = rows
        return ["the message" if state == QUEUED else "the message, delivered"]


    def phase(self, name, taken):
        # A cycle is recorded when it begins, when the line is up, and when mail goes; then the outcome; then its end.
        commits = sum((step.name, step.file) == ("sync", LOG) for step in taken[:-1])
        is_last = taken[-1].name == "unlink"
        return "a cycle begins" if commits < 3 else name if commits == 3 or is_last else "a cycle ends"


class Start(Deliver):
    """The relay starts, over a file that no row names."""

    def __init__(self, file):
        super().__init__()
        self._file = file

    def prepare(self, run):
        (run.state / "bodies" / self._file).write_bytes(b"left")

    def phase(self, name, _taken):
        return name

    def do(self, run):
        # Ready: the start is over.
        run.steps.disarm()
        return GOES_ON

    def reach(self, taken):
        # What a start does behind its sweep, beside being ready, is a change like others.
        return max(number for number, step in enumerate(taken, 1) if step.file.startswith("bodies/"))


# As the table calls them.
SCENARIOS = {
    "a small body": Accept(SMALL),
    "a large body": Accept(LARGE),
    "a checkpoint": Accept(SMALL, before=2),
    "outcomes": Deliver(),
    "a start over `x.part`": Start("0123.part"),
    "a start over `x`": Start("0123"),
}


class Walk:
    """All runs of a scenario."""

    def __init__(self, folder, library, name):
        self.name, self.scenario, self.library = name, SCENARIOS[name], library
        self.base = folder / "base"
        run = Run(library, extra=self.scenario.extra)
        try:
            run.relay.start()
            for octets in self.scenario.before:
                assert run.submit(octets) == 250
            self.scenario.prepare(run)
            run.relay.kill()
            shutil.copytree(run.state, self.base)
        finally:
            run.end()

    def run(self, at=0, error="", wrapper=(), whole=False):
        """A run that dies after the step numbered `at`, or in which that fails. `whole`: steps count from the start on."""
        run = Run(self.library, self.base, wrapper, self.scenario.extra)
        try:
            number = ERRORS.get(error, 0)
            whole = whole or isinstance(self.scenario, Start)
            run.steps.arm(*((at, number) if whole else ()))
            began = run.begin()
            if not whole:
                # A start commits its routes, which are others each time, and thrice its clock.
                wait.until(lambda: sum((step.name, step.file) == ("sync", LOG) for step in run.steps.taken()) == 4, lambda: f"four syncs; {[(s.name, s.file) for s in run.steps.taken()]}")
                run.steps.arm(at, number)
            return self.judge(run, at, error, self.scenario.do(run) if began else None)
        finally:
            run.end()

    def judge(self, run, at, error, heard):
        run.steps.disarm()
        if not at or run.steps.count < at:
            assert heard in (250, GOES_ON), f"{heard}; {run.relay.log_text()}"
            return run.steps.taken(), None
        if error and heard:
            came = str(heard)
            run.relay.kill()
        else:
            came = f"it ends ({run.status()})"
        taken = run.steps.taken()
        step = said(taken[at - 1], taken[at - 2] if at > 1 else None)
        rows, bodies = run.look()
        named = {file for _, file in rows if file}
        assert named <= bodies, "a row names a file that is not there"
        extra = bodies - named
        left = self.scenario.message(rows) + ["`x.part`" if name.endswith(".part") else "`x`" for name in sorted(extra)]
        if heard == 250:
            assert left[:1] == ["the message"], "accepted and lost"
        self.start_again(run, rows, named)
        cleaned = "the start" if extra else ""
        return taken, Seen(self.scenario.phase(self.name, taken[:at]), step, error, " and ".join(left) or "nothing", cleaned, came)

    def start_again(self, run, rows, named):
        """What is there is sent, but not what has its outcome; what nobody needs is gone."""
        had = len(run.peer.bodies)
        run.relay.start()
        _, bodies = run.look()
        assert bodies == named, f"after the start there are {bodies}, needed are {named}"
        run.relay.run_cycles()
        sent = run.peer.bodies[had:]
        waiting = [state for state, _ in rows if state == QUEUED]
        assert len(sent) == len(waiting), f"{len(sent)} were sent, {len(waiting)} waited"
        for body in sent:
            assert body.endswith(SMALL) or body.endswith(LARGE), "what was sent is not what was handed in"


@pytest.fixture
def library(place):
    return built(place.folder)


COLUMNS = ["while", "the last step", "a crash after it leaves", "who cleans up", "it fails: EIO", "it fails: ENOSPC"]


def rows(seen):
    """What was seen as rows of the table, in the order of the steps."""
    found = {}
    for one in seen:
        row = found.setdefault((one.scenario, one.step), {column: set() for column in COLUMNS[2:]})
        if one.error:
            row[f"it fails: {one.error}"].add(one.came)
        else:
            assert one.came == "it ends (-9)", one
            row["a crash after it leaves"].add(one.left)
            row["who cleans up"].add(one.cleaned)
    told = [dict(zip(COLUMNS, [*key, *(", or ".join(sorted(row[column])) for column in COLUMNS[2:])])) for key, row in found.items()]
    return told


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_step_leaves_what_the_table_says(place, library, name):
    """Must show: a relay that dies after any step on its files leaves what the table says, and one in which the step fails
    does what it says; the next start has each message that was accepted, sends it with its content, sends none again whose
    outcome is recorded, and has no file that nobody needs. Every row of the table is met, and no step is without a row."""
    walk = Walk(place.folder, library, name)
    clean, _ = walk.run()
    runs = [(at, error) for at in range(1, walk.scenario.reach(clean) + 1) for error in ("", *ERRORS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        seen = [one for _, one in pool.map(lambda run: walk.run(*run), runs)]
    assert None not in seen, "a run took fewer steps than the first"
    found = rows(seen)
    phases = {row["while"] for row in found}
    expected = [row for row in states.table("while") if row["while"] in phases]
    print(f"{len(runs)} runs")
    print("\n".join("| " + " | ".join(row.values()) + " |" for row in found))
    assert found == expected


def test_strace_sees_the_same_steps(place, library):
    """Must show: what counts the steps misses none: strace, which knows nothing of it, sees the same in the same order."""
    walk = Walk(place.folder, library, "a large body")
    output = place.folder / "strace.out"
    taken, _ = walk.run(wrapper=strace.wrapper(output), whole=True)
    names = {"pwrite64": "pwrite", "fdatasync": "sync", "fsync": "sync", "write": "write", "rename": "rename"}
    traced = [(names[call.name], call.target) for call in strace.read(output) if call.name in names]
    traced = [(name, target.split("/state/")[1]) for name, target in traced if "/state/" in target]
    traced = [(name, file) for name, file in traced if "-shm" not in file]
    counted = [(step.name, step.file) for step in taken if step.name in names.values()]
    assert len(counted) > 20 and counted == traced
