"""The load: Postfix's smtp-source hands in, its smtp-sink takes and throws away. Both are fast and ours neither.

Each is in a group of its own, so that its processor time stays out of the peer's.
"""

import os
import re
import select
import subprocess
import threading
import time

from group import Group
from harness import wait

FROM, TO = "alice@branch.example", "bob@remote.example"
# The sink's counter is looked at so often at most, in seconds: it is written for each message, and to read each would
# cost more than the sink does.
LOOK = 0.02


class Source:
    """smtp-source, once or several times."""

    def __init__(self):
        self.group = Group("source")
        self._process = None

    def cpu_seconds(self):
        return self.group.cpu_seconds()

    def run(self, endpoint, messages, size, sessions, reuse, limit, meanwhile=lambda: None):
        """Hands in `messages` of `size` octets of payload over so many sessions at once, with `reuse` all over the same ones,
        else each over a connection of its own. Returns the seconds from its start to its end. `meanwhile` is called now and
        then. Fails if a message is refused, or after `limit` seconds."""
        more = ["-d"] if reuse else []
        command = [
            *("smtp-source", *more, "-s", sessions, "-m", messages, "-l", size),
            *("-f", FROM, "-t", TO, "-M", "client.branch.example", endpoint),
        ]
        started = time.monotonic()
        self._process = subprocess.Popen(
            self.group.command(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seconds = _ended(self._process, started, limit, meanwhile)
        said = self._process.stdout.read()
        self._process.stdout.close()
        # It complains of a refused message and goes on.
        if self._process.wait() != 0 or said:
            raise AssertionError(f"smtp-source: exit {self._process.returncode}: {said[-2000:]}")
        return seconds

    def stop(self):
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.group.stop()


def _ended(process, started, limit, meanwhile):
    """Seconds from `started` to the end of `process`, to the millisecond, without looking all the time."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        pause = 0.5
        while not poll.poll(pause * 1000):
            if time.monotonic() - started > limit:
                process.kill()
                raise AssertionError(f"smtp-source is not done after {limit} s")
            meanwhile()
            # Few looks, however long it takes.
            pause = min(2 * pause, 30.0)
        return time.monotonic() - started
    finally:
        os.close(descriptor)


class Sink:
    """smtp-sink at `endpoint`, from construction to `stop`. It counts what it took."""

    COUNT = re.compile(rb"mesg=(\d+)")

    def __init__(self, endpoint):
        self._group = Group("sink")
        self._changed, self._ended = threading.Condition(), False
        # (time, how many), of the monotonic clock; the first is nothing.
        self._counts = [(time.monotonic(), 0)]
        # A backlog and as many connections as anybody opens.
        self._process = subprocess.Popen(
            self._group.command("smtp-sink", "-u", "nobody", "-c", "-m", "1000", endpoint, "1000"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait.until(lambda: wait.listens(endpoint), f"smtp-sink at {endpoint}; exit {self._process.poll()}")

    def _read(self):
        text = b""
        while more := os.read(self._process.stdout.fileno(), 1 << 20):
            now = time.monotonic()
            text = text[-64:] + more
            # The last number may be cut off in the middle.
            if found := self.COUNT.findall(text[: text.rfind(b"\r")]):
                with self._changed:
                    if int(found[-1]) != self._counts[-1][1]:
                        self._counts.append((now, int(found[-1])))
                        self._changed.notify_all()
            time.sleep(LOOK)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def cpu_seconds(self):
        return self._group.cpu_seconds()

    def count(self):
        return self._counts[-1][1]

    def wait_for(self, count, limit):
        """The time, by the monotonic clock, at which it had that many; at most two looks late."""
        with self._changed:
            self._changed.wait_for(lambda: self.count() >= count or self._ended, limit)
            if self.count() < count:
                raise AssertionError(f"the sink has {self.count()} of {count}; exit {self._process.poll()}; limit {limit} s")
            return next(now for now, had in self._counts if had >= count)

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._group.stop()
