"""The line is cut once, at every point of a session, and then is good again: nothing that was accepted is lost, nothing is
sent twice that was not in doubt, and between two relays of ours nothing comes twice at all."""

from collections import Counter

import pytest

from harness import smtp, wait
from harness.certificates import Authority
from harness.cut import FAR, RESET, Cut, Point
from harness.cut_points import (
    AROUND,
    COUNT,
    DATA,
    EARLY,
    EXIM,
    EXIM_DATA,
    EXIM_TLS,
    HOWS,
    IN_FLIGHT,
    MAIL_IN_TLS,
    MIDDLE,
    TLS,
    points,
    points_in_turn,
)
from harness.dovecot import Passwords
from harness.exim import Exim
from harness.mailbox import Mailbox
from harness.postfix import Postfix
from harness.provider import Provider
from harness.relay import Relay
from harness.scene import DOMAIN


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


def assert_at_least_once(world, host, relay, cut, ids):
    """After the cut: everything came, and only what was in doubt more than once. Gives what was in doubt."""
    relay.run_cycles()
    assert cut.happened.is_set(), "the line was not cut"
    came = arrive(world, set(ids.values()))
    wait.until(lambda: not host.waiting(), lambda: f"handed on: {host.waiting()} wait; {host.log()}")
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
    """What STARTTLS and AUTH need: the entry of the host, and the settings of Postfix or of Exim."""
    return Secret(place, running)


class Secret:
    """`host` is the entry of `[[host]]`; who logs in is branch, with the password correct-horse."""

    def __init__(self, place, running):
        authority = Authority(place)
        self._identity = authority.issue("isp", f"IP:{place.address}")
        self._place, self._running = place, running
        password = place.folder / "password"
        password.write_text("correct-horse\n")
        self.host = (
            f'tls = {{ roots = "{authority.certificate}" }}\n'
            f'login = {{ user = "branch", password_file = "{password}" }}'
        )

    def postfix(self):
        """Settings; who answers for passwords runs from here on."""
        sockets = self._place.folder / "passwords"
        self._running(Passwords(sockets, {"branch": "correct-horse"}))
        return {
            "smtpd_tls_security_level": "encrypt",
            "smtpd_tls_cert_file": self._identity.certificate,
            "smtpd_tls_key_file": self._identity.key,
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": sockets,
            "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
        }

    def exim(self):
        """Settings and authenticators."""
        settings = {
            "tls_advertise_hosts": "*",
            "tls_certificate": self._identity.certificate,
            "tls_privatekey": self._identity.key,
            "acl_smtp_mail": "${if def:sender_host_authenticated {accept}{deny}}",
        }
        return settings, EXIM_AUTHENTICATOR


EXIM_AUTHENTICATOR = """
plain:
  driver = plaintext
  public_name = PLAIN
  server_advertise_condition = ${if def:tls_in_cipher}
  server_condition = ${if and {{eq{$auth2}{branch}} {eq{$auth3}{correct-horse}}}}
  server_set_id = $auth2
"""


def assert_nothing_in_clear(cut):
    for said in cut.recorded:
        clear = bytes(said).split(b"\x16\x03", 1)[0]
        assert set(clear.split(b"\r\n")) <= {b"EHLO relay.branch.example", b"STARTTLS", b"QUIT", b""}, clear


def assert_cut_at(relay, name):
    """The session that the cut ended was where the point is, by what the relay heard: AUTH is offered inside TLS only."""
    failed = relay.logged("outbound session failed")
    assert failed, "the cut did not end a session"
    transcript = failed[0]["transcript"]
    assert ("AUTH PLAIN" in transcript) == (name == "AUTH"), transcript
    assert "MAIL FROM" not in transcript and "235" not in transcript


@HOWS
@points(TLS)
def test_around_tls_and_auth(over_postfix, secret, name, point, how):
    """Must show: the line is cut at TLS and AUTH: each message arrives exactly once, and nothing but EHLO and STARTTLS was said
    in clear."""
    settings = secret.postfix()
    world, _, postfix, cut, relay = over_postfix(point, how, settings=settings, host=secret.host, connections=1)
    ids = hand_in(relay.site)
    assert assert_at_least_once(world, postfix, relay, cut, ids) == set()
    assert world.ids() == Counter(ids.values())
    assert_nothing_in_clear(cut)
    assert_cut_at(relay, name)


@pytest.fixture
def over_exim(place, running):
    """`over_exim(point, how, …)`: world ◀ Exim ◀ the line ◀ relay."""

    def made(point, how, settings=None, authenticators="", host="", **more):
        world, mailbox = running(Mailbox(place.endpoint())), running(Mailbox(place.endpoint()))
        # Handed on at once, not only the first ten of a connection.
        settings = {"chunking_advertise_hosts": "*", "smtp_accept_queue_per_connection": "0"} | (settings or {})
        exim = running(Exim(place, "isp", sink=world.endpoint, settings=settings, authenticators=authenticators)).start()
        cut = running(Cut(place, exim.endpoint, point, how))
        extra = f'[[host]]\nat = "smtp://{cut.endpoint}"\n{host}\n' if host else ""
        relay = running(Relay(place, mailbox.endpoint, cut.endpoint, extra=extra, **more))
        return world, exim, cut, start(relay)

    return made


@points_in_turn(EXIM)
def test_at_exim(over_exim, name, point, how):
    """Must show: the same at Exim, from connect to QUIT: each message arrives at least once, twice only if it was in doubt, and
    none was in doubt of which nothing had been said or everything been heard."""
    world, exim, cut, relay = over_exim(point, how)
    ids = hand_in(relay.site)
    doubtful = assert_at_least_once(world, exim, relay, cut, ids)
    if name in EARLY or name.startswith("QUIT"):
        assert doubtful == set() and world.ids() == Counter(ids.values())


@points_in_turn(EXIM_DATA)
def test_at_exim_around_data(over_exim, name, point, how):
    """Must show: the same without CHUNKING: one message at most is in doubt."""
    world, exim, cut, relay = over_exim(point, how, settings={"chunking_advertise_hosts": ""}, connections=1)
    ids = hand_in(relay.site)
    doubtful = assert_at_least_once(world, exim, relay, cut, ids)
    assert len(doubtful) <= 1
    assert doubtful or name not in ("dot, heard", "dot, in its reply")
    assert not doubtful or name not in ("354, not heard", "dot, behind its reply")


@points_in_turn(EXIM_TLS, MAIL_IN_TLS)
def test_at_exim_around_tls_and_auth(over_exim, secret, name, point, how):
    """Must show: the same at the handshake, AUTH, and the mail inside TLS: up to AUTH each message arrives exactly once, and
    nothing but EHLO and STARTTLS was said in clear."""
    settings, authenticators = secret.exim()
    made = over_exim(point, how, settings=settings, authenticators=authenticators, host=secret.host, connections=1)
    world, exim, cut, relay = made
    ids = hand_in(relay.site)
    doubtful = assert_at_least_once(world, exim, relay, cut, ids)
    assert_nothing_in_clear(cut)
    taken = [line for line in exim.log().splitlines() if " <= alice@branch.example" in line]
    assert taken and all(" X=TLS1." in line and " A=plain:branch" in line for line in taken), taken
    if name in EXIM_TLS or name == "TLS, QUIT":
        assert doubtful == set() and world.ids() == Counter(ids.values())
    if name in EXIM_TLS:
        assert_cut_at(relay, name)
    if "replies" in name:
        # All of it was on its way, and what came of it was not heard.
        [failed] = relay.logged("outbound session failed")
        assert "235" in failed["transcript"] and doubtful, failed


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
