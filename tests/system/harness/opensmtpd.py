"""A private OpenSMTPD: its own configuration, queue and control socket, beside the machine's own mail server.

Where it keeps what is built into the program, so it runs in a mount name space in which those places are folders of the
test. The network is everyone's. Unpacked, not installed (`tests/run install`).

Limits: needs root, because its first process does. It takes 100 messages per session, unless told otherwise.
"""

import os
import subprocess
from pathlib import Path

from . import apart, wait

# Unpacked by tests/run install, unless the environment names another.
BINARY = Path(
    os.environ.get("OPENSMTPD", Path(__file__).resolve().parents[2] / ".opensmtpd" / "usr" / "sbin" / "smtpd")
)
# What the program has built in: what stands there in its name space.
BUILT_IN = {"spool": "/var/spool", "lib": "/var/lib", "run": "/run"}
# By itself it waits for 5 s before it goes where it has just been.
IN_A_HURRY = """
mta limit conn-delay-route 0
mta limit reconn-delay-route 0
mta limit session-transaction-delay 0
mta limit session-keepalive 0
"""
ROOTS = "/etc/ssl/certs/ca-certificates.crt"


class OpenSmtpd:
    """Runs from `start` to `stop`. `config` is the text of its configuration, `roots` the certificate that it trusts as a
    client, `listens` the endpoints it is waited for at, `trace` what its log tells in full, such as "smtp"."""

    def __init__(self, place, name, config, listens, roots=None, trace=()):
        assert BINARY.exists(), f"no {BINARY}: `tests/run install` brings it"
        self.folder = place.folder / name
        self.endpoint = listens[0]
        self.process = None
        self._listens = listens
        self._config, self._roots, self._name = config, roots, name
        self._trace = [word for name in trace for word in ("-T", name)]

    def start(self):
        for name in BUILT_IN:
            (self.folder / name).mkdir(parents=True)
        (self.folder / "lib" / "opensmtpd" / "empty").mkdir(parents=True)
        config = self.folder / "smtpd.conf"
        config.write_text(IN_A_HURRY + self._config)
        config.chmod(0o600)
        binds = {self.folder / name: where for name, where in BUILT_IN.items()}
        if self._roots:
            binds[self._roots] = ROOTS
        self._log = self.folder / "log"
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                apart.command(binds, BINARY, "-d", *self._trace, "-f", config),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait.until(self._ready, lambda: f"{self._name} listens; log: {self.log()}")
        return self

    def _ready(self):
        assert self.process.poll() is None, f"{self._name}: exit {self.process.returncode}: {self.log()}"
        return all(wait.listens(endpoint) for endpoint in self._listens)

    def waiting(self):
        """How many messages are in the queue."""
        queue = self.folder / "spool" / "smtpd" / "queue"
        return sum(len(list(bucket.iterdir())) for bucket in queue.iterdir())

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=10)
        self.process = None

    def log(self):
        return self._log.read_text(errors="replace")
