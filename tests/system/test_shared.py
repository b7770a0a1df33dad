"""Replicas that share a spool in PostgreSQL: one queue, one keeper for each link, whoever of them fails."""

import os
import signal
import threading

import pytest

from harness import smtp, wait
from harness.mailbox import Mailbox
from harness.postgres import Postgres
from harness.relay import Relay

# A lease that is not renewed ends after 15 s, and is asked for every 3 s.
TAKEN_OVER = 40


class Replica(Relay):
    """A relay that has its spool in `database`."""

    def __init__(self, place, number, database, mailbox, smart_host, **settings):
        super().__init__(place, mailbox, smart_host, state=place.folder / f"state-{number}", **settings)
        text = self.config.read_text()
        self.name = f"relay-{number}"
        self.config = place.folder / f"{self.name}.toml"
        self.write(f'spool = "{database}"\n' + text)

    def submit(self, count=1):
        ids = set()
        for _ in range(count):
            content, id = smtp.message()
            smtp.submit(self.site, "alice@branch.example", ["bob@remote.example"], content)
            ids.add(id)
        return ids

    def pause(self):
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)


class Group:
    """Replicas on one database, the world behind their link, and the site's own server."""

    def __init__(self, place, running, count, **settings):
        self.database = running(Postgres(place)).start()
        self.world = running(Mailbox(place.endpoint()))
        self.mailbox = running(Mailbox(place.endpoint()))
        settings.setdefault("trigger", "[{ queued = 1 }]")
        settings.setdefault("of_link", "")
        far = self.world.endpoint
        self.replicas = [
            running(Replica(place, number, self.database.url, self.mailbox.endpoint, far, **settings))
            for number in range(count)
        ]
        for replica in self.replicas:
            replica.start()


    def wait_for(self, ids, seconds=30):
        wait.until(lambda: ids <= self.world.ids().keys(), lambda: f"{len(ids)}; came {len(self.world.ids())}", seconds)

    def times(self, ids):
        """How often each came."""
        return {self.world.ids()[id] for id in ids}


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
