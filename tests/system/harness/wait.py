"""Waiting for a condition with a deadline. Nothing in these tests sleeps for a fixed time and hopes."""

import socket
import time

from .place import split

STEP = 0.01


def until(condition, what, seconds=15.0):
    """Returns the first true answer of `condition`; fails, naming `what`, when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"not within {seconds} s: {said}; last answer {answer!r}")
        time.sleep(STEP)


def stays(condition, what, seconds):
    """Fails as soon as `condition` is false within `seconds`: for what must not happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"happened within {seconds} s: {what}"
        time.sleep(STEP)


def listens(endpoint):
    """Whether a connection to ADDRESS:PORT is accepted."""
    try:
        socket.create_connection(split(endpoint), timeout=1).close()
        return True
    except OSError:
        return False
