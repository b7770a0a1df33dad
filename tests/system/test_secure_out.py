"""TLS and logins on the way out: what is demanded is had or nothing is said, secrets stay where they belong, and another host
takes over when there is no session."""

import base64
import os
import signal
import ssl
from collections import Counter

import pytest

from harness import smtp, wait
from harness.certificates import Authority
from harness.dovecot import Passwords
from harness.host import OFFERS, Host, server_context
from harness.mailbox import Mailbox
from harness.postfix import Postfix
from harness.relay import Relay

USER, PASSWORD, WRONG = "branch", "correct-horse-battery", "wrong-donkey-staple"
# What hides in AUTH PLAIN and AUTH LOGIN.
DISGUISES = [
    lambda password: password,
    lambda password: base64.b64encode(password.encode()).decode(),
    lambda password: base64.b64encode(f"\0{USER}\0{password}".encode()).decode(),
]
DEBUG = '[telemetry]\nlog = "debug"\n'


@pytest.fixture
def authority(place):
    return Authority(place)


@pytest.fixture
def identity(place, authority):
    """A good certificate for the test's address."""
    return authority.issue("far", f"IP:{place.address}")


@pytest.fixture
def password(place):
    """`password(text)`: a file with it."""

    def made(text, name="password"):
        path = place.folder / name
        path.write_text(f"{text}\n")
        return path

    return made


def entry(host, tls=None, login=None):
    """The [[host]] of a host: `tls` a TOML value, `login` the password file."""
    lines = ["[[host]]", f'at = "smtp://{host.endpoint}"']
    lines += [f"tls = {tls}"] if tls else []
    lines += [f'login = {{ user = "{USER}", password_file = "{login}" }}'] if login else []
    return "\n".join([*lines, ""])


def trusting(authority, mode="required", more=""):
    return f'{{ mode = "{mode}", roots = "{authority.certificate}"{more} }}'


@pytest.fixture
def behind(place, running):
    """`behind(host, extra)`: a relay whose smart host that is, over one connection unless `connections` says otherwise:
    one that is given up while it is opened would show among the host's sessions."""

    def made(host, extra, **settings):
        settings.setdefault("connections", 1)
        stage = Stage()
        stage.mailbox = running(Mailbox(place.endpoint()))
        stage.relay = running(Relay(place, stage.mailbox.endpoint, host.endpoint, extra=DEBUG + extra, **settings)).start()
        return stage

    return made


class Stage:
    """A relay and the site's mailbox server."""

    def send(self, count=1):
        ids = []
        for _ in range(count):
            content, id = smtp.message()
            smtp.submit(self.relay.site, "alice@branch.example", ["bob@remote.example"], content)
            ids.append(id)
        return ids

    def assert_waits(self, attempts=1, count=1):
        """Nothing went out, nothing was reported, and the attempt is counted."""
        assert self.relay.outcomes() == Counter({("QUEUED", attempts): count})
        assert self.mailbox.mails == []


def assert_nothing_in_clear(host):
    """Nothing was said outside of TLS but hello, STARTTLS and goodbye."""
    assert host.sessions, "nobody came"
    for session in host.sessions:
        lines = set(bytes(session.clear).split(b"\r\n"))
        assert lines <= {b"EHLO relay.branch.example", b"STARTTLS", b"QUIT", b""}, lines


@pytest.fixture
def postfix(place, running, identity):
    """Postfix that takes mail after STARTTLS and a login only, and hands it to `world`."""
    world = running(Mailbox(place.endpoint()))
    path = place.folder / "passwords"
    running(Passwords(path, {USER: PASSWORD}))
    settings = {
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_cert_file": identity.certificate,
        "smtpd_tls_key_file": identity.key,
        "smtpd_tls_loglevel": "1",
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": path,
        "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
        "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
    }
    host = running(Postfix(place, "isp", sink=world.endpoint, settings=settings)).start()
    host.world = world
    return host


