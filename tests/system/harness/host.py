"""A host whose every offer and answer a test chooses, and that records what it is told, in clear and inside TLS.

It knows the verbs that the relay says, STARTTLS, AUTH PLAIN and BDAT with them, and takes whatever comes in their order. For
what goes beyond that (what ends a line, what is refused when) ask a real server.
"""

import base64
import re
import socketserver
import ssl
import threading
from dataclasses import dataclass, field

from .place import split

OFFERS = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")


@dataclass
class Taken:
    """One message."""

    reverse_path: str
    recipients: list
    content: bytes = b""


@dataclass
class Record:
    """One session: what came in clear and what came inside TLS, and who the peer showed itself to be."""

    clear: bytearray = field(default_factory=bytearray)
    secret: bytearray = field(default_factory=bytearray)
    encrypted: bool = False
    resumed: bool = False
    version: str = ""
    certificate: bytes = b""
    tls_error: str = ""
    logins: list = field(default_factory=list)
    user: str = ""
    mails: list = field(default_factory=list)


class _Session(socketserver.BaseRequestHandler):
    def handle(self):
        host = self.server.host
        self.socket, self.buffer, self.record = self.request, b"", Record()
        host.sessions.append(self.record)
        try:
            if host.implicit:
                self.shake_hands()
            self.talk(host)
        except (OSError, EOFError, ssl.SSLError) as error:
            self.record.tls_error = self.record.tls_error or (str(error) if isinstance(error, ssl.SSLError) else "")
        finally:
            self.socket.close()

    def shake_hands(self):
        assert not self.buffer, "octets in clear behind STARTTLS"
        try:
            self.socket = self.server.host.tls.wrap_socket(self.socket, server_side=True)
        except (OSError, ssl.SSLError) as error:
            self.record.tls_error = str(error)
            raise EOFError from error
        self.record.encrypted = True
        self.record.resumed = self.socket.session_reused
        self.record.version = self.socket.version()
        self.record.certificate = self.socket.getpeercert(binary_form=True) or b""

    def more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        (self.record.secret if self.record.encrypted else self.record.clear).extend(data)
        self.buffer += data

    def line(self):
        while b"\r\n" not in self.buffer:
            self.more()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def octets(self, count):
        while len(self.buffer) < count:
            self.more()
        octets, self.buffer = self.buffer[:count], self.buffer[count:]
        return octets

    def say(self, text):
        self.socket.sendall(text if isinstance(text, bytes) else text.encode() + b"\r\n")

    def talk(self, host):
        self.say(host.answers.get("GREETING", "220 host.test ESMTP"))
        mail, begun, domains = None, 0, set()
        while True:
            line = self.line()
            verb, _, argument = line.decode("latin-1").partition(" ")
            verb = verb.upper()
            if verb in host.answers:
                answer = host.answers[verb]
                self.say(answer)
                if verb == "STARTTLS" and answer[:3] in ("220", b"220"):
                    return self.listen()
                continue
            if verb == "EHLO":
                self.hello(host)
            elif verb == "STARTTLS" and host.tls and not self.record.encrypted:
                self.say("220 2.0.0 go")
                self.shake_hands()
            elif verb == "AUTH":
                self.login(host, argument)
            elif verb == "MAIL":
                begun += 1
                if host.mail_max is not None and begun > host.mail_max:
                    host.broken.append(f"transaction {begun} of a session")
                    self.say("451 4.5.3 too many transactions")
                    continue
                mail = Taken(re.search(r"<(.*?)>", argument).group(1), [])
                self.say("250 2.1.0 OK")
            elif verb == "RCPT":
                if host.recipients_max is not None and len(mail.recipients) >= host.recipients_max:
                    host.broken.append(f"recipient {len(mail.recipients) + 1} of a transaction")
                    self.say("452 4.5.3 too many recipients")
                    continue
                recipient = re.search(r"<(.*?)>", argument).group(1)
                domains.add(recipient.rsplit("@")[-1].lower())
                if host.domains_max is not None and len(domains) > host.domains_max:
                    host.broken.append(f"domain {len(domains)} of a session")
                    self.say("452 4.5.3 too many domains")
                    continue
                mail.recipients.append(recipient)
                self.say("250 2.1.5 OK")
            elif verb == "DATA":
                self.say("354 go")
                while (line := self.line()) != b".":
                    mail.content += line.removeprefix(b".") + b"\r\n"
                self.take(mail)
                mail = None
            elif verb == "BDAT":
                size, *last = argument.split()
                mail.content += self.octets(int(size))
                if last:
                    self.take(mail)
                    mail = None
                else:
                    self.say("250 2.0.0 OK")
            elif verb == "QUIT":
                return self.say("221 2.0.0 bye")
            else:
                if verb == "RSET":
                    mail = None
                self.say("250 2.0.0 OK")

    def hello(self, host):
        offers = list(host.offers)
        if host.tls and not self.record.encrypted:
            offers.append("STARTTLS")
        if host.users and self.record.encrypted:
            offers.append("AUTH PLAIN")
        lines = ["host.test", *offers]
        marks = ["250-"] * (len(lines) - 1) + ["250 "]
        self.say(b"".join(f"{mark}{line}\r\n".encode() for mark, line in zip(marks, lines)))

    def login(self, host, argument):
        _, user, password = base64.b64decode(argument.split()[1]).decode().split("\0")
        self.record.logins.append((user, password))
        if (host.users or {}).get(user) == password:
            self.record.user = user
            self.say("235 2.7.0 in")
        else:
            self.say("535 5.7.8 no")

    def take(self, mail):
        self.record.mails.append(mail)
        self.say("250 2.0.0 OK")

    def listen(self):
        """Answers once with `behind_starttls`, or closes; whatever the peer says is recorded."""
        answer = self.server.host.behind_starttls
        while True:
            self.more()
            if answer is None:
                return
            if answer:
                self.socket.sendall(answer)
                answer = b""


