"""Three replicas on one PostgreSQL, under load, and one thing after the other fails."""

import contextlib
import threading
import time

from harness import smtp, wait
from harness.account import Crash, History, judge
from harness.replicas import TAKEN_OVER, Group

END = "world"
DELIVERED = 2
# So many messages may be on their way: the load goes on, and does not grow without bound.
WAITING = 150


class Load:
    """Clients at each replica that never rest, and the account of what they handed in."""

    def __init__(self, stage):
        self.stage, self.history, self.over = stage, History(), threading.Event()
        self.refused = set()
        self._clients = [
            threading.Thread(target=self._client, args=(replica,), daemon=True)
            for replica in stage.replicas
            for _ in range(2)
        ]

    def __enter__(self):
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for client in self._clients:
            client.join(timeout=60)

    def came(self):
        return [mail.id for mail in self.stage.world.mails]

    def _client(self, replica):
        while not self.over.is_set():
            with contextlib.suppress(OSError, AssertionError), smtp.Dialogue(replica.site) as dialogue:
                dialogue.expect(250, "EHLO client.branch.example")
                while not self.over.is_set():
                    if len(self.history.accepted) - len(self.stage.world.mails) > WAITING:
                        self.over.wait(0.05)
                        continue
                    content, id = smtp.message()
                    self.history.attempted.add(id)
                    to = [f"{id.split('@')[0]}@remote.example"]
                    code = dialogue.transaction("alice@branch.example", to, smtp.stuffed(content))
                    if code == 250:
                        self.history.accepted.add(id)
                    elif code:
                        self.refused.add(code)
                    else:
                        break

    def goes_on(self, what, count=60, seconds=TAKEN_OVER):
        """Mail is handed in, and comes."""
        goal = len(self.stage.world.mails) + count
        wait.until(lambda: len(self.stage.world.mails) >= goal, f"mail goes on {what}", seconds)

    def note(self):
        """What is on record, and what had come, once nothing comes any more."""
        seen = [len(self.stage.world.mails), time.monotonic()]

        def is_still():
            count = len(self.stage.world.mails)
            if count != seen[0]:
                seen[:] = [count, time.monotonic()]
            return time.monotonic() - seen[1] > 1

        wait.until(is_still, "nothing comes any more", 20)
        rows = self.stage.database.value("select encode(address, 'escape'), state from recipients").splitlines()
        states = {f"{row.split('@')[0]}@test.example": int(row.split("|")[1]) for row in rows}
        crash = Crash(
            {(id, END) for id, state in states.items() if state == DELIVERED},
            {(id, END) for id, state in states.items() if state != DELIVERED},
            {END: len(self.stage.world.mails)},
        )
        self.history.crashes.append(crash)


def keeper(stage):
    """The replica that began the newest cycle."""
    begun = {
        max(line["time"] for line in replica.logged("cycle started")): replica
        for replica in stage.replicas
        if replica.process and replica.logged("cycle started")
    }
    return begun[max(begun)]


def test_a_kill_a_freeze_and_a_restart_of_the_database(place, running):
    """Must show: the keeper is killed, the next one is stopped past its lease and goes on, PostgreSQL restarts: nothing that
    was accepted is lost, nothing that was on record comes again, and each repeat was on its way at one of these moments."""
    stage = Group(place, running, 3)
    with Load(stage) as load:
        load.goes_on("at first")
        dead = keeper(stage)
        dead.kill()
        load.note()
        load.goes_on("by another replica")
        dead.start()

        load.goes_on("with three again")
        asleep = keeper(stage)
        asleep.pause()
        try:
            load.note()
            load.goes_on("while one is stopped")
        finally:
            asleep.resume()
        load.goes_on("with one that woke up")

        stage.database.stop()
        wait.until(lambda: load.refused, "a temporary error", 60)
        stage.database.start()
        load.goes_on("with the database that is back")
    history = load.history
    assert load.refused == {451}
    wait.until(lambda: history.accepted <= set(load.came()), "all that was accepted", TAKEN_OVER)
    history.came[END] = load.came()
    faults, explained = judge(history)
    print(f"accepted {len(history.accepted)}, came {len(history.came[END])}, repeats explained {explained}")
    assert faults == []
