"""Replicas that share a spool in PostgreSQL, the world behind their link, and the site's own server."""

import os
import signal

from . import smtp, wait
from .mailbox import Mailbox
from .postgres import Postgres
from .relay import Relay

# A lease that is not renewed ends after 15 s, and is asked for every 3 s.
TAKEN_OVER = 40


class Replica(Relay):
    """A relay that has its spool in `database`; `of_database` are further keys for it."""

    def __init__(self, place, number, database, mailbox, smart_host, of_database="", **settings):
        super().__init__(place, mailbox, smart_host, state=place.folder / f"state-{number}", **settings)
        text = self.config.read_text()
        self.name = f"relay-{number}"
        self.config = place.folder / f"{self.name}.toml"
        self.write(f'spool = "{database}"\n{of_database}\n' + text)

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
    """`replicas` on one `database`, the `world` behind their link, and the site's own server. The first is the first to run,
    and so the keeper of the link. `database` is one that runs, if not one of the group's own; `released`: where each replica
    listens for what is released."""

    def __init__(self, place, running, count, database=None, released=None, world=Mailbox, **settings):
        self.database = database or running(Postgres(place)).start()
        self.world = running(world(place.endpoint()))
        self.mailbox = running(Mailbox(place.endpoint()))
        settings.setdefault("trigger", "[{ queued = 1 }]")
        settings.setdefault("of_link", "")
        far = self.world.endpoint
        self.replicas = []
        for number in range(count):
            of_one = {**settings, "released": released[number]} if released else settings
            made = Replica(place, number, self.database.url, self.mailbox.endpoint, far, **of_one)
            self.replicas.append(running(made))
        for replica in self.replicas:
            replica.start()

    def wait_for(self, ids, seconds=30):
        wait.until(lambda: ids <= self.world.ids().keys(), lambda: f"{len(ids)}; came {len(self.world.ids())}", seconds)

    def times(self, ids):
        """How often each came."""
        return {self.world.ids()[id] for id in ids}