def test_tls_and_a_login_at_postfix(postfix, authority, behind, password):
    """Must show: TLS required and a login, against Postfix: mail goes out, and both logs tell of TLS and of the user."""
    stage = behind(postfix, entry(postfix, trusting(authority), password(PASSWORD)))
    ids = stage.send(3)
    assert stage.relay.run_cycle()["sent"] == 3
    postfix.world.wait_for(3)
    assert postfix.world.ids() == Counter(ids)
    log = postfix.log()
    assert "TLS connection established from" in log and "TLSv1.3" in log
    assert f"sasl_method=PLAIN, sasl_username={USER}" in log
    assert any("TLSv1" in str(line) or "TLS 1" in str(line) for line in stage.relay.logged("TLS")), stage.relay.logged("TLS")
    for disguise in DISGUISES:
        assert disguise(PASSWORD) not in stage.relay.log_text()


def test_a_wrong_password(place, postfix, authority, behind, password):
    """Must show: a login that is refused keeps the message, counts the attempt, reports nothing, and no log has the password;
    with the right one in the file, the same message goes out."""
    path = password(WRONG)
    stage = behind(postfix, entry(postfix, trusting(authority), path))
    stage.send(1)
    cycle = stage.relay.run_cycle(expected="INCOMPLETE")
    assert "535" in cycle["error"], cycle["error"]
    stage.assert_waits()
    assert postfix.world.mails == []
    path.write_text(f"{PASSWORD}\n")
    stage.relay.run_cycles()
    postfix.world.wait_for(1)
    cycles = stage.relay.client.call("CycleService/ListCycles", parent="links/isp")
    logs = stage.relay.log_text() + postfix.log() + str(cycles)
    for secret in (WRONG, PASSWORD):
        for disguise in DISGUISES:
            assert disguise(secret) not in logs


LINE = b"EHLO relay.branch.example\r\n"


@pytest.mark.parametrize("login", [True, False], ids=["login", "no-login"])
@pytest.mark.parametrize("how", ["stripped", "454", "554", "injected", "clear behind 220", "closed behind 220"])
def test_nothing_in_clear(place, running, behind, authority, password, how, login):
    """Must show: a STARTTLS that was taken out, refused, or interfered with never leads to credentials or mail in clear where TLS
    is required; octets that were slipped in before the handshake are refused."""
    offers = [*OFFERS, "AUTH PLAIN LOGIN"]
    answers = {
        "stripped": {},
        "454": {"STARTTLS": "454 4.7.0 not now"},
        "554": {"STARTTLS": "554 5.7.0 never"},
        "injected": {"STARTTLS": b"220 go\r\n250-EVIL\r\n250 AUTH PLAIN\r\n"},
        "clear behind 220": {"STARTTLS": b"220 go\r\n"},
        "closed behind 220": {"STARTTLS": b"220 go\r\n"},
    }[how]
    if how != "stripped":
        offers.append("STARTTLS")
    host = running(Host(place.endpoint(), offers=offers, answers=answers))
    host.behind_starttls = {"clear behind 220": b"250 host.test\r\n250 OK\r\n", "closed behind 220": None}.get(how, b"")
    extra = entry(host, trusting(authority), password(PASSWORD) if login else None)
    stage = behind(host, f'{extra}hello_timeout = "5s"\n')
    stage.send(1)
    cycle = stage.relay.run_cycle(expected="INCOMPLETE")
    assert cycle["sent"] == 0 and cycle["error"]
    stage.assert_waits()
    assert host.mails == []
    assert len(host.sessions) == 1, "once in a cycle is enough"
    said = bytes(host.sessions[0].clear)
    assert said.startswith(LINE)
    behind_hello = said[len(LINE) :]
    if how in ("clear behind 220", "closed behind 220"):
        # The handshake begins, and says nothing that is a secret.
        assert behind_hello.startswith(b"STARTTLS\r\n\x16\x03")
    else:
        starttls = b"" if how == "stripped" else b"STARTTLS\r\n"
        assert behind_hello in (starttls, starttls + b"QUIT\r\n"), behind_hello
    for word in (b"AUTH", b"MAIL", b"RCPT", PASSWORD.encode(), b"bob@"):
        assert word not in said
    for disguise in DISGUISES:
        assert disguise(PASSWORD) not in stage.relay.log_text()


@pytest.fixture
def certificates(place, authority):
    """name -> a certificate that nobody should take, and a word of the reason."""
    return {
        "wrong name": (authority.issue("other", "DNS:other.example"), "not for"),
        "unknown issuer": (Authority(place, "stranger").issue("far", f"IP:{place.address}"), "issued by nobody"),
        "expired": (authority.issue("old", f"IP:{place.address}", expired=True), "expired"),
    }


