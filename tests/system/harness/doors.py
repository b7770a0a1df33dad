"""A relay with one listener for each way in: each way of TLS, with nobody authenticated or with one mechanism of AUTH.

A door offers its own mechanism alone and takes nothing without it, so what comes through has used it. Each has a domain
of its own, by which a mail server tells the doors apart; all of them lead to the site's mailbox server.
"""

from dataclasses import dataclass

from .certificates import Authority
from .mailbox import Mailbox
from .place import split
from .relay import Relay, add_credential

USER, PASSWORD = "scanner", "correct-horse-battery"
NAME = "relay.branch.example"
MECHANISMS = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN")
NOBODY = ""


@dataclass(frozen=True)
class Door:
    """`mode` is clear, starttls or implicit; `mechanism` may be NOBODY."""

    mode: str
    mechanism: str
    endpoint: str

    @property
    def name(self):
        return f"{self.mode}-{self.mechanism or 'nobody'}".lower()

    @property
    def domain(self):
        return f"{self.name}.branch.example"

    @property
    def recipient(self):
        return f"user@{self.domain}"

    @property
    def host(self):
        return split(self.endpoint)[0]

    @property
    def port(self):
        return split(self.endpoint)[1]

    @property
    def protocol(self):
        """RFC 3848."""
        return "ESMTP" + ("" if self.mode == "clear" else "S") + ("A" if self.mechanism else "")

    def listener(self, identity):
        """Its part of the configuration."""
        keys = ["[[listener]]", f'address = "{self.endpoint}"']
        mechanisms = f'["{self.mechanism}"]' if self.mechanism else "[]"
        if self.mode == "clear":
            keys += [f"auth_in_clear = {mechanisms}"]
        else:
            files = f'certificate = "{identity.certificate}", key = "{identity.key}"'
            keys += [f"tls = {{ {files} }}", f'tls_mode = "{self.mode}"', "require_tls = true", f"auth = {mechanisms}"]
        return "\n".join([*keys, f"require_auth = {str(bool(self.mechanism)).lower()}", ""])


def ways():
    """(mode, mechanism) of every door: no password goes in clear."""
    for mode in ("clear", "starttls", "implicit"):
        for mechanism in (NOBODY, *MECHANISMS[: 2 if mode == "clear" else None]):
            yield mode, mechanism


class Doors:
    """`all` has each `Door` by its mode and mechanism; `mailbox` gets what comes in, `authority` is whom clients trust."""

    def __init__(self, place, running):
        self.place = place
        self.authority = Authority(place)
        identity = self.authority.issue("relay", f"DNS:{NAME},IP:{place.address}")
        self.mailbox = running(Mailbox(place.endpoint()))
        self.all = {way: Door(*way, place.endpoint()) for way in ways()}
        self.relay = running(Relay(place, self.mailbox.endpoint, "127.0.0.1:9"))
        credentials = place.folder / "credentials"
        add_credential(credentials, USER, PASSWORD, "--cram-md5", "--iterations", "4096")
        text = self.relay.config.read_text().replace('"branch.example"]', '"branch.example", "*.branch.example"]')
        listeners = "\n".join(door.listener(identity) for door in self.all.values())
        self.relay.write(f'credentials = "{credentials}"\n{text}\n{listeners}')
        self.relay.start()