class Host:
    """Listens at `endpoint` from construction to `stop`; `sessions` has a `Record` of each.

    `offers`: keywords of EHLO beside STARTTLS and AUTH. `tls`: the ssl context of a server; STARTTLS is offered with it, unless
    `implicit`: then a connection begins with TLS. `answers`: verb, or GREETING -> what is said in place of everything else, a
    line or raw octets; behind an answer of 220 to STARTTLS no handshake is made, but what comes is answered once with
    `behind_starttls`, or by closing if that is None. `users`: name -> password, asked for inside TLS
    only. `mail_max` and `recipients_max` are the most transactions of a session and the most recipients of a transaction,
    `domains_max` the most domains of recipients of a session: more is
    refused, and noted in `broken`."""

    def __init__(
        self,
        endpoint,
        offers=OFFERS,
        tls=None,
        implicit=False,
        answers=None,
        users=None,
        mail_max=None,
        recipients_max=None,
        domains_max=None,
    ):
        self.endpoint = endpoint
        self.offers, self.tls, self.implicit = offers, tls, implicit
        self.behind_starttls = b""
        self.answers, self.users = dict(answers or {}), users
        self.mail_max, self.recipients_max, self.domains_max = mail_max, recipients_max, domains_max
        self.sessions, self.broken = [], []
        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(split(endpoint), _Session)
        self._server.daemon_threads = True
        self._server.host = self
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def mails(self):
        return [mail for session in self.sessions for mail in session.mails]

    @property
    def clear(self):
        """Everything that was said in clear, over all sessions."""
        return b"".join(bytes(session.clear) for session in self.sessions)

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


def server_context(identity, version=None, client_roots=None):
    """The TLS of a server with that certificate; `version` is the newest it speaks; with `client_roots` it asks for a
    certificate that one of those issued, and does without if there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    if version:
        context.maximum_version = version
    if client_roots:
        context.load_verify_locations(client_roots)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
