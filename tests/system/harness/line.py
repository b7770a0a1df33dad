"""The line: a TCP proxy in front of a far end, whose state a test chooses.

`up` carries. `refuse` closes the port, so connects are refused at once. `blackhole` swallows the SYN: the port listens
with a backlog of one that is full, and Linux drops the SYN of whoever comes then, so a connect hangs until the client
gives up (no packet filter and no name space is needed). `silent` accepts and never says a byte, `drop` accepts and
closes at once. `hang_up` resets what is being carried. One port through all of it.
"""

import select
import socket
import struct
import threading

from .place import split

RESET = struct.pack("ii", 1, 0)


class Line:
    """`endpoint` is the near side; `target` ("ADDRESS:PORT") the far one. Starts refused.

    `recorded` has, for each connection that was carried, the bytes that went from near to far."""

    def __init__(self, place, target):
        self.endpoint = place.endpoint()
        self.recorded = []
        self._target = split(target)
        self._listener = None
        self._plugs = []
        self._carrying = set()
        self._held = []
        self._lock = threading.Lock()

    def _listen(self, backlog):
        self._close()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(split(self.endpoint))
        self._listener.listen(backlog)
        return self._listener

    def _close(self):
        if self._listener:
            # Wakes the thread that stands in accept().
            try:
                self._listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self._listener.close()
            self._listener = None
        for plug in self._plugs + self._held:
            plug.close()
        self._plugs, self._held = [], []

    @property
    def held(self):
        """How many connections `silent` has taken."""
        return len(self._held)

    def refuse(self):
        self._close()

    def up(self):
        threading.Thread(target=self._serve, args=(self._listen(64), self._carry), daemon=True).start()
        return self

    def silent(self):
        threading.Thread(target=self._serve, args=(self._listen(64), self._held.append), daemon=True).start()

    def drop(self):
        threading.Thread(target=self._serve, args=(self._listen(64), socket.socket.close), daemon=True).start()

    def blackhole(self):
        self._listen(0)
        while True:
            plug = socket.socket()
            plug.setblocking(False)
            self._plugs.append(plug)
            plug.connect_ex(split(self.endpoint))
            if not select.select([], [plug], [], 0.2)[1]:
                return

    def hang_up(self):
        """Resets every connection that is being carried."""
        with self._lock:
            for near in self._carrying:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                # The carrying thread closes it, and the close resets it.
                try:
                    near.shutdown(socket.SHUT_RD)
                except OSError:
                    pass

    def stop(self):
        self._close()
        self.hang_up()

    @staticmethod
    def _serve(listener, take):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            take(near)

    def _carry(self, near):
        threading.Thread(target=self._pump, args=(near,), daemon=True).start()

    def _pump(self, near):
        try:
            far = socket.create_connection(self._target, timeout=10)
        except OSError:
            near.close()
            return
        record = bytearray()
        with self._lock:
            self._carrying.add(near)
            self.recorded.append(record)
        try:
            while True:
                for readable in select.select([near, far], [], [])[0]:
                    data = readable.recv(65536)
                    if not data:
                        return
                    if readable is near:
                        record += data
                    (far if readable is near else near).sendall(data)
        except OSError:
            return
        finally:
            with self._lock:
                self._carrying.discard(near)
            near.close()
            far.close()
