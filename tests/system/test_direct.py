"""Mail goes straight to the exchangers of its domain: `to = "mx"`."""

import hashlib
import ssl
import subprocess
from collections import Counter

import pytest

from harness import dns, smtp, wait
from harness.certificates import Authority
from harness.dns import Dns
from harness.mailbox import Mailbox
from harness.peer import Peer
from harness.policy_host import PolicyHost
from harness.relay import Relay
from harness.smtp import Dialogue
from test_refusal import assert_report

BOB = "bob@remote.example"


class Straight:
    """A relay that sends everything to mail exchangers, those of `dns.answer`. Each exchanger is a port of its own
    address; `addresses[n]` are such, with nothing behind them but what `listen` puts there."""

    def __init__(self, place, running, answer, mx=""):
        self.running = running
        self.port = place.port()
        first, second, third, fourth = (int(part) for part in place.address.split("."))
        self.addresses = [f"{first}.{second}.{third}.{(fourth + n) % 254 + 1}" for n in range(1, 5)]
        self.dns = running(Dns(place, answer(self.addresses)))
        self.mailbox = running(Mailbox(place.endpoint()))
        self.relay = running(
            Relay(
                place,
                self.mailbox.endpoint,
                place.endpoint(),
                extra=f"[mx]\nport = {self.port}\n{mx}\n",
                wrapper=self.dns.wrapper,
            )
        )
        self.relay.write(self.relay.config.read_text().replace('to = "link:isp"', 'to = "mx"'))
        self.relay.start()

    def listen(self, n, **settings):
        return self.running(Mailbox(f"{self.addresses[n]}:{self.port}", **settings))

    def peer(self, n, **settings):
        return self.running(Peer(f"{self.addresses[n]}:{self.port}", **settings))

    def send(self, *recipients, body="Hello."):
        content, id = smtp.message(body=body)
        smtp.submit(self.relay.site, "alice@branch.example", recipients or (BOB,), content)
        return id

    def last_reply(self):
        [message] = self.relay.messages()
        [recipient] = message["recipients"]
        return recipient["last_reply"]


@pytest.fixture
def straight(place, running):
    return lambda answer, **settings: Straight(place, running, answer, **settings)


def one_host(addresses):
    return {"remote.example": [("MX", 10, "mx.remote.example")], "mx.remote.example": [("A", addresses[0])]}


def test_the_next_exchanger_is_tried_when_one_does_not_take_it(straight):
    """One refuses the connection, one has no address, one wants no mail, the next takes it; the last is left alone."""
    stage = straight(
        lambda addresses: {
            "remote.example": [
                ("MX", 30, "third.remote.example"),
                ("MX", 10, "first.remote.example"),
                ("MX", 25, "closed.remote.example"),
                ("MX", 40, "last.remote.example"),
                ("MX", 20, "second.remote.example"),
            ],
            "first.remote.example": [("A", addresses[0])],
            "closed.remote.example": [("A", addresses[3])],
            "third.remote.example": [("A", addresses[1])],
            "last.remote.example": [("A", addresses[2])],
        }
    )
    third, last = stage.listen(1), stage.listen(2)
    closed = stage.peer(3, greeting="554 5.3.2 no mail here")
    ids = {stage.send(BOB, "carol@Remote.Example") for _ in range(3)}
    assert {mail.id for mail in third.wait_for(3)} == ids
    assert all(set(mail.recipients) == {BOB, "carol@Remote.Example"} for mail in third.mails)
    stage.relay.wait_for_states({BOB: "DELIVERED", "carol@Remote.Example": "DELIVERED"})
    assert stage.relay.recipients()[BOB] == ("DELIVERED", 1), "one attempt"
    assert last.mails == [] and stage.mailbox.mails == [] and closed.sessions > 0 and closed.bodies == []


def test_the_next_address_of_an_exchanger_is_tried_when_one_refuses_us(straight):
    """One address greets with 554, as for an address of ours without a name: the other takes it (RFC 5321 5.1)."""
    stage = straight(
        lambda addresses: {
            "remote.example": [("MX", 10, "mx.remote.example")],
            "mx.remote.example": [("A", addresses[0]), ("A", addresses[1])],
        }
    )
    closed, other = stage.peer(0, greeting="554 5.7.1 who are you"), stage.listen(1)
    id = stage.send()
    assert other.wait_for(1)[0].id == id
    stage.relay.wait_for_states({BOB: "DELIVERED"})
    assert stage.relay.recipients()[BOB] == ("DELIVERED", 1), "one attempt"
    assert closed.sessions == 1


