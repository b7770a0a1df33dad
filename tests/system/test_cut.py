"""The line is cut once, at every point of a session, and then is good again: nothing that was accepted is lost, nothing is
sent twice that was not in doubt, and between two relays of ours nothing comes twice at all."""

from collections import Counter

import pytest

from harness import smtp, wait
from harness.certificates import Authority
from harness.cut import FAR, FIN, NEAR, RESET, Cut, Point
from harness.dovecot import Passwords
from harness.mailbox import Mailbox
from harness.postfix import Postfix
from harness.provider import Provider
from harness.relay import Relay
from harness.scene import DOMAIN

COUNT = 12
MIDDLE = "in the middle of the body"

# Nothing of a message was sent by then.
EARLY = {
    "connect": Point(NEAR),
    "greeting, not heard": Point(FAR, rb"^220 "),
    "greeting, heard": Point(FAR, rb"^220 ", after=True),
    "EHLO, not heard": Point(NEAR, rb"EHLO "),
    "EHLO, heard": Point(NEAR, rb"EHLO ", after=True),
    "EHLO, in the answer": Point(FAR, rb"250-PIPELINING", after=True),
}
# A flight of whole messages is on its way.
IN_FLIGHT = {
    "MAIL, not heard": Point(NEAR, rb"MAIL FROM"),
    "MAIL, heard": Point(NEAR, rb"MAIL FROM", after=True),
    "MAIL, in the middle": Point(NEAR, rb"MAIL FROM", nth=6, after=True),
    "RCPT, not heard": Point(NEAR, rb"RCPT TO"),
    "RCPT, heard": Point(NEAR, rb"RCPT TO", nth=3, after=True),
    "BDAT, heard": Point(NEAR, rb"BDAT \d+", nth=4, after=True),
    "mid-body": Point(NEAR, MIDDLE.encode(), nth=3, after=True),
    "mid-flight": Point(FAR, rb"250 2\.0\.0 (Ok: \d+ bytes )?(OK, )?queued", nth=5),
    "mid-flight, heard": Point(FAR, rb"250 2\.0\.0 (Ok: \d+ bytes )?(OK, )?queued", nth=5, after=True),
    "first reply": Point(FAR, rb"250 2\.0\.0 (Ok: \d+ bytes )?(OK, )?queued"),
    "last reply": Point(FAR, rb"250 2\.0\.0 (Ok: \d+ bytes )?(OK, )?queued", nth=COUNT),
}
# Without CHUNKING.
DATA = {
    "DATA, not heard": Point(NEAR, rb"\r\nDATA\r\n", nth=2),
    "DATA, heard": Point(NEAR, rb"\r\nDATA\r\n", nth=2, after=True),
    "354, not heard": Point(FAR, rb"354 ", nth=3),
    "354, heard": Point(FAR, rb"354 ", nth=3, after=True),
    "mid-body": Point(NEAR, MIDDLE.encode(), nth=3, after=True),
    "dot, not heard": Point(NEAR, rb"\r\n\.\r\n", nth=3),
    "dot, heard": Point(NEAR, rb"\r\n\.\r\n", nth=3, after=True),
    "dot, in its reply": Point(FAR, rb"250 2\.0\.0 Ok: queued", nth=3),
    "dot, behind its reply": Point(FAR, rb"250 2\.0\.0 Ok: queued", nth=3, after=True),
}
# Around what else is said.
AROUND = {
    "ETRN, not heard": Point(NEAR, rb"ETRN "),
    "ETRN, heard": Point(NEAR, rb"ETRN ", after=True),
    "ETRN, in its reply": Point(FAR, rb"25[0-3] [^\r\n]*([Qq]ueuing|pending|messages)"),
    "QUIT, not heard": Point(NEAR, rb"QUIT\r\n"),
    "QUIT, heard": Point(NEAR, rb"QUIT\r\n", after=True),
    "QUIT, in its reply": Point(FAR, rb"221 "),
}
# STARTTLS in clear, then heads of TLS records: those of the client are its hello, its Finished, EHLO, AUTH, and the mail.
TLS = {
    "STARTTLS, not heard": Point(NEAR, rb"STARTTLS\r\n"),
    "STARTTLS, heard": Point(NEAR, rb"STARTTLS\r\n", after=True),
    "TLS, after 220": Point(FAR, rb"220 2\.0\.0 ", after=True),
    "TLS, client hello": Point(NEAR, rb"\x16\x03\x01"),
    "TLS, server hello": Point(FAR, rb"\x16\x03\x03"),
    "TLS, finished": Point(NEAR, rb"\x17\x03\x03", nth=1),
    "TLS, EHLO": Point(NEAR, rb"\x17\x03\x03", nth=2),
    "AUTH": Point(NEAR, rb"\x17\x03\x03", nth=3),
}
HOWS = pytest.mark.parametrize("how", [RESET, FIN])


