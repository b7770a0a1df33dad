"""A wall clock that a test sets while the program runs, as the network does on a box without a battery. The clock that does
not jump goes on as it is."""

import time

# Debian's package libfaketime.
LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class WallClock:
    """`env` makes a program read it."""

    def __init__(self, folder):
        self.file = folder / "wall-clock"
        self.env = {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.set_right()

    def set_by(self, seconds):
        """So many seconds later than it is."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self.file)

    def set_right(self):
        self.set_by(0)

    def set_to_1970(self):
        """As it is ten minutes after a start without a battery."""
        self.set_by(600 - int(time.time()))
