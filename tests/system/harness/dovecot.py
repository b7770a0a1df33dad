"""Dovecot: its LMTP server with its own configuration, folders and log, and, for what asks Dovecot whether a password is
right, its authentication protocol, as far as AUTH PLAIN needs that.

The server takes anything for anybody, and keeps it in a Maildir for each address. Limits: needs root, because Dovecot starts
as root; the configuration is that of 2.3; no IMAP and no POP3: what it took is read from its files.
"""

import base64
import os
import re
import shutil
import socket
import socketserver
import threading

from . import daemon
from .place import split

BINARY = "dovecot"
# Who keeps the mail; the program wants one that is nobody's account.
USER = "mail"

CONFIG = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
instance_name = linkmail-{name}
protocols = lmtp
ssl = no
listen = {address}
first_valid_uid = 1
mail_location = maildir:{folder}/mail/%u
# As it came, not as it would be on this system.
mail_save_crlf = yes
lmtp_save_to_detail_mailbox = no
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid={user} gid={user} home={folder}/mail/%u allow_all_users=yes
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0
  }}
  inet_listener lmtp {{
    address = {address}
    port = {port}
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
protocol lmtp {{
  postmaster_address = postmaster@mail.branch.example
}}
"""


class Dovecot:
    """An LMTP server from `start` to `stop`. `endpoint` is where it listens."""

    def __init__(self, place, name, endpoint=None):
        """`endpoint` is a free one of the place unless given."""
        self.folder = place.folder / name
        self.endpoint = endpoint or place.endpoint()
        self.process = None
        self._name = name

    def start(self):
        assert shutil.which(BINARY), f"no {BINARY}: `tests/run install` brings it"
        # The longest of its sockets; the system takes no longer name.
        assert len(f"{self.folder}/run/token-login/tokenlogin") <= 107, f"a shorter folder than {self.folder}"
        (self.folder / "mail").mkdir(parents=True)
        shutil.chown(self.folder / "mail", USER, USER)
        address, port = split(self.endpoint)
        config = self.folder / "dovecot.conf"
        config.write_text(CONFIG.format(folder=self.folder, name=self._name, address=address, port=port, user=USER))
        self.process = daemon.start([BINARY, "-F", "-c", str(config)])
        daemon.wait_until_it_listens(self.process, self._name, self._greets, self.log)
        return self

    def _greets(self):
        try:
            with socket.create_connection(split(self.endpoint), timeout=1) as probe:
                return probe.recv(3) == b"220"
        except OSError:
            return False

    def contents(self):
        """Everything that was delivered: (address, content) in no order. Content begins with Return-Path, Delivered-To and
        Received, which it puts there."""
        return [
            (path.parent.parent.name, path.read_bytes()) for path in self.folder.glob("mail/*/new/*") if path.is_file()
        ]

    def log(self):
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self):
        """Ends it, and what it started, and fails if it says that something broke."""
        if self.process is None:
            return
        self.process.terminate()
        self.process.wait(timeout=15)
        self.process.stderr.close()
        self.process = None
        broken = re.findall(r".*\b(?:Panic|Fatal): .*", self.log())
        assert not broken, broken


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
