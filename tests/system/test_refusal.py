"""What the smart host refuses: for good, a report to the sender, once; for now, another attempt."""

from collections import Counter
from email import message_from_bytes, policy

import pytest

from harness import smtp, wait

NOBODY = "nobody@remote.example"
REFUSED = {NOBODY: "550 5.1.1 No such user here"}


def groups(report):
    """The field groups of a message/delivery-status part: per message, then per recipient (RFC 3464 2.1)."""
    [status] = [part for part in report.walk() if part.get_content_type() == "message/delivery-status"]
    return [dict(group.items()) for group in status.get_payload() if group.items()]


def assert_report(mail, original_id, failed):
    """`mail` is a failure report (RFC 3464) for exactly the recipients in `failed`: recipient -> (status, code)."""
    assert mail.reverse_path == "", "a report has the null reverse path"
    report = message_from_bytes(mail.content, policy=policy.default)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert report.defects == [] and all(part.defects == [] for part in report.walk())
    assert report["MIME-Version"] == "1.0" and report["Date"] and report["Message-ID"] and report["To"]
    assert report["Auto-Submitted"] == "auto-replied"
    parts = [part.get_content_type() for part in report.iter_parts()]
    assert parts == ["text/plain", "message/delivery-status", "text/rfc822-headers"]
    message, *recipients = groups(report)
    assert message["Reporting-MTA"] == "dns; relay.branch.example"
    found = {}
    for group in recipients:
        assert group["Action"] == "failed"
        kind, address = group["Final-Recipient"].split(";")
        assert kind == "rfc822"
        assert group["Diagnostic-Code"].startswith("smtp; "), group
        found[address.strip()] = (group["Status"], group["Diagnostic-Code"].removeprefix("smtp; ")[:3])
    assert found == failed
    returned = list(report.iter_parts())[2].get_content()
    returned = returned.decode() if isinstance(returned, bytes) else returned
    assert f"Message-ID: <{original_id}>" in returned.replace("\r\n", "\n")
    assert "the body stays here" not in mail.content.decode(), "headers only"


def refused_with_ret(stage, sender, ret, content):
    """Hands in a message that nobody takes."""
    with smtp.Dialogue(stage.relay.site) as client:
        client.expect(250, "EHLO client.test")
        client.expect(250, f"MAIL FROM:<{sender}>{ret}")
        client.expect(250, f"RCPT TO:<{NOBODY}>")
        client.expect(354, "DATA")
        client.send(smtp.stuffed(content))
        assert client.reply()[0] == 250
        client.expect(221, "QUIT")


def test_a_message_comes_back_whole_to_who_asks_for_it(scene):
    """RFC 3461 4.3: RET=FULL returns the message octet for octet, also one that lies in a file; HDRS, and one that is too
    large, return the header; and so does a report that goes over the link."""
    stage = scene(refuse=REFUSED, provider=False)
    line = b"x" * 76 + b"\r\n"
    sizes = {"small": 1, "file": 4000, "large": 14_000}
    contents = {name: smtp.message(subject=name)[0] + b".a dot\r\n" + line * count for name, count in sizes.items()}
    for name, content in contents.items():
        refused_with_ret(stage, "alice@branch.example", " RET=FULL", content)
    refused_with_ret(stage, "alice@branch.example", " RET=HDRS", smtp.message(subject="header")[0])
    refused_with_ret(stage, "alice@remote.example", " RET=FULL", smtp.message(subject="line")[0])

    stage.relay.run_cycle()

    returned = {}
    reports = stage.mailbox.wait_for(4)
    stage.relay.run_cycle()
    for mail in [*reports, *stage.world.wait_for(1)]:
        report = message_from_bytes(mail.content, policy=policy.default)
        assert report.defects == [] and all(part.defects == [] for part in report.walk())
        *_, part = report.iter_parts()
        if part.get_content_type() == "message/rfc822":
            name = part.get_content()["Subject"]
            # The whole is what the relay had: its own field Received, and then every octet of ours.
            assert contents[name] in mail.content
            assert mail.content.count(b"--" + report.get_boundary().encode() + b"--\r\n") == 1
        else:
            assert part.get_content_type() == "text/rfc822-headers"
            text = part.get_content()
            name = message_from_bytes(text if isinstance(text, bytes) else text.encode(), policy=policy.default)["Subject"]
        returned[name] = part.get_content_type()
    header, whole = "text/rfc822-headers", "message/rfc822"
    assert returned == {"small": whole, "file": whole, "large": header, "header": header, "line": header}