def points(*tables):
    """Their rows as parameters."""
    rows = {name: (name, point) for table in tables for name, point in table.items()}
    return pytest.mark.parametrize("name, point", rows.values(), ids=[name.replace(", ", "-") for name in rows])


def hand_in(site, count=COUNT, body=f"before\n{MIDDLE}\nbehind"):
    """Messages with a recipient each of its own, in one session: recipient -> Message-ID."""
    ids = {}
    with smtp.Dialogue(site) as dialogue:
        dialogue.expect(250, "EHLO client.branch.example")
        for n in range(count):
            who = f"r{n}@remote.example"
            content, ids[who] = smtp.message(to=who, body=body)
            assert dialogue.transaction("alice@branch.example", [who], smtp.stuffed(content)) == 250
        dialogue.expect(221, "QUIT")
    return ids


def start(relay):
    """Mail that was tried is due again at once."""
    text = relay.config.read_text()
    relay.write(text.replace('first = "1s"', 'first = "100ms"').replace('longest = "2s"', 'longest = "100ms"'))
    return relay.start()


def arrive(world, expected, seconds=30):
    """Waits until each of `expected` came at least once; how often each did."""
    wait.until(lambda: expected <= set(world.ids()), lambda: f"all of {len(expected)}; have {world.ids()}", seconds)
    return world.ids()


@pytest.fixture
def over_postfix(place, running):
    """`over_postfix(point, how, …)`: world ◀ Postfix ◀ the line ◀ relay."""

    def made(point, how, settings=None, host="", hold=False, **more):
        world, mailbox = running(Mailbox(place.endpoint())), running(Mailbox(place.endpoint()))
        released = place.endpoint()
        postfix = Postfix(place, "isp", sink=world.endpoint, hold={DOMAIN: released} if hold else None, settings=settings)
        running(postfix).start()
        cut = running(Cut(place, postfix.endpoint, point, how))
        if hold:
            more["dequeue"] = f'[{{ etrn = ["{DOMAIN}"] }}]'
        extra = f'[[host]]\nat = "smtp://{cut.endpoint}"\n{host}\n' if host else ""
        relay = running(Relay(place, mailbox.endpoint, cut.endpoint, released=released, extra=extra, **more))
        return world, mailbox, postfix, cut, start(relay)

    return made


def assert_at_least_once(world, postfix, relay, cut, ids):
    """After the cut: everything came, and only what was in doubt more than once. Gives what was in doubt."""
    relay.run_cycles()
    assert cut.happened.is_set(), "the line was not cut"
    came = arrive(world, set(ids.values()))
    wait.until(lambda: not postfix.queue(), lambda: f"handed on: {postfix.queue()}")
    doubtful = relay.doubtful()
    came = world.ids()
    twice = {who for who, id in ids.items() if came[id] > 1}
    assert twice <= doubtful, f"came twice and was not in doubt: {twice - doubtful}"
    assert set(came) == set(ids.values())
    return doubtful


@HOWS
@points(EARLY)
def test_before_the_mail(over_postfix, name, point, how):
    """Must show: the line is cut at connect, greeting, EHLO: each message arrives, and exactly once."""
    world, _, postfix, cut, relay = over_postfix(point, how)
    ids = hand_in(relay.site)
    doubtful = assert_at_least_once(world, postfix, relay, cut, ids)
    assert doubtful == set()
    assert world.ids() == Counter(ids.values())
    if name in ("connect", "greeting, not heard"):
        assert set(relay.outcomes()) == {("DELIVERED", 1)}, "a line lost before the greeting is no attempt"


