"""The main job, with a real Postfix as provider: mail out, ETRN, held mail back, counted to the message."""

from collections import Counter

import pytest

from harness import smtp, wait
from harness.postfix import Postfix

HEADER_OF_A_RELAY = b"Received: "


def assert_same_behind_trace_lines(mail, content):
    """Relays add trace lines in front of a message and change nothing else (RFC 5321 4.4)."""
    assert mail.content.endswith(content), f"changed on the way:\n{mail.content!r}\nis not\n{content!r}"
    added = mail.content[: -len(content)]
    for line in added.split(b"\r\n")[:-1]:
        assert line.startswith((HEADER_OF_A_RELAY, b"\t", b" ")), f"added {line!r}"


def test_out_and_back(place, scene):
    """Must show: with a real Postfix as provider, a message handed in by swaks on the site's listener arrives at
    Postfix's side; ETRN releases what Postfix held from before; it arrives at a mailbox server that is not ours.
    `sent` and `received` are right to the message."""
    stage = scene()
    held = stage.hold(3)
    content, id = smtp.message(body=".a leading dot\n..two\n.\n\nend")
    smtp.swaks(stage.relay.site, "alice@branch.example", ["bob@remote.example"], content, place.folder)
    assert stage.world.mails == [] and stage.mailbox.mails == [], "nothing moves before the line is dialled"

    cycle = stage.relay.run_cycle()

    [out] = stage.world.wait_for(1)
    assert out.id == id
    assert (out.reverse_path, out.recipients) == ("alice@branch.example", ("bob@remote.example",))
    assert_same_behind_trace_lines(out, content)
    for back in stage.mailbox.wait_for(3):
        assert (back.reverse_path, back.recipients) == ("bob@remote.example", ("user@branch.example",))
        assert_same_behind_trace_lines(back, held.pop(back.id))
    assert held == {}
    assert (cycle["sent"], cycle["received"]) == (1, 3)
    assert (cycle["deferred"], cycle["refused"], cycle["error"]) == (0, 0, "")
    # Asked once after forwarding, and once more because something had been forwarded since.
    asked = [(one["host"], one["node"], one["reply_code"]) for one in cycle["dequeue_requests"]]
    assert asked == [(stage.postfix.endpoint, "branch.example", 250)] * 2
    came = [message for message in stage.relay.messages() if message["cycle"] == cycle["name"]]
    assert len(came) == 3 and {message["origin"] for message in came} == {"smtp"}


def test_nothing_to_send(scene):
    """A cycle with nothing to forward still asks for what waits, once."""
    stage = scene()
    held = stage.hold(2)
    cycle = stage.relay.run_cycle()
    assert Counter(held.keys()) == Counter(mail.id for mail in stage.mailbox.wait_for(2))
    assert (cycle["sent"], cycle["received"]) == (0, 2)
    assert len(cycle["dequeue_requests"]) == 1


def test_etrn_to_a_host_that_does_not_forward(place, running, scene):
    """Must show: the same with ETRN going to a second Postfix that is not the smart host."""
    keeper = Postfix(place, "keeper")
    stage = scene(relay=False, dequeue=f'[{{ host = "smtp://{keeper.endpoint}", etrn = ["branch.example"] }}]')
    keeper.hold = {"branch.example": stage.relay.released}
    running(keeper).start()
    stage.relay.start()
    held = stage.hold(2, postfix=keeper)
    at_smart_host = stage.hold(1)
    ids = stage.send(2)

    cycle = stage.relay.run_cycle()

    assert stage.world.wait_for(2) and stage.world.ids() == Counter(ids)
    stage.mailbox.wait_for(2)
    assert stage.mailbox.ids() == Counter(held.keys())
    assert (cycle["sent"], cycle["received"]) == (2, 2)
    assert {one["host"] for one in cycle["dequeue_requests"]} == {keeper.endpoint}
    assert len(stage.postfix.queue()) == len(at_smart_host), "the smart host was not asked"


def test_both_hosts_are_asked(place, running, scene):
    """Any number of ETRN targets per link: the smart host and another one, each node of each, in the order
    given. A node that is refused does not stop the others; the cycle says that a step failed."""
    keeper = Postfix(place, "keeper")
    stage = scene(
        relay=False,
        dequeue=(
            f'[{{ etrn = ["branch.example"] }}, {{ host = "smtp://{keeper.endpoint}", '
            'etrn = ["branch.example", "unknown.example"] }]'
        ),
    )
    keeper.hold = {"branch.example": stage.relay.released}
    running(keeper).start()
    stage.relay.start()
    held = stage.hold(1) | stage.hold(2, postfix=keeper)
    cycle = stage.relay.run_cycle(expected="INCOMPLETE")
    stage.mailbox.wait_for(3)
    assert stage.mailbox.ids() == Counter(held.keys())
    assert cycle["received"] == 3
    assert [(one["host"], one["node"], one["reply_code"]) for one in cycle["dequeue_requests"]] == [
        (stage.postfix.endpoint, "branch.example", 250),
        (keeper.endpoint, "branch.example", 250),
        (keeper.endpoint, "unknown.example", 459),
    ]