def test_the_next_exchanger_is_tried_when_nothing_comes_of_a_session(straight):
    """One says 421 to the first MAIL of each session: what it did not take goes to the next, in the same turn."""
    stage = straight(
        lambda addresses: {
            "remote.example": [("MX", 10, "first.remote.example"), ("MX", 20, "second.remote.example")],
            "first.remote.example": [("A", addresses[0])],
            "second.remote.example": [("A", addresses[1])],
        }
    )
    tired, second = stage.peer(0, per_session=0), stage.listen(1)
    id = stage.send()
    assert second.wait_for(1)[0].id == id
    stage.relay.wait_for_states({BOB: "DELIVERED"})
    assert (tired.sessions, tired.bodies) == (1, [])


def test_a_host_that_has_had_enough_gets_the_rest_in_further_sessions(straight):
    """421 behind five messages of a session: further sessions at once, none counted as a failure."""
    stage = straight(one_host)
    for _ in range(23):
        stage.send()
    wait.until(lambda: stage.relay.recipients()[BOB][1] >= 1, "an attempt")
    host = stage.peer(0, per_session=5)
    wait.until(lambda: len(host.bodies) >= 23, lambda: f"23 messages, have {len(host.bodies)}", 30)
    wait.until(lambda: {state for state, _ in stage.relay.recipients().values()} == {"DELIVERED"}, "all recorded")
    assert len(host.bodies) == 23 and host.sessions >= 5


def test_without_mx_the_domain_itself_takes_mail(straight):
    """No MX record: the addresses of the domain (RFC 5321 5.1); also behind an alias, and for an address literal."""
    stage = straight(
        lambda addresses: {
            "remote.example": [("A", addresses[0])],
            "alias.example": [("CNAME", "remote.example")],
        }
    )
    host = stage.listen(0)
    literal = f"carol@[{stage.addresses[0]}]"
    for recipient in (BOB, "dave@alias.example", literal):
        stage.send(recipient)
    got = Counter(recipient for mail in host.wait_for(3) for recipient in mail.recipients)
    assert got == Counter([BOB, "dave@alias.example", literal])


@pytest.mark.parametrize(
    "records, status, code",
    [
        ({"remote.example": [("MX", 0, "")]}, "5.1.10", "556"),
        ({"elsewhere.example": []}, "5.1.2", "550"),
        ({"remote.example": [("MX", 10, "relay.branch.example")]}, "5.4.6", "554"),
    ],
    ids=["null-mx", "no-such-domain", "leads-back"],
)
def test_what_can_never_be_delivered_is_reported_once(straight, records, status, code):
    """A null MX (RFC 7505), a domain that does not exist, one whose exchanger we are: one report, at once."""
    stage = straight(lambda _: records)
    id = stage.send(body="the body stays here")
    [report] = stage.mailbox.wait_for(1)
    assert_report(report, id, {BOB: (status, code)})
    stage.relay.wait_for_states({BOB: "BOUNCED", "alice@branch.example": "DELIVERED"})


@pytest.mark.parametrize("trouble", [dns.SERVFAIL, dns.NXDOMAIN], ids=["servfail", "nxdomain-without-zone"])
def test_what_a_name_server_cannot_say_is_tried_again(straight, trouble):
    """SERVFAIL, or that a name does not exist from somebody who names no zone: an attempt, and no report."""
    stage = straight(lambda _: {"remote.example": trouble})
    stage.send()
    wait.until(lambda: stage.relay.recipients()[BOB][1] >= 2, "two attempts")
    assert stage.relay.recipients()[BOB][0] == "QUEUED"
    host = stage.listen(0)
    stage.dns.answer = one_host(stage.addresses)
    host.wait_for(1)
    assert stage.mailbox.mails == []


