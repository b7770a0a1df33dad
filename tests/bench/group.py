"""Processes that belong together, with all their children: what they used of the processor, what they hold of memory.

A control group (cgroup v2) of their own: the kernel counts the time of every process that was ever in it, those that
ended too, without anybody looking. Memory is the proportional set size: what several processes share counts once.
Needs a cgroup2 file system that root may write to, and no controller.
"""

import contextlib
import itertools
import os
import signal
from pathlib import Path

from harness import wait

_numbers = itertools.count()


def _mounted():
    """Where cgroup2 is mounted, which is not at the same place everywhere."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, folder, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(folder)
    raise OSError("no cgroup2 file system is mounted: CPU time cannot be told apart")


class Group:
    """Exists from construction to `stop`. Everything that is started by its `command` is in it."""

    def __init__(self, name):
        self._folder = _mounted() / f"linkmail-{os.getpid()}-{next(_numbers)}-{name}"
        self._folder.mkdir()

    def command(self, *arguments):
        """The command line that runs `arguments` in the group; without arguments, what to put before a command."""
        enter = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", enter, str(self._folder / "cgroup.procs"), *map(str, arguments)]

    def inside(self):
        """Sockets are of no group. (What runs in an island asks.)"""
        return contextlib.nullcontext()

    def processes(self):
        """Process ids, of those that run."""
        return [int(line) for line in (self._folder / "cgroup.procs").read_text().split()]

    def cpu_seconds(self):
        """Processor time, user's and system's, of all processes that are or were in it."""
        for line in (self._folder / "cpu.stat").read_text().splitlines():
            name, value = line.split()
            if name == "usage_usec":
                return int(value) / 1e6
        raise AssertionError("no usage_usec")

    def pss_bytes(self):
        """Proportional set size, summed. Dear: the kernel walks every page of every process."""
        return sum(_pss_bytes(pid) for pid in self.processes())

    def kill(self):
        """kill -9 for all of it, until nothing is left."""

        def gone():
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.processes()

        wait.until(gone, "the end of every process of a group")

    def stop(self):
        """Waits for the last process to be gone: whoever started them has ended them."""
        wait.until(lambda: not self.processes(), lambda: f"the end of {self.processes()}")
        # A process may be off the list and still hold the folder for a moment.
        wait.until(self._removed, f"{self._folder} can be removed")

    def _removed(self):
        try:
            self._folder.rmdir()
        except OSError:
            return False
        return True


def _pss_bytes(pid):
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        # It ended meanwhile.
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
