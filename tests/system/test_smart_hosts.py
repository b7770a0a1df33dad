"""Postfix, Exim, OpenSMTPD and sendmail as our smart host: every way of TLS, every mechanism that we and they know, many
messages in flight, what is too large, what a sender asks for, and ETRN."""

import re
from collections import Counter

import pytest

from harness import smart_hosts, smtp, wait
from harness.certificates import Authority
from harness.mailbox import Mailbox
from harness.relay import Relay
from harness.smart_hosts import PASSWORD, USER

NOBODY, BEST = "", "best"
ALL = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN")
SERVERS = {
    smart_hosts.postfix: ALL,
    smart_hosts.exim: ALL[1:],
    smart_hosts.opensmtpd: ALL[2:],
    smart_hosts.sendmail: ALL,
}
MODES = {"clear": "none", "starttls": "required", "implicit": "implicit"}
SECRET = {"SCRAM-SHA-256", "CRAM-MD5"}


@pytest.fixture(scope="module")
def authority(shared_place):
    return Authority(shared_place)


@pytest.fixture(scope="module")
def world(shared_place, shared_running):
    """Where all of them hand mail on to."""
    made = shared_running(Mailbox(shared_place.endpoint()))
    yield made
    assert set(made.ids().values()) <= {1}, "something came twice"


@pytest.fixture(scope="module")
def host(shared_place, shared_running, authority, world):
    """`host(made)`: the one that `made` makes, started when it is first asked for."""
    started = {}
    identity = authority.issue("far", f"IP:{shared_place.address}")

    def get(made):
        if made not in started:
            started[made] = made(shared_place, shared_running, world.endpoint, identity, authority.certificate)
            shared_running(started[made].server).start()
        return started[made]

    return get


class Stage:
    """A relay with that smart host, and the site's mailbox server."""

    def __init__(self, place, running, endpoint, authority, mode="clear", login=None, password=PASSWORD, **settings):
        """`login`: the mechanisms that may be used; None: nobody logs in."""
        self.mailbox = running(Mailbox(place.endpoint()))
        path = place.folder / "password"
        path.write_text(f"{password}\n")
        tls = '"none"' if mode == "clear" else f'{{ mode = "{MODES[mode]}", roots = "{authority.certificate}" }}'
        keys = ["[[host]]", f'at = "smtp://{endpoint}"', f"tls = {tls}"]
        if login is not None:
            mechanisms = f', mechanisms = ["{login}"]' if login != BEST else ""
            keys.append(f'login = {{ user = "{USER}", password_file = "{path}"{mechanisms} }}')
        extra = "\n".join([*keys, ""])
        self.relay = running(Relay(place, self.mailbox.endpoint, endpoint, extra=extra, **settings)).start()

    def send(self, count=1, **made):
        """Hands in that many messages, each from a sender and to a recipient of its own, in one session; Message-ID ->
        (sender, recipient)."""
        envelopes = {}
        with smtp.Dialogue(self.relay.site) as dialogue:
            dialogue.expect(250, "EHLO client.branch.example")
            for n in range(count):
                sender, to = f"s{n}@branch.example", f"r{n}@remote.example"
                content, id = smtp.message(sender=sender, to=to, **made)
                assert dialogue.transaction(sender, [to], smtp.stuffed(content)) == 250
                envelopes[id] = (sender, to)
            dialogue.expect(221, "QUIT")
        return envelopes


@pytest.fixture
def behind(place, running, authority):
    return lambda endpoint, **settings: Stage(place, running, endpoint, authority, **settings)


def arrived(world, envelopes, seconds=30.0):
    """Waits until the world has all of these messages; each came once, under its own sender, to its own recipient."""
    wait.until(lambda: envelopes.keys() <= world.ids().keys(), lambda: f"{len(envelopes)} messages, have {world.ids()}", seconds)
    came = Counter((mail.id, mail.reverse_path, mail.recipients) for mail in world.mails if mail.id in envelopes)
    assert came == Counter((id, sender, (to,)) for id, (sender, to) in envelopes.items())


def cases():
    for made, known in SERVERS.items():
        for mode in MODES:
            mechanisms = [NOBODY, *(known if mode != "clear" else SECRET.intersection(known)), BEST]
            for mechanism in sorted(mechanisms):
                if mode != "clear" or mechanism != BEST:
                    yield pytest.param(made, mode, mechanism, id=f"{made.__name__}-{mode}-{mechanism or 'nobody'}")


@pytest.mark.parametrize("made, mode, mechanism", [*cases()])
def test_ways(host, behind, world, made, mode, mechanism):
    """Must show: Postfix with Dovecot, Exim, OpenSMTPD, and sendmail with Cyrus SASL as smart host: in clear, with STARTTLS
    required and with TLS from the first octet, with nobody and with every mechanism of AUTH: mail goes out, once, and the log
    of the server tells who came how. Left to choose, we take SCRAM-SHA-256 where it is offered, else PLAIN."""
    far = host(made)
    expected = ("SCRAM-SHA-256" if "SCRAM-SHA-256" in SERVERS[made] else "PLAIN") if mechanism == BEST else mechanism
    before = {name: far.logins(name) for name in ALL}
    stage = behind(far.endpoints[mode], mode=mode, login=mechanism or None, connections=1)
    envelopes = stage.send(2)
    assert stage.relay.run_cycle()["sent"] == 2
    arrived(world, envelopes)
    after = {name: far.logins(name) for name in ALL}
    # Some tell of a login with each message.
    assert {name for name in ALL if after[name] > before[name]} == ({expected} if expected else set())
    traces = [mail.parsed.get_all("Received")[0] for mail in world.mails if mail.id in envelopes]
    keyword = "ESMTP" + ("S" if mode != "clear" else "") + ("A" if mechanism else "")
    assert {re.search(r"\bwith (\w+)", text)[1].upper() for text in traces} == {keyword}, traces
