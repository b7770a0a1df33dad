"""Two relays of ours that know each other by a login or a certificate alone. The line is cut once, at every point of a session with
STARTTLS and AUTH, and goes on from another address: everything comes exactly once. Nobody can say so of the mail of others."""

import base64
import smtplib
import ssl
import uuid

import pytest

from harness import smtp
from harness.certificates import Authority
from harness.cut import FAR, FIN, NEAR, RESET, Cut, Point
from harness.front import PASSWORD, Front
from harness.mailbox import Mailbox
from harness.provider import Provider
from harness.relay import Relay, add_credential
from test_cut import EARLY, assert_exactly_once, hand_in, points, start

# What is said in clear, and the heads of the handshake.
CLEAR = {
    "STARTTLS, not heard": Point(NEAR, rb"STARTTLS\r\n"),
    "STARTTLS, heard": Point(NEAR, rb"STARTTLS\r\n", after=True),
    "STARTTLS, in its reply": Point(FAR, rb"220 2\.0\.0 "),
    "TLS, after 220": Point(FAR, rb"220 2\.0\.0 ", after=True),
    "TLS, client hello": Point(NEAR, rb"\x16\x03\x01"),
    "TLS, server hello": Point(FAR, rb"\x16\x03\x03"),
}


def record(side, nth):
    """The nth record of a side behind its hello, which is not passed on."""
    return Point(side, rb"\x17\x03\x03", nth)


# Each record of TLS 1.3 of a session by login. The mail is four records, and its replies come in as many or fewer.
BY_LOGIN = {
    "finished": record(NEAR, 1),
    "EHLO in TLS": record(NEAR, 2),
    "AUTH": record(NEAR, 3),
    "AUTH, proof": record(NEAR, 4),
    "AUTH, last word": record(NEAR, 5),
    "mail": record(NEAR, 6),
    "mail, second record": record(NEAR, 7),
    "mail, third record": record(NEAR, 8),
    "mail, end": record(NEAR, 9),
    "QUIT": record(NEAR, 10),
    "certificate": record(FAR, 1),
    "tickets": record(FAR, 2),
    "answer to EHLO": record(FAR, 3),
    "challenge": record(FAR, 4),
    "proof of the server": record(FAR, 5),
    "AUTH, reply": record(FAR, 6),
    "first replies": record(FAR, 7),
    "later replies": record(FAR, 8),
}
# And by certificate, from where it is known on.
BY_CERTIFICATE = {
    "mail": record(NEAR, 3),
    "mail, end": record(NEAR, 6),
    "first replies": record(FAR, 4),
    "later replies": record(FAR, 5),
}
HOWS = pytest.mark.parametrize("how", [RESET, FIN])
# So large that all messages together are more than one record.
BODY = "\n".join(["a line of seventy octets, of which there are enough to fill records ...."] * 60)


@pytest.fixture
def known(place, running):
    """`known(point, how, by_login=True, implicit=False)`: world ◀ our relay as provider, which lets nobody relay by address ◀ the line, from
    another address each time ◀ relay."""

    def made(point, how, by_login=True, implicit=False):
        world, mailbox = running(Mailbox(place.endpoint())), running(Mailbox(place.endpoint()))
        authority = Authority(place)
        own = authority.issue("isp", f"IP:{place.address}")
        branch = authority.issue("branch", "DNS:relay.branch.example")
        password, credentials = place.folder / "password", place.folder / "credentials"
        add_credential(credentials, "branch", "correct-horse")
        shown = f'certificate = "{own.certificate}", key = "{own.key}"'
        if by_login:
            top, keys = f'credentials = "{credentials}"', f"tls = {{ {shown} }}\nrequire_auth = true"
            host = f'tls = {{ roots = "{authority.certificate}" }}\nlogin = {{ user = "branch", password_file = "{password}" }}'
        else:
            hashed, _ = branch.digests()
            top = ""
            keys = (
                f'tls = {{ {shown}, client_roots = "{authority.certificate}" }}\nrequire_tls = true\n'
                f'relay_by = ["{hashed.removeprefix("spki-")}"]'
            )
            files = f'certificate = "{branch.certificate}", key = "{branch.key}"'
            host = f'tls = {{ roots = "{authority.certificate}", {files} }}'
        provider = Provider(place, [], world=world.endpoint, extra=top, of_listener=keys, relay_from="[]")
        running(provider).start()
        cut = running(Cut(place, provider.endpoint, point, how, roams=True))
        url = f"smtps://{cut.endpoint}" if implicit else f"smtp://{cut.endpoint}"
        relay = Relay(place, mailbox.endpoint, cut.endpoint, connections=1, extra=f'[[host]]\nat = "{url}"\n{host}\n')
        if implicit:
            provider_text, relay_text = provider.config.read_text(), relay.config.read_text()
            provider.terminate()
            provider.write(provider_text.replace("require_tls = true", 'tls_mode = "implicit"'))
            provider.start()
            relay.write(relay_text.replace(f'smart_host = "smtp://{cut.endpoint}"', f'smart_host = "{url}"').replace("tls = {", 'tls = { mode = "implicit",', 1))
        return world, provider, cut, start(running(relay))

    return made


