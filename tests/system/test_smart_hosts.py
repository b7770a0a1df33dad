"""Postfix, Exim, OpenSMTPD and sendmail as our smart host: every way of TLS, every mechanism that we and they know, many
messages in flight, what is too large, what a sender asks for, and ETRN."""

import re
from collections import Counter

import pytest

from harness import smart_hosts, smtp, wait
from harness.certificates import Authority
from harness.mailbox import Mailbox
from harness.relay import Relay
from harness.sendmail import Sendmail
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
# Lines that begin with dots, and a long one.
BODY = "\n".join([".", "..", ".hidden", "x" * 900, *(f"line {n}" for n in range(100)), "", "."])


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

    def send(self, count=1, nobody=(), **made):
        """Hands in that many messages, each from a sender and to a recipient of its own, in one session; Message-ID ->
        (sender, recipient). The recipients of those whose numbers are in `nobody` are refused."""
        envelopes = {}
        with smtp.Dialogue(self.relay.site) as dialogue:
            dialogue.expect(250, "EHLO client.branch.example")
            for n in range(count):
                sender, to = f"s{n}@branch.example", f"{'nobody' if n in nobody else 'r'}.{n}@remote.example"
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
    envelopes = stage.send(2, body=BODY)
    assert stage.relay.run_cycle()["sent"] == 2
    arrived(world, envelopes)
    came = [mail for mail in world.mails if mail.id in envelopes]
    assert all(mail.content.endswith(f"\n\n{BODY}\n".replace("\n", "\r\n").encode()) for mail in came), came
    after = {name: far.logins(name) for name in ALL}
    # Some tell of a login with each message.
    assert {name for name in ALL if after[name] > before[name]} == ({expected} if expected else set())
    traces = [mail.parsed.get_all("Received")[0] for mail in came]
    keyword = "ESMTP" + ("S" if mode != "clear" else "") + ("A" if mechanism else "")
    assert {re.search(r"\bwith (\w+)", text)[1].upper() for text in traces} == {keyword}, traces


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
@pytest.mark.parametrize("made", SERVERS)
def test_again(host, behind, world, made, mode):
    """A relay that has been there before, and would resume its TLS session, is served as at first: OpenSSL, GnuTLS and LibreSSL's
    interface each have their own way with that."""
    stage = behind(host(made).endpoints[mode], mode=mode, login=BEST, connections=1)
    for times in range(1, 4):
        envelopes = stage.send(1)
        assert stage.relay.run_cycle()["sent"] == 1
        arrived(world, envelopes)
        assert stage.relay.outcomes() == Counter({("DELIVERED", 1): times})


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "LOGIN"])
@pytest.mark.parametrize("made", [smart_hosts.postfix, smart_hosts.sendmail])
def test_a_wrong_password(host, behind, made, mechanism):
    """Dovecot and Cyrus SASL refuse a wrong password by each mechanism: an attempt, no bounce, and nobody is in."""
    far = host(made)
    before = far.server.log().count("MAIL F")
    stage = behind(far.endpoints["starttls"], mode="starttls", login=mechanism, password="wrong-donkey", connections=1)
    stage.send(1)
    assert "535" in stage.relay.run_cycle(expected="INCOMPLETE")["error"]
    assert stage.relay.outcomes() == Counter({("QUEUED", 1): 1})
    assert stage.mailbox.mails == [] and far.server.log().count("MAIL F") == before


@pytest.mark.parametrize(
    "made, connections",
    [(smart_hosts.opensmtpd, 1), (smart_hosts.opensmtpd, 16), (smart_hosts.sendmail, 1), (smart_hosts.sendmail, 16)],
)
def test_two_hundred_in_flight(host, behind, world, made, connections):
    """Must show: 200 messages in flight without CHUNKING: everything arrives once, at the first attempt."""
    stage = behind(host(made).endpoints["clear"], connections=connections, of_link="flight_messages = 200")
    envelopes = stage.send(200)
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], cycle["deferred"], cycle["refused"]) == (200, 0, 0)
    arrived(world, envelopes, seconds=60)
    assert stage.relay.outcomes() == Counter({("DELIVERED", 1): 200})


def test_opensmtpds_limit_of_messages_per_session(host, behind, world):
    """OpenSMTPD answers MAIL with 452 behind 100 messages of a session, and stays: what stands there goes in further
    sessions, in the same cycle, at the first attempt."""
    stage = behind(host(smart_hosts.opensmtpd).endpoints["clear"], connections=1)
    envelopes = stage.send(210)
    assert stage.relay.run_cycle()["sent"] == 210
    arrived(world, envelopes, seconds=60)
    assert stage.relay.outcomes() == Counter({("DELIVERED", 1): 210})


