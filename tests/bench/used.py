"""What a run used: processor, memory, flushes of the disk, between two moments."""

import os
import time
from pathlib import Path


class Used:
    """From construction to `end`. `look` in between takes a sample of memory.

    `cpu_s` and `pss_bytes` are of the peer, None without one; `load_cpu_s` of source and sink. `flushes` counts the flushes
    of the disk under `folder` by the whole machine, None where the kernel does not say: on a quiet machine they are the
    peer's."""

    def __init__(self, folder, group, source, sink=None):
        self._folder, self._group = folder, group
        self._load = [one for one in (source, sink) if one is not None]
        self.pss_bytes, self.processes = None, None
        self.cpu_s, self.load_cpu_s, self.flushes = self._counts()

    @staticmethod
    def now():
        return time.monotonic()

    def _counts(self):
        cpu_s = self._group.cpu_seconds() if self._group else None
        return cpu_s, sum(one.cpu_seconds() for one in self._load), flushes(self._folder)

    def look(self):
        """The highest sample counts."""
        if self._group:
            self.pss_bytes = max(self.pss_bytes or 0, self._group.pss_bytes())
            self.processes = max(self.processes or 0, len(self._group.processes()))

    def end(self):
        before = (self.cpu_s, self.load_cpu_s, self.flushes)
        after = self._counts()
        self.cpu_s, self.load_cpu_s, self.flushes = (
            None if new is None or old is None else new - old for old, new in zip(before, after, strict=True)
        )
        # A run may be too short for a look.
        if self.pss_bytes is None:
            self.look()


def flushes(folder):
    """Flush requests that the disk under `folder` has completed since the machine started (field 19 of a line of
    /proc/diskstats), or None: a file system without a disk, or a kernel before 5.5."""
    device = os.stat(folder).st_dev
    for line in Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)) and len(fields) > 18:
            return int(fields[18])
    return None


def file_system(folder):
    """The kind of file system that `folder` is on: figures from a tmpfs say nothing of durability."""
    best = ("", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if Path(folder).is_relative_to(mounted) and len(mounted) >= len(best[0]):
            best = (mounted, kind)
    return best[1]