def check(made, name):
    world, provider, cut, relay = made
    ids = hand_in(relay.site, body=BODY)
    assert_exactly_once(world, provider, relay, cut, ids)
    if "replies" in name:
        # What the tests are for: the mail was taken, and nobody said so to the sender, who comes back from elsewhere.
        assert relay.doubtful()
        peers = {line["peer"].split(":")[0] for line in provider.logged("message accepted")}
        assert len(peers) == 2, peers


@HOWS
@points(EARLY, CLEAR, BY_LOGIN)
def test_by_login(known, name, point, how):
    """Must show: a relay that is known by its login alone hands over each message exactly once, wherever the line is cut, TLS and
    AUTH included."""
    made = known(point, how)
    check(made, name)
    assert {line["identity"] for line in made[1].logged("message accepted")} == {"branch"}


@HOWS
@points(BY_CERTIFICATE)
def test_by_certificate(known, name, point, how):
    """Must show: the same for one that is known by its certificate."""
    check(known(point, how, by_login=False), name)


@HOWS
def test_by_certificate_where_tls_comes_first(known, how):
    """Must show: the same where the connection begins with TLS, so that the certificate is known before the greeting."""
    # Behind the certificate, the tickets, the greeting and the answer to EHLO.
    check(known(record(FAR, 5), how, by_login=False, implicit=True), "first replies")


ID = uuid.UUID("0193a5c0-4b7e-7c3a-9f00-00000000002a")


def hand_over(made, to, name=None, keyword="XLINKMAIL AUTH"):
    """Hands in a message under ID, as `name` or as a stranger; the identity that the relay answers with."""
    context = ssl.create_default_context(cafile=str(made.authority.certificate))
    context.check_hostname = False
    with smtplib.SMTP(made.host, made.port, timeout=15) as client:
        client.ehlo("client")
        assert ("xlinkmail" in client.esmtp_features) == (keyword == "XLINKMAIL"), "in clear"
        client.starttls(context=context)
        _, offered = client.ehlo("client")
        assert keyword.encode() in offered.split(b"\n"), offered
        if name:
            said = base64.b64encode(f"\0{name}\0{PASSWORD}".encode()).decode()
            assert client.docmd("AUTH", f"PLAIN {said}")[0] == 235
        code, said = client.mail("alice@branch.example", [f"XLMID={ID}"])
        assert code == 250, said
        assert client.rcpt(to)[0] == 250
        code, said = client.data(smtp.message(to=to)[0])
        assert code == 250, said
        return said.decode().split()[-1]


def test_nobody_takes_the_place_of_another(place, scene):
    """Must show: under the same id, a stranger, another login and a network of repeats_from keep no mail of a relay back, whoever
    comes first; each knows its own repeats."""
    made = Front(place, scene, "{tls}", logins=("branch", "other"))
    stranger = hand_over(made, "user@branch.example")
    first = hand_over(made, "user@branch.example", "other")
    own = hand_over(made, "user@branch.example", "branch")
    assert len({stranger, first, own}) == 3
    assert hand_over(made, "user@branch.example", "branch") == own
    assert hand_over(made, "user@branch.example", "other") == first
    assert hand_over(made, "user@branch.example") not in (stranger, first, own)
    # Another recipient of the message was not taken yet.
    assert hand_over(made, "second@branch.example", "branch") not in (stranger, first, own)
    made.relay.terminate()
    text = made.relay.config.read_text()
    made.relay.write(text.replace(made.tls, f'{made.tls}\nrepeats_from = ["127.0.0.0/8"]'))
    made.relay.start()
    listed = hand_over(made, "user@branch.example", keyword="XLINKMAIL")
    assert listed not in (stranger, first, own)
    assert hand_over(made, "user@branch.example", keyword="XLINKMAIL") == listed
    assert hand_over(made, "user@branch.example", "branch", keyword="XLINKMAIL") == own