@pytest.mark.parametrize("mode", ["required", "implicit"])
@pytest.mark.parametrize("which", ["wrong name", "unknown issuer", "expired"])
def test_a_bad_certificate_is_refused(place, running, behind, authority, certificates, password, which, mode):
    """Must show: a certificate of another name, of an unknown issuer, or out of date is refused where TLS is required, with the
    reason, before a login or mail; an attempt, no bounce."""
    identity, reason = certificates[which]
    implicit = mode == "implicit"
    host = running(Host(place.endpoint(), tls=server_context(identity), implicit=implicit, users={USER: PASSWORD}))
    stage = behind(host, entry(host, trusting(authority, mode), password(PASSWORD)))
    stage.send(1)
    cycle = stage.relay.run_cycle(expected="INCOMPLETE")
    assert reason in cycle["error"], cycle["error"]
    stage.assert_waits()
    if not implicit:
        assert_nothing_in_clear(host)
    assert [bytes(session.secret) for session in host.sessions] == [b""] and host.mails == []


@pytest.mark.parametrize("which", ["wrong name", "unknown issuer", "expired"])
def test_any_certificate_is_taken_opportunistically(place, running, behind, certificates, which):
    """Must show: opportunistic TLS verifies nobody: mail goes out, inside TLS."""
    host = running(Host(place.endpoint(), tls=server_context(certificates[which][0])))
    stage = behind(host, "")
    stage.send(2)
    assert stage.relay.run_cycle()["sent"] == 2
    assert len(host.mails) == 2 and all(session.encrypted for session in host.sessions)
    assert_nothing_in_clear(host)


@pytest.mark.parametrize("how", ["no TLS behind 220", "closed behind 220", "454", "injected"])
def test_opportunistic_falls_back(place, running, behind, how):
    """Must show: where TLS is opportunistic and does not come about, mail goes in clear, in the same cycle; but not in the session
    into which octets were slipped."""
    answers = {
        "no TLS behind 220": b"220 go\r\n",
        "closed behind 220": b"220 go\r\n",
        "454": b"454 4.7.0 not now\r\n",
        "injected": b"220 go\r\n250-EVIL\r\n",
    }
    host = running(Host(place.endpoint(), offers=(*OFFERS, "STARTTLS"), answers={"STARTTLS": answers[how]}))
    host.behind_starttls = {"no TLS behind 220": b"500 5.5.1 what?\r\n", "closed behind 220": None}.get(how, b"")
    stage = behind(host, "")
    stage.send(1)
    if how == "injected":
        # Somebody is on the line: what comes of it is not prescribed, but what was slipped in was not taken for an answer.
        stage.relay.ended(stage.relay.client.call("CycleService/RunCycle", parent="links/isp")["name"])
        assert bytes(host.sessions[0].clear) in (LINE + b"STARTTLS\r\n", LINE + b"STARTTLS\r\nQUIT\r\n")
        return
    assert stage.relay.run_cycle()["sent"] == 1
    assert [mail.recipients for mail in host.mails] == [["bob@remote.example"]]
    assert stage.relay.outcomes() == Counter({("DELIVERED", 1): 1})
    again = host.sessions[-1]
    assert not again.encrypted and (b"STARTTLS" in again.clear) == (how == "454")
    assert len(host.sessions) == (1 if how == "454" else 2)


@pytest.mark.parametrize("answer", ["530 5.7.0 Must issue a STARTTLS command first", "554 5.7.10 encryption needed"])
def test_tls_that_is_given_up_and_demanded_bounces_nothing(place, running, behind, answer):
    """Must show: a host that refuses STARTTLS for now and mail without it has refused a session: the mail stays queued."""
    answers = {"STARTTLS": "454 4.7.0 not now", "MAIL": answer, "RCPT": "503 5.5.1 no", "DATA": "503 5.5.1 no"}
    host = running(Host(place.endpoint(), offers=(*OFFERS, "STARTTLS"), answers=answers))
    stage = behind(host, "")
    stage.send(1)
    cycle = stage.relay.run_cycle(expected="INCOMPLETE")
    assert answer in cycle["error"], cycle["error"]
    stage.assert_waits()
    assert host.mails == [] and len(host.sessions) == 1


