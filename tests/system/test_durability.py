"""250 means durable: after kill -9, and by what strace sees of the spool's syncs."""

import random
import threading
from collections import Counter

import pytest

from harness import smtp, strace, wait

CLIENTS, EACH = 8, 25


def hand_in(stage, client, accepted, attempted, killed=None, each=EACH):
    """One client that hands in messages on one connection until done or disconnected; notes each that got 250."""
    try:
        with smtp.Dialogue(stage.relay.site) as dialogue:
            dialogue.expect(250, "EHLO client.branch.example")
            for number in range(each):
                content, id = smtp.message(
                    body=f"message {number} of client {client}\n" + ("x" * 70 + "\n") * random.randint(0, 300)
                )
                attempted.add(id)
                code = dialogue.transaction("alice@branch.example", ["bob@remote.example"], smtp.stuffed(content))
                assert code == 250, f"answered {code}"
                accepted.add(id)
    except (OSError, AssertionError):
        # Only a relay that is killed may refuse, reset, close or break off a line.
        if killed is None or not killed.is_set():
            raise


def hand_in_and_kill(stage, after):
    """8 clients hand in 25 messages each; the relay is killed as soon as `after` of the 200 have got their 250."""
    accepted, attempted, killed = set(), set(), threading.Event()
    clients = [
        threading.Thread(target=hand_in, args=(stage, number, accepted, attempted, killed)) for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    wait.until(lambda: len(accepted) >= after, lambda: f"{after} accepted; have {len(accepted)}", 60)
    killed.set()
    stage.relay.kill()
    for client in clients:
        client.join(timeout=30)
        assert not client.is_alive()
    return accepted, attempted


@pytest.mark.parametrize("after", [1, 60, 130])
def test_kill_in_the_middle_of_200_submissions(scene, after):
    """Must show: kill -9 in the middle of 200 submissions: every message that got 250 is delivered after restart, once;
    what did not get it is delivered at most once."""
    stage = scene(provider=False)
    accepted, attempted = hand_in_and_kill(stage, after)
    assert after <= len(accepted) < CLIENTS * EACH, "the kill came in the middle"
    stage.relay.start()
    stage.relay.run_cycle()
    delivered = stage.world.ids()
    assert accepted - delivered.keys() == set(), "accepted and lost"
    assert delivered.keys() <= attempted
    assert len(delivered.keys() - accepted) <= CLIENTS, "more than was in flight"
    assert set(delivered.values()) == {1}, "delivered twice without a crash while forwarding"
    assert stage.relay.run_cycle()["sent"] == 0


def test_kill_while_forwarding(scene):
    """A crash while the cycle forwards may duplicate what was in flight, and loses nothing."""
    stage = scene(provider=False)
    accepted, attempted = set(), set()
    hand_in(stage, 0, accepted, attempted, each=200)
    assert len(accepted) == 200
    stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
    wait.until(lambda: len(stage.world.mails) >= 50, "50 forwarded")
    stage.relay.kill()
    stage.relay.start()
    stage.relay.run_cycle()
    delivered = stage.world.ids()
    assert delivered.keys() == accepted
    twice = [id for id, times in delivered.items() if times > 1]
    assert max(delivered.values()) <= 2
    # A flight is what was unanswered or answered and not yet recorded when the kill came.
    assert len(twice) <= 100, f"{len(twice)} duplicates"
    assert stage.relay.run_cycle()["sent"] == 0


def test_half_a_message_is_nothing(scene):
    """A client that was in DATA when the relay was killed left nothing behind."""
    stage = scene(provider=False)
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
        dialogue.expect(250, "RCPT TO:<bob@remote.example>")
        dialogue.expect(354, "DATA")
        dialogue.send(b"Subject: half\r\n\r\n" + b"line\r\n" * 400_000)
        stage.relay.kill()
    stage.relay.start()
    assert stage.relay.messages() == []
    left = [path for path in (stage.relay.state / "bodies").glob("*") if path.is_file()]
    assert left == [], "orphans are swept at start"


def sizes():
    """Messages of each storage class: small ones inline, large ones in a file of their own."""
    return [200] * 12 + [300_000, 2_000_000]


def traced(place, scene, *prefix):
    """Runs the relay under strace (and `prefix`), hands in messages from several clients at once; the faults found."""
    output = place.folder / "strace.out"
    stage = scene(provider=False, wrapper=[*strace.wrapper(output), *prefix])
    marks = {}

    def client(number):
        with smtp.Dialogue(stage.relay.site, timeout=60) as dialogue:
            dialogue.expect(250, "EHLO client")
            for position, size in enumerate(sizes()):
                content, id = smtp.message(body="x" * 70 + "\n" + ("y" * 70 + "\n") * (size // 72))
                recipient = f"to-{number}-{position}@remote.example"
                code = dialogue.transaction("alice@branch.example", [recipient], smtp.stuffed(content))
                assert code == 250
                marks[id] = recipient

    clients = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(timeout=120)
    assert len(marks) == 3 * len(sizes())
    # Killed, so that nothing the stop writes is taken for what the acceptance wrote.
    stage.relay.kill()
    return strace.unsynced(strace.read(output), str(stage.relay.state), marks)


def test_sync_returns_before_250_leaves(place, scene):
    """Must show: under strace the spool's sync returns before the bytes of each 250 leave."""
    assert traced(place, scene) == {}


def test_check_fails_without_syncing(place, scene):
    """Must show: the same check run with syncing switched off must fail: eatmydata makes every sync a no-op, and every
    single message is found out."""
    faults = traced(place, scene, "eatmydata")
    assert len(faults) == 3 * len(sizes()), faults
    assert all("not synced" in reason for reason in faults.values()), Counter(faults.values())
