"""A private OpenSMTPD: its own configuration, queue and control socket, beside the machine's own mail server.

It runs in a root folder of its own, with the libraries that came with it: that of Debian 12 cannot speak TLS as a server,
so it is from a later release. The network is everyone's. Unpacked, not installed (`tests/run install`).

Limits: needs root, because its first process does. It takes 100 messages per session, unless told otherwise.
"""

import os
import shutil
import subprocess
from pathlib import Path

from . import apart, wait

# Unpacked by tests/run install, unless the environment names another.
UNPACKED = Path(os.environ.get("OPENSMTPD_ROOT", Path(__file__).resolve().parents[2] / ".opensmtpd"))
# By itself it waits for 5 s before it goes where it has just been.
IN_A_HURRY = """
mta limit conn-delay-route 0
mta limit reconn-delay-route 0
mta limit session-transaction-delay 0
mta limit max-conn-per-route 100
mta limit max-conn-per-source 100
"""
# Where it looks for certificates to trust.
ROOTS = "etc/ssl/certs/ca-certificates.crt"


class OpenSmtpd:
    """Runs from `start` to `stop`. `config` is the text of its configuration, `listens` the endpoints it is waited for at,
    `roots` the certificate that it trusts as a client, `trace` what its log tells in full, such as "smtp"."""

    def __init__(self, place, name, config, listens, roots, trace=()):
        assert UNPACKED.exists(), f"no {UNPACKED}: `tests/run install` brings it"
        self.folder = place.folder / name
        self._place, self._root = place.folder, self.folder / "root"
        self.endpoint = listens[0]
        self.process = None
        self._listens = listens
        self._config, self._roots, self._name = config, roots, name
        self._trace = [word for name in trace for word in ("-T", name)]

    def _build(self):
        """The folder that it takes for its root; what is to be mounted there, and where."""
        root = self._root
        binds = {UNPACKED / "usr": root / "usr", "/dev": root / "dev", self._place: root / str(self._place)[1:]}
        folders = [*binds.values(), (root / ROOTS).parent, root / "run", root / "var/spool", root / "var/lib/opensmtpd/empty"]
        for path in folders:
            path.mkdir(parents=True)
        for name, to in {"lib": "usr/lib", "lib64": "usr/lib64", "var/run": "../run"}.items():
            (root / name).symlink_to(to)
        for name in ("passwd", "group"):
            shutil.copyfile(f"/etc/{name}", root / "etc" / name)
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        # It asks no server.
        (root / "etc/resolv.conf").touch()
        shutil.copyfile(self._roots, root / ROOTS)
        return binds

    def start(self):
        binds = self._build()
        config = self.folder / "smtpd.conf"
        config.write_text(IN_A_HURRY + self._config)
        config.chmod(0o600)
        self._log = self.folder / "log"
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                apart.command(binds, "chroot", self._root, "/usr/sbin/smtpd", "-d", *self._trace, "-f", config),
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
        queue = self._root / "var/spool/smtpd/queue"
        return sum(len(list(bucket.iterdir())) for bucket in queue.iterdir())

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=10)
        self.process = None

    def log(self):
        return self._log.read_text(errors="replace")
