"""Mail that waits too long: the sender is told, or it is given up. And what goes first of what waits."""

import smtplib

import pytest

from harness import smtp, wait

ALICE, BOB = "alice@branch.example", "bob@remote.example"
NO_LINE = (
    '{ driver = "command", up = ["/bin/false"], down = ["/bin/true"], timeout = "2s", patience = "1s", attempts = 1, '
    'pause = "100ms" }'
)


@pytest.fixture
def waiting(scene):
    """`waiting(retry)`: a site whose line is not there, with these lines under `[retry]`."""

    def begin(retry, **settings):
        stage = scene(provider=False, relay=False, dial=NO_LINE, **settings)
        stage.relay.write(stage.relay.config.read_text().replace("[retry]\n", f"[retry]\n{retry}\n"))
        return stage, stage.relay.start()

    return begin


def hand_in(relay, to=BOB, sender=ALICE, mail=(), rcpt=(), at=None):
    """One message with parameters of MAIL and RCPT; the replies to MAIL and to the end of data, and its Message-ID."""
    content, id = smtp.message(sender=ALICE, to=to)
    host, port = (at or relay.site).split(":")
    with smtplib.SMTP(host, int(port), "client.branch.example") as client:
        client.ehlo()
        to_mail = client.mail(sender, list(mail))
        assert client.rcpt(to, list(rcpt))[0] == 250
        return to_mail, client.data(content.decode()), id


def line_comes_up(stage):
    stage.relay.terminate()
    stage.relay.write(stage.relay.config.read_text().replace("/bin/false", "/bin/true"))
    stage.relay.start()
    stage.relay.run_cycle()


def status(report):
    """Action and status of the one recipient that a report tells of."""
    [part] = [part for part in report.parsed.walk() if part.get_content_type() == "message/delivery-status"]
    fields = part.get_payload()[1]
    return fields["Action"], fields["Status"], fields["Will-Retry-Until"]


def reports(stage):
    return [mail for mail in stage.mailbox.mails if mail.reverse_path == ""]


def test_a_sender_hears_once_that_mail_is_late(waiting):
    """Once, with the date until which it is tried; it goes on waiting, and goes when the line is up. Nobody hears who forbade
    it, and no null reverse path."""
    stage, relay = waiting('warn_after = "1s"')
    hand_in(relay)
    for options in [["NOTIFY=FAILURE"], ["NOTIFY=NEVER"]]:
        hand_in(relay, rcpt=options)
    hand_in(relay, sender="")
    stage.mailbox.wait_for(1)
    action, code, until = status(reports(stage)[0])
    assert (action, code) == ("delayed", "4.4.0") and until
    wait.until(lambda: len(relay.logged("recipients late")) == 4, "all four are judged")
    assert {state for state, attempts in relay.recipients().values()} == {"QUEUED", "DELIVERED"}
    # Two more looks, and a restart.
    relay.terminate()
    relay.start()
    line_comes_up(stage)
    stage.world.wait_for(4)
    assert len(stage.mailbox.mails) == 1


def test_a_line_that_does_not_return_ends_it(waiting):
    """No attempt was ever counted; the sender hears that it failed, and a null reverse path does not."""
    stage, relay = waiting('warn_after = "0s"\nline_gone = "2s"')
    hand_in(relay)
    hand_in(relay, to="carol@remote.example", sender="")
    [report] = stage.mailbox.wait_for(1)
    assert status(report)[:2] == ("failed", "5.4.7")
    relay.wait_for_states({BOB: "BOUNCED", "carol@remote.example": "DISCARDED", ALICE: "DELIVERED"})


