"""What Postfix asks whether a password is right: the authentication protocol of Dovecot, as far as AUTH PLAIN needs it."""

import base64
import os
import socketserver
import threading


class _Connection(socketserver.StreamRequestHandler):
    def say(self, *fields):
        self.wfile.write("\t".join(map(str, fields)).encode() + b"\n")

    def handle(self):
        self.say("VERSION", 1, 1)
        self.say("MECH", "PLAIN", "plaintext")
        self.say("SPID", os.getpid())
        self.say("CUID", id(self) % 100000)
        self.say("COOKIE", "0" * 32)
        self.say("DONE")
        while line := self.rfile.readline():
            verb, *fields = line.decode().rstrip("\n").split("\t")
            if verb not in ("AUTH", "CONT"):
                continue
            if verb == "CONT":
                response = fields[1]
            else:
                # Always the last one.
                response = next((field[5:] for field in fields if field.startswith("resp=")), None)
            if response is None:
                self.say("CONT", fields[0], "")
                continue
            _, user, password = base64.b64decode(response).decode().split("\0")
            if self.server.users.get(user) == password:
                self.say("OK", fields[0], f"user={user}")
            else:
                self.say("FAIL", fields[0], f"user={user}")


class Passwords:
    """Answers at the Unix socket `path` from construction to `stop`. `users`: name -> password."""

    def __init__(self, path, users):
        self._server = socketserver.ThreadingUnixStreamServer(str(path), _Connection)
        self._server.daemon_threads = True
        self._server.users = dict(users)
        # smtpd is not root.
        os.chmod(path, 0o666)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