@pytest.mark.parametrize(
    "made, connections", [(smart_hosts.opensmtpd, 1), (smart_hosts.sendmail, 1), (smart_hosts.sendmail, 16)]
)
def test_neighbours_of_refused_messages(host, behind, world, made, connections):
    """Must show: in a flight every third message loses its recipient: its neighbours arrive under their own senders, and each
    refused one is reported to its own sender, once."""
    nobody = range(1, 60, 3)
    stage = behind(host(made).endpoints["clear"], connections=connections)
    envelopes = stage.send(60, nobody=nobody)
    stage.relay.run_cycles()
    arrived(world, {id: envelope for id, envelope in envelopes.items() if envelope[1].startswith("r")})
    reports = stage.mailbox.wait_for(20)
    assert Counter(mail.recipients for mail in reports) == Counter((f"s{n}@branch.example",) for n in nobody)
    # The reports are messages too.
    assert stage.relay.outcomes() == Counter({("DELIVERED", 1): 40 + 20, ("BOUNCED", 1): 20})


@pytest.mark.parametrize("made", SERVERS)
def test_too_large(host, behind, world, made):
    """Must show: a message above the SIZE that the host announces is reported with 5.3.4 and does not cross the line; its
    neighbours do."""
    stage = behind(host(made).endpoints["clear"], connections=1)
    first, large, last = stage.send(1), stage.send(1, body="x" * 70 + "\n" * smart_hosts.SIZE_BYTES), stage.send(1)
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], cycle["refused"], cycle["deferred"]) == (2, 1, 0)
    assert int(cycle["sent_bytes"]) < 10_000, cycle["sent_bytes"]
    arrived(world, first | last)
    assert not large.keys() & world.ids().keys()
    [report] = stage.mailbox.wait_for(1)
    assert b"Status: 5.3.4" in report.content, report.content.decode()


@pytest.mark.parametrize("made", [smart_hosts.exim, smart_hosts.opensmtpd, smart_hosts.sendmail])
def test_wishes(host, behind, world, made):
    """RFC 3461: RET, ENVID, NOTIFY and ORCPT reach each host that knows them, and it tells the sender of success."""
    far = host(made)
    sender, envid = f"{made.__name__}@branch.example", f"our-{made.__name__}"
    stage = behind(far.endpoints["clear"], connections=1)
    content, id = smtp.message(sender=sender)
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client.branch.example")
        dialogue.expect(250, f"MAIL FROM:<{sender}> RET=HDRS ENVID={envid}")
        dialogue.expect(250, "RCPT TO:<bob@remote.example> NOTIFY=SUCCESS ORCPT=rfc822;Bob+2BX@remote.example")
        dialogue.expect(354, "DATA")
        dialogue.send(smtp.stuffed(content))
        assert dialogue.reply()[0] == 250
    assert stage.relay.run_cycle()["sent"] == 1
    arrived(world, {id: (sender, "bob@remote.example")})
    # It goes where everything of it goes.
    report = wait.until(lambda: [mail for mail in world.mails if mail.recipients == (sender,)], "a report")[0].content.decode()
    # OpenSMTPD reports to whom it should, and does not repeat what it was told.
    repeated = far.server.log() if made is smart_hosts.opensmtpd else report
    for word in (envid, "rfc822;Bob+X@remote.example"):
        assert word in repeated.replace("+2B", "+"), (word, report)
    assert re.search(r"Action: (relayed|delivered)", report), report
    assert stage.mailbox.mails == []


@pytest.mark.parametrize("node", ["branch.example", "#mqueue"])
def test_etrn_at_sendmail(place, running, authority, node):
    """Must show: ETRN to sendmail, for a node and for a queue: what waited there comes in while ours goes out."""
    world, released = running(Mailbox(place.endpoint())), place.endpoint()
    identity = authority.issue("provider", f"IP:{place.address}")
    routes = {"!branch.example": released, "*": world.endpoint}
    far = running(Sendmail(place, "provider", routes, identity, authority.certificate)).start()
    dequeue = f'[{{ etrn = ["{node}"] }}]'
    stage = Stage(place, running, far.endpoint, authority, dequeue=dequeue, released=released, quiet="1s")
    held = {}
    for _ in range(5):
        content, id = smtp.message(sender="bob@remote.example", to="user@branch.example")
        smtp.submit(far.endpoint, "bob@remote.example", ["user@branch.example"], content)
        held[id] = content
    wait.until(lambda: far.waiting() == 5, lambda: f"5 held messages, {far.waiting()}")
    envelopes = stage.send(3)
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], cycle["received"]) == (3, 5), cycle
    arrived(world, envelopes)
    stage.mailbox.wait_for(5)
    assert stage.mailbox.ids() == Counter(held.keys())
    assert all(mail.content.endswith(held[mail.id].split(b"\r\n\r\n", 1)[1]) for mail in stage.mailbox.mails)
    wait.until(lambda: far.waiting() == 0, "an empty queue")
