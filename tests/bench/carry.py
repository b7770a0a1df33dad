"""The line itself, as a process of its own: carries octets, or packets, late and no faster than it may.

Two models. `port`: a TCP proxy. What one end writes arrives half a round trip later at the other; there is no window and
no slow start. The handshake is part of it: a connect succeeds at once here, so the first octets of the near end leave one
round trip after it, and the far end is connected half a round trip later, when the last packet of the handshake would
have come. A far end that speaks first is heard two round trips after the connect. `tun`: packets between two TUN devices,
each in a name space of its own; TCP's own slow start counts.

In both, each direction is one queue for all connections: in order, at `rate` octets per second, without a limit of
length. An octet enters when the process reads it, is on the line for 1/`rate` s once those before it are through, and
arrives half a round trip later.

It reads orders as lines of JSON and answers each with one. It ends at the end of its input.

    {"do": "port", "listen": [host, port], "target": [host, port], "outward": true}
    {"do": "tun", "near": file descriptor, "far": file descriptor}
    {"do": "cut"}, {"do": "mend"}      resets all connections and refuses new ones; ports only
    {"do": "records"}                  what was carried: [outward, connection, entered, on, off, arrived, octets, payload, mark]

Times are seconds since the epoch. `connection` is a number in the order of opening; `payload` are the octets without the
headers of a packet; `mark` is true where a command ETRN was seen in the clear, the only thing it looks for.
"""

import heapq
import itertools
import json
import os
import select
import socket
import struct
import sys
import time

# Of a TCP segment on an Ethernet: with a rate, what enters at once arrives piece by piece.
SEGMENT = 1448
RESET = struct.pack("ii", 1, 0)
READ = 256 * 1024


class Direction:
    """One way of the line: when what enters now is on it, and when it is at the other end."""

    def __init__(self, delay, rate):
        self.delay, self.rate = delay, rate
        self._free = 0.0

    def enter(self, earliest, octets):
        """(on, off, arrived) for so many octets that are there at `earliest`."""
        on = max(earliest, self._free)
        self._free = off = on + (octets / self.rate if self.rate else 0.0)
        return on, off, off + self.delay


class End:
    """One end of a proxied connection. What is read here goes to `other` over `direction`."""

    def __init__(self, carrier, sock, direction, outward, number):
        self.carrier, self.socket, self.direction = carrier, sock, direction
        self.outward, self.number = outward, number
        self.other = None
        # Before this nothing that was written here is under way: the handshake.
        self.open_at = 0.0
        self.connected = True
        self.finished = self.finishing = self.shut = False
        self._waiting = bytearray()

    def read(self, now):
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            return self.carrier.reset(self)
        earliest = max(now, self.open_at)
        if not data:
            self.finished = True
            self.carrier.watch(self)
            return self.carrier.later(self.direction.enter(earliest, 0)[2], self.other.finish)
        size = SEGMENT if self.direction.rate else READ
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            on, off, arrived = self.direction.enter(earliest, len(piece))
            mark = b"ETRN " in piece.upper()
            self.carrier.record(self.outward, self.number, now, on, off, arrived, len(piece), len(piece), mark)
            self.carrier.later(arrived, self.other.write, piece)

    def write(self, data=b""):
        if self.socket is None:
            return
        self._waiting += data
        if not self.connected:
            return
        try:
            while self._waiting:
                sent = self.socket.send(self._waiting)
                del self._waiting[:sent]
            if self.finishing:
                self.socket.shutdown(socket.SHUT_WR)
                self.finishing, self.shut = False, True
                self.carrier.close_when_done(self)
        except BlockingIOError:
            pass
        except OSError:
            return self.carrier.reset(self)
        self.carrier.watch(self)

    def finish(self):
        """The other end has said all it had to say."""
        self.finishing = True
        self.write()

    @property
    def events(self):
        reads = 0 if self.finished else select.EPOLLIN
        writes = select.EPOLLOUT if self._waiting or not self.connected else 0
        return reads | writes


