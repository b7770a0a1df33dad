"""What a listener can be told: TLS, AUTH, LMTP, the PROXY protocol, submission; by clients that are not ours."""

import base64
import os
import pty
import re
import smtplib
import socket
import ssl
import stat
import struct
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import smtp, wait
from harness.front import PASSWORD, Front
from harness.place import split
from harness.relay import BINARY, REPOSITORY, cli

CURL_LOGIN_DENIED = 67


@pytest.fixture
def front(place, scene):
    return lambda *arguments, **settings: Front(place, scene, *arguments, **settings)


def assert_no_secret(front, *secrets):
    """No password, in clear or base64, is in any log."""
    log = front.relay.log_text()
    for secret in (PASSWORD, *secrets):
        for form in (secret, base64.b64encode(secret.encode()).decode().rstrip("="), f"\0scanner\0{secret}"):
            assert form not in log, form
        assert base64.b64encode(f"\0scanner\0{secret}".encode()).decode() not in log


# TLS.


def test_starttls(front):
    """Must show: STARTTLS with swaks; the Received field says ESMTPS, and the log what TLS it was."""
    made = front("{tls}\nrelay_from = ['127.0.0.1/32']")
    said = made.swaks("--tls")
    assert "STARTTLS" in said and "TLS started" in said
    accepted = made.accepted()
    assert accepted["protocol"] == "ESMTPS" and accepted["tls"].startswith("TLSv1."), accepted
    assert "by relay.branch.example with ESMTPS id " in made.delivered().parsed["Received"]


def test_in_clear_where_tls_may_be(front):
    """STARTTLS is an offer; who does not take it is served in the clear unless TLS is required."""
    made = front("{tls}\nrelay_from = ['127.0.0.1/32']")
    made.swaks()
    assert made.accepted()["protocol"] == "ESMTP" and "tls" not in made.accepted()


def test_tls_required(front):
    """Must show: require_tls: MAIL in the clear is answered 530, and under TLS it is taken."""
    made = front("{tls}\nrequire_tls = true\nrelay_from = ['127.0.0.1/32']")
    with made.dialogue() as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.expect(530, "MAIL FROM:<alice@branch.example>")
    made.swaks("--tls")


def test_implicit_tls(front):
    """Must show: implicit TLS with swaks, curl, Python and openssl, with the certificate verified where they do."""
    made = front('{tls}\ntls_mode = "implicit"\nrelay_from = ["127.0.0.1/32"]')
    said = made.swaks("--tlsc")
    assert "STARTTLS" not in said
    with smtplib.SMTP_SSL(made.host, made.port, context=no_name(made), timeout=15) as client:
        client.ehlo("client")
        assert not client.has_extn("starttls")
        client.sendmail("alice@branch.example", ["bob@remote.example"], smtp.message()[0])
    curl(made, "smtps", smtp.message()[0])
    shown = s_client(made, "-quiet", said="QUIT\r\n")
    assert "220 relay.branch.example ESMTP" in shown, shown
    assert {line["protocol"] for line in made.relay.logged("message accepted")} == {"ESMTPS"}
    assert len(made.relay.logged("message accepted")) == 3


def no_name(made):
    """A client's TLS that verifies the chain; Python would check the address that it connects to as a name."""
    context = made.context()
    context.check_hostname = False
    return context