def test_the_time_that_a_sender_sets(waiting):
    """RFC 2852: with R it comes back when its time is over, though the line was never there; with N the sender hears that it
    is late, and it goes on; where the next host does not know DELIVERBY he hears that, too."""
    stage, relay = waiting('warn_after = "1h"')
    hand_in(relay, mail=["BY=2;R"])
    hand_in(relay, to="carol@remote.example", mail=["BY=3;N"])
    hand_in(relay, to="dave@remote.example", mail=["BY=9999;R"])
    stage.mailbox.wait_for(2, seconds=60)
    told = {report.parsed.as_string().count("bob@remote.example") > 0: status(report) for report in reports(stage)}
    assert told[True][:2] == ("failed", "5.4.7")
    assert told[False][0] == "delayed"
    states = {BOB: "BOUNCED", "carol@remote.example": "QUEUED", "dave@remote.example": "QUEUED", ALICE: "DELIVERED"}
    relay.wait_for_states(states)
    line_comes_up(stage)
    [mail] = stage.world.wait_for(1)
    assert mail.recipients == ("carol@remote.example",)
    # The mail server of the test offers no DELIVERBY: nobody would return Dave's.
    relay.wait_for_states(states | {"carol@remote.example": "DELIVERED", "dave@remote.example": "BOUNCED"})
    stage.mailbox.wait_for(4)
    assert sorted(status(report)[0] for report in reports(stage)) == ["delayed", "failed", "failed", "relayed"]


def test_a_priority_counts_for_who_may_send_out(waiting):
    """RFC 6710: it is taken from the site's own clients, goes before all that waits, and is 0 for everybody else, who is told
    so (2.3.6)."""
    stage, relay = waiting("", connections=1)
    for _ in range(60):
        hand_in(relay)
    reply, _, urgent = hand_in(relay, mail=["MT-PRIORITY=5"])
    assert reply[0] == 250 and b"2.1.0" in reply[1]
    _, _, least = hand_in(relay, mail=["MT-PRIORITY=-3"])
    hand_in(relay)
    reply, _, _ = hand_in(relay, to="user@branch.example", sender=BOB, mail=["MT-PRIORITY=9"], at=relay.released)
    assert reply[0] == 250 and b"2.3.6 0 " in reply[1]
    line_comes_up(stage)
    ids = [mail.id for mail in stage.world.wait_for(63)]
    assert (ids[0], ids[-1]) == (urgent, least)


def test_a_domain_does_not_wait_behind_the_mass_of_another(waiting):
    """Domains share a link: what came behind two hundred messages for one of them does not wait for these."""
    stage, relay = waiting("", connections=1)
    for _ in range(200):
        hand_in(relay, to="many@mass.example")
    few = {hand_in(relay, to="one@few.example")[2] for _ in range(3)}
    line_comes_up(stage)
    ids = [mail.id for mail in stage.world.wait_for(203)]
    assert few <= set(ids[:10])


def test_a_line_that_comes_back_begins_the_backoff_anew(scene):
    """What waits an hour for its next attempt is tried at once when the line is back after it was missing, and then after the
    first wait. What was counted stays counted."""
    refuse = {BOB: "451 4.7.1 Not now"}
    stage = scene(refuse=refuse, provider=False, relay=False, dial=NO_LINE.replace("/bin/false", "/bin/true"))
    hour = stage.relay.config.read_text().replace('first = "1s"\nlongest = "2s"', 'first = "1h"\nlongest = "1h"')
    stage.relay.write(hour)
    stage.relay.start()
    stage.send(1)
    assert stage.relay.run_cycle()["deferred"] == 1
    assert stage.relay.run_cycle()["deferred"] == 0
    for up, outcome, deferred in [("false", "LINE_MISSING", 0), ("true", "COMPLETE", 1), ("true", "COMPLETE", 0)]:
        stage.relay.terminate()
        stage.relay.write(hour.replace("up = [\"/bin/true", f"up = [\"/bin/{up}"))
        stage.relay.start()
        assert stage.relay.run_cycle(outcome)["deferred"] == deferred, up
    assert stage.relay.recipients()[BOB] == ("QUEUED", 2)
