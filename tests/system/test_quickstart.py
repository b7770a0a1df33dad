"""The quick start: a fresh clone, one command, both ways and the proof; and what it leaves behind, which is nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from harness import smtp, wait
from harness.otlp import Collector
from harness.receiver import BINARY, Receiver
from harness.relay import environment

TOP = Path(__file__).resolve().parents[2]
TARGET = BINARY.parent.parent

SUMMARY = {"sent": int, "received": int, "proof": str, "cycle_seconds": float, "cycles": int, "trace_id": str}


def command_line(process):
    """The command line of a folder of /proc, with spaces; empty if the process has gone."""
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Quickstart:
    """`linkmail-quickstart run` with its state in the test's folder; `program` instead of it if named."""

    def __init__(self, place, *arguments, program=(str(BINARY), "run"), **env):
        self.state = place.folder / "quickstart-state"
        self.said = place.folder / "quickstart.err"
        self.out = place.folder / "quickstart.out"
        with open(self.said, "wb") as said, open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                [*program, *arguments, "--state", str(self.state)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=said,
                env=environment(**env),
                cwd=place.folder,
                start_new_session=True,
            )

    def text(self):
        return self.said.read_text()

    def end(self, code, seconds=90):
        """Waits for the end, which must have this code."""
        assert self.process.wait(timeout=seconds) == code, self.text()

    def summary(self):
        """The only line of standard output."""
        lines = self.out.read_text().splitlines()
        assert len(lines) == 1, lines
        summary = json.loads(lines[0])
        # A number of seconds may happen to be whole.
        summary["cycle_seconds"] = float(summary["cycle_seconds"])
        assert {key: type(value) for key, value in summary.items()} == SUMMARY, summary
        assert re.fullmatch("[0-9a-f]{32}", summary["trace_id"]) and int(summary["trace_id"], 16), summary
        return summary

    def wait_until_up(self):
        """Waits until the first round is over and everything stays up."""

        def up():
            assert self.process.poll() is None, f"exit {self.process.returncode}:\n{self.text()}"
            return "stays up" in self.text()

        wait.until(up, lambda: f"up; said:\n{self.text()}", seconds=90)

    def processes(self):
        """Command lines of all processes that work in its folder."""
        lines = [command_line(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [line for line in lines if str(self.state) in line]

    def stop(self):
        """For fixtures."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)
        assert self.processes() == []


@pytest.fixture
def quickstart(place, running):
    return lambda *arguments, **settings: running(Quickstart(place, *arguments, **settings))


def seed(target):
    """Puts what was compiled for this run and is not ours into another target folder, so that it is not compiled again.

    One target folder for both would not do: cargo tells the files of two working trees apart by their times alone, so
    that an edit of ours could stay unbuilt after the clone was built. For the same reason nothing of our own crates is
    taken along, and nothing that cargo writes to is shared."""
    packages = (TOP / "Cargo.lock").read_text().split("[[package]]")[1:]
    ours = {re.search('name = "(.*)"', text)[1] for text in packages if "source = " not in text}
    assert {"relay-svc", "monitor-svc", "linkmail-quickstart"} <= ours, ours

    def own(folder, names):
        """Those of `names` that are left out."""
        of = {name: re.sub("^lib", "", name).rsplit("-", 1)[0].replace("_", "-") for name in names}
        return [name for name in names if Path(folder).parent == BINARY.parent and of[name] in ours]

    for part, copy in (("deps", os.link), ("build", os.link), (".fingerprint", shutil.copy2)):
        shutil.copytree(BINARY.parent / part, target / "debug" / part, ignore=own, copy_function=copy)


def assert_complete(summary):
    """Out: alice's message and the probe. In: bob's message and the bounce. The bounce may need a second cycle."""
    assert summary["sent"] == 2 and summary["received"] == 2, summary
    assert summary["proof"] == "ROUND_TRIP", summary
    assert summary["cycles"] in (1, 2) and summary["cycle_seconds"] > 1.0, summary


def test_once_from_a_fresh_clone(place, quickstart):
    """Must show: `deploy/quickstart --once` from a fresh clone exits with 0, and its one line is right."""
    clone = place.folder / "clone"
    # The clone belongs to whoever runs the tests, the repository perhaps to somebody else.
    config = place.folder / "gitconfig"
    config.write_text("[safe]\n    directory = *\n")
    subprocess.run(
        ["git", "clone", "--quiet", "--no-local", str(TOP), str(clone)],
        check=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": str(config)},
    )
    target = TARGET / "fresh-clone"
    shutil.rmtree(target, ignore_errors=True)
    try:
        seed(target)
        run = quickstart(
            "--once",
            program=[str(clone / "deploy/quickstart")],
            CARGO_TARGET_DIR=str(target),
            CARGO_INCREMENTAL="0",
        )
        run.end(0, seconds=900)
        assert_complete(run.summary())
        # Before it stands what cargo says.
        said = run.text()[run.text().index("linkmail: ") :]
        for words in ("provider", "mailbox server", "ETRN", "refuses no-such-user@world.example", "Complete."):
            assert words in said, f"{words} in {said}"
        assert "\x1b" not in said
        assert [line for line in said.splitlines() if len(line) > 80] == []
        assert not (clone / "quickstart-state").exists()
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_the_smart_host_refuses(quickstart):
    """Must show: when the smart host refuses the false user at RCPT the proof is OUTBOUND, and `--once` exits with 1."""
    run = quickstart("--smart-host-refuses", "--once")
    run.end(1)
    summary = run.summary()
    assert summary["proof"] == "OUTBOUND", summary
    assert summary["sent"] == 1 and summary["received"] == 1, summary
    assert "the proof is OUTBOUND" in run.text()


@pytest.mark.parametrize("missing", ["relay-svc", "monitor-svc"])
def test_a_missing_program(place, quickstart, missing):
    programs = place.folder / "programs"
    programs.mkdir()
    for name in {"relay-svc", "monitor-svc", "linkmail-quickstart"} - {missing}:
        shutil.copy(BINARY.with_name(name), programs / name)
    run = quickstart("--once", program=[str(programs / "linkmail-quickstart"), "run"])
    run.end(70)
    assert f"{programs / missing} is not there" in run.text()
    assert run.out.read_text() == ""


def test_interrupt_leaves_nothing(quickstart):
    run = quickstart()
    run.wait_until_up()
    assert len(run.processes()) == 4, run.processes()
    # As Ctrl-C in a terminal: to the whole foreground process group.
    os.killpg(run.process.pid, signal.SIGINT)
    run.end(0)
    assert run.processes() == []
    assert run.out.read_text() == ""


def test_a_daemon_that_dies_ends_the_run(quickstart):
    run = quickstart()
    run.wait_until_up()
    (provider,) = [line for line in run.processes() if "provider.toml" in line]
    pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and command_line(entry) == provider]
    os.kill(int(pids[0]), signal.SIGKILL)
    run.end(1)
    assert "the provider ended: signal: 9" in run.text() and "provider.log" in run.text()
    assert run.processes() == []


def test_kill_leaves_no_daemon(quickstart):
    run = quickstart()
    run.wait_until_up()
    run.process.kill()
    run.process.wait(timeout=10)
    wait.until(lambda: run.processes() == [], lambda: f"the end of {run.processes()}", seconds=40)


def test_two_at_once_do_not_meet(place, quickstart):
    first = quickstart()
    first.wait_until_up()
    again = subprocess.run(
        [str(BINARY), "run", "--once", "--state", str(first.state)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )
    assert again.returncode == 70 and "in use" in again.stderr, again
    (place.folder / "other").mkdir()
    other = subprocess.run(
        [str(BINARY), "run", "--once", "--state", str(place.folder / "other")],
        capture_output=True,
        text=True,
        timeout=90,
        env=environment(),
    )
    assert other.returncode == 0, other


def test_the_trace_that_is_named(quickstart, running):
    """The trace id of the summary is that of the cycle, and an OTLP endpoint in the environment gets it."""
    collector = running(Collector())
    run = quickstart("--once", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    run.end(0)
    assert collector.url in run.text()
    names = {span.name for span in collector.spans(run.summary()["trace_id"])}
    assert "relay.cycle" in names, names


def test_the_receiver_by_itself(place, running):
    """It refuses whom it should, keeps what it takes byte for byte, tells of each message once, and ends by SIGTERM."""
    nobody = "no-such-user@world.example"
    receiver = Receiver(
        place.endpoint(), place.endpoint(), refuse={nobody: "550 5.1.1 no such user"}, folder=place.folder
    )
    running(receiver).start()
    content, id = smtp.message(body=".\n..\nlines of dots\n")
    with smtp.Dialogue(receiver.endpoints[1]) as dialogue:
        dialogue.expect(250, "EHLO client.example")
        dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
        assert dialogue.expect(550, f"RCPT TO:<{nobody}>") == ["5.1.1 no such user"]
        dialogue.expect(250, "RSET")
        assert dialogue.transaction("", ["bob@remote.example"], smtp.stuffed(content)) == 250
    smtp.submit(receiver.endpoint, "alice@branch.example", ["bob@remote.example"], content)
    first, second = receiver.wait_for(2)
    assert first["listener"] == receiver.endpoints[1] and second["listener"] == receiver.endpoints[0]
    assert first["reverse_path"] == "" and second["reverse_path"] == "alice@branch.example"
    for mail in (first, second):
        assert mail["recipients"] == ["bob@remote.example"]
        assert mail["message_id"] == f"<{id}>" and mail["subject"] == "hello" and mail["size"] == len(content)
        assert receiver.content(mail) == content
    receiver.stop()
    assert receiver.mails == [first, second]
