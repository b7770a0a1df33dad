"""A mail server in the foreground, in a process group of its own: it ends with whoever holds it, and nothing has to be looked
for."""

import subprocess

from . import wait


def start(command):
    """The process; what it says at its end can be read from its `stderr`."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until_it_listens(process, name, listens, log):
    """Waits for `listens()`; fails at once when the process ends before, with what it said and with `log()`."""

    def ready():
        if process.poll() is not None:
            raise AssertionError(f"{name}: exit {process.returncode}: {process.stderr.read()}{log()}")
        return listens()

    wait.until(ready, lambda: f"{name} listens; log: {log()}")
