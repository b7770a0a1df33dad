"""Replicas that share a spool in PostgreSQL: one queue, one keeper for each link, whoever of them fails."""

import re
import threading
from collections import Counter

import pytest

from harness import smtp, wait
from harness.mailbox import Mailbox
from harness.peer import Peer
from harness.replicas import TAKEN_OVER, Group, Replica


class Holding(Peer):
    """A world that can take messages and keep its replies back; `ids` as a mailbox has it."""

    def __init__(self, endpoint):
        super().__init__(endpoint)
        self._answers = threading.Event()
        self.on_body = lambda: None

    def hold_back(self):
        """From now on no message is answered for, until `answer`."""
        self._answers.clear()
        self.on_body = lambda answers=self._answers: answers.wait(120)

    def take_more(self):
        """Of those that come from now on each is answered at once; those that wait go on waiting."""
        self.on_body = lambda: None

    def answer(self):
        self._answers.set()

    def stop(self):
        self.answer()
        super().stop()

    def ids(self):
        return Counter(re.search(rb"Message-ID: <([^>]*)>", body).group(1).decode() for body in list(self.bodies))


@pytest.fixture
def group(place, running):
    return lambda count, **settings: Group(place, running, count, **settings)


def test_three_replicas_one_cycle_at_a_time(group):
    """Must show: three replicas accept at once; all mail goes over the link, each message once, and no two cycles of the
    link overlap, whichever replica ran them. A body above 96 KiB passes whole."""
    stage = group(3)
    ids = set()

    def hand_in(replica):
        ids.update(replica.submit(20))

    clients = [threading.Thread(target=hand_in, args=(replica,)) for replica in stage.replicas]
    for client in clients:
        client.start()
    for client in clients:
        client.join(timeout=60)
    content, id = smtp.message(body=("x" * 70 + "\n") * 3000)
    smtp.submit(stage.replicas[1].site, "alice@branch.example", ["bob@remote.example"], content)
    ids.add(id)
    assert len(ids) == 61
    stage.wait_for(ids)
    assert stage.times(ids) == {1}
    started = [len(replica.logged("cycle started")) for replica in stage.replicas]
    assert sum(count > 0 for count in started) == 1, f"one keeper; cycles by replica {started}"
    wait.until(lambda: stage.database.value("select count(*) from large_bodies") == "0", "the large body is gone")
    assert stage.database.value("select count(*) from recipients where state <> 2") == "0"


def test_another_replica_takes_over_when_one_is_killed(group):
    """Must show: kill -9 of the replica that keeps a link: another one takes it over, ends the cycle that was left open,
    and what was accepted before and after goes out."""
    stage = group(2)
    stage.wait_for(stage.replicas[0].submit(3))
    dead, left = keeper_first(stage)
    dead.kill()
    stage.wait_for(left.submit(3), TAKEN_OVER)
    assert left.logged("cycle started")
    wait.until(lambda: stage.database.value("select count(*) from cycles where ended_ms is null") == "0", "all ended")


def keeper_first(stage):
    """Both replicas, the one that keeps the link first."""
    one, other = stage.replicas
    return (one, other) if one.logged("cycle started") else (other, one)


def test_a_replica_that_was_stopped_past_its_lease_begins_nothing(group):
    """Must show: a keeper that is stopped (SIGSTOP) for longer than its lease and goes on has lost its link: it says so,
    starts no cycle, records nothing, and mail goes out once, by the other one."""
    stage = group(2)
    stage.wait_for(stage.replicas[0].submit(1))
    asleep, awake = keeper_first(stage)
    before = len(asleep.logged("cycle started"))
    asleep.pause()
    try:
        ids = awake.submit(5)
        stage.wait_for(ids, TAKEN_OVER)
    finally:
        asleep.resume()
    lost = ("another replica has taken over", "the lease could not be renewed in time")
    wait.until(
        lambda: any(line.get("lease") == "link:isp" for text in lost for line in asleep.logged(text)),
        "the loss of the lease in the log",
    )
    more = asleep.submit(5)
    stage.wait_for(more)
    assert stage.times(ids | more) == {1}
    assert len(asleep.logged("cycle started")) == before


def doubts(stage):
    """How many attempts are counted as in doubt."""
    return int(stage.database.value("select coalesce(sum(doubts), 0) from recipients"))