@pytest.mark.parametrize("kind", [0, 1], ids=["spki", "cert"])
def test_pins(place, running, behind, identity, authority, kind):
    """Must show: a pinned key or certificate is enough without any roots; another one is refused, and told."""
    stranger = Authority(place, "stranger").issue("far", "DNS:whoever.example")
    host = running(Host(place.endpoint(), tls=server_context(stranger)))
    right, wrong = stranger.digests()[kind], identity.digests()[kind]
    stage = behind(host, entry(host, f'{{ pin = ["{wrong}"] }}'))
    stage.send(1)
    cycle = stage.relay.run_cycle(expected="INCOMPLETE")
    assert right in cycle["error"], cycle["error"]
    stage.assert_waits()
    assert_nothing_in_clear(host)
    assert stage.relay.terminate() == 0
    stage.relay.write(stage.relay.config.read_text().replace(wrong, right))
    stage.relay.start()
    stage.relay.run_cycles()
    assert len(host.mails) == 1 and host.sessions[-1].encrypted


def test_a_client_certificate(place, running, behind, authority, identity):
    """Must show: a host that asks for a certificate gets the relay's own."""
    own = authority.issue("relay", "DNS:relay.branch.example")
    host = running(Host(place.endpoint(), tls=server_context(identity, client_roots=authority.certificate)))
    more = f', certificate = "{own.certificate}", key = "{own.key}"'
    stage = behind(host, entry(host, trusting(authority, more=more)))
    stage.send(1)
    assert stage.relay.run_cycle()["sent"] == 1
    [session] = host.sessions
    assert session.certificate == ssl.PEM_cert_to_DER_cert(own.certificate.read_text())


def test_a_client_certificate_that_is_renewed(place, running, behind, authority, identity):
    """The files change while the relay runs: SIGHUP, and the host gets the new certificate."""
    own = authority.issue("relay", "DNS:relay.branch.example")
    # Without tickets, as a resumed session is that of the certificate that began it.
    context = server_context(identity, client_roots=authority.certificate)
    context.num_tickets = 0
    host = running(Host(place.endpoint(), tls=context))
    more = f', certificate = "{own.certificate}", key = "{own.key}"'
    stage = behind(host, entry(host, trusting(authority, more=more)))
    issued = []
    for _ in range(2):
        issued.append(ssl.PEM_cert_to_DER_cert(own.certificate.read_text()))
        stage.send(1)
        assert stage.relay.run_cycle()["sent"] == 1
        authority.issue("relay", "DNS:relay.branch.example")
        os.kill(stage.relay.pid, signal.SIGHUP)
        wait.until(lambda: len(stage.relay.logged("certificates read anew")) >= len(issued), "the new certificate")
    assert [session.certificate for session in host.sessions] == issued and issued[0] != issued[1]


@pytest.mark.parametrize("login", [True, False], ids=["login", "no-login"])
def test_implicit_tls(place, running, behind, authority, identity, password, login):
    """Must show: TLS from the first octet, with and without a login."""
    host = running(Host(place.endpoint(), tls=server_context(identity), implicit=True, users={USER: PASSWORD}))
    stage = behind(host, entry(host, trusting(authority, "implicit"), password(PASSWORD) if login else None))
    stage.send(2)
    assert stage.relay.run_cycle()["sent"] == 2
    assert host.clear == b"" and len(host.mails) == 2
    assert all(session.encrypted and b"STARTTLS" not in session.secret for session in host.sessions)
    assert {session.user for session in host.sessions} == ({USER} if login else {""})


def test_implicit_tls_at_a_clear_port(place, running, behind, authority):
    """A host that greets in clear where TLS was to begin is told nothing."""
    host = running(Host(place.endpoint()))
    stage = behind(host, entry(host, trusting(authority, "implicit")))
    stage.send(1)
    cycle = stage.relay.run_cycle(expected="INCOMPLETE")
    assert "TLS" in cycle["error"]
    stage.assert_waits()
    assert host.mails == [] and b"EHLO" not in host.clear


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_sessions_are_resumed(place, running, behind, authority, identity, version):
    """Must show: the next connection resumes the TLS session of the one before, as the receiver sees it."""
    host = running(Host(place.endpoint(), tls=server_context(identity, version=version)))
    stage = behind(host, entry(host, trusting(authority)))
    for _ in range(2):
        stage.send(1)
        assert stage.relay.run_cycle()["sent"] == 1
    assert [session.version for session in host.sessions] == [version.name.replace("_", ".")] * 2
    assert [session.resumed for session in host.sessions] == [False, True]