def test_without_any_name_server_nothing_is_attempted(straight):
    """No name server answers anything: nothing is known of any domain, and nothing counted."""
    stage = straight(lambda _: dns.SILENT)
    stage.send()
    wait.until(lambda: stage.relay.logged("delivery to mail exchangers paused"), "a pause", 60)
    assert stage.relay.recipients() == {BOB: ("QUEUED", 0)}
    host = stage.listen(0)
    stage.dns.answer = one_host(stage.addresses)
    host.wait_for(1, 60)
    stage.relay.wait_for_states({BOB: "DELIVERED"})
    assert stage.relay.recipients() == {BOB: ("DELIVERED", 1)}


def test_a_host_that_is_not_there_is_an_attempt(straight):
    """Refused by all exchangers: an attempt, and the mail goes once one is there."""
    stage = straight(one_host)
    stage.send()
    wait.until(lambda: stage.relay.recipients()[BOB][1] >= 1, "an attempt")
    assert "refused" in stage.last_reply()
    stage.listen(0).wait_for(1)


def test_many_domains_go_at_once_and_one_that_is_slow_holds_up_none(straight):
    """Thirty domains, four at once; one of them has name servers that never answer."""
    names = [f"d{n}.example" for n in range(30)]
    stage = straight(
        lambda addresses: {"slow.example": dns.SILENT, "mx.example": [("A", addresses[0])]}
        | {name: [("MX", 10, "mx.example")] for name in names},
        mx="domains = 4",
    )
    host = stage.listen(0)
    stage.send("bob@slow.example")
    stage.send(*(f"bob@{name}" for name in names))
    got = Counter(recipient for mail in host.wait_for(30) for recipient in mail.recipients)
    assert got == Counter(f"bob@{name}" for name in names)
    assert stage.relay.recipients()["bob@slow.example"][0] == "QUEUED"


def test_a_restart_goes_on_with_what_is_due(straight):
    """Killed while an exchanger is not there: what waited goes out after the next start."""
    stage = straight(one_host)
    stage.send()
    wait.until(lambda: stage.relay.recipients()[BOB][1] >= 1, "an attempt")
    stage.relay.kill()
    host = stage.listen(0)
    stage.relay.start()
    host.wait_for(1)


def test_nobody_relays_through_a_route_to_exchangers(straight):
    """Only `relay_from` may send to a domain that is routed to its exchangers, by name or by "*"."""
    stage = straight(one_host)
    with Dialogue(stage.relay.site, source="127.0.0.2") as client:
        client.expect(250, "EHLO stranger.example")
        client.expect(250, "MAIL FROM:<eve@evil.example>")
        assert client.command(f"RCPT TO:<{BOB}>") in (550, 554)


def certificate(place, name):
    """A certificate for a name that nobody vouches for: an SSL context that shows it, and its DER form."""
    own, key = place.folder / "own.pem", place.folder / "own.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += ["-subj", f"/CN={name}", "-keyout", key, "-out", own]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    return context, ssl.PEM_cert_to_DER_cert(own.read_text())


@pytest.mark.parametrize("case", ["fits", "another", "no-tls", "not-proven", "hidden"])
def test_what_dane_demands_is_met_or_the_mail_waits(straight, place, case):
    """Proven TLSA records: a certificate that fits them, whoever vouches for it, or no mail (RFC 7672 2.2). Records that
    nobody proves demand nothing; those that are kept from us keep the mail."""
    context, der = certificate(place, "elsewhere.example")
    stage = straight(one_host, mx='dnssec = "trust-ad"')
    digest = bytes(32) if case == "another" else hashlib.sha256(der).digest()
    records = [("TLSA", 3, 0, 1, digest)] + ["AD"] * (case != "not-proven")
    stage.dns.answer = {
        "remote.example": [("MX", 10, "mx.remote.example"), "AD"],
        "mx.remote.example": [("A", stage.addresses[0]), "AD"],
        f"_{stage.port}._tcp.mx.remote.example": dns.SERVFAIL if case == "hidden" else records,
    }
    host = stage.listen(0, tls=None if case in ("no-tls", "not-proven") else context)
    stage.send()
    if case in ("fits", "not-proven"):
        [mail] = host.wait_for(1)
        assert mail.tls == ("TLSv1.3" if case == "fits" else "")
        return
    wait.until(lambda: stage.relay.recipients()[BOB][1] >= 1, "an attempt")
    assert "DANE" in stage.last_reply()
    assert host.mails == []


