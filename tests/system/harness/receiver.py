"""The project's own receiver as a process: the mailbox server and the world where thousands of messages come, or where
there is no Python, as in a container."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

from . import wait
from .relay import BINARY as RELAY

# Beside relay-svc unless the environment names another.
BINARY = Path(os.environ.get("LINKMAIL_QUICKSTART", RELAY.with_name("linkmail-quickstart")))


class Receiver:
    """Listens at `endpoints` from `start` to `stop`. `refuse`: recipient -> reply. `folder`: where contents are kept, for
    `content`. `wrapper`: a command line to run it under."""

    def __init__(self, *endpoints, refuse=None, folder=None, wrapper=()):
        self.endpoints = endpoints
        refusals = [f"--refuse={address}={reply}" for address, reply in (refuse or {}).items()]
        kept = ["--folder", str(folder)] if folder else []
        self.command = [*wrapper, str(BINARY), "receive", *endpoints, *refusals, *kept]
        self.process = None
        self._lock = threading.Lock()
        self._mails, self._said = [], []

    @property
    def endpoint(self):
        """The first of its endpoints."""
        return self.endpoints[0]

    def start(self):
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._mails, json.loads), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self._said, str.rstrip), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        wait.until(self._ready, lambda: f"receiving; exit {self.process.poll()}; said {self._said}", seconds=30)
        return self

    def _read(self, stream, into, parse):
        for line in stream:
            with self._lock:
                into.append(parse(line))

    def _ready(self):
        with self._lock:
            said = sum("receiving on" in line for line in self._said)
        assert self.process.poll() is None or said, f"exit {self.process.returncode}: {self._said}"
        return said == len(self.endpoints)

    @property
    def mails(self):
        """Every message so far, in order: listener, peer, reverse_path, recipients, size, message_id, subject,
        received_ms and, with a folder, file."""
        with self._lock:
            return list(self._mails)

    def wait_for(self, count, seconds=60.0):
        """Returns the mails when exactly `count` have come; more is a failure too."""
        wait.until(lambda: len(self.mails) >= count, lambda: f"{count} messages, have {len(self.mails)}", seconds)
        assert len(self.mails) == count, f"{count} messages expected, have {len(self.mails)}"
        return self.mails

    def content(self, mail):
        """The content of one of `mails`, byte for byte."""
        return Path(mail["file"]).read_bytes()

    def stop(self):
        """SIGTERM; fails unless it ends well."""
        if self.process is None or self.process.poll() is not None:
            return
        os.kill(self.process.pid, signal.SIGTERM)
        code = self.process.wait(timeout=15)
        for reader in self._readers:
            reader.join(timeout=5)
        assert code == 0, f"receiver: exit {code}: {self._said}"
