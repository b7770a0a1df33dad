"""A mailbox server and far end that is not ours: aiosmtpd, recording each message byte for byte with its envelope."""

from collections import Counter
from dataclasses import dataclass
from email import message_from_bytes, policy
from functools import cached_property

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from . import wait
from .place import split


@dataclass(frozen=True)
class Mail:
    """One accepted message. `reverse_path` is "" for the null one; `content` is after removal of dot-stuffing;
    `tls` is the version of TLS, if it came over that."""

    reverse_path: str
    recipients: tuple
    content: bytes
    peer: str
    tls: str = ""

    @cached_property
    def parsed(self):
        return message_from_bytes(self.content, policy=policy.default)

    @cached_property
    def id(self):
        """The Message-ID, without brackets."""
        return (self.parsed["Message-ID"] or "").strip("<>")


class _Handler:
    def __init__(self, refuse, tls):
        self.refuse = refuse
        self.tls = tls
        self.mails = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        self.mails.append(
            Mail(
                (envelope.mail_from or "").replace("<>", ""),
                tuple(envelope.rcpt_tos),
                envelope.original_content,
                session.peer[0],
                server.transport.get_extra_info("ssl_object").version() if session.ssl else "",
            )
        )
        return "250 2.0.0 OK"


class _Server(Controller):
    def factory(self):
        return SMTP(
            self.handler,
            data_size_limit=60_000_000,
            hostname="mailbox.test",
            ident="mailbox",
            tls_context=self.handler.tls,
        )


class Mailbox:
    """Listens at `endpoint` from construction to `stop`. `refuse`: recipient -> reply, may be changed while it runs.
    `tls`: an SSL context, for STARTTLS."""

    def __init__(self, endpoint, refuse=None, tls=None):
        self.endpoint = endpoint
        host, port = split(endpoint)
        self._handler = _Handler(refuse if refuse is not None else {}, tls)
        self._server = _Server(self._handler, hostname=host, port=port)
        self._server.start()

    @property
    def refuse(self):
        return self._handler.refuse

    @property
    def mails(self):
        return list(self._handler.mails)

    def ids(self):
        """How often each Message-ID came."""
        return Counter(mail.id for mail in self.mails)

    def wait_for(self, count, seconds=30.0):
        """Returns the mails when exactly `count` have come; more is a failure too."""
        wait.until(lambda: len(self._handler.mails) >= count, lambda: f"{count} messages, have {self.ids()}", seconds)
        assert len(self._handler.mails) == count, f"{count} messages expected, have {self.ids()}"
        return self.mails

    def stop(self):
        """May be called again."""
        if self._server:
            self._server.stop()
            self._server = None
