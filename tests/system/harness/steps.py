"""Lets a relay die, or a call of it fail, at a chosen step on the files of its spool; see steps.c, which does it."""

import mmap
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("steps.c")
LAYOUT = struct.Struct("4i")
# The folder of bodies gives a file its name; what that is does not matter.
BODY = re.compile(r"bodies/[0-9a-z]+(\.part)?$")
LOG, DATABASE = "spool.sqlite-wal", "spool.sqlite"


def built(folder):
    """The library that goes before libc."""
    library = folder / "steps.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Step:
    """A call: its `name` in steps.c; the file, relative to the folder; for a write its place and its first octets."""

    name: str
    file: str
    place: int
    octets: bytes


class Steps:
    """What `library` counts of the program that runs in `environment`, on the files of `state`."""

    def __init__(self, folder, library, state):
        self._control, self._log = folder / "steps-control", folder / "steps-log"
        self._control.write_bytes(bytes(LAYOUT.size))
        self._log.touch()
        file = os.open(self._control, os.O_RDWR)
        self._map = mmap.mmap(file, LAYOUT.size)
        os.close(file)
        self.environment = {
            "LD_PRELOAD": str(library),
            "STEPS_FOLDER": str(state),
            "STEPS_CONTROL": str(self._control),
            "STEPS_LOG": str(self._log),
        }

    def arm(self, at=0, error=0):
        """Steps are counted from now on. After the one numbered `at`, from 1, the program dies; or, with an `error`, that one
        fails with it."""
        os.truncate(self._log, 0)
        self._map[:] = LAYOUT.pack(1, at, error, 0)

    def disarm(self):
        self._map[:] = LAYOUT.pack(0, 0, 0, self.count)

    @property
    def count(self):
        return LAYOUT.unpack(self._map[:])[3]

    def taken(self):
        """The steps so far."""
        steps = []
        for line in self._log.read_text().splitlines():
            name, file, place, octets, *_ = line.split(" ")
            steps.append(Step(name, file, int(place), bytes.fromhex(octets)))
        return steps


def said(step, before):
    """How docs/02-spool.md says a step; `before` is the one before it, or nothing."""
    body = BODY.fullmatch(step.file)
    name = f"{'x.part' if body.group(1) else 'x'}" if body else step.file
    if step.file == LOG and step.name == "pwrite" and step.place == 0:
        return "begin the log anew"
    if step.file == LOG and step.name == "pwrite":
        # A frame is its head of 24 octets and a page. The head of the last one of a commit says how large the database is then
        # (https://sqlite.org/fileformat2.html, 4.1).
        is_last = before is not None and before.file == LOG and len(before.octets) == 8 and _is_head_of_last(before, step)
        return "write the last of a commit to the log" if is_last else "write to the log"
    if step.file == LOG and step.name == "sync" and not (before and before.file == LOG and before.name == "pwrite"):
        return "sync the log once more"
    verb = {"pwrite": "write", "write": "write", "sync": "sync", "create": "make", "unlink": "remove", "truncate": "cut"}
    what = {LOG: "the log", DATABASE: "the database", "bodies": "`bodies/`"}.get(name, f"`{name}`")
    if step.name == "rename":
        return "rename `x.part` to `x`"
    if step.name == "write" or (step.name == "pwrite" and step.file == DATABASE):
        return f"write to {what}"
    return f"{verb[step.name]} {what}"


def _is_head_of_last(before, step):
    return step.place == before.place + 24 and int.from_bytes(before.octets[4:8]) > 0
