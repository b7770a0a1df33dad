"""A place of a test's own: a folder that daemons may read, and a loopback address nobody else uses.

Postfix cannot be given port 0, and the relay and its provider must know each other's ports before either runs. So each
test has an address of its own in 127.0.0.0/8, asks the system for a free port there, closes it and names it in the
configuration. Connections of other processes leave from 127.0.0.1, so the port stays free.
"""

import os
import random
import shutil
import socket
import tempfile
from pathlib import Path


class Place:
    """`folder` and `address` of one test."""

    def __init__(self, name):
        self.folder = Path(tempfile.mkdtemp(prefix=f"linkmail-{name[:40]}-"))
        # Postfix drops its rights and must still pass through.
        os.chmod(self.folder, 0o755)
        # 127.64.0.0/10 leaves 127.0.0.0/10 to the clients that a policy tells apart.
        self.address = "127.{}.{}.{}".format(random.randint(64, 127), random.randint(0, 255), random.randint(1, 254))
        self._taken = set()

    def port(self):
        """A port on `address` that is free and has not been given to anyone else in this test."""
        while True:
            with socket.socket() as probe:
                probe.bind((self.address, 0))
                port = probe.getsockname()[1]
            if port not in self._taken:
                self._taken.add(port)
                return port

    def endpoint(self):
        """`ADDRESS:PORT`, free."""
        return f"{self.address}:{self.port()}"

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def split(endpoint):
    """`ADDRESS:PORT` as a pair for sockets."""
    host, port = endpoint.rsplit(":", 1)
    return host.strip("[]"), int(port)
