"""A name space of networks and mounts of a test's own: daemons of containers run in it.

They change packet filters, make bridges, mount file systems and leave files in /run. In an island all of that is gone
with the last process, whatever a daemon forgets, and another daemon of the machine is not disturbed. There is no way out
of an island.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def need(*tools):
    """Fails when one of these programs is missing: a test that cannot run is a failure, never a skip."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    assert not missing, f"missing: {', '.join(missing)}; `tests/run install` brings them"


def _enter(file):
    if _libc.setns(file.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Island:
    """Exists from construction to `stop`. Sockets that are made within `inside()` are of the island."""

    def __init__(self):
        need("unshare", "nsenter", "ip", "mount")
        # The shell says a word when the name space is there, and holds it until its input is closed.
        made = "ip link set lo up && mount -t tmpfs run /run && mount -t tmpfs shm /dev/shm && echo there && read _"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", made],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout.readline() == b"there\n", "no name spaces here"
        self.pid = self._holder.pid

    def command(self, *arguments):
        """The command line that runs `arguments` in the island."""
        # Without --wd the shell would start in the root folder.
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", f"--wd={os.getcwd()}", *map(str, arguments)]

    def run(self, *arguments, check=True, **settings):
        """Runs a command in the island to its end, with text output."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL, **settings
        )
        assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    @contextlib.contextmanager
    def inside(self):
        """This thread opens its sockets in the island; what it starts meanwhile is there too."""
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.pid}/ns/net") as there:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)

    def stop(self):
        """The holder ends; the island goes with the last process in it."""
        self._holder.stdin.close()
        try:
            self._holder.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self._holder.wait(timeout=5)
        self._holder.stdout.close()
