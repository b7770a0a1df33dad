"""Reads what strace saw of a relay, and judges durability: was the spool synced before each 250 left?

The order of the lines is the order in which the kernel stopped the threads: a call's entry is written before it runs,
its return after it ran. So a sync whose return stands above the entry of a write happened before it.
"""

import re
from dataclasses import dataclass

CALLS = "read,readv,recvfrom,recvmsg,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2"
SYNCS = {"fsync", "fdatasync"}
WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}
SENDS = {"write", "writev", "sendto", "sendmsg"}
RECEIVES = {"read", "readv", "recvfrom", "recvmsg"}

LINE = re.compile(r"^(\d+) +(.*)$")
RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
CALL = re.compile(r"^(\w+)\((\d+)<(.*?)>(?=[,)])(.*)$", re.DOTALL)
# Of whatever form: from one path to another.
RENAME = re.compile(r'^(rename)(?:at2?)?\(.*?"(.*?)", .*?"(.*?)"(.*)$')


@dataclass
class Call:
    """One system call: `start` and `end` are line numbers, `target` the file or connection behind the descriptor. Of a rename
    `target` is the new path and `text` the old one."""

    name: str
    target: str
    text: str
    start: int
    end: int
    ok: bool


def wrapper(output):
    """The command line that runs a program under strace, its threads too, with whole buffers and file names."""
    return ["strace", "-f", "-yy", "-s", "1000000", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(output)]


def read(path):
    """All finished calls on descriptors, in the order of their return."""
    calls, open_calls = [], {}
    with open(path, encoding="latin-1") as lines:
        for number, line in enumerate(lines):
            match = LINE.match(line.rstrip("\n"))
            if not match:
                continue
            thread, text = match.groups()
            if text.endswith("<unfinished ...>"):
                open_calls[thread] = (number, text.removesuffix("<unfinished ...>").rstrip())
                continue
            start = number
            if resumed := RESUMED.match(text):
                start, head = open_calls.pop(thread)
                text = head + resumed.group(2)
            if call := CALL.match(text):
                name, _, target, rest = call.groups()
                result = rest.rsplit(" = ", 1)[-1]
                calls.append(Call(name, target, rest, start, number, not result.startswith(("-1", "?"))))
            elif renamed := RENAME.match(text):
                name, source, target, rest = renamed.groups()
                calls.append(Call(name, target, source, start, number, rest.endswith(" = 0")))
    return calls


def unsynced(calls, state, marks):
    """The messages whose 250 was not preceded by the sync of what holds them; mark -> reason, empty is good.

    `marks`: a text that is unique to a message's content -> one that is unique to its envelope. For both: the first
    write that put it into a file under `state`, and a sync of that file that began after that write had ended and
    returned 0 before the 250 that was sent on the message's connection after its content was read.
    """
    files = [call for call in calls if state in call.target and call.ok]
    faults = {}
    for content, envelope in marks.items():
        reply = _end_of_data_reply(calls, content)
        if reply is None:
            faults[content] = "no 250 seen"
            continue
        for part, mark in (("content", content), ("envelope", envelope)):
            stored = next((c for c in files if c.name in WRITES and mark in c.text), None)
            if stored is None or stored.end > reply.start:
                faults[content] = f"{part} in no file of the spool when 250 left"
            elif not any(
                c.name in SYNCS and c.target == stored.target and stored.end < c.start and c.end < reply.start
                for c in files
            ):
                faults[content] = f"{part} not synced in {stored.target} when 250 left"
    return faults


class Spool:
    """What happened to the files of the spool in the folder `state`."""

    def __init__(self, calls, state):
        self._state = str(state)
        self._calls = [call for call in calls if call.target.startswith(self._state) and call.ok]

    def _synced(self, target, since, before):
        """The first sync of a file that began after line `since` and returned before line `before`."""
        return next(
            (c for c in self._calls if c.name in SYNCS and c.target == target and since < c.start and c.end < before), None
        )

    def fault(self, content, envelope, answer, large):
        """What is wrong with a message when `answer`, a call, said that it was accepted; None is good. `content` and
        `envelope` are texts unique to either. A `large` one lies in a file: that is synced, gets its name, its folder is
        synced, and only then its row is written and synced."""
        written = {mark: [c for c in self._calls if c.name in WRITES and mark in c.text] for mark in (content, envelope)}
        since = 0
        if large:
            parts = [c for c in self._calls if c.name in WRITES and c.target == written[content][0].target]
            file = parts[0].target
            if not file.endswith(".part"):
                return f"its content went to {file}"
            # Its Received line names the recipient, too.
            written[envelope] = [c for c in written[envelope] if c.target != file]
            named = next((c for c in self._calls if c.name == "rename" and c.text == file), None)
            if named is None:
                return f"{file} not renamed"
            if not self._synced(file, parts[-1].end, named.start):
                return f"{file} not synced when it was renamed"
            folder = self._synced(file.rsplit("/", 1)[0], named.end, answer.start)
            if folder is None:
                return "the folder of its file not synced when it was accepted"
            since = folder.end
        for mark in (envelope,) if large else (content, envelope):
            stored = written[mark][0]
            if stored.start < since:
                return "its row was written before the folder of its file was synced"
            if not self._synced(stored.target, stored.end, answer.start):
                return f"{mark} not synced in {stored.target} when it was accepted"
        return None


def _end_of_data_reply(calls, mark):
    """The first reply 250 on the connection that `mark` was read from, after it was read."""
    heard = next((c for c in calls if c.name in RECEIVES and c.target.startswith("TCP") and mark in c.text), None)
    if heard is None:
        return None
    return next(
        (
            c
            for c in calls
            if c.name in SENDS and c.target == heard.target and c.start > heard.end and '"250 ' in c.text
        ),
        None,
    )