@HOWS
@points(IN_FLIGHT)
def test_in_flight(over_postfix, name, point, how):
    """Must show: the line is cut at MAIL, RCPT, mid-body, after the end before its reply, in mid-flight: each message arrives
    at least once, and twice only if it was in doubt."""
    world, _, postfix, cut, relay = over_postfix(point, how)
    ids = hand_in(relay.site)
    assert_at_least_once(world, postfix, relay, cut, ids)


@HOWS
@points(DATA)
def test_around_data(over_postfix, name, point, how):
    """Must show: the same without CHUNKING, at DATA, 354, the body, the dot and its reply: one message at most is in doubt."""
    settings = {"smtpd_discard_ehlo_keywords": "chunking"}
    world, _, postfix, cut, relay = over_postfix(point, how, settings=settings, connections=1)
    ids = hand_in(relay.site)
    doubtful = assert_at_least_once(world, postfix, relay, cut, ids)
    # The whole body goes out as one once 354 came, and the next DATA rides with its dot.
    assert len(doubtful) <= 1
    assert doubtful or name not in ("dot, not heard", "dot, heard", "dot, in its reply")
    assert not doubtful or name not in ("354, not heard", "dot, behind its reply")


def test_the_reason_is_that_of_the_line(over_postfix):
    """A connection that is reset outside of TLS is not said to be lost in a TLS handshake."""
    _, _, _, cut, relay = over_postfix(IN_FLIGHT["mid-flight, heard"], RESET)
    hand_in(relay.site)
    relay.run_cycles()
    assert cut.happened.is_set()
    [failed] = relay.logged("outbound session failed")
    assert "TLS" not in failed["reason"], failed["reason"]


@HOWS
@points(AROUND)
def test_around_etrn_and_quit(over_postfix, name, point, how):
    """Must show: the line is cut at ETRN and QUIT: mail of both ways arrives, and exactly once."""
    world, mailbox, postfix, cut, relay = over_postfix(point, how, hold=True)
    held = {}
    for _ in range(3):
        content, id = smtp.message(sender="bob@remote.example", to=f"user@{DOMAIN}")
        smtp.submit(postfix.endpoint, "bob@remote.example", [f"user@{DOMAIN}"], content)
        held[id] = content
    postfix.wait_for_held(3)
    ids = hand_in(relay.site, count=3)

    def came_back():
        if set(mailbox.ids()) == set(held):
            return True
        relay.ended(relay.client.call("CycleService/RunCycle", parent="links/isp")["name"])
        return False

    wait.until(came_back, lambda: f"released mail; have {mailbox.ids()}", 60)
    doubtful = assert_at_least_once(world, postfix, relay, cut, ids)
    if not name.startswith("ETRN"):
        assert doubtful == set() and world.ids() == Counter(ids.values())
    assert mailbox.ids() == Counter(held.keys())


@pytest.fixture
def secret(place, running):
    """What STARTTLS and AUTH need: settings of Postfix, the entry of the host, and who answers for passwords."""
    authority = Authority(place)
    identity = authority.issue("isp", f"IP:{place.address}")
    password = place.folder / "password"
    password.write_text("correct-horse\n")
    sockets = place.folder / "passwords"
    users = running(Passwords(sockets, {"branch": "correct-horse"}))
    settings = {
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_cert_file": identity.certificate,
        "smtpd_tls_key_file": identity.key,
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": sockets,
        "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
        "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
    }
    host = (
        f'tls = {{ roots = "{authority.certificate}" }}\n'
        f'login = {{ user = "branch", password_file = "{password}" }}'
    )
    return settings, host, users


@HOWS
@points(TLS)
def test_around_tls_and_auth(over_postfix, secret, name, point, how):
    """Must show: the line is cut at TLS and AUTH: each message arrives exactly once, and nothing but EHLO and STARTTLS was said
    in clear."""
    settings, host, _ = secret
    world, _, postfix, cut, relay = over_postfix(point, how, settings=settings, host=host, connections=1)
    ids = hand_in(relay.site)
    assert assert_at_least_once(world, postfix, relay, cut, ids) == set()
    assert world.ids() == Counter(ids.values())
    for said in cut.recorded:
        clear = bytes(said).split(b"\x16\x03", 1)[0]
        assert set(clear.split(b"\r\n")) <= {b"EHLO relay.branch.example", b"STARTTLS", b"QUIT", b""}, clear
    failed = relay.logged("outbound session failed")
    assert failed, "the cut did not end a session"
    transcript = failed[0]["transcript"]
    # Where in the session it was, by what the relay heard: AUTH is offered inside TLS only.
    assert ("AUTH PLAIN" in transcript) == (name == "AUTH"), transcript
    assert "MAIL FROM" not in transcript and "235" not in transcript


