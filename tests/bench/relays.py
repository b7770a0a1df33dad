"""Who takes the load and passes it on: ours and the peers, each with all its processes in a group of its own.

Each is durable before it says 250: that is what it ships with. `throughput --check-durable` looks.
"""

import sqlite3
import subprocess

from group import Group
from harness import wait
from harness.postfix import Postfix
from harness.relay import BINARY, Daemon

OURS = """
hostname = "relay.branch.example"
state = "{state}"

[grpc]
listen = "{grpc}"

[limits]
sessions = 1000
sessions_per_client = 1000

[[listener]]
address = "{endpoint}"
relay_from = ["127.0.0.0/8"]

[[route]]
domains = ["*"]
to = "{to}"
"""

LINK = """
[[link]]
name = "isp"
smart_host = "smtp://{next_hop}"
dial = {{ driver = "implicit", patience = "30s", attempts = 1, pause = "1s" }}
trigger = {trigger}
"""


class Ours(Daemon):
    """linkmail's relay with a fixed next hop: mail goes at once, over one connection."""

    peer = "ours"
    # What it runs under.
    under = ()

    def __init__(self, place, next_hop):
        self.group = Group("ours")
        super().__init__(place, "relay", wrapper=self.group.command(*self.under))
        self.grpc = f"unix:{place.folder}/relay.sock"
        self.state = place.folder / "state"
        self.endpoint, self.next_hop = place.endpoint(), next_hop
        self.write(self.configuration())

    def configuration(self):
        return OURS.format(state=self.state, grpc=self.grpc, endpoint=self.endpoint, to=self.to())

    def to(self):
        return f"smtp://{self.next_hop}"

    @property
    def binary(self):
        # Whatever its name.
        return BINARY

    def waiting(self):
        """How many messages have a recipient without an outcome."""
        database = sqlite3.connect(f"file:{self.state}/spool.sqlite?mode=ro", uri=True)
        try:
            return database.execute("SELECT count(*) FROM messages WHERE done_ms IS NULL").fetchone()[0]
        finally:
            database.close()

    def stop(self):
        # One that never came up has said why.
        if self.process is not None and self.process.poll() is not None:
            self._forget()
        super().stop()
        self.group.stop()

    def halt(self):
        """Ends the process; `start` brings it back."""
        code = self.terminate(seconds=40)
        assert code == 0, f"exit {code} after SIGTERM"


class OursOverALink(Ours):
    """The same over a link, as it is by default: as many connections as the backlog justifies, 16 at most."""

    peer = "ours-link"
    trigger = "[{ queued = 1 }]"

    def configuration(self):
        return super().configuration() + LINK.format(next_hop=self.next_hop, trigger=self.trigger)

    def to(self):
        return "link:isp"


class OursOnASlowDisk(Ours):
    """The same on a disk that takes 10 ms longer for each sync of the log: strace holds the call back, and lets all others
    pass."""

    peer = "ours-slow-disk"
    under = (
        *("strace", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf"),
        *("-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_exit=10ms"),
    )


class OursOnRequest(OursOverALink):
    """The same, and nothing is sent before `go`."""

    peer = "ours"
    trigger = "[]"

    def fill_done(self, count):
        """Nothing to be done: what was accepted waits."""

    def allow(self):
        """The client learns the API by reflection before the clock runs."""
        self.client.call("LinkService/ListLinks")

    def go(self):
        self.client.call("CycleService/RunCycle", parent="links/isp")


class OfPostfix:
    """Debian's Postfix with a relayhost, and what the harness says of itself; see README.md."""

    peer = "postfix"
    settings = {}

    def __init__(self, place, next_hop):
        self.group = Group("postfix")
        self._postfix = Postfix(place, "relay", sink=next_hop, settings=self.settings, island=self.group)
        self.endpoint, self.state = self._postfix.endpoint, self._postfix.folder / "queue"
        self.log_text = self._postfix.log

    def start(self):
        self._postfix.start()

    def halt(self):
        self._postfix.stop()
        wait.until(lambda: not self.group.processes(), "the end of every process of Postfix", 60)

    def waiting(self):
        """How many queue files there are."""
        folders = ("maildrop", "incoming", "active", "deferred", "hold")
        return sum(path.is_file() for folder in folders for path in (self.state / folder).rglob("*"))

    def stop(self):
        self._postfix.stop()
        self.group.stop()


class PostfixOnRequest(OfPostfix):
    """The same: everything is deferred as it comes, and tried by `go`."""

    settings = {"defer_transports": "held smtp"}

    def fill_done(self, count):
        """Returns when everything is in the deferred queue."""
        wait.until(lambda: self._deferred() >= count, lambda: f"{count} deferred; are {self._deferred()}", 600)

    def _deferred(self):
        return sum(path.is_file() for path in (self.state / "deferred").rglob("*"))

    def allow(self):
        """Lifts what holds the mail back; returns before anything is tried."""
        # The new queue manager may look once over what waits, and finds nothing due.
        seen = self._postfix.log().count("reload")
        self._postfix.reconfigure(defer_transports="held")
        wait.until(lambda: self._postfix.log().count("reload") > seen, "Postfix has its new configuration")

    def go(self):
        self._postfix.flush()

    def list_all(self):
        """Lists the whole queue, which Postfix does in one piece."""
        command = ["postqueue", "-c", str(self._postfix.folder / "etc"), "-j"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Nobody:
    """No relay: the load goes straight to the sink. What is measured is the load tools' own ceiling."""

    peer = "none"
    group = None

    def __init__(self, _place, next_hop):
        self.endpoint = next_hop

    def start(self):
        """Nothing to start."""

    def waiting(self):
        """Nothing waits."""
        return 0

    def stop(self):
        """Nothing to stop."""


RELAYS = {relay.peer: relay for relay in (Ours, OursOverALink, OursOnASlowDisk, OfPostfix, Nobody)}
ON_REQUEST = {relay.peer: relay for relay in (OursOnRequest, PostfixOnRequest)}
