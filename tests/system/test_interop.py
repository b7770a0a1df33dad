"""Clients and mail servers that are not ours hand in mail: each with every way of TLS, and every mechanism of AUTH that
it knows under it. One message each, which arrives whole and once, and whose trace says how it came."""

import re

import pytest

from harness import clients, senders, smtp, wait
from harness.doors import NOBODY, USER, Doors, ways

# Without the mechanisms that these do not know.
PROGRAMS = {
    clients.swaks: {NOBODY, "PLAIN", "LOGIN", "CRAM-MD5"},
    clients.curl: {NOBODY, "PLAIN", "LOGIN", "CRAM-MD5"},
    clients.msmtp: {NOBODY, "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"},
    clients.python: {NOBODY, "PLAIN", "LOGIN", "CRAM-MD5"},
    clients.nodemailer: {NOBODY, "PLAIN", "LOGIN", "CRAM-MD5"},
}
SERVERS = {
    senders.postfix: {NOBODY, "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"},
    senders.exim: {NOBODY, "PLAIN", "LOGIN", "CRAM-MD5"},
    senders.opensmtpd: {NOBODY, "PLAIN", "LOGIN"},
    senders.sendmail: {NOBODY, "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"},
}
# sendmail does not begin with TLS as a client.
NO_WAY = {senders.sendmail: {"implicit"}}
# Lines that begin with dots, a long one, octets above 127, an empty end, and more than one segment of the network. (swaks takes
# a last line that is a dot for its own.)
BODY = "\n".join([".", "..", ".hidden", "x" * 900, "Grüße", *(f"line {n}" for n in range(5000)), "", ".end", ""])
EIGHT_BITS = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"


@pytest.fixture(scope="module")
def doors(shared_place, shared_running):
    made = Doors(shared_place, shared_running)
    yield made
    assert set(made.mailbox.ids().values()) == {1}, "something came twice"


def arrived(doors, door, id):
    """The message with that Message-ID, which came once, through that door, by the trace of the relay and by its log."""
    [mail] = wait.until(
        lambda: [mail for mail in doors.mailbox.mails if mail.id == id],
        lambda: f"{id}; log: {doors.relay.log_text()[-3000:]}",
    )
    assert (mail.reverse_path, mail.recipients) == (clients.SENDER, (door.recipient,))
    ours = mail.parsed.get_all("Received")[0]
    assert f"by relay.branch.example with {door.protocol} id " in ours, ours
    [line] = doors.relay.logged("message accepted", id=re.search(r" id (\S+)", ours)[1])
    assert (line["protocol"], line.get("identity")) == (door.protocol, USER if door.mechanism else None), line
    return mail


def knows(who, mode, mechanism):
    return mechanism in (PROGRAMS | SERVERS)[who] and mode not in NO_WAY.get(who, ())


def cases(all):
    for who in all:
        for mode, mechanism in ways():
            if knows(who, mode, mechanism):
                yield pytest.param(who, mode, mechanism, id=f"{who.__name__}-{mode}-{mechanism or 'nobody'}")


@pytest.mark.parametrize("client, mode, mechanism", [*cases(PROGRAMS)])
def test_clients(doors, client, mode, mechanism):
    """Must show: swaks, curl, msmtp, Python's smtplib and nodemailer, in clear, with STARTTLS and with TLS from the first octet,
    with every mechanism they know: the message arrives octet for octet, once, with the right keyword in Received."""
    door = doors.all[mode, mechanism]
    content, id = smtp.message(body=BODY, to=door.recipient, extra=EIGHT_BITS)
    client(doors, door, content)
    got = arrived(doors, door, id).content
    assert got.endswith(b"\r\n" + content), got[-200:]


@pytest.fixture(scope="module")
def server(doors, shared_place, shared_running):
    """`server(made)`: the one that `made` makes, started when it is first asked for."""
    started = {}

    def get(made):
        if made not in started:
            known = [door for way, door in doors.all.items() if knows(made, *way)]
            started[made] = shared_running(made(shared_place, doors, known))
            started[made].start()
        return started[made]

    return get


@pytest.mark.parametrize("made, mode, mechanism", [*cases(SERVERS)])
def test_servers(doors, server, made, mode, mechanism):
    """Must show: the same for Postfix, Exim, OpenSMTPD and sendmail with us as their next hop; and they know that they are rid of
    it."""
    door, host = doors.all[mode, mechanism], server(made)
    content, id = smtp.message(body=BODY, to=door.recipient, extra=EIGHT_BITS)
    smtp.submit(host.endpoint, clients.SENDER, [door.recipient], content)
    mail = arrived(doors, door, id)
    # Each has put its trace on top; sendmail writes the header anew.
    assert mail.content.endswith(content.split(b"\r\n\r\n", 1)[1]), mail.content[-200:]
    assert [mail.parsed[name] for name in ("From", "To", "Subject")] == [clients.SENDER, door.recipient, "hello"]
    wait.until(lambda: host.waiting() == 0, lambda: f"an empty queue; log: {host.log()[-3000:]}")


def hand_in(host, sender, recipient, contents, mail="", rcpt=""):
    """One session with that server, with parameters of MAIL and RCPT as they stand on the wire."""
    with smtp.Dialogue(host.endpoint) as dialogue:
        dialogue.expect(250, "EHLO client.branch.example")
        for content in contents:
            dialogue.expect(250, f"MAIL FROM:<{sender}>{mail}")
            dialogue.expect(250, f"RCPT TO:<{recipient}>{rcpt}")
            dialogue.expect(354, "DATA")
            dialogue.send(smtp.stuffed(content))
            assert dialogue.reply()[0] == 250
        dialogue.expect(221, "QUIT")


@pytest.mark.parametrize("made", SERVERS)
def test_many_at_once(doors, server, made):
    """Must show: fifty messages that each server hands in as fast as it likes, after STARTTLS and a login: all arrive, once."""
    door, host = doors.all["starttls", "PLAIN"], server(made)
    handed = [smtp.message(to=door.recipient) for _ in range(50)]
    hand_in(host, clients.SENDER, door.recipient, [content for content, _ in handed])
    ids = {id for _, id in handed}
    wait.until(lambda: ids <= doors.mailbox.ids().keys(), lambda: f"{len(ids)}; {host.log()[-2000:]}", seconds=30)
    assert {doors.mailbox.ids()[id] for id in ids} == {1}
    wait.until(lambda: host.waiting() == 0, lambda: f"an empty queue; log: {host.log()[-3000:]}")


@pytest.mark.parametrize("made", SERVERS)
def test_wishes(doors, server, made):
    """RFC 3461: what a sender asks of each server reaches us: we tell of success, as the mailbox server does not."""
    door, host = doors.all["starttls", "PLAIN"], server(made)
    sender, envid = f"{made.__name__}@branch.example", f"our-{made.__name__}"
    content, id = smtp.message(sender=sender, to=door.recipient)
    hand_in(host, sender, door.recipient, [content], f" RET=HDRS ENVID={envid}", " NOTIFY=SUCCESS ORCPT=rfc822;Bob@far.example")
    [report] = wait.until(
        lambda: [mail.content.decode() for mail in doors.mailbox.mails if mail.recipients == (sender,)],
        lambda: f"a report; {doors.mailbox.ids()[id]}; {host.log()[-3000:]}",
    )
    assert "Reporting-MTA: dns; relay.branch.example" in report and "Action: relayed" in report, report
    assert f"Original-Envelope-Id: {envid}" in report, report
    assert "Original-Recipient: rfc822;Bob@far.example" in report, report
