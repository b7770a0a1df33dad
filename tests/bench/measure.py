"""One run: builds line, receiver and sender, starts the clock, waits, and tells what happened as one dictionary."""

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass

from harness import smtp, wait
from harness.postfix import Postfix
from line import MODELS
from receivers import NETWORKS, RECEIVERS, OurReceiver
from secret import Secret
from senders import SECURE_LINK, SENDERS, Edge, OurDaemon, PostfixHundred, PostfixOne, hand_in

NODE = "branch.example"
# What is part of a flight of messages; greetings, hellos and commands alone are smaller.
FLIGHT = 1000


@dataclass(frozen=True)
class Run:
    """What is measured. `rtt_ms` in milliseconds, `size` in octets, `rate` in octets per second each way or None, `limit` in
    seconds: a run that takes longer has failed."""

    peer: str
    receiver: str
    model: str = "proxy"
    chunking: bool = True
    secure: bool = False
    rtt_ms: int = 600
    rate: int | None = None
    congestion: str = "cubic"
    messages: int = 100
    size: int = 4096
    work: str = "forward"
    limit: float = 600.0
    link: str = ""
    secure_link: str = SECURE_LINK


class Incomplete(Exception):
    """Not everything came, or more than everything."""


def measure(run):
    """The figures of one run; raises `Incomplete`."""
    with contextlib.ExitStack() as stack:
        line = MODELS[run.model](run.rtt_ms / 1000, run.rate, run.congestion)
        stack.callback(line.stop)
        work = {"forward": _forward, "release": _release}[run.work]
        started, receiver, log = work(run, line, stack)
        _wait(run, receiver, log)
        figures = _figures(run, line, started, receiver)
        if lost := line.dropped():
            raise Incomplete(f"{lost} packets found no place in the queue of a device")
        return figures


def _started(stack, thing):
    # Before its start: half a start is to be undone, too.
    stack.callback(thing.stop)
    thing.start()
    return thing


def _forward(run, line, stack):
    secret = Secret(line.far.folder, [line.near.address, line.far.address]) if run.secure else None
    receiver = _started(stack, RECEIVERS[run.receiver](line.far, run.chunking, secret))
    way = line.reach(receiver.endpoint)
    make = SENDERS[run.peer]
    sender = _started(stack, make(line.near, way, secret=secret, link=run.link, secure_link=run.secure_link))
    sender.fill(run.messages, run.size)
    return sender.go(), receiver, sender.log


# Release: the provider is the near site, for it sends the mail; ETRN comes from the far one.

PROVIDER = """
hostname = "mx.provider.example"
state = "{state}"

[grpc]
listen = "{grpc}"

[[listener]]
address = "{endpoint}"
relay_from = ["127.0.0.0/8", "10.99.0.0/24"]

[[route]]
domains = ["{node}"]
to = "hold"
release_to = "smtp://{release_to}"
{of_hold}
etrn_from = ["127.0.0.0/8", "10.99.0.0/24"]
"""


class _OurProvider(OurDaemon):
    of_hold = ""

    def __init__(self, site, endpoint, release_to):
        super().__init__(site, "provider")
        self._site, self.endpoint = site, endpoint
        self._release_to = release_to

    def start(self):
        self.write(
            PROVIDER.format(
                state=self.state,
                grpc=self.grpc,
                endpoint=self.endpoint,
                node=NODE,
                release_to=self._release_to,
                of_hold=self.of_hold,
            )
        )
        super().start()

    def fill(self, count, size):
        hand_in(self._site, self.endpoint, count, size, "bob@remote.example", f"user@{NODE}")


class _OurOneProvider(_OurProvider):
    of_hold = "connections = 1"


class _PostfixProvider:
    settings = {}

    def __init__(self, site, endpoint, release_to):
        settings = {"inet_interfaces": "all", "mynetworks": NETWORKS, "smtp_bind_address": ""} | self.settings
        self._site = site
        self._server = Postfix(
            site, "provider", hold={NODE: release_to}, settings=settings, island=site.island, endpoint=endpoint
        )
        self.endpoint, self.log_text = endpoint, self._server.log
        self.start, self.stop = self._server.start, self._server.stop

    def fill(self, count, size):
        hand_in(self._site, self.endpoint, count, size, "bob@remote.example", f"user@{NODE}")
        self._server.wait_for_held(count)


class _PostfixOneProvider(_PostfixProvider):
    settings = {"default_destination_concurrency_limit": 1} | PostfixOne.settings


class _PostfixHundredProvider(_PostfixProvider):
    settings = {"default_destination_concurrency_limit": 100} | PostfixHundred.settings


