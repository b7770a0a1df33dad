"""The picture most tests need: world ◀ provider (Postfix) ◀▶ relay ◀▶ the site's mailbox server."""

from . import smtp
from .mailbox import Mailbox
from .postfix import Postfix
from .relay import Relay

DOMAIN = "branch.example"


class Scene:
    """`world` is where the provider delivers, `mailbox` the site's own server, `relay` the edge between them."""

    def __init__(self, place, running, refuse=None, provider=True, relay=True, smart_host=None, **settings):
        """`settings` go to `Relay`. `smart_host` replaces the provider's address in the relay's configuration (a line
        before it). `provider=False`: the smart host is `world` itself, an SMTP server without ETRN. `relay=False`: the
        relay is built and not started."""
        self.place = place
        self.world = running(Mailbox(place.endpoint(), refuse=None if provider else refuse))
        self.mailbox = running(Mailbox(place.endpoint()))
        released = place.endpoint()
        self.far = self.world.endpoint
        if provider:
            self.postfix = running(
                Postfix(place, "isp", sink=self.world.endpoint, hold={DOMAIN: released}, refuse=refuse)
            ).start()
            self.far = self.postfix.endpoint
            settings.setdefault("dequeue", f'[{{ etrn = ["{DOMAIN}"] }}]')
        near = smart_host(self.far) if smart_host else self.far
        self.relay = running(Relay(place, self.mailbox.endpoint, near, released=released, **settings))
        if relay:
            self.relay.start()

    def send(self, count=1, reverse_path="alice@branch.example", recipients=("bob@remote.example",), **made):
        """Hands in `count` messages on the site's listener; their Message-IDs."""
        ids = set()
        for _ in range(count):
            content, id = smtp.message(**made)
            smtp.submit(self.relay.site, reverse_path, recipients, content)
            ids.add(id)
        return ids

    def hold(self, count, postfix=None):
        """Lets `count` messages for the site wait at the provider; Message-ID -> content."""
        postfix = postfix or self.postfix
        held = {}
        for _ in range(count):
            content, id = smtp.message(sender="bob@remote.example", to="user@branch.example")
            smtp.submit(postfix.endpoint, "bob@remote.example", ["user@branch.example"], content)
            held[id] = content
        postfix.wait_for_held(count)
        return held
