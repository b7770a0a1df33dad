"""Between a relay and its PostgreSQL: knows enough of the protocol (PostgreSQL documentation, chapter 55) to count the statements
that change messages, and to break off at a chosen one.

A step is a statement that writes to one of `TABLES`, and the commit of a transaction that did. `before`: the connection is
broken before the server hears of it; `after`: the server has done it, and its answer is held back; `kill` is called then, or
the connection is broken.

Limits: sockets of the file system only, no TLS. What a relay does beside that, such as renewing leases, is passed on.
"""

import re
import socket
import threading

TABLES = "messages|recipients|bodies|large_bodies|body_chunks"
WRITES = re.compile(rf"^(INSERT INTO|UPDATE|DELETE FROM) ({TABLES})\b")
ASKS_FOR_TLS = (80877103).to_bytes(4)
BEFORE, AFTER, KILL = "broken before it", "broken after it", "killed after it"


class Proxy:
    """Listens in `folder` for the server that listens in `server`; both as PostgreSQL names such sockets."""

    def __init__(self, folder, server, port=5432):
        folder.mkdir()
        self.folder, self._server = folder, str(server / f".s.PGSQL.{port}")
        self._lock = threading.Lock()
        self._armed, self._at, self._how, self._kill = False, 0, None, None
        self.steps = []
        self.hit = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / f".s.PGSQL.{port}"))
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def arm(self, at=0, how=None, kill=None):
        """From now on steps are counted, from 1; at the one numbered `at` it happens."""
        with self._lock:
            self.steps = []
            self._armed, self._at, self._how, self._kill = True, at, how, kill

    def disarm(self):
        with self._lock:
            self._armed = False

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_Carried(self, near, self._server).run, daemon=True).start()

    def step(self, name):
        """Notes a step; what is to happen at it, or nothing."""
        with self._lock:
            if not self._armed:
                return None
            self.steps.append(name)
            return self._how if len(self.steps) == self._at else None

    def happens(self, how):
        if how == KILL:
            self._kill()
        self.hit.set()


class _Carried:
    """A connection that is carried: one statement at a time, as the relay sends them."""

    def __init__(self, proxy, near, server):
        self._proxy, self._near = proxy, near
        self._far = socket.socket(socket.AF_UNIX)
        self._far.connect(server)
        self._texts, self._wrote = {}, ""

    def run(self):
        try:
            self._begin()
            while True:
                asked, step = self._asks()
                how = self._proxy.step(step) if step else None
                if how == BEFORE:
                    return self._proxy.happens(how)
                self._far.sendall(asked)
                answer = self._answers(passed_on=how is None)
                if how:
                    assert answer, "no answer"
                    return self._proxy.happens(how)
        except (OSError, EOFError):
            pass
        finally:
            self._near.close()
            self._far.close()

    def _begin(self):
        """The first messages have no type; one that asks for TLS is answered by a letter, and another one follows."""
        while True:
            head = _exactly(self._near, 4)
            message = _exactly(self._near, int.from_bytes(head) - 4)
            self._far.sendall(head + message)
            if message != ASKS_FOR_TLS:
                self._answers()
                return
            self._near.sendall(_exactly(self._far, 1))

    def _asks(self):
        """What the relay says up to where it waits for the server, and the step that it is, if it is one."""
        asked, text = b"", ""
        while True:
            kind, message, whole = _message(self._near)
            asked += whole
            if kind == b"P":
                name, sql = message.split(b"\0")[:2]
                self._texts[name] = sql.decode()
            elif kind == b"B":
                text = self._texts.get(message.split(b"\0")[1], "")
            elif kind == b"Q":
                text = message.rstrip(b"\0").decode()
            elif kind == b"X":
                self._far.sendall(asked)
                raise EOFError
            if kind in (b"S", b"Q"):
                return asked, self._step(text)

    def _step(self, text):
        if text.startswith("BEGIN"):
            self._wrote = ""
        elif found := WRITES.match(text):
            self._wrote = self._wrote or found[2]
            return f"{found[1]} `{found[2]}`"
        elif text == "COMMIT" and self._wrote:
            return f"COMMIT, begun with `{self._wrote}`"
        return None

    def _answers(self, passed_on=True):
        """What the server says until it is ready for more."""
        answer = b""
        while True:
            kind, _, whole = _message(self._far)
            answer += whole
            if passed_on:
                self._near.sendall(whole)
            if kind == b"Z":
                return answer


def _message(stream):
    """Its type, what is in it, and all of it."""
    head = _exactly(stream, 5)
    content = _exactly(stream, int.from_bytes(head[1:]) - 4)
    return head[:1], content, head + content


def _exactly(stream, count):
    octets = b""
    while len(octets) < count:
        more = stream.recv(count - len(octets))
        if not more:
            raise EOFError
        octets += more
    return octets
