"""A smart host with a will of its own: an SMTP server that does on the wire what real ones do on bad days."""

import contextlib
import socketserver
import threading

from .place import split


class _Session(socketserver.StreamRequestHandler):
    def reply(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self):
        peer = self.server.peer
        with peer.lock:
            peer.sessions += 1
            peer.open += 1
            full = peer.at_once is not None and peer.open > peer.at_once
        try:
            if full:
                return self.reply("421 4.7.0 too many connections from you")
            with peer.lock:
                peer.most_open = max(peer.most_open, peer.open)
            # A relay that is killed resets what it had not read.
            with contextlib.suppress(ConnectionError):
                self.converse(peer)
        finally:
            with peer.lock:
                peer.open -= 1
                peer.turned_away += full

    def converse(self, peer):
        taken = 0
        self.reply(peer.greeting)
        while line := self.rfile.readline():
            verb = line.split(b" ")[0].strip().upper()
            if verb == b"EHLO":
                self.wfile.write(b"250-peer.test\r\n250-PIPELINING\r\n250 ETRN\r\n")
            elif verb == b"MAIL":
                if peer.per_session is not None and taken >= peer.per_session:
                    return self.reply("421 4.7.0 enough for this session")
                self.reply("250 2.1.0 OK")
            elif verb == b"DATA":
                if peer.stall:
                    peer.stalled.set()
                    return peer.released.wait(60)
                self.reply("354 go")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    if not line:
                        # Cut off in the middle: no message.
                        return
                    lines.append(line)
                taken += 1
                peer.bodies.append(b"".join(lines))
                peer.on_body()
                self.reply("250 2.0.0 OK")
            elif verb == b"ETRN":
                self.reply("253 2.0.0 OK, 1 pending messages")
                peer.on_etrn()
            elif verb == b"QUIT":
                return self.reply("221 2.0.0 bye")
            else:
                self.reply("250 2.0.0 OK")


class Peer:
    """`per_session`: after so many messages MAIL is answered 421. `stall`: DATA is never answered; `stalled` is set.
    `on_body` is called with each message, before it is answered for; `on_etrn` with each ETRN, behind its answer.
    `greeting` is its first line. More sessions than `at_once` are told 421 in its place, and are `turned_away`; `most_open`
    is how many were open at once."""

    def __init__(self, endpoint, per_session=None, stall=False, greeting="220 peer.test ESMTP", at_once=None):
        self.endpoint = endpoint
        self.at_once, self.lock = at_once, threading.Lock()
        self.open, self.most_open, self.turned_away = 0, 0, 0
        self.greeting = greeting
        self.per_session, self.stall = per_session, stall
        self.sessions, self.bodies = 0, []
        self.on_body = lambda: None
        self.on_etrn = lambda: None
        self.stalled, self.released = threading.Event(), threading.Event()
        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(split(endpoint), _Session)
        # What port 0 came to.
        self.endpoint = "{}:{}".format(*self._server.server_address)
        self._server.daemon_threads = True
        self._server.peer = self
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