PROVIDERS = {
    "ours": _OurProvider,
    "ours-1": _OurOneProvider,
    "postfix": _PostfixProvider,
    "postfix-1": _PostfixOneProvider,
    "postfix-100": _PostfixHundredProvider,
}


def _release(run, line, stack):
    """The receiver is our edge, which runs a cycle, or a peer for which a client says ETRN."""
    asked_at = line.near.endpoint()
    if run.receiver == "ours":
        # The edge is told where to ask before the provider is there: the line's port is opened first.
        provider_way = line.reach(asked_at, outward=False)
        edge = Edge(line.far, provider_way, dequeue=f'[{{ etrn = ["{NODE}"] }}]', link=run.link)
        receiver = _started(stack, OurReceiver(edge, edge.released))
    else:
        receiver = _started(stack, RECEIVERS[run.receiver](line.far, run.chunking))
        provider_way = line.reach(asked_at, outward=False)
    provider = PROVIDERS[run.peer](line.near, asked_at, line.reach(receiver.endpoint))
    _started(stack, provider)
    provider.fill(run.messages, run.size)
    if run.receiver == "ours":
        edge.client.call("LinkService/ListLinks")
        started = time.time()
        edge.run_cycle()
    else:
        started = time.time()
        asking = threading.Thread(target=_ask, args=(line.far, provider_way), daemon=True)
        asking.start()
        stack.callback(asking.join, 30)
    return started, receiver, provider.log_text


def _ask(site, endpoint):
    with site.inside():
        dialogue = smtp.Dialogue(endpoint, timeout=60)
    with dialogue:
        dialogue.expect(250, f"EHLO {NODE}")
        dialogue.command(f"ETRN {NODE}")
        dialogue.command("QUIT")


def _wait(run, receiver, log):
    try:
        wait.until(lambda: receiver.count() >= run.messages, lambda: f"have {receiver.count()}", run.limit)
    except AssertionError as error:
        raise Incomplete(f"{error}\nsender: {log()[-2000:]}\nreceiver: {receiver.log()[-2000:]}") from error


def _figures(run, line, started, receiver):
    rtt = run.rtt_ms / 1000
    accepted = sorted(receiver.accepted())
    if len(accepted) != run.messages:
        raise Incomplete(f"{len(accepted)} messages instead of {run.messages}")
    # The stamp of a file may be a tick early; what had not arrived was not accepted.
    bodies = [one.arrived for one in line.records() if one.outward and one.octets >= FLIGHT]
    last = max([accepted[-1], *bodies])

    def answered():
        """What went back first after the last message was stored: the reply to its end."""
        return [one for one in line.records() if not one.outward and one.payload and one.entered >= last]

    reply = wait.until(answered, "the reply to the last message on the line", 10)[0]
    records = [one for one in line.records() if one.entered <= reply.entered]
    clock = started
    if run.work == "release":
        clock = next(one.entered for one in records if one.mark)
    seconds = last - clock
    return {
        "peer": run.peer,
        "receiver": run.receiver,
        "model": run.model,
        "chunking": run.chunking,
        "rtt_ms": run.rtt_ms,
        "messages": run.messages,
        "size": run.size,
        "connections": _connections(run, records),
        "seconds": round(seconds, 3),
        "seconds_last_reply": round(reply.arrived - clock, 3),
        "round_trips": round(seconds / rtt, 2) if rtt else None,
        "bytes_out": sum(one.octets for one in records if one.outward),
        "bytes_in": sum(one.octets for one in records if not one.outward),
        "work": run.work,
        "secure": run.secure,
        "rate": run.rate,
        "congestion": run.congestion if run.model == "tun" else None,
        "busy": _busy(run.rate, records),
        "seconds_first": round(accepted[0] - clock, 3),
        "seconds_call": round(last - started, 3),
    }


def _connections(run, records):
    """How many carried at least one message."""
    carried = Counter()
    for one in records:
        carried[one.connection] += one.payload if one.outward else 0
    return sum(octets >= run.size for octets in carried.values())


def _busy(rate, records):
    """The share of the time from the first octet of the first flight to the last of the last in which the line carried
    something outward; None without a rate."""
    outward = [one for one in records if one.outward]
    flights = [one for one in outward if one.octets >= FLIGHT]
    if not rate or not flights:
        return None
    first, last = flights[0].on, flights[-1].off
    carried = sum(one.off - one.on for one in outward if one.on >= first and one.off <= last)
    return round(carried / (last - first), 3) if last > first else 1.0
