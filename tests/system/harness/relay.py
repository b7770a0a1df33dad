"""The relay as a black box: a configuration file, a process, its log lines, its exit code, its commands."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from . import wait
from .grpc_client import RELAY, Client

REPOSITORY = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("RELAY_SVC", REPOSITORY / "target" / "debug" / "relay-svc"))

EDGE = """
hostname = "relay.branch.example"
state = "{state}"

[grpc]
listen = "{grpc}"
{grpc_extra}
{extra}
[retry]
first = "1s"
longest = "2s"
expire = "1h"

# for the site
[[listener]]
address = "{site}"
relay_from = ["127.0.0.1/32"]

# for what the provider releases
[[listener]]
address = "{released}"
link = "isp"

[[route]]
domains = ["branch.example"]
to = "smtp://{mailbox}"

[[route]]
domains = ["*"]
to = "link:isp"

[[link]]
name = "isp"
smart_host = "smtp://{smart_host}"
dial = {dial}
dequeue = {dequeue}
trigger = {trigger}
quiet = "{quiet}"
bounce_wait = "{bounce_wait}"
redial_after = "1h"
connections = {connections}
{of_link}
"""

IMPLICIT = '{ driver = "implicit", patience = "2s", attempts = 1, pause = "100ms" }'


def environment(**changes):
    """The environment the relay runs in: nothing of telemetry unless a test says so."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    kept.update(changes)
    return kept


class Daemon:
    """One of our daemons: a configuration file NAME.toml in its place, a process, its log, its API at `grpc`."""

    program = "relay-svc"
    package = RELAY

    def __init__(self, place, name, env=None, wrapper=()):
        """`wrapper` is a command line to run the daemon under."""
        self.folder = place.folder
        self.name = name
        self.grpc = place.endpoint()
        self.config = place.folder / f"{name}.toml"
        self.env = env or {}
        self.wrapper = list(wrapper)
        self.process = None
        self._client = None
        self._runs = 0

    @property
    def binary(self):
        return BINARY.with_name(self.program)

    def write(self, text):
        self.config.write_text(text)

    # The process.

    def start(self):
        self._runs += 1
        self.log_file = self.folder / f"{self.name}-{self._runs}.log"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, str(self.binary), "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(**self.env),
                cwd=self.folder,
                start_new_session=True,
            )
        wait.until(self._ready, lambda: f"ready; exit {self.process.poll()}; log:\n{self.log_text()}", seconds=30)
        return self

    def _ready(self):
        assert self.process.poll() is None, f"exit {self.process.returncode} before ready:\n{self.log_text()}"
        return self.logged("ready")

    @property
    def pid(self):
        """The daemon's own process id, below whatever wraps it."""
        pid = self.process.pid
        # A binary that was built anew meanwhile shows as deleted.
        while os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)") != str(self.binary.resolve()):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            assert len(children) == 1, f"children of {pid}: {children}"
            pid = int(children[0])
        return pid

    def kill(self):
        """kill -9, as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(timeout=10)
        self._forget()

    def terminate(self, seconds=15):
        """SIGTERM; returns the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        code = self.process.wait(timeout=seconds)
        self._forget()
        return code

    def ended_by_itself(self, seconds=30):
        """Waits until it ends by itself; returns the exit code."""
        code = self.process.wait(timeout=seconds)
        self._forget()
        return code

    def _forget(self):
        self.process = None
        if self._client:
            self._client.stop()
            self._client = None

    def stop(self):
        """For fixtures: a daemon that still runs must stop gracefully, and must never have panicked."""
        if self.process is not None:
            code = self.terminate()
            assert code == 0, f"exit {code} after SIGTERM:\n{self.log_text()[-4000:]}"
        for path in self.folder.glob(f"{self.name}-*.log"):
            assert "panicked at" not in path.read_text(errors="replace"), f"panic in {path}"

    # What it says.

    def log_text(self):
        return self.log_file.read_text(errors="replace")

    def log(self):
        """Every log line of this run. Each must be JSON."""
        lines = self.log_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def logged(self, message, **fields):
        """The log lines with that message and those fields."""
        return [line for line in self.log() if line.get("message") == message and fields.items() <= line.items()]

    def cpu_seconds(self):
        """Processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self):
        """Resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    # Its faces.

    @property
    def client(self):
        if self._client is None:
            self._client = Client(self.grpc, package=self.package)
        return self._client

    def cli(self, *arguments, seconds=60, config=True, **kwargs):
        """Runs a command of the program; `--config FILE` is added unless `config` is False."""
        extra = ["--config", str(self.config)] if config else []
        return cli(*arguments, *extra, seconds=seconds, cwd=self.folder, binary=self.binary, **kwargs)

    def messages(self, **fields):
        """All messages the relay knows, oldest first."""
        found, token = [], ""
        while True:
            page = self.client.call("MessageService/ListMessages", page_size=1000, page_token=token, **fields)
            found += page["messages"]
            token = page["next_page_token"]
            if not token:
                return found

    def recipients(self):
        """address -> (state, attempts) over all messages."""
        return {
            recipient["address"]: (recipient["state"], recipient["attempts"])
            for message in self.messages()
            for recipient in message["recipients"]
        }

    def wait_for_states(self, expected, seconds=30):
        """Waits until the states of all recipients are exactly `expected` (address -> state)."""

        def states():
            return {address: state for address, (state, _) in self.recipients().items()}

        wait.until(lambda: states() == expected, lambda: f"{expected}; are {self.recipients()}", seconds)