def test_mail_that_arrives_meanwhile_goes_too(scene):
    """Forward until idle: mail handed in while the line is up goes out in the same cycle, and the provider is asked
    again after it."""
    stage = scene(quiet="3s")
    first = stage.send(1)
    started = stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
    stage.world.wait_for(1)
    second = stage.send(1)
    cycle = stage.relay.ended(started["name"])
    assert cycle["outcome"] == "COMPLETE", cycle
    assert stage.world.ids() == Counter(first | second)
    assert cycle["sent"] == 2
    assert len(cycle["dequeue_requests"]) == 2


def test_released_mail_is_told_apart_by_address(place, scene):
    """Arrivals are told apart also on one listener: the link names the addresses it is released from."""
    stage = scene(relay=False)
    text = stage.relay.config.read_text()
    listener = text[text.index("# for what the provider releases") : text.index("[[route]]")]
    text = text.replace(listener, "").replace('name = "isp"', f'name = "isp"\nreleased_from = ["{place.address}/32"]')
    text = text.replace(f'address = "{stage.relay.site}"', f'address = "{stage.relay.released}"')
    stage.relay.write(text)
    stage.relay.site = stage.relay.released
    stage.relay.start()
    held = stage.hold(2)
    # A client of the site writes to its own domain while the provider releases: not the cycle's.
    own = stage.send(1, recipients=["user@branch.example"])
    cycle = stage.relay.run_cycle()
    stage.mailbox.wait_for(3)
    assert stage.mailbox.ids() == Counter(held.keys() | own)
    assert (cycle["sent"], cycle["received"]) == (0, 2)


def test_what_comes_without_a_cycle_is_not_counted(scene):
    """Mail on the link's listener while no cycle runs is taken and delivered, and belongs to no cycle."""
    stage = scene()
    content, id = smtp.message(sender="bob@remote.example", to="user@branch.example")
    smtp.submit(stage.relay.released, "bob@remote.example", ["user@branch.example"], content)
    stage.mailbox.wait_for(1)
    assert [message["cycle"] for message in stage.relay.messages()] == [""]
    assert stage.relay.run_cycle()["received"] == 0


@pytest.mark.parametrize(
    "trigger, name",
    [
        ('[{ every = "1s" }]', "SCHEDULE"),
        ("[{ queued = 2 }]", "QUEUE"),
        ('[{ oldest = "1s" }]', "QUEUE"),
    ],
)
def test_triggers(scene, trigger, name):
    """A cycle starts by schedule, by queue depth and by age, and carries what waits."""
    stage = scene(trigger=trigger)
    ids = stage.send(2)
    stage.world.wait_for(2, seconds=10)
    assert stage.world.ids() == Counter(ids)

    def of_that_trigger():
        cycles = stage.relay.client.call("CycleService/ListCycles", parent="links/isp")["cycles"]
        return [cycle for cycle in cycles if cycle["trigger"] == name and cycle["phase"] == "ENDED"]

    # A schedule may begin with a cycle that catches up.
    wait.until(of_that_trigger, f"a cycle by {name}")


def test_restart_keeps_everything(scene):
    """A graceful stop with mail in the spool loses nothing: the next run's cycle carries it, and the cycles of the run
    before are still listed."""
    stage = scene()
    before = stage.relay.run_cycle()
    ids = stage.send(3)
    assert stage.relay.terminate() == 0
    stage.relay.start()
    cycle = stage.relay.run_cycle()
    stage.world.wait_for(3)
    assert stage.world.ids() == Counter(ids)
    assert cycle["sent"] == 3
    listed = stage.relay.client.call("CycleService/ListCycles", parent="links/isp")["cycles"]
    assert [one["name"] for one in listed] == [cycle["name"], before["name"]]
    assert listed[1] == before


def test_schedule_missed_is_caught_up(scene):
    """A schedule that was missed while the relay did not run is caught up at start: trigger CATCH_UP."""
    stage = scene(trigger='[{ every = "4s" }]')

    def ended():
        cycles = stage.relay.client.call("CycleService/ListCycles", parent="links/isp")["cycles"]
        return [cycle for cycle in cycles if cycle["phase"] == "ENDED"]

    wait.until(ended, "one scheduled cycle", 15)
    assert stage.relay.terminate() == 0
    stopped = wait.time.monotonic()
    # The time that passes is the condition here: one period must be missed.
    wait.until(lambda: wait.time.monotonic() - stopped > 5, "one missed period")
    stage.relay.start()
    newest = wait.until(lambda: ended()[:-1] and ended()[0], "a cycle after the start", 10)
    assert newest["trigger"] == "CATCH_UP"