def test_tls_is_taken_where_it_is_offered_and_nobody_is_verified(straight, place):
    """Opportunistic: a certificate of another name, that nobody vouches for, is better than none (RFC 7435)."""
    context, _ = certificate(place, "elsewhere.example")
    stage = straight(one_host)
    host = stage.listen(0, tls=context)
    stage.send()
    [mail] = host.wait_for(1)
    assert mail.tls == "TLSv1.3"


class Strict:
    """remote.example has a policy, and one exchanger; `policy` is what follows its version."""

    def __init__(self, straight, place, running, policy):
        self.authority = Authority(place)
        identity = self.authority.issue("policy", "DNS:mta-sts.remote.example")
        self.stage = straight(one_host, mx=f'mta_sts = true\nroots = "{self.authority.certificate}"')
        self.records = one_host(self.stage.addresses) | {"mta-sts.remote.example": [("A", self.stage.addresses[1])]}
        self.stage.dns.answer = self.records | {"_mta-sts.remote.example": [("TXT", "v=STSv1; id=1;")]}
        text = f"version: STSv1\n{policy}\nmax_age: 86400\n"
        self.host = running(PolicyHost(self.stage.addresses[1], identity, text))

    def context(self, name):
        """What the exchanger shows: a certificate for this name from the authority."""
        identity = self.authority.issue("exchanger", f"DNS:{name}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate, identity.key)
        return context


@pytest.fixture
def strict(straight, place, running):
    return lambda policy: Strict(straight, place, running, policy)


ENFORCED = "mode: enforce\nmx: mx.remote.example"


@pytest.mark.parametrize(
    "policy, shows, reason",
    [
        (ENFORCED, "mx.remote.example", None),
        (ENFORCED, "elsewhere.example", "certificate"),
        (ENFORCED, None, "STARTTLS"),
        ("mode: enforce\nmx: *.elsewhere.example", "mx.remote.example", "does not name it"),
        ("mode: testing\nmx: *.elsewhere.example", None, None),
        ("mode: none", None, None),
    ],
    ids=["fits", "another-name", "no-tls", "not-named", "testing", "none"],
)
def test_what_a_policy_demands_is_met_or_the_mail_waits(strict, policy, shows, reason):
    """MTA-STS (RFC 8461 4): a named exchanger with a certificate for its name, or no mail; nothing while it is tested."""
    place = strict(policy)
    host = place.stage.listen(0, tls=shows and place.context(shows))
    place.stage.send()
    if reason is None:
        [mail] = host.wait_for(1)
        assert mail.tls == ("TLSv1.3" if shows else "")
        assert place.host.fetched == 1
        return
    wait.until(lambda: place.stage.relay.recipients()[BOB][1] >= 1, "an attempt")
    assert reason in place.stage.last_reply(), place.stage.last_reply()
    assert host.mails == []


def test_a_policy_outlives_its_record_its_host_and_a_restart(strict):
    """Who cuts off record and host of a policy cannot have mail in clear, also not behind a restart (RFC 8461 10.2)."""
    place = strict(ENFORCED)
    stage = place.stage
    host = stage.listen(0, tls=place.context("mx.remote.example"))
    stage.send()
    assert host.wait_for(1)[0].tls == "TLSv1.3"
    host.stop()
    place.host.stop()
    stage.dns.answer = one_host(stage.addresses)
    stage.relay.kill()
    stage.relay.start()
    bare = stage.listen(0)
    id = stage.send("carol@remote.example")
    wait.until(lambda: stage.relay.recipients()["carol@remote.example"][1] >= 1, "an attempt")
    assert bare.mails == []
    bare.stop()
    [mail] = stage.listen(0, tls=place.context("mx.remote.example")).wait_for(1)
    assert (mail.id, mail.tls) == (id, "TLSv1.3")


def test_without_its_host_a_policy_that_nobody_knows_demands_nothing(strict):
    """The first fetch fails: opportunistic TLS, as without a policy (RFC 8461 5.1), and fetched again later."""
    place = strict(ENFORCED)
    place.host.stop()
    host = place.stage.listen(0)
    place.stage.send()
    assert host.wait_for(1)[0].tls == ""
    assert place.stage.relay.logged("the MTA-STS policy could not be fetched")
