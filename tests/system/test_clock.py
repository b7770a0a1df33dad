"""A wall clock that is wrong, and is set: nothing expires by it, nothing waits longer for it, and it is told."""

import uuid

import pytest

from harness import smtp, wait
from harness.wall_clock import WallClock

BOB = "bob@remote.example"
NOT_NOW = {BOB: "451 4.7.1 Not now"}
YEAR = 365 * 86_400
NO_LINE = (
    '{ driver = "command", up = ["/bin/false"], down = ["/bin/true"], timeout = "2s", patience = "1s", attempts = 1, '
    'pause = "100ms" }'
)


@pytest.fixture
def clock(place):
    return WallClock(place.folder)


def attempts(relay):
    [(_, count)] = [fate for address, fate in relay.recipients().items() if address == BOB]
    return count


def tried_again(relay):
    """The next attempt comes when it would have come, and is counted."""
    before = attempts(relay)
    wait.until(lambda: relay.run_cycle() and attempts(relay) > before, "another attempt", 15)


def test_a_box_without_a_battery(scene, clock):
    """Must show: it starts in 1970, learns the time when the line is up, and loses it again. Each time mail goes on to wait
    as it did, and nobody is told that it failed; the relay says that the clock is wrong, and when it is set."""
    stage = scene(refuse=dict(NOT_NOW), provider=False, relay=False, env=clock.env)
    clock.set_to_1970()
    stage.relay.start()
    assert [line for line in stage.relay.log() if "is before the time at which this program was built" in line["message"]]
    stage.send(1)
    assert stage.relay.messages()[0]["accept_time"].startswith("1970")
    tried_again(stage.relay)
    for change in [clock.set_right, lambda: clock.set_by(YEAR), clock.set_to_1970, clock.set_right]:
        told = len(stage.relay.logged("the clock of this machine was set: nothing ages by that"))
        change()
        tried_again(stage.relay)
        steps = lambda: stage.relay.logged("the clock of this machine was set: nothing ages by that")
        wait.until(lambda: len(steps()) == told + 1, "the step is told", 15)
    stage.world.refuse.clear()
    wait.until(lambda: stage.relay.run_cycle() and stage.world.mails, "delivery", 15)
    assert stage.relay.recipients()[BOB][0] == "DELIVERED"
    assert stage.mailbox.mails == [], "something was reported"


def test_what_was_done_in_1970_is_remembered(scene, clock):
    """A finished message and the id of a call are kept for seven days that the relay has run, not until the clock is set."""
    stage = scene(provider=False, relay=False, env=clock.env)
    clock.set_to_1970()
    stage.relay.start()
    content = smtp.message()[0]
    call = {"request_id": str(uuid.uuid4()), "recipients": [BOB], "content": content}
    name = stage.relay.client.call("MessageService/SubmitMessage", **call)["name"]
    stage.relay.run_cycle()
    stage.relay.wait_for_states({BOB: "DELIVERED"})
    clock.set_right()
    stage.relay.terminate()
    stage.relay.start()
    assert stage.relay.client.call("MessageService/SubmitMessage", **call)["name"] == name
    assert [message["name"] for message in stage.relay.messages()] == [name]


def test_a_rest_brings_mail_nearer_and_a_wrong_clock_does_not(scene, clock):
    """The wait before the next attempt goes on while the relay does not run, as the wall clock has it; where that clock
    cannot be right, the wait is what it was."""
    stage = scene(refuse=dict(NOT_NOW), provider=False, relay=False, env=clock.env)
    stage.relay.write(stage.relay.config.read_text().replace('first = "1s"\nlongest = "2s"', 'first = "1h"\nlongest = "1h"'))
    stage.relay.start()
    stage.send(1)
    assert stage.relay.run_cycle()["deferred"] == 1
    for change, is_due in [(clock.set_to_1970, False), (lambda: clock.set_by(7200), True)]:
        stage.relay.terminate()
        change()
        stage.relay.start()
        assert (stage.relay.run_cycle()["deferred"] == 1) == is_due


def test_a_day_without_a_line(scene, clock):
    """A day passes, by both clocks, while the line is down and the relay runs or does not: no attempt, no report, and all of
    it goes when the line is up."""
    stage = scene(provider=False, relay=False, env=clock.env, dial=NO_LINE)
    stage.relay.write(stage.relay.config.read_text().replace('expire = "1h"', 'expire = "1s"'))
    stage.relay.start()
    ids = stage.send(3)
    for day in range(1, 4):
        stage.relay.run_cycle("LINE_MISSING")
        clock.set_by(day * 86_400)
        stage.relay.terminate()
        stage.relay.start()
    stage.relay.terminate()
    stage.relay.write(stage.relay.config.read_text().replace("/bin/false", "/bin/true"))
    stage.relay.start()
    wait.until(lambda: stage.relay.run_cycle() and len(stage.world.mails) == 3, "delivery", 15)
    assert stage.world.ids() == dict.fromkeys(ids, 1)
    assert stage.mailbox.mails == []
