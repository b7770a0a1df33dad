"""What senders ask for travels with the message: DSN parameters, addresses in any script; and large messages pass with
memory flat."""

import re
from pathlib import Path

from harness import smtp, wait
from harness.postfix import Postfix


def hand_in(endpoint, sender, recipients, content, mail="", rcpt=""):
    """With parameters of MAIL and RCPT, as they stand on the wire."""
    with smtp.Dialogue(endpoint) as client:
        assert client.command("EHLO client.test") == 250
        assert client.command(f"MAIL FROM:<{sender}>{mail}") == 250
        for recipient in recipients:
            assert client.command(f"RCPT TO:<{recipient}>{rcpt}") == 250
        assert client.command("DATA") == 354
        client.send(content + b".\r\n")
        assert client.reply()[0] == 250
        assert client.command("QUIT") == 221


def reports(mailbox):
    """The reports that arrived at the site, as text."""
    return [mail.content.decode() for mail in mailbox.mails if b"report-type=delivery-status" in mail.content]


def test_what_was_asked_for_reaches_a_smart_host_with_dsn(scene):
    """RFC 3461 5.2: NOTIFY, ORCPT, RET and ENVID are passed on to Postfix, which tells the sender of success then."""
    stage = scene()
    content, _ = smtp.message()
    hand_in(
        stage.relay.site,
        "alice@branch.example",
        ["bob@remote.example"],
        content,
        mail=" RET=HDRS ENVID=our+2Bname",
        rcpt=" NOTIFY=SUCCESS ORCPT=rfc822;Bob+2BX@remote.example",
    )
    # Its report is held for the site, and released when the cycle asks once more.
    stage.relay.run_cycle()
    wait.until(lambda: reports(stage.mailbox), "a report at the site")
    (text,) = reports(stage.mailbox)
    assert "Reporting-MTA: dns; isp.provider.example" in text
    assert "Original-Envelope-Id: our+name" in text
    assert "Original-Recipient: rfc822;Bob+X@remote.example" in text
    assert re.search(r"Action: (relayed|delivered)", text), text


def test_a_smart_host_without_dsn_is_answered_for(scene):
    """RFC 3461 5.2.2: who asked for success hears 'relayed' from us; NEVER keeps even a failure silent."""
    stage = scene(provider=False, refuse={"nobody@remote.example": "550 5.1.1 nobody"})
    content, _ = smtp.message()
    for recipient, notify in [
        ("bob@remote.example", "SUCCESS"),
        ("bob@remote.example", "FAILURE"),
        ("nobody@remote.example", "NEVER"),
        ("nobody@remote.example", "FAILURE,DELAY"),
    ]:
        hand_in(stage.relay.site, "alice@branch.example", [recipient], content, rcpt=f" NOTIFY={notify}")
    stage.relay.run_cycle()
    stage.mailbox.wait_for(2)
    actions = sorted(re.search(r"Action: (\w+)", text).group(1) for text in reports(stage.mailbox))
    assert actions == ["failed", "relayed"]
    states = [one["state"] for message in stage.relay.messages() for one in message["recipients"]]
    assert sorted(states)[:2] == ["BOUNCED", "BOUNCED"], states


UTF8 = "jörg@remote.example"
CONTENT = "From: alice@branch.example\r\nSubject: Grüße\r\nMessage-ID: <utf8@test.example>\r\n\r\ntext\r\n".encode()


def test_an_address_in_another_script_goes_to_a_host_that_takes_it(scene):
    """RFC 6531: Postfix gets it as it is."""
    stage = scene()
    hand_in(stage.relay.site, "alice@branch.example", [UTF8], CONTENT, mail=" SMTPUTF8 BODY=8BITMIME")
    stage.relay.run_cycle()
    assert stage.relay.recipients()[UTF8][0] == "DELIVERED"
    wait.until(lambda: f"to=<{UTF8}>" in stage.postfix.log(), lambda: stage.postfix.log())


def test_a_host_without_smtputf8_is_not_given_such_an_address(scene):
    """RFC 6531 3.2: 5.6.7 to the sender, and nothing on the wire."""
    stage = scene(provider=False)
    hand_in(stage.relay.site, "alice@branch.example", [UTF8], CONTENT, mail=" SMTPUTF8 BODY=8BITMIME")
    stage.relay.run_cycle()
    stage.mailbox.wait_for(1)
    (text,) = reports(stage.mailbox)
    assert "Status: 5.6.7" in text
    assert "Final-Recipient: utf-8;j\\x{F6}rg@remote.example" in text
    assert not stage.world.mails


def resident(relay):
    """Octets that the relay has had in memory at most."""
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024


def test_a_message_of_100_megabytes_passes_with_memory_flat(place, scene, running):
    """In over SMTP, out by CHUNKING: neither side of the relay holds it."""
    far = running(Postfix(place, "far", settings={"message_size_limit": 200_000_000, "default_transport": "discard:"})).start()
    stage = scene(
        provider=False, smart_host=lambda _: far.endpoint, extra='[limits]\nmessage_size = "150MB"\n'
    )
    stage.send(1)
    stage.relay.run_cycle()
    before = resident(stage.relay)
    line = b"x" * 70 + b"\r\n"
    content = b"Subject: large\r\n\r\n" + line * (100_000_000 // len(line))
    hand_in(stage.relay.site, "alice@branch.example", ["bob@remote.example"], content)
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], int(cycle["sent_bytes"]) > 100_000_000) == (1, True), f"{cycle} {stage.relay.messages()}"
    grown = resident(stage.relay) - before
    assert grown < 24 * 1024 * 1024, f"grew by {grown} octets"
