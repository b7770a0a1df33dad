"""What others are asked while a client waits: the mailbox server for its recipients, name servers for the domain of a sender."""

import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import dns, wait
from harness.certificates import Authority
from harness.dns import Dns
from harness.front import Front
from harness.host import Host
from harness.smtp import Dialogue

PASSWORD = "correct-horse"


def codes(endpoint, *recipients, sender="bob@remote.example"):
    with Dialogue(endpoint) as dialogue:
        dialogue.expect(250, "EHLO client")
        mail = f"MAIL FROM:<{sender}>" + ("" if all(one.isascii() for one in recipients) else " SMTPUTF8")
        dialogue.expect(250, mail)
        return [dialogue.command(f"RCPT TO:<{recipient}>") for recipient in recipients]


@pytest.fixture
def asked(place, scene, running):
    """`asked(url, entry, …)`: a front whose own mail goes to a mailbox server of certificate and login, which is asked."""

    def made(url="smtp", entry="", **settings):
        authority = Authority(place, "mailbox-authority")
        identity = authority.issue("mailbox", f"IP:{place.address}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate, identity.key)
        password = place.folder / "mailbox-password"
        password.write_text(f"{PASSWORD}\n")
        server = running(Host(place.endpoint(), tls=context, **settings))
        entry = entry.format(roots=authority.certificate, password=password)
        at = f"{url}://{server.endpoint}"
        front = Front(place, scene, start=False, logins=(), top=f'[[host]]\nat = "{at}"\n{entry}\n' if entry else "")
        text = front.relay.config.read_text()
        own = f'to = "smtp://{front.stage.mailbox.endpoint}"\n'
        assert own in text
        front.relay.write(text.replace(own, f'to = "{at}"\nverify = "call-forward"\n'))
        front.relay.start()
        return front, server

    return made


SECURE = 'tls = {{ roots = "{roots}" }}\nlogin = {{ user = "relay", password_file = "{password}" }}'


def test_call_forward_over_tls_and_with_the_login(asked):
    """Must show: recipients are asked for as mail goes: over TLS that is verified, with the login of the host, and nothing but EHLO
    and STARTTLS in clear."""
    front, server = asked(entry=SECURE, users={"relay": PASSWORD}, answers={"RCPT": "550 5.1.1 no such user"})
    assert codes(front.endpoint, "nobody@branch.example", "postmaster@branch.example") == [550, 250]
    server.answers.clear()
    assert codes(front.endpoint, "nobody@branch.example", "user@branch.example") == [550, 250]
    assert [session.user for session in server.sessions] == ["relay"] * 2
    for session in server.sessions:
        assert set(bytes(session.clear).split(b"\r\n")) == {b"EHLO relay.branch.example", b"STARTTLS", b""}
        assert b"MAIL FROM:<>\r\nRCPT TO:<" in bytes(session.secret) and session.mails == []
    assert PASSWORD not in front.relay.log_text()


def test_call_forward_tells_nothing_to_another(asked):
    """Must show: a mailbox server that cannot prove who it is hears of no recipient, and they are taken; it is left alone."""
    front, server = asked(entry='tls = "required"', answers={"RCPT": "550 5.1.1 no such user"})
    assert codes(front.endpoint, "nobody@branch.example", "user@branch.example") == [250, 250]
    [session] = server.sessions
    assert session.tls_error and not session.secret and b"RCPT" not in session.clear
    assert front.relay.logged("the mailbox server cannot be asked for recipients: they are taken")


@pytest.mark.parametrize("implicit", [False, True], ids=["offered", "implicit"])
def test_call_forward_without_a_host_of_its_own(asked, implicit):
    """Without a [[host]] TLS is used where it is offered; smtps:// is asked, too."""
    entry = 'tls = {{ mode = "implicit", roots = "{roots}" }}' if implicit else ""
    answers = {"RCPT": "550 5.1.1 no such user"}
    front, server = asked("smtps" if implicit else "smtp", entry, implicit=implicit, answers=answers)
    assert codes(front.endpoint, "nobody@branch.example") == [550]
    [session] = server.sessions
    assert session.encrypted and b"RCPT TO:<nobody@branch.example>" in session.secret and b"RCPT" not in session.clear


def test_call_forward_for_addresses_in_any_script(asked):
    """An address that is not ASCII is asked for where SMTPUTF8 is offered, and taken where it is not."""
    refusing = {"RCPT": "550 5.1.1 no such user"}
    front, server = asked(offers=("SMTPUTF8",), answers=refusing)
    assert codes(front.endpoint, "jörg@branch.example") == [550]
    assert "RCPT TO:<jörg@branch.example>".encode() in server.sessions[0].secret
    server.offers = ()
    assert codes(front.endpoint, "jürgen@branch.example") == [250]
    assert "jürgen".encode() not in server.sessions[1].secret


@pytest.fixture
def looking(place, scene, running):
    """`looking(answer)`: a front that refuses senders whose domain takes no mail, by the word of a name server."""

    def made(answer, keys="refuse_null_mx = true"):
        server = running(Dns(place, answer))
        return Front(place, scene, keys, logins=(), wrapper=server.wrapper), server

    return made


ZONE = {
    "null.example": [("MX", 0, ".")],
    "remote.example": [("MX", 10, "mx.remote.example")],
    "nearly.example": [("MX", 0, "."), ("MX", 10, "mx.remote.example")],
    "broken.example": dns.SERVFAIL,
}


def mail_from(endpoint, *senders):
    answers = []
    with Dialogue(endpoint) as dialogue:
        dialogue.expect(250, "EHLO client")
        for sender in senders:
            dialogue.send(f"MAIL FROM:<{sender}>\r\n".encode())
            code, [text] = dialogue.reply()
            answers.append((code, text.split()[0]))
            dialogue.expect(250, "RSET")
    return answers


def test_a_sender_that_takes_no_mail(looking):
    """Must show: with refuse_null_mx a sender whose domain has a null MX is refused with 550 5.7.27; every other is taken, those of
    our own without asking."""
    front, server = looking(ZONE)
    good, refused = (250, "2.1.0"), (550, "5.7.27")
    senders = ["a@null.example", "a@NULL.example", "a@remote.example", "a@nearly.example", "a@broken.example", "a@nowhere.example"]
    senders += ["", "a@branch.example", "a@[192.0.2.1]"]
    assert mail_from(front.endpoint, *senders) == [refused, refused, *[good] * 7]
    assert "branch.example" not in server.asked
    # Elsewhere nobody is asked.
    server.asked.clear()
    assert mail_from(front.stage.relay.site, "a@null.example") == [good]
    assert server.asked == []


def test_a_name_server_that_is_silent(looking):
    """Must show: a name server that does not answer loses nobody mail, and costs three clients a few seconds, not each."""
    front, server = looking(dns.SILENT)
    begun = time.monotonic()
    with ThreadPoolExecutor(3) as clients:
        answers = clients.map(lambda n: mail_from(front.endpoint, f"a{n}@null.example"), range(3))
        assert list(answers) == [[(250, "2.1.0")]] * 3
    assert time.monotonic() - begun < 10
    count = wait.until(lambda: len(server.asked), "a question")
    begun = time.monotonic()
    assert mail_from(front.endpoint, "a@null.example", "b@null.example") == [(250, "2.1.0")] * 2
    assert time.monotonic() - begun < 3
    assert len(server.asked) == count
    assert len(front.relay.logged("no name server answers for senders: they are taken unasked for a while")) == 1