def test_a_flight_that_outlives_its_lease_is_in_doubt_and_nothing_follows_it(group):
    """Must show: a replica is stopped in mid-flight, the far end having taken messages that it has not answered for, and
    another one sends all. The first one wakes up to the answers: it records no outcome, sends nothing more, not even what it
    had read ahead, and each message that it had sent is counted as in doubt, in the log and with its recipient."""
    # One message at a time goes over each of three connections, and twenty wait.
    stage = group(2, world=Holding, connections=3)
    stage.wait_for(stage.replicas[0].submit(1))
    asleep, awake = keeper_first(stage)
    stage.world.hold_back()
    ids = awake.submit(20)
    wait.until(lambda: len(stage.world.bodies) == 4, "a message on each connection, without its answer")
    asleep.pause()
    try:
        in_flight = set(stage.world.ids()) & ids
        stage.world.take_more()
        stage.wait_for(ids, TAKEN_OVER)
        delivered = "select count(*) from recipients where state = 2 and attempts = 1 and doubts = 0"
        wait.until(lambda: stage.database.value(delivered) == "21", "the outcomes of all")
        logged = len(asleep.logged("recipient settled", outcome="delivered"))
        stage.world.answer()
    finally:
        asleep.resume()
    wait.until(lambda: doubts(stage) == len(in_flight), lambda: f"3 in doubt; are {doubts(stage)}")
    assert len(asleep.logged("recipient settled", outcome="in_doubt")) == len(in_flight) == 3
    assert {id: times for id, times in stage.world.ids().items() if times > 1} == dict.fromkeys(in_flight, 2)
    assert len(asleep.logged("recipient settled", outcome="delivered")) == logged, "it recorded an outcome"
    assert stage.database.value("select count(*) from recipients where state <> 2 or attempts <> 1") == "0"
    # And it still works.
    more = asleep.submit(3)
    stage.wait_for(more)
    assert stage.times(more) == {1}


def test_a_database_that_restarts_loses_nothing(group):
    """Must show: PostgreSQL stops and starts again while clients hand in mail: what got 250 arrives, what did not got a
    temporary error and no other, and the relays run on."""
    stage = group(2)
    accepted, refused, done = set(), set(), threading.Event()

    def hand_in(replica):
        while not done.is_set():
            content, id = smtp.message()
            with smtp.Dialogue(replica.site) as dialogue:
                dialogue.expect(250, "EHLO client.branch.example")
                code = dialogue.transaction("alice@branch.example", ["bob@remote.example"], smtp.stuffed(content))
            if code == 250:
                accepted.add(id)
            else:
                refused.add(code)

    clients = [threading.Thread(target=hand_in, args=(replica,)) for replica in stage.replicas]
    for client in clients:
        client.start()
    try:
        wait.until(lambda: len(accepted) > 20, "mail before the stop")
        stage.database.stop()
        wait.until(lambda: refused, "a temporary error", 60)
        before = len(accepted)
        stage.database.start()
        wait.until(lambda: len(accepted) > before + 20, "mail after the start", 60)
    finally:
        done.set()
        for client in clients:
            client.join(timeout=60)
    assert refused == {451}
    stage.wait_for(accepted, TAKEN_OVER)


def test_what_is_being_sent_is_not_routed_anew(place, running, group):
    """Must show: a replica starts with another route while one sends by the old one: what that has under way goes there, and
    only there, though the new one is up and wants it; what is taken by the old one later, and not sent, is routed anew."""
    stage = group(1)
    [old] = stage.replicas
    moved_to = running(Mailbox(place.endpoint()))
    stage.mailbox.stop()
    slow = running(Peer(stage.mailbox.endpoint))
    under_way, answer = threading.Event(), threading.Event()

    def hold():
        under_way.set()
        assert answer.wait(60)

    slow.on_body = hold
    first, second = (smtp.message(to="user@branch.example") for _ in range(2))
    smtp.submit(old.site, "bob@remote.example", ["user@branch.example"], first[0])
    assert under_way.wait(15)
    new = running(Replica(place, 1, stage.database.url, moved_to.endpoint, stage.world.endpoint)).start()
    asked_back = "select count(*) from leases where wanted_by <> '' and expires_ms > wanted_ms"
    wait.until(lambda: stage.database.value(asked_back) == "1", "the lease is asked back")
    wait.stays(lambda: not moved_to.mails, "the message goes by the new route, too", 8)
    answer.set()
    old.wait_for_states({"user@branch.example": "DELIVERED"})
    assert (len(slow.bodies), moved_to.mails) == (1, [])

    # The old route leads nowhere now.
    slow.stop()
    smtp.submit(old.site, "bob@remote.example", ["user@branch.example"], second[0])
    assert new.terminate() == 0
    new.start()
    moved_to.wait_for(1)
    assert moved_to.ids() == {second[1]: 1}
