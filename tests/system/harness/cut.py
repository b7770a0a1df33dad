"""A line that breaks once: a TCP proxy that cuts everything it carries when a given word was said, and then is good again.

The word is looked for in what one side says, over all connections in the order of time; no SMTP is understood, and behind
STARTTLS the words are the heads of TLS records. `RESET` cuts as a host that forgot the connection, `FIN` as a box on the
way that closes both halves and swallows what still comes.

Limits: the part of a word that came in an earlier segment is passed on before the word is known.
"""

import re
import select
import socket
import threading
from dataclasses import dataclass

from .line import RESET as RESETTING
from .place import split

NEAR, FAR = "near", "far"
RESET, FIN = "reset", "fin"


@dataclass(frozen=True)
class Point:
    """Where the line is cut: the `nth` time that `side` says `word` (a regular expression), which is not passed on unless
    `after`: then the line that the word is in is, to its end. No word: the nth connection is cut before anything was said."""

    side: str
    word: bytes | None = None
    nth: int = 1
    after: bool = False


class _Pair:
    """A connection that is carried."""

    def __init__(self, near, far):
        self.near, self.far = near, far
        self.cut = False
        self.said = {NEAR: bytearray(), FAR: bytearray()}
        # Up to where it was searched.
        self.seen = {NEAR: 0, FAR: 0}


class Cut:
    """Carries from `endpoint` to `target` and cuts at `point`. `happened` is set once it did; `recorded` has, for each
    connection, what went from near to far. With `roams` each connection comes to `target` from another address."""

    def __init__(self, place, target, point, how=RESET, roams=False):
        self.endpoint = place.endpoint()
        self.happened = threading.Event()
        self.recorded = []
        self._target, self._point, self._how = split(target), point, how
        self._left = point.nth
        self._sources = (f"127.32.0.{n}" for n in range(1, 255)) if roams else None
        self._pairs = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(split(self.endpoint), backlog=64)
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self):
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        with self._lock:
            self._cut_all(RESET)

    def _serve(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near):
        try:
            source = (next(self._sources), 0) if self._sources else None
            far = socket.create_connection(self._target, timeout=10, source_address=source)
            far.settimeout(None)
        except OSError:
            near.close()
            return
        pair = _Pair(near, far)
        with self._lock:
            self._pairs.add(pair)
            self.recorded.append(pair.said[NEAR])
            if self._point.word is None and self._comes():
                self._cut_all(self._how)
        try:
            self._pump(pair)
        except OSError:
            pass
        finally:
            with self._lock:
                self._pairs.discard(pair)
                near.close()
                far.close()

    def _pump(self, pair):
        open_sides = {pair.near, pair.far}
        while open_sides:
            for readable in select.select(list(open_sides), [], [])[0]:
                data = readable.recv(65536)
                if not data:
                    open_sides.discard(readable)
                    if not pair.cut:
                        return
                    continue
                with self._lock:
                    if not pair.cut:
                        self._pass_on(pair, NEAR if readable is pair.near else FAR, data)

    def _pass_on(self, pair, side, data):
        to = pair.far if side is NEAR else pair.near
        said = pair.said[side]
        end = self._cut_at(pair, side, said + data) if side == self._point.side else None
        passed = data if end is None else data[: max(0, end - len(said))]
        said += passed
        to.sendall(passed)
        if end is not None:
            self._cut_all(self._how)

    def _cut_at(self, pair, side, said):
        """Up to which octet of all that was said it is passed on before the cut; nothing if there is none yet."""
        if self._point.word is None or self.happened.is_set():
            return None
        for found in re.compile(self._point.word).finditer(bytes(said), pair.seen[side]):
            end = found.start()
            if self._point.after:
                # The word ends its line, or the line ends behind it; one that is not complete yet is waited for.
                end = said.find(b"\n", found.end() - 1) + 1
                if not end:
                    return None
            pair.seen[side] = found.end()
            if self._comes():
                return end
        return None

    def _comes(self):
        """The word was said: is it the time that counts?"""
        self._left -= 1
        if self._left == 0:
            self.happened.set()
            return True
        return False

    def _cut_all(self, how):
        for pair in self._pairs:
            pair.cut = True
            for end in (pair.near, pair.far):
                try:
                    if how == RESET:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
                        # Wakes who carries; the close resets.
                        end.shutdown(socket.SHUT_RD)
                    else:
                        end.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