class Carrier:
    """All ports and devices of one line."""

    def __init__(self, delay, rate):
        self._delay = delay
        self._out, self._in = Direction(delay, rate), Direction(delay, rate)
        self._epoll = select.epoll()
        self._handlers, self._interest = {}, {}
        self._due, self._turn, self._numbers = [], itertools.count(), itertools.count()
        self._ports, self._ends = [], set()
        self._records = []
        # Stamps are compared with those of files; delays are measured by a clock that does not jump.
        self._epoch = time.time() - time.monotonic()

    # What is carried.

    def record(self, outward, number, entered, on, off, arrived, octets, payload, mark):
        times = [round(at + self._epoch, 6) for at in (entered, on, off, arrived)]
        self._records.append([outward, number, *times, octets, payload, mark])

    def later(self, due, call, *arguments):
        heapq.heappush(self._due, (due, next(self._turn), call, arguments))

    # Ports.

    def port(self, listen, target, outward):
        port = {"listen": tuple(listen), "target": tuple(target), "outward": outward, "listener": None}
        self._ports.append(port)
        self._listen(port)

    def _listen(self, port):
        listener = port["listener"] = socket.create_server(port["listen"], backlog=1024)
        listener.setblocking(False)
        self._handlers[listener.fileno()] = lambda events, now: self._accept(port, now)
        self._epoll.register(listener, select.EPOLLIN)

    def _accept(self, port, now):
        while True:
            try:
                sock, _ = port["listener"].accept()
            except BlockingIOError:
                return
            there, back = (self._out, self._in) if port["outward"] else (self._in, self._out)
            number = next(self._numbers)
            near = End(self, sock, there, port["outward"], number)
            far = End(self, socket.socket(), back, not port["outward"], number)
            near.other, far.other = far, near
            near.open_at = now + 2 * self._delay
            far.connected = False
            self._ends |= {near, far}
            self._attach(near)
            self.later(now + 3 * self._delay, self._connect, far, port["target"])

    def _connect(self, far, target):
        if far.socket is None:
            return
        self._attach(far)
        try:
            far.socket.connect(target)
        except BlockingIOError:
            pass
        except OSError:
            self.reset(far)

    def _attach(self, end):
        end.socket.setblocking(False)
        end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handlers[end.socket.fileno()] = lambda events, now: self._serve(end, events, now)
        self.watch(end)

    def _serve(self, end, events, now):
        if not end.connected and events & (select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP):
            if end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return self.reset(end)
            end.connected = True
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not end.finished:
            end.read(now)
        if end.socket is not None:
            end.write()

    def watch(self, end):
        if end.socket is None:
            return
        file, events = end.socket.fileno(), end.events
        if file not in self._handlers or self._interest.get(file, 0) == events:
            return
        if not events:
            # A connection that is closed on both ways would be reported again and again.
            self._epoll.unregister(file)
            del self._interest[file]
            return
        if file in self._interest:
            self._epoll.modify(file, events)
        else:
            self._epoll.register(file, events)
        self._interest[file] = events

    def close_when_done(self, end):
        """Both sides have heard that the other has said all."""
        if end.shut and end.other.shut:
            self._forget(end)
            self._forget(end.other)

    def _forget(self, end):
        if end.socket is not None:
            file = end.socket.fileno()
            self._handlers.pop(file, None)
            if self._interest.pop(file, None) is not None:
                self._epoll.unregister(file)
            end.socket.close()
            end.socket = None
            self._ends.discard(end)

    def reset(self, end, late=True):
        """One end has gone without a word: so does the other, once the news is there."""
        self._abort(end)
        if late:
            self.later(time.monotonic() + self._delay, self._abort, end.other)
        else:
            self._abort(end.other)

    def _abort(self, end):
        if end.socket is not None:
            end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._forget(end)

    def cut(self):
        self._due.clear()
        for end in list(self._ends):
            self.reset(end, late=False)
        for port in self._ports:
            if port["listener"]:
                self._handlers.pop(port["listener"].fileno())
                self._epoll.unregister(port["listener"])
                port["listener"].close()
                port["listener"] = None

    def mend(self):
        for port in self._ports:
            if port["listener"] is None:
                self._listen(port)

    # Packets.

    def tun(self, near, far):
        connections = {}
        for source, sink, direction, outward in ((near, far, self._out, True), (far, near, self._in, False)):
            os.set_blocking(source, False)
            self._handlers[source] = lambda events, now, way=(source, sink, direction, outward): self._packets(
                *way, connections, now
            )
            self._epoll.register(source, select.EPOLLIN)

    def _packets(self, source, sink, direction, outward, connections, now):
        while True:
            try:
                packet = os.read(source, 65536)
            except BlockingIOError:
                return
            # IPv4 alone, and of it TCP: a device says a few words of IPv6 when it comes up.
            if packet[0] >> 4 != 4 or packet[9] != 6:
                continue
            head = (packet[0] & 15) * 4
            start = head + (packet[head + 12] >> 4) * 4
            ends = [(packet[12:16], packet[head : head + 2]), (packet[16:20], packet[head + 2 : head + 4])]
            number = connections.setdefault(tuple(sorted(ends)), len(connections))
            on, off, arrived = direction.enter(now, len(packet))
            mark = b"ETRN " in packet[start:].upper()
            self.record(outward, number, now, on, off, arrived, len(packet), len(packet) - start, mark)
            self.later(arrived, self._send, sink, packet)

    @staticmethod
    def _send(sink, packet):
        try:
            os.write(sink, packet)
        except OSError:
            pass  # The device is down: the packet is lost, as packets are.

    # The loop.

    def run(self):
        """Until the end of the orders."""
        orders, pending = sys.stdin.fileno(), b""
        os.set_blocking(orders, False)
        self._epoll.register(orders, select.EPOLLIN)
        while True:
            # An epoll descriptor in select: a time-out in microseconds, where epoll itself rounds up to milliseconds.
            pause = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            select.select([self._epoll], [], [], pause)
            for file, events in self._epoll.poll(0):
                if file == orders:
                    more = os.read(orders, 65536)
                    if not more:
                        return
                    *lines, pending = (pending + more).split(b"\n")
                    for line in lines:
                        self._order(json.loads(line))
                elif handler := self._handlers.get(file):
                    # Not earlier: what was read may have come while another was served.
                    handler(events, time.monotonic())
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, call, arguments = heapq.heappop(self._due)
                call(*arguments)

    def _order(self, order):
        answer = {}
        match order.pop("do"):
            case "port":
                self.port(**order)
            case "tun":
                self.tun(**order)
            case "cut":
                self.cut()
            case "mend":
                self.mend()
            case "records":
                answer = self._records
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    Carrier(delay=float(sys.argv[1]), rate=float(sys.argv[2]) or None).run()