@pytest.mark.parametrize("how", ["refuses connections", "421", "421 to MAIL", "no TLS", "wrong password"])
def test_another_host_takes_over(place, running, behind, authority, identity, password, how):
    """Must show: with no session at the smart host, or nothing that comes of one, the mail goes to `fallback` in the same
    cycle; each host is told its own password and no other, and the smart host's is not told to the fallback."""
    first = Host(place.endpoint(), tls=server_context(identity), users={USER: PASSWORD})
    if how == "refuses connections":
        first.stop()
    else:
        running(first)
    if how == "421":
        first.answers["GREETING"] = "421 4.3.2 closed for today"
    elif how == "421 to MAIL":
        first.answers["MAIL"] = "421 4.3.2 closed for today"
    elif how == "no TLS":
        first.tls = None
    elif how == "wrong password":
        first.users = {USER: "changed"}
    third = running(Host(place.endpoint(), tls=server_context(identity), users={USER: "another-secret"}))
    second = Host(place.endpoint())
    second.stop()
    other = password("another-secret", "other")
    extra = entry(first, trusting(authority), password(PASSWORD)) + entry(third, trusting(authority), other)
    of_link = f'fallback = ["smtp://{second.endpoint}", "smtp://{third.endpoint}"]'
    stage = behind(first, extra, of_link=of_link)
    stage.send(3)
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], cycle["deferred"]) == (3, 0)
    assert first.mails == [] and len(third.mails) == 3
    assert stage.relay.outcomes() == Counter({("DELIVERED", 1): 3})
    assert {login for session in third.sessions for login in session.logins} == {(USER, "another-secret")}
    assert {login for session in first.sessions for login in session.logins} <= {(USER, PASSWORD)}


def test_another_host_takes_over_where_domains_are_limited(place, running, behind):
    """A session that takes one domain and then says 421 to it has brought nothing: the fallback gets all."""
    answers = {"MAIL": "421 4.3.2 closed for today"}
    first = running(Host(place.endpoint(), offers=(*OFFERS, "LIMITS RCPTDOMAINMAX=1"), answers=answers))
    second = running(Host(place.endpoint()))
    stage = behind(first, "", of_link=f'fallback = ["smtp://{second.endpoint}"]')
    for domain in ("one.example", "two.example", "three.example"):
        content, _ = smtp.message()
        smtp.submit(stage.relay.site, "alice@branch.example", [f"bob@{domain}"], content)
    assert stage.relay.run_cycle()["sent"] == 3
    assert first.mails == [] and len(second.mails) == 3
    assert stage.relay.outcomes() == Counter({("DELIVERED", 1): 3})


@pytest.mark.parametrize("secure", [True, False], ids=["tls", "clear"])
def test_a_login_is_for_its_own_host(place, running, behind, authority, identity, password, secure):
    """A fallback without an entry of its own gets the mail, and is never told who the relay is, though it offers AUTH."""
    first = Host(place.endpoint(), tls=server_context(identity), users={USER: PASSWORD})
    first.stop()
    offers = (*OFFERS, "AUTH PLAIN LOGIN")
    second = running(Host(place.endpoint(), offers=offers, tls=server_context(identity) if secure else None))
    extra = entry(first, trusting(authority), password(PASSWORD))
    stage = behind(first, extra, of_link=f'fallback = ["smtp://{second.endpoint}"]')
    stage.send(1)
    assert stage.relay.run_cycle()["sent"] == 1
    assert len(second.mails) == 1
    assert all(not session.logins and b"AUTH" not in session.clear + session.secret for session in second.sessions)


def test_no_fallback_while_the_smart_host_speaks(place, running, behind):
    """What the smart host says to a message is its word: the fallback is not asked about it."""
    first = running(Host(place.endpoint(), answers={"RCPT": "451 4.7.1 later"}))
    second = running(Host(place.endpoint()))
    stage = behind(first, "", of_link=f'fallback = ["smtp://{second.endpoint}"]')
    stage.send(1)
    stage.relay.ended(stage.relay.client.call("CycleService/RunCycle", parent="links/isp")["name"])
    assert second.sessions == []
    stage.assert_waits()
