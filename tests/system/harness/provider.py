"""Our own relay at the far end: holds mail for nodes, answers ETRN, sends everything else to the world."""

from .relay import Daemon

HEAD = """
hostname = "mx.provider.example"
state = "{state}"
{extra}
[grpc]
listen = "{grpc}"

[retry]
first = "1s"
longest = "2s"
expire = "1h"
hold_expire = "{hold_expire}"

[[listener]]
address = "{endpoint}"
relay_from = {relay_from}
{of_listener}
"""

HOLD = """
[[route]]
domains = {domains}
to = "hold"
release_to = "smtp://{release_to}"
etrn_from = {etrn_from}
{of_hold}
"""

WORLD = """
[[route]]
domains = ["*"]
to = "smtp://{world}"
"""


class Provider(Daemon):
    """`nodes`: [(domains, release_to, etrn_from)], the first and last as TOML values; `world`: ADDRESS:PORT of everyone
    else; `of_listener` are further keys of its listener, `of_hold` of each route that holds, `relay_from` is a TOML value."""

    program = "relay-svc"

    def __init__(
        self,
        place,
        nodes,
        world=None,
        hold_expire="14d",
        extra="",
        of_listener="",
        of_hold="",
        relay_from='["127.0.0.0/8"]',
        env=None,
    ):
        super().__init__(place, "provider", env=env)
        self.endpoint = place.endpoint()
        text = HEAD.format(
            state=self.folder / "provider-state",
            extra=extra,
            grpc=self.grpc,
            hold_expire=hold_expire,
            endpoint=self.endpoint,
            of_listener=of_listener,
            relay_from=relay_from,
        )
        for domains, release_to, etrn_from in nodes:
            text += HOLD.format(domains=domains, release_to=release_to, etrn_from=etrn_from, of_hold=of_hold)
        if world:
            text += WORLD.format(world=world)
        self.write(text)

    def node(self, domain):
        return self.client.call("NodeService/GetNode", name=f"nodes/{domain}")

    def held(self, domain):
        return int(self.node(domain)["held_messages"])