@pytest.fixture
def over_ours(place, running):
    """`over_ours(point, how, …)`: world ◀ our relay as provider ◀ the line ◀ relay."""

    def made(point, how, known=True, hold=False):
        world, mailbox = running(Mailbox(place.endpoint())), running(Mailbox(place.endpoint()))
        released = place.endpoint()
        nodes = [(f'["{DOMAIN}"]', released, '["127.0.0.0/8"]')] if hold else []
        known = 'repeats_from = ["127.0.0.0/8"]' if known else ""
        provider = running(Provider(place, nodes, world=world.endpoint, of_listener=known)).start()
        cut = running(Cut(place, provider.endpoint, point, how))
        more = {"dequeue": f'[{{ etrn = ["{DOMAIN}"] }}]'} if hold else {}
        relay = Relay(place, mailbox.endpoint, cut.endpoint, released=released, **more)
        return world, mailbox, provider, cut, start(running(relay))

    return made


def assert_exactly_once(world, provider, relay, cut, ids):
    relay.run_cycles()
    assert cut.happened.is_set(), "the line was not cut"
    arrive(world, set(ids.values()))
    wait.until(lambda: {m["recipients"][0]["state"] for m in provider.messages()} == {"DELIVERED"}, "all is handed on")
    assert world.ids() == Counter(ids.values())
    assert len(provider.messages()) == len(ids), "taken twice"


@HOWS
@points(EARLY, IN_FLIGHT)
def test_between_two_of_ours(over_ours, name, point, how):
    """Must show: between two relays that know each other each message arrives exactly once, wherever the line is cut."""
    world, _, provider, cut, relay = over_ours(point, how)
    ids = hand_in(relay.site)
    assert_exactly_once(world, provider, relay, cut, ids)


@HOWS
@points(AROUND)
def test_between_two_of_ours_around_etrn_and_quit(over_ours, name, point, how):
    """Must show: the same at ETRN and QUIT, in both directions."""
    world, mailbox, provider, cut, relay = over_ours(point, how, hold=True)
    held = set()
    for _ in range(3):
        content, id = smtp.message(sender="bob@remote.example", to=f"user@{DOMAIN}")
        smtp.submit(provider.endpoint, "bob@remote.example", [f"user@{DOMAIN}"], content)
        held.add(id)
    ids = hand_in(relay.site, count=3)

    def came_back():
        if set(mailbox.ids()) == held:
            return True
        relay.ended(relay.client.call("CycleService/RunCycle", parent="links/isp")["name"])
        return False

    wait.until(came_back, lambda: f"released mail; have {mailbox.ids()}", 60)
    relay.run_cycles()
    assert cut.happened.is_set(), "the line was not cut"
    arrive(world, set(ids.values()))
    wait.until(lambda: {m["recipients"][0]["state"] for m in provider.messages()} == {"DELIVERED"}, "all is handed on")
    assert world.ids() == Counter(ids.values())
    assert mailbox.ids() == Counter(held)
    assert len(provider.messages()) == len(ids) + len(held), "taken twice"


def test_what_the_cut_does_to_others(over_ours):
    """The same cut where the receiver does not know the sender: messages come twice. What the tests above rule out is real."""
    point = Point(FAR, rb"250 2\.0\.0 OK, queued")
    world, _, provider, cut, relay = over_ours(point, RESET, known=False)
    ids = hand_in(relay.site)
    relay.run_cycles()
    assert cut.happened.is_set()
    wait.until(lambda: {m["recipients"][0]["state"] for m in provider.messages()} == {"DELIVERED"}, "all is handed on")
    assert max(arrive(world, set(ids.values())).values()) == 2
