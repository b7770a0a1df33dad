"""What must come of mail over crashes: an account of who handed in what, what came where, and what the spool had recorded
when something died. Nothing accepted is lost; nothing that was recorded comes again; each repeat was in flight, and not
recorded, when something died."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Crash:
    """What was there when a relay had been killed, or stopped: (id, end) of each recipient whose outcome the spool had
    recorded, of each that it had not; how much had come to each end."""

    recorded: set
    unrecorded: set
    came: dict


@dataclass
class History:
    """A run: Message-IDs that clients attempted, and that got 250; what came to each end, in order."""

    attempted: set = field(default_factory=set)
    accepted: set = field(default_factory=set)
    came: dict = field(default_factory=dict)
    crashes: list = field(default_factory=list)


def judge(history):
    """(faults, explained): what must not be, as text, and how many repeats a crash explains: the message had come before it,
    and its outcome was not in the spool when the relay had been killed."""
    faults, explained = [], 0
    for end, ids in history.came.items():
        faults += [f"{id}: accepted and lost to {end}" for id in history.accepted - set(ids)]
        faults += [f"{id}: never handed in, came to {end}" for id in set(ids) - history.attempted]
        for number, crash in enumerate(history.crashes):
            later = Counter(ids[crash.came[end] :])
            faults += [
                f"{id}: to {end} again, recorded before crash {number}" for id in later if (id, end) in crash.recorded
            ]
        last = {}
        for place, id in enumerate(ids):
            if id in last:
                between = [one for one in history.crashes if last[id] < one.came[end] <= place]
                if any((id, end) in one.unrecorded for one in between):
                    explained += 1
                else:
                    faults.append(f"{id}: to {end} twice without a crash that explains it")
            last[id] = place
    return faults, explained