class Relay(Daemon):
    """An edge between a site and its provider. `site` and `released` are its two listeners, `grpc` its API."""

    def __init__(
        self,
        place,
        mailbox,
        smart_host,
        dial=IMPLICIT,
        dequeue="[]",
        trigger="[]",
        quiet="500ms",
        bounce_wait="300ms",
        connections=16,
        extra="",
        grpc_extra="",
        of_link="",
        released=None,
        env=None,
        wrapper=(),
        state=None,
    ):
        """`mailbox` and `smart_host` are ADDRESS:PORT; `dial`, `dequeue` and `trigger` are TOML values; `extra` is
        TOML before the first table of the file, `of_link` are further keys of the link; `wrapper` is a command line to run
        the relay under; `state` is its folder, if not one of the place."""
        super().__init__(place, "relay", env=env, wrapper=wrapper)
        self.state = state or place.folder / "state"
        self.site = place.endpoint()
        self.released = released or place.endpoint()
        self.write(
            EDGE.format(
                state=self.state,
                grpc=self.grpc,
                grpc_extra=grpc_extra,
                extra=extra,
                site=self.site,
                released=self.released,
                mailbox=mailbox,
                smart_host=smart_host,
                dial=dial,
                dequeue=dequeue,
                trigger=trigger,
                quiet=quiet,
                bounce_wait=bounce_wait,
                connections=connections,
                of_link=of_link,
            )
        )

    def run_cycle(self, expected="COMPLETE", link="isp"):
        """Runs one cycle to its end and returns it; its outcome must be `expected`."""
        started = self.client.call("CycleService/RunCycle", parent=f"links/{link}")
        cycle = self.ended(started["name"])
        assert cycle["outcome"] == expected, json.dumps(cycle, indent=1)
        return cycle

    def run_cycles(self, link="isp", seconds=60):
        """Runs cycles, whatever comes of each, until every recipient has its outcome."""

        def settled():
            if all(state not in ("QUEUED", "HELD") for state, _ in self.outcomes()):
                return True
            started = self.client.call("CycleService/RunCycle", parent=f"links/{link}")
            self.ended(started["name"])
            return False

        wait.until(settled, lambda: f"an outcome for all; are {self.outcomes()}", seconds)

    def outcomes(self):
        """(state, attempts) -> how many recipients."""
        return Counter((one["state"], one["attempts"]) for message in self.messages() for one in message["recipients"])

    def doubtful(self):
        """The recipients of messages whose reply was lost, by the log: whoever sent them may have to send them again."""
        return {line["recipient"] for line in self.logged("recipient settled", outcome="in_doubt")}

    def ended(self, name, seconds=60):
        """The cycle of that name when it has ended."""

        def get():
            cycle = self.client.call("CycleService/GetCycle", name=name)
            return cycle if cycle["phase"] == "ENDED" else None

        return wait.until(get, f"end of {name}", seconds)


def cli(*arguments, seconds=60, cwd=None, wrapper=(), env=None, binary=BINARY):
    """Runs relay-svc, or another program, with these arguments; the finished process with text output."""
    return subprocess.run(
        [*wrapper, str(binary), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env=environment(**(env or {})),
    )


def add_credential(file, name, password, *arguments):
    """`relay-svc credentials add`; the password stands in a file beside that of the credentials."""
    given = file.with_name("password")
    given.write_text(f"{password}\n")
    done = cli("credentials", "add", name, "--file", str(file), "--password-file", str(given), *arguments)
    assert done.returncode == 0, done.stderr


def seconds_between(start, end):
    """Between two RFC 3339 times as protobuf's JSON writes them."""

    def parse(text):
        stamp, _, fraction = text.removesuffix("Z").partition(".")
        import calendar

        return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")

    return parse(end) - parse(start)