def curl(made, scheme, content, *arguments, code=0):
    path = made.place.folder / "curl.eml"
    path.write_bytes(content)
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--max-time", "20", "--cacert", str(made.authority.certificate)),
            *("--resolve", f"relay.branch.example:{made.port}:{made.host}"),
            *("--mail-from", "alice@branch.example", "--mail-rcpt", "bob@remote.example", "--upload-file", str(path)),
            *(*arguments, f"{scheme}://relay.branch.example:{made.port}/client.branch.example"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, (done.returncode, done.stderr)


def s_client(made, *arguments, said="", code=0):
    done = subprocess.run(
        ["openssl", "s_client", "-connect", made.endpoint, "-CAfile", str(made.authority.certificate), *arguments],
        input=said.encode(),
        capture_output=True,
        timeout=20,
    )
    assert done.returncode == code, done.stderr.decode(errors="replace")
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.parametrize("behind", [b"MAIL FROM:<evil@else.example>\r\n", b"RSET", b"\0"], ids=repr)
def test_starttls_injection(front, behind):
    """Must show: octets behind STARTTLS in the same piece are refused and never taken for what is said under TLS."""
    made = front("{tls}\nrelay_from = ['127.0.0.1/32']")
    with made.dialogue() as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.send(b"STARTTLS\r\n" + behind)
        assert dialogue.closed() == [554]


def test_injection_between_220_and_the_handshake(front):
    """What is sent in clear behind the 220 is the handshake's to refuse: the session ends, and the log says why."""
    made = front("{tls}")
    with made.dialogue() as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.expect(220, "STARTTLS")
        dialogue.send(b"MAIL FROM:<evil@else.example>\r\n")
        dialogue.socket.settimeout(10)
        answer = b""
        while more := dialogue.socket.recv(1000):
            answer += more
    assert b"250" not in answer
    [line] = wait.until(lambda: made.relay.logged("inbound session had refusals"), "a log line")
    assert line["trouble"].startswith("no TLS: "), line


def test_a_certificate_is_read_anew(front):
    """Must show: a new certificate is shown to new sessions without a restart, those in progress go on, and a bad file
    changes nothing but the log."""
    made = front('{tls}\ntls_mode = "implicit"')

    def serial():
        with socket.create_connection((made.host, made.port), timeout=15) as plain:
            with no_name(made).wrap_socket(plain) as secure:
                return secure.getpeercert()["serialNumber"]

    first = serial()
    with smtplib.SMTP_SSL(made.host, made.port, context=no_name(made), timeout=15) as client:
        client.ehlo("client")
        made.authority.issue("relay", "DNS:relay.branch.example")
        made.hang_up("certificates read anew")
        assert client.noop()[0] == 250
    second = serial()
    assert second != first
    made.key.write_text("no key")
    made.hang_up("certificates not read anew; the old ones stay in use")
    assert serial() == second


def test_by_name(front):
    """The certificate is that of the name that the client asks for."""
    made = front("{tls}", start=False)
    other = made.authority.issue("other", "DNS:mail.branch.example")
    certificate, key = other.certificate, other.key
    text = made.relay.config.read_text()
    by_name = f', by_name = [{{ certificate = "{certificate}", key = "{key}" }}] }}'
    made.relay.write(text.replace(made.tls, made.tls.removesuffix(" }") + by_name))
    made.relay.start()
    for name, common in (("relay.branch.example", "relay"), ("mail.branch.example", "other")):
        shown = s_client(made, "-starttls", "smtp", "-servername", name, "-verify_return_error")
        assert f"subject=CN = {common}" in shown, shown


def test_memory_of_two_hundred_sessions_under_tls(front):
    """Must show: 200 sessions under TLS, in the middle of a large message, stay under 100 MiB of resident memory."""
    made = front(
        '{tls}\ntls_mode = "implicit"\nsubmission = true\nrelay_from = ["127.0.0.1/32"]',
        limits="sessions = 280\nsessions_per_client = 280",
    )
    body = b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 2500
    context, sockets = no_name(made), []
    for _ in range(200):
        plain_socket = socket.create_connection((made.host, made.port), timeout=15)
        secure = context.wrap_socket(plain_socket)
        sockets.append(secure)
        assert secure.recv(1000).startswith(b"220 ")
        for line in (b"EHLO x", b"MAIL FROM:<a@branch.example>", b"RCPT TO:<b@branch.example>", b"DATA"):
            secure.sendall(line + b"\r\n")
            assert secure.recv(1000)[:1] in b"23"
        secure.sendall(body)

    def bodies():
        return [path.stat().st_size for path in (made.relay.state / "bodies").glob("*.part")]

    wait.until(lambda: len(bodies()) == 200 and min(bodies()) > 96 * 1024, lambda: f"{len(bodies())} bodies in files")
    most = made.relay.rss_bytes()
    print(f"200 sessions under TLS {most / 2**20:.1f} MiB")
    assert most < 100 * 2**20, f"{most / 2**20:.1f} MiB"


# AUTH.


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_auth_by_swaks(front, mechanism):
    """Must show: PLAIN, LOGIN and CRAM-MD5 by swaks under TLS: who has authenticated may send out, and no secret is in
    the log."""
    made = front('{tls}\nauth = ["PLAIN", "LOGIN", "CRAM-MD5"]', in_clear=True)
    made.swaks("--tls", "--auth", mechanism)
    accepted = made.accepted()
    assert (accepted["protocol"], accepted["identity"]) == ("ESMTPSA", "scanner")
    assert "with ESMTPSA id " in made.delivered().parsed["Received"]
    assert_no_secret(made)


def test_no_auth_without_tls(front):
    """Must show: without TLS nothing is offered, PLAIN is answered 538, and a stranger may not send out."""
    made = front("{tls}")
    with made.dialogue() as dialogue:
        keywords = dialogue.expect(250, "EHLO client")
        assert not [word for word in keywords if word.startswith("AUTH")]
        dialogue.expect(538, "AUTH PLAIN AHNjYW5uZXIAeA==")
        dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
        dialogue.expect(550, "RCPT TO:<bob@remote.example>")
        dialogue.expect(250, "RCPT TO:<user@branch.example>")
    shown = s_client(made, "-starttls", "smtp", "-quiet", said="EHLO client\r\nQUIT\r\n")
    assert "AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n" in shown, shown


def msmtp(made, auth, *lines, code=0, password=PASSWORD):
    config = made.place.folder / "msmtprc"
    config.write_text(
        f"account default\nhost {made.host}\nport {made.port}\nfrom alice@branch.example\ndomain client.branch.example\n"
        f"auth {auth}\nuser scanner\npassword {password}\ntimeout 15\n" + "".join(f"{line}\n" for line in lines)
    )
    config.chmod(0o600)
    done = subprocess.run(
        ["msmtp", "-C", str(config), "bob@remote.example"],
        input=smtp.message()[0].replace(b"\r\n", b"\n"),
        capture_output=True,
    )
    assert done.returncode == code, (done.returncode, done.stderr.decode())


@pytest.mark.parametrize("auth", ["scram-sha-256", "plain", "on"])
def test_auth_by_msmtp(front, auth):
    """Must show: SCRAM-SHA-256 and PLAIN by msmtp (GNU SASL) under TLS."""
    made = front("{tls}\nrequire_auth = true")
    msmtp(made, auth, "tls on", "tls_certcheck off")
    assert made.accepted()["identity"] == "scanner"
    assert_no_secret(made)


def test_scram_in_clear_where_asked_for(front):
    """auth_in_clear: SCRAM-SHA-256 without TLS, and nothing that shows the password."""
    made = front('auth_in_clear = ["SCRAM-SHA-256"]\nrequire_auth = true')
    msmtp(made, "scram-sha-256", "tls off")
    assert made.accepted()["protocol"] == "ESMTPA"
    with made.dialogue() as dialogue:
        assert "AUTH SCRAM-SHA-256" in dialogue.expect(250, "EHLO client")
        dialogue.expect(504, "AUTH PLAIN AHNjYW5uZXIAeA==")
        dialogue.expect(530, "MAIL FROM:<alice@branch.example>")


def test_auth_by_curl_and_python(front):
    """curl (STARTTLS and smtps) and Python's smtplib authenticate; a wrong password is told apart from trouble."""
    made = front("{tls}\nrequire_auth = true")
    curl(made, "smtp", smtp.message()[0], "--ssl-reqd", "--user", f"scanner:{PASSWORD}")
    curl(made, "smtp", smtp.message()[0], "--ssl-reqd", "--user", "scanner:wrong", code=CURL_LOGIN_DENIED)
    with smtplib.SMTP(made.host, made.port, timeout=15) as client:
        client.starttls(context=no_name(made))
        client.login("scanner", PASSWORD)
        client.sendmail("alice@branch.example", ["bob@remote.example"], smtp.message()[0])
    assert [line["identity"] for line in made.relay.logged("message accepted")] == ["scanner"] * 2
    assert_no_secret(made)


def tls_client(made, source=None):
    client = smtplib.SMTP(made.host, made.port, timeout=15, source_address=(source, 0) if source else None)
    client.starttls(context=no_name(made))
    client.ehlo("client")
    return client


def plain(client, password, name="scanner"):
    """AUTH PLAIN; the code."""
    return client.docmd("AUTH", "PLAIN " + base64.b64encode(f"\0{name}\0{password}".encode()).decode())[0]


def test_wrong_passwords(front):
    """Must show: a wrong password is 535 after a delay, for a name that is there or not; the log names no secret and no
    unknown name; the fourth ends the session."""
    made = front("{tls}")
    client = tls_client(made)
    started = time.monotonic()
    assert plain(client, "wrong-secret") == 535
    assert time.monotonic() - started >= 0.9
    assert plain(client, "wrong-secret", "nobody-known") == 535
    assert plain(client, PASSWORD, "scanner2") == 535
    assert plain(client, "wrong-secret") == 421
    lines = wait.until(
        lambda: len(found := made.relay.logged("authentication failed")) == 4 and found, "four failures"
    )
    assert [line.get("name") for line in lines] == ["scanner", None, None, "scanner"]
    assert "nobody-known" not in made.relay.log_text()
    assert_no_secret(made, "wrong-secret")


def test_brute_force(front):
    """Must show: after so many failures from one address AUTH is answered 454 there, also with the right password; from
    another address it works; and after the pause it works again."""
    made = front("{tls}", limits='auth_failures = 3\nauth_pause = "4s"')
    client = tls_client(made)
    for _ in range(3):
        assert plain(client, "wrong") == 535
    last = time.monotonic()
    client = tls_client(made)
    assert plain(client, PASSWORD) == 454
    other = tls_client(made, source="127.0.0.9")
    assert plain(other, PASSWORD) == 235
    assert time.monotonic() - last < 4, "too slow to tell"
    wait.until(lambda: plain(tls_client(made), PASSWORD) == 235, "after the pause")


def test_brute_force_side_by_side(front):
    """Many exchanges at once are judged no more often than one after the other; two are hashed side by side."""
    made = front("{tls}", limits='auth_failures = 3\nauth_pause = "60s"')
    clients = [tls_client(made) for _ in range(20)]
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = Counter(pool.map(lambda client: plain(client, "wrong"), clients))
    assert set(answers) == {454, 535}
    assert 3 <= answers[535] <= 5, answers


def test_credentials_are_read_anew(front):
    """A name that is added, and another password, count without a restart; a bad file keeps the old ones, and the log
    says which line is wrong."""
    made = front("{tls}")
    made.add("laser")
    made.add("scanner", "another password")
    made.hang_up()
    client = tls_client(made)
    assert plain(client, PASSWORD) == 535
    assert plain(client, "another password") == 235
    made.credentials.write_text("scanner:secret\n")
    made.hang_up("file not read anew; the old contents stay in use")
    [line] = made.relay.logged("file not read anew; the old contents stay in use")
    assert f"{made.credentials}: line 1: " in line["error"] and "secret" not in line["error"].split("neither")[0], line
    assert plain(tls_client(made), PASSWORD, "laser") == 235


def test_malformed_exchanges(front):
    """Half an exchange, a cancelled one, and nonsense: 501 and the session goes on."""
    made = front("{tls}")
    client = tls_client(made)
    assert client.docmd("AUTH", "LOGIN")[0] == 334
    assert client.docmd("*")[0] == 501
    assert client.docmd("AUTH", "PLAIN")[0] == 334
    assert client.docmd("not base64!")[0] == 501
    assert client.docmd("AUTH", "SCRAM-SHA-256 " + base64.b64encode(b"nonsense").decode())[0] == 501
    assert client.docmd("AUTH", "LOGIN")[0] == 334
    assert client.docmd(base64.b64encode(b"scanner").decode())[0] == 334
    assert client.docmd(base64.b64encode(PASSWORD.encode()).decode())[0] == 235
    assert client.docmd("AUTH", "PLAIN")[0] == 503


def test_identity_is_forgotten_by_tls(front):
    """RFC 3207 4.2: who authenticated in the clear is a stranger under TLS, and may not send out."""
    made = front('{tls}\nauth_in_clear = ["CRAM-MD5"]', in_clear=True)
    client = smtplib.SMTP(made.host, made.port, timeout=15)
    client.ehlo("client")
    client.user, client.password = "scanner", PASSWORD
    assert client.auth("CRAM-MD5", client.auth_cram_md5)[0] == 235
    client.mail("alice@branch.example")
    assert client.rcpt("bob@remote.example")[0] == 250
    client.rset()
    client.starttls(context=no_name(made))
    client.ehlo("client")
    client.mail("alice@branch.example")
    assert client.rcpt("bob@remote.example")[0] == 550


# Certificates of clients, and ETRN by identity.

HELD = """
[[route]]
domains = ["ship.example"]
to = "hold"
release_to = "smtp://127.0.0.1:9"
etrn_by = ["ship", "{key}"]
"""


def test_etrn_by_identity(front):
    """Must show: a site may ask for its mail by AUTH, or by a certificate of its own, from any address; others not."""
    made = front("{tls}", logins=("ship", "scanner"), start=False)
    ship = made.authority.issue("ship", "DNS:ship.example")
    key = ship.digests()[0].removeprefix("spki-")
    ship, other = ship.files(), made.authority.issue("other", "DNS:other.example").files()
    text = made.relay.config.read_text()
    roots = made.tls.removesuffix(" }") + f', client_roots = "{made.authority.certificate}" }}'
    made.relay.write(text.replace(made.tls, f'{roots}\nrelay_by = ["{key}"]') + HELD.replace("{key}", key))
    made.relay.start()

    def session(**identity):
        context = made.context(**identity)
        context.check_hostname = False
        client = smtplib.SMTP(made.host, made.port, timeout=15)
        client.starttls(context=context)
        client.ehlo("client")
        return client

    assert session(**ship).docmd("ETRN", "ship.example")[0] == 251
    assert session(**other).docmd("ETRN", "ship.example")[0] == 459
    client = session()
    assert client.docmd("ETRN", "ship.example")[0] == 459
    assert plain(client, PASSWORD, "scanner") == 235
    assert client.docmd("ETRN", "ship.example")[0] == 459
    client = session(**other)
    assert plain(client, PASSWORD, "ship") == 235
    assert client.docmd("ETRN", "ship.example")[0] == 251
    # A certificate of relay_by lets its owner send out; any other does not.
    for identity, code in ((ship, 250), (other, 550)):
        client = session(**identity)
        client.mail("a@ship.example")
        assert client.rcpt("bob@remote.example")[0] == code


# LMTP, and clients that do not wait.


def test_lmtp(front):
    """Must show: LMTP by Python's smtplib: LHLO, Received with LMTP; one reply for each recipient that was taken."""
    made = front('protocol = "lmtp"')
    content, _ = smtp.message(sender="bob@remote.example", to="user@branch.example")
    with smtplib.LMTP(made.host, made.port) as client:
        refused = client.sendmail("bob@remote.example", ["user@branch.example", "a@remote.example"], content)
    assert list(refused) == ["a@remote.example"] and refused["a@remote.example"][0] == 550
    assert "with LMTP id " in made.delivered("branch.example").parsed["Received"]
    with made.dialogue() as dialogue:
        dialogue.expect(500, "EHLO client")
        dialogue.expect(250, "LHLO client")
        recipients = ["user@branch.example", "other@branch.example"]
        assert dialogue.transaction("bob@remote.example", recipients, smtp.stuffed(content)) == 250
        assert dialogue.reply()[0] == 250
        dialogue.expect(221, "QUIT")
    assert made.stage.mailbox.wait_for(2)[1].recipients == tuple(recipients)


def test_early_talker(front):
    """Must show: a client that speaks before the greeting is refused in its place; one that waits is served."""
    made = front("refuse_early_talkers = true")
    with made.dialogue(greeting=False) as dialogue:
        dialogue.send(b"EHLO client\r\n")
        assert dialogue.closed() == [554]
    started = time.monotonic()
    with made.dialogue() as dialogue:
        assert time.monotonic() - started >= 1.9
        dialogue.expect(250, "EHLO client")


def test_strict_pipelining(front):
    """A client that pipelines before EHLO offered it is refused."""
    made = front("strict_pipelining = true")
    with made.dialogue() as dialogue:
        dialogue.send(b"EHLO client\r\nMAIL FROM:<a@remote.example>\r\n")
        assert dialogue.closed() == [554]


# The PROXY protocol.

HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
"""


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_behind_haproxy(place, front, running, version):
    """Must show: behind HAProxy, with both versions of the PROXY protocol, the client is the one that the proxy names."""
    # What the proxy connects from is not in relay_from, and what it names is.
    made = front(f'proxy_protocol = true\nproxy_from = ["{place.address}/32"]\nrelay_from = ["127.0.0.77/32"]')
    outside = place.endpoint()
    config = place.folder / "haproxy.cfg"
    config.write_text(
        f"{HAPROXY}\nlisten mail\n    bind {outside}\n    source {place.address}\n    server relay {made.endpoint} {version}\n"
    )
    proxy = subprocess.Popen(["haproxy", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait.until(lambda: can_connect(outside), "HAProxy")
        content, _ = smtp.message()
        smtp.submit(outside, "alice@branch.example", ["bob@remote.example"], content, source="127.0.0.77")
        assert made.accepted()["peer"].startswith("127.0.0.77:")
        assert "([127.0.0.77])" in made.delivered().parsed["Received"]
        with smtp.Dialogue(outside, source="127.0.0.78") as dialogue:
            dialogue.expect(250, "EHLO client")
            dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
            dialogue.expect(550, "RCPT TO:<bob@remote.example>")
    finally:
        proxy.terminate()
        proxy.wait(timeout=10)


def can_connect(endpoint):
    try:
        socket.create_connection(split(endpoint), timeout=1).close()
        return True
    except OSError:
        return False


def test_proxy_headers_by_hand(front):
    """A connection without a header, with a bad one, or from elsewhere is closed without a word; LOCAL is the proxy,
    and a client that the proxy cannot name is nobody."""
    made = front('proxy_protocol = true\nproxy_from = ["127.0.0.5/32"]\nrelay_from = ["127.0.0.5/32"]')

    def codes(header, source="127.0.0.5"):
        with made.dialogue(source=source, greeting=False) as dialogue:
            dialogue.send(header + b"EHLO client\r\nMAIL FROM:<a@branch.example>\r\nRCPT TO:<b@remote.example>\r\nQUIT\r\n")
            return dialogue.closed()

    v2 = b"\r\n\r\n\0\r\nQUIT\n"
    named = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack("!HH", 1, 25)
    served, denied = [220, 250, 250, 250, 221], [220, 250, 250, 550, 221]
    assert codes(v2 + b"\x20\x00\0\0") == served
    assert codes(b"PROXY UNKNOWN\r\n") == denied
    assert codes(v2 + b"\x21\x00\0\0") == denied
    assert codes(v2 + b"\x21\x31" + struct.pack("!H", 216) + bytes(216)) == denied
    assert codes(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n") == denied
    assert codes(v2 + b"\x21\x11" + struct.pack("!H", 12 + 5) + named + b"\x04\0\x02xx") == denied
    assert codes(v2 + b"\x21\x11" + struct.pack("!H", 11) + named[:11]) == []
    assert codes(b"") == []
    assert codes(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n", source="127.0.0.6") == []
    # A proxy that says nothing is not waited for: half a header within its time is too little.
    with made.dialogue(source="127.0.0.5", greeting=False) as dialogue:
        dialogue.send(b"PROXY TCP4")
        assert dialogue.closed() == []


def test_implicit_tls_behind_a_proxy(front):
    """The header comes before TLS, and not an octet of TLS is taken with it."""
    made = front('{tls}\ntls_mode = "implicit"\nproxy_protocol = true\nproxy_from = ["127.0.0.1/32"]')
    with socket.create_connection((made.host, made.port), timeout=15, source_address=("127.0.0.1", 0)) as plain_socket:
        plain_socket.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n")
        with no_name(made).wrap_socket(plain_socket) as secure:
            assert secure.recv(100).startswith(b"220 ")


# Submission.


def test_submission_completes_the_header(front):
    """Must show: Date and Message-ID are added where they are missing, behind Received; nothing else changes, and at a
    listener without `submission` nothing at all."""
    made = front("submission = true\nrelay_from = ['127.0.0.1/32']")
    bare = b"From: alice@branch.example\r\nSubject: bare\r\n\r\nText.\r\n"
    smtp.submit(made.endpoint, "alice@branch.example", ["user@branch.example"], bare)
    mail = made.delivered("branch.example")
    names = [line.split(b":")[0] for line in mail.content.split(b"\r\n\r\n")[0].split(b"\r\n") if not line.startswith(b"\t")]
    assert names == [b"Received", b"Date", b"Message-ID", b"From", b"Subject"], mail.content
    assert mail.content.endswith(bare) and mail.parsed["Message-ID"].endswith("@relay.branch.example>")
    smtp.submit(made.relay.site, "alice@branch.example", ["user@branch.example"], bare)
    [_, other] = made.stage.mailbox.wait_for(2)
    assert b"Message-ID" not in other.content


def test_sender_map(place, front):
    """Must show: at submission local senders become public ones, in the envelope, From, Sender and Reply-To, and
    nowhere else."""
    path = place.folder / "senders"
    path.write_text("root@pc7.site.example admin@branch.example\n@site.example @branch.example\n")
    made = front(f'submission = true\nrelay_from = ["127.0.0.1/32"]\nsender_map = "{path}"')
    head = "Subject: from root@pc7.site.example\r\nTo: x@site.example\r\n"
    text = f"{head}From: \"root@pc7.site.example\"\r\n <root@pc7.site.example>\r\nReply-To: a@site.example, b@else.example\r\n"
    rest = "Date: Tue, 01 Sep 2026 10:00:00 +0000\r\nMessage-ID: <1@site.example>\r\n\r\nroot@pc7.site.example\r\n"
    smtp.submit(made.endpoint, "root@pc7.site.example", ["bob@remote.example"], (text + rest).encode())
    mail = made.delivered()
    mapped = f"{head}From: \"root@pc7.site.example\"\r\n <admin@branch.example>\r\nReply-To: a@branch.example, b@else.example\r\n"
    assert mail.reverse_path == "admin@branch.example"
    assert mail.content.endswith((mapped + rest).encode()), mail.content
    path.write_text("@site.example @other.example\n")
    made.hang_up()
    with made.dialogue() as dialogue:
        dialogue.expect(250, "EHLO client")
        assert dialogue.transaction("a@site.example", ["user@branch.example"], b"Subject: x\r\n\r\n.\r\n") == 250
    assert made.stage.mailbox.wait_for(1)[0].reverse_path == "a@other.example"


# Recipients.


def codes_of(endpoint, *recipients):
    with smtp.Dialogue(endpoint) as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.expect(250, "MAIL FROM:<bob@remote.example>")
        return [dialogue.command(f"RCPT TO:<{recipient}>") for recipient in recipients]


def test_recipients_file(place, front):
    """Must show: recipients of our own that are not in the file are refused with 550 at RCPT; postmaster never is; a
    changed file counts at once, and a bad one not."""
    path = place.folder / "recipients"
    path.write_text("# ours\nuser@lab.example\ninfo\n")
    route = f'[[route]]\ndomains = ["lab.example"]\nto = "smtp://127.0.0.1:9"\nrecipients_file = "{path}"\n'
    made = front(more=route)
    asked = ["USER@lab.example", "info@lab.example", "nobody@lab.example", "Postmaster@lab.example", "any@branch.example"]
    assert codes_of(made.endpoint, *asked) == [250, 250, 550, 250, 250]
    path.write_text("nobody\n")
    made.hang_up()
    assert codes_of(made.endpoint, *asked) == [550, 550, 250, 250, 250]
    path.write_text("a b\n")
    made.hang_up("file not read anew; the old contents stay in use")
    assert codes_of(made.endpoint, "nobody@lab.example") == [250]


def test_call_forward(place, front):
    """Must show: with verify = "call-forward" the mailbox server is asked: whom it refuses is refused at RCPT, and is
    remembered; no message and no bounce crosses the line. A server that is down loses nobody mail."""
    made = front(start=False)
    text = made.relay.config.read_text()
    to = f'to = "smtp://{made.stage.mailbox.endpoint}"\n'
    made.relay.write(text.replace(to, to + 'verify = "call-forward"\n'))
    made.relay.start()
    made.stage.mailbox.refuse.update(
        {"nobody@branch.example": "550 5.1.1 no such user", "grey@branch.example": "450 4.2.0 later"}
    )
    asked = ["user@branch.example", "nobody@branch.example", "grey@branch.example", "postmaster@branch.example"]
    assert codes_of(made.endpoint, *asked) == [250, 550, 250, 250]
    # Remembered: the server's change of mind is not noticed yet.
    made.stage.mailbox.refuse.clear()
    made.stage.mailbox.refuse["user@branch.example"] = "550 5.1.1 gone"
    assert codes_of(made.endpoint, *asked) == [250, 550, 250, 250]
    made.stage.mailbox.stop()
    assert codes_of(made.endpoint, "other@branch.example", "nobody@branch.example") == [250, 550]
    assert made.relay.messages() == []


# The command line.


def test_credentials_commands(place):
    """`credentials`: add from standard input, list, remove; mode 0600 for a new file, the mode of an old one kept."""
    path = place.folder / "credentials"

    def run(*arguments, stdin="", code=0):
        done = subprocess.run(
            [str(BINARY), "credentials", *arguments, "--file", str(path)], input=stdin, capture_output=True, text=True
        )
        assert done.returncode == code, done
        return done.stdout

    run("add", "scanner", stdin="pencil\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    path.write_text("# ours\n" + path.read_text())
    run("add", "old-fax", "--cram-md5", "--iterations", "4096", stdin="pen\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert run("list") == (
        "old-fax  SCRAM-SHA-256 (4096 iterations), PLAIN, LOGIN, CRAM-MD5\n"
        "scanner  SCRAM-SHA-256 (15000 iterations), PLAIN, LOGIN\n"
    )
    assert "pencil" not in path.read_text() and path.read_text().startswith("# ours\n")
    run("remove", "old-fax")
    assert "old-fax" not in path.read_text()
    run("remove", "old-fax", code=65)
    run("add", "x:y", stdin="pencil\n", code=65)
    run("add", "x", stdin="\n", code=65)
    run("add", "x", "--iterations", "1", stdin="pencil\n", code=64)
    assert [one.name for one in place.folder.iterdir()] == ["credentials"]
    path.write_text("broken\n")
    run("add", "x", stdin="pencil\n", code=65)
    assert path.read_text() == "broken\n"


def test_password_on_a_terminal(place):
    """On a terminal the password is asked for twice and never shown."""
    path = place.folder / "credentials"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(BINARY, [str(BINARY), "credentials", "add", "scanner", "--file", str(path)])
    shown = b""
    for prompt in (b"Password for scanner: ", b"Once more: "):
        while prompt not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, b"pencil\n")
    assert os.waitpid(pid, 0)[1] == 0
    try:
        shown += os.read(terminal, 1000)
    except OSError:
        pass
    assert b"pencil" not in shown
    assert path.read_text().startswith("scanner:SCRAM-SHA-256$15000:")


def test_every_key_at_once(place, front):
    """The keys of the shipped example that name files, with files that are there."""
    made = front(start=False)
    folder = place.folder
    (folder / "senders").write_text("@a.example @b.example\n")
    (folder / "recipients").write_text("info\n")
    mail = made.authority.issue("mail", "DNS:mail.branch.example")
    text = (REPOSITORY / "deploy" / "examples" / "relay.toml").read_text()
    for name, file in (
        ("credentials", "credentials"), ("senders", "senders"), ("recipients", "recipients"),
        ("tls/relay.pem", made.certificate), ("tls/relay.key", made.key), ("tls/mail.pem", mail.certificate),
        ("tls/mail.key", mail.key), ("tls/clients.pem", made.authority.certificate),
    ):
        assert f'"/etc/linkmail/{name}"' in text, name
        text = text.replace(f'"/etc/linkmail/{name}"', f'"{folder / file}"')
    text = text.replace("# submission = false", "submission = true")
    keys = "credentials|tls|tls_mode|auth|auth_in_clear|relay_by|sender_map|recipients_file|etrn_by"
    text, count = re.subn(rf"(?m)^# ({keys}) = ", r"\1 = ", text)
    assert count == 9
    path = folder / "all.toml"
    path.write_text(text)
    done = cli("check", "--config", str(path))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_check_names_files_that_are_not_there(place, front):
    """Must show: `check` reports files that are missing, malformed or not for each other, each at its key."""
    made = front('{tls}\nsubmission = true\nsender_map = "{folder}/senders"'.replace("{folder}", str(place.folder)), start=False)
    made.certificate.write_text("nothing")
    made.credentials.write_text("scanner:secret\n")
    done = cli("check", "--config", str(made.relay.config))
    assert done.returncode == 78
    errors = [re.sub(r"^[^:]*:\d+: ", "", line) for line in done.stderr.splitlines()]
    assert [error.split(": ")[0] for error in errors] == ["credentials", "listener[2].tls.certificate", "listener[2].sender_map"]
    assert f"{made.credentials}: line 1: " in errors[0] and "holds no certificate" in errors[1]
    assert f"{place.folder}/senders: cannot be read" in errors[2]


def test_ssl_is_what_python_verifies(front):
    """The check of the checks: a client that trusts another authority does not connect, and the log says so."""
    made = front('{tls}\ntls_mode = "implicit"')
    with pytest.raises(ssl.SSLCertVerificationError):
        smtplib.SMTP_SSL(made.host, made.port, context=ssl.create_default_context(), timeout=15)
    [line] = wait.until(lambda: made.relay.logged("inbound session had refusals"), "a log line")
    assert line["trouble"].startswith("no TLS: the other side refused the handshake"), line