@pytest.mark.parametrize("provider", [True, False], ids=["postfix", "aiosmtpd"])
def test_one_of_three(scene, provider):
    """Must show: the smart host refuses one of three recipients: two delivered, one report, once."""
    stage = scene(refuse=REFUSED, provider=provider)
    three = ["bob@remote.example", NOBODY, "carol@remote.example"]
    [id] = stage.send(1, recipients=three, body="the body stays here")

    cycle = stage.relay.run_cycle()

    assert (cycle["sent"], cycle["refused"], cycle["deferred"]) == (1, 1, 0)
    [report] = stage.mailbox.wait_for(1)
    assert report.recipients == ("alice@branch.example",)
    assert_report(report, id, {NOBODY: ("5.1.1", "550")})
    wait.until(lambda: sum(len(mail.recipients) for mail in stage.world.mails) >= 2, "two delivered")
    got = Counter(recipient for mail in stage.world.mails for recipient in mail.recipients)
    assert got == Counter(["bob@remote.example", "carol@remote.example"])
    states = {address: state for address, (state, _) in stage.relay.recipients().items()}
    assert states == {
        "bob@remote.example": "DELIVERED",
        NOBODY: "BOUNCED",
        "carol@remote.example": "DELIVERED",
        "alice@branch.example": "DELIVERED",
    }

    # Once: neither another cycle nor a restart reports or sends again.
    assert stage.relay.run_cycle()["sent"] == 0
    assert stage.relay.terminate() == 0
    stage.relay.start()
    assert stage.relay.run_cycle()["sent"] == 0
    assert len(stage.mailbox.mails) == 1
    assert sum(len(mail.recipients) for mail in stage.world.mails) == 2


def test_all_refused_is_one_report(scene):
    """Every recipient refused: one report that names them all, and nothing is sent."""
    other = "noone@remote.example"
    stage = scene(refuse=REFUSED | {other: "554 5.7.1 Not wanted"})
    [id] = stage.send(1, recipients=[NOBODY, other], body="the body stays here")
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], cycle["refused"]) == (0, 2)
    [report] = stage.mailbox.wait_for(1)
    assert_report(report, id, {NOBODY: ("5.1.1", "550"), other: ("5.7.1", "554")})


def test_null_sender_is_never_answered(scene):
    """Must show (deliver 3): no report for a null sender: DISCARDED, with a log line."""
    stage = scene(refuse=REFUSED)
    stage.send(1, reverse_path="", recipients=[NOBODY])
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], cycle["refused"]) == (0, 1)
    stage.relay.wait_for_states({NOBODY: "DISCARDED"})
    assert len(stage.relay.messages()) == 1 and stage.mailbox.mails == []
    assert NOBODY in stage.relay.log_text()


def test_report_that_is_refused_ends(scene):
    """A report to a sender who does not exist either is discarded: no report about a report."""
    stage = scene(refuse=REFUSED | {"ghost@elsewhere.example": "550 5.1.1 Nor this one"})
    stage.send(1, reverse_path="ghost@elsewhere.example", recipients=[NOBODY])
    stage.relay.run_cycle()
    wait.until(lambda: len(stage.relay.messages()) == 2, "the report is queued")
    stage.relay.run_cycle()
    stage.relay.wait_for_states({NOBODY: "BOUNCED", "ghost@elsewhere.example": "DISCARDED"})
    assert len(stage.relay.messages()) == 2
    assert stage.world.mails == [] and stage.mailbox.mails == []


def test_deferred_is_tried_again(scene):
    """A temporary refusal is an attempt, counted, without a report; the recipient goes out in a later cycle, and the
    others do not go twice."""
    refuse = {NOBODY: "451 4.7.1 Greylisted"}
    stage = scene(refuse=refuse, provider=False)
    stage.send(1, recipients=["bob@remote.example", NOBODY])
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], cycle["deferred"], cycle["refused"]) == (1, 1, 0)
    assert stage.relay.recipients() == {"bob@remote.example": ("DELIVERED", 1), NOBODY: ("QUEUED", 1)}
    stage.world.refuse.clear()
    wait.until(lambda: stage.relay.run_cycle()["sent"] or len(stage.world.mails) > 1, "due again after retry.first")
    assert [mail.recipients for mail in stage.world.mails] == [("bob@remote.example",), (NOBODY,)]
    assert stage.mailbox.mails == []


def test_expiry_is_a_report(scene):
    """A recipient whose counted attempts failed for longer than `retry.expire` is given up and reported, once."""
    stage = scene(refuse={NOBODY: "451 4.7.1 Never"}, provider=False, relay=False)
    stage.relay.write(stage.relay.config.read_text().replace('expire = "1h"', 'expire = "2s"'))
    stage.relay.start()
    [id] = stage.send(1, recipients=[NOBODY], body="the body stays here")

    def given_up():
        stage.relay.run_cycle()
        return stage.mailbox.mails

    wait.until(given_up, "a report after 2 s of failed attempts", 30)
    [report] = stage.mailbox.wait_for(1)
    assert_report(report, id, {NOBODY: ("5.4.7", "451")})


def test_mailbox_server_refuses(scene):
    """A route smtp://HOST:PORT is under the same rules: what the mailbox server refuses is reported over the link."""
    stage = scene()
    stage.mailbox.refuse["gone@branch.example"] = "550 5.1.1 Left the company"
    content, id = smtp.message(sender="bob@remote.example", to="gone@branch.example", body="the body stays here")
    smtp.submit(stage.relay.site, "bob@remote.example", ["gone@branch.example"], content)
    wait.until(lambda: len(stage.relay.messages()) == 2, "the report is queued")
    stage.relay.run_cycle()
    [report] = stage.world.wait_for(1)
    assert report.recipients == ("bob@remote.example",)
    assert_report(report, id, {"gone@branch.example": ("5.1.1", "550")})
