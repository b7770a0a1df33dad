"""A slow line between two sites, in either model. What carries it is `carry.py`, in a process of its own.

`near` is the site of whoever sends the mail, `far` that of whoever takes it; outward is from near to far.
"""

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

from harness.island import Island
from harness.place import Place, split

CARRY = Path(__file__).with_name("carry.py")

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
DEVICE = "line0"
MTU = 1500
# Packets that wait for `carry.py` to read them; more than a run ever has.
QUEUE = 20000
NEAR, FAR = "10.99.0.1", "10.99.0.2"

# One piece that was carried; see carry.py.
Record = namedtuple("Record", "outward connection entered on off arrived octets payload mark")


class Site(Place):
    """One end of the line: a folder, an address, and the island that everything there runs in, if there is one."""

    def __init__(self, name, island=None, address=None):
        super().__init__(name)
        self.island = island
        if island:
            self.address = address
            self._next = 2500

    def port(self):
        if not self.island:
            return super().port()
        # Nobody else is on an island.
        self._next += 1
        return self._next

    @property
    def wrapper(self):
        """The command line that runs something at this site."""
        return self.island.command() if self.island else []

    def inside(self):
        """Sockets that are made within are of this site."""
        return self.island.inside() if self.island else contextlib.nullcontext()


class _Carried:
    """The process that carries, and what it saw."""

    def __init__(self, rtt, rate, files=()):
        self._process = subprocess.Popen(
            [sys.executable, str(CARRY), str(rtt / 2), str(rate or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=files,
            start_new_session=True,
        )

    def _order(self, **order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the line's process ended: exit {self._process.wait()}"
        return json.loads(answer)

    def records(self):
        """Everything that was carried so far, in the order in which it entered."""
        return [Record(*one) for one in self._order(do="records")]

    def _end(self):
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


class Proxy(_Carried):
    """TCP connections, carried by a proxy on loopback. Both sites are this machine."""

    model = "proxy"

    def __init__(self, rtt, rate=None, _congestion=None):
        """`rtt` in seconds, `rate` in octets per second each way, None: no limit."""
        super().__init__(rtt, rate)
        self.near, self.far = Site("near"), Site("far")

    def reach(self, endpoint, outward=True):
        """Where one connects to at the near site to reach `endpoint` at the far one; or the other way round."""
        listen = (self.near if outward else self.far).endpoint()
        self._order(do="port", listen=split(listen), target=split(endpoint), outward=outward)
        return listen

    def dropped(self):
        """Nothing gets lost in a proxy."""
        return 0

    def cut(self):
        """Resets every connection, and refuses new ones."""
        self._order(do="cut")

    def mend(self):
        """Ends a cut."""
        self._order(do="mend")

    def stop(self):
        self._end()
        self.near.remove()
        self.far.remove()


class Tun(_Carried):
    """Packets, carried between two islands: what is measured has TCP's own slow start in it."""

    model = "tun"

    def __init__(self, rtt, rate=None, congestion="cubic"):
        """The same; `congestion` as in `tcp_congestion_control`, for both sites."""
        self._islands, files = [], []
        try:
            for address, peer in ((NEAR, FAR), (FAR, NEAR)):
                island = Island()
                self._islands.append(island)
                files.append(self._device(island, address, peer, congestion))
            super().__init__(rtt, rate, files)
            self._order(do="tun", near=files[0], far=files[1])
        except BaseException:
            for island in self._islands:
                island.stop()
            raise
        finally:
            # The devices live as long as the process that carries.
            for file in files:
                os.close(file)
        self.near = Site("near", self._islands[0], NEAR)
        self.far = Site("far", self._islands[1], FAR)

    @staticmethod
    def _device(island, address, peer, congestion):
        with island.inside():
            # A device is of the name space in which the file was opened.
            file = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
        island.run("ip", "address", "add", address, "peer", peer, "dev", DEVICE)
        island.run("ip", "link", "set", DEVICE, "mtu", MTU, "txqueuelen", QUEUE, "up")
        # By its route: a name space of its own may not choose all that the machine has.
        island.run("ip", "route", "replace", peer, "dev", DEVICE, "src", address, "congctl", congestion)
        return file

    def reach(self, endpoint, outward=True):
        """The same for the other model: packets find their way."""
        return endpoint

    def dropped(self):
        """Packets that found no place in a queue: more than none spoils the figures."""
        path = f"/sys/class/net/{DEVICE}/statistics/tx_dropped"
        # /sys shows the network of whoever mounted it.
        show = f"mount -t sysfs sys /sys && cat {path}"
        return sum(int(island.run("unshare", "--mount", "sh", "-c", show).stdout) for island in self._islands)

    def stop(self):
        self._end()
        for island in self._islands:
            island.stop()
        self.near.remove()
        self.far.remove()


MODELS = {model.model: model for model in (Proxy, Tun)}
