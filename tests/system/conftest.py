"""Shared fixtures: a place for each test, and everything started there stopped again."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness.place import Place  # noqa: E402
from harness.scene import Scene  # noqa: E402


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Remembers which tests failed, and in which modules: their folders are kept."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        item.getparent(pytest.Module).stash[FAILED] = True
    return report


def _place(request):
    made = Place(re.sub(r"\W+", "-", request.node.name))
    yield made
    if not request.node.stash.get(FAILED, False):
        made.remove()


@pytest.fixture
def place(request):
    """A folder and a loopback address of the test's own."""
    yield from _place(request)


@pytest.fixture(scope="module")
def shared_place(request):
    """The same, for what all tests of a module share."""
    yield from _place(request)


@pytest.fixture
def running():
    """`running(x)` returns x and calls `x.stop()` at the end of the test, the latest first."""
    yield from _running()


@pytest.fixture(scope="module")
def shared_running():
    """The same at the end of the module."""
    yield from _running()


def _running():
    things = []

    def remember(thing):
        things.append(thing)
        return thing

    yield remember
    errors = []
    for thing in reversed(things):
        try:
            thing.stop()
        except Exception as error:  # the others must be stopped too
            errors.append(error)
    assert not errors, errors


@pytest.fixture
def scene(place, running):
    """`scene(...)` builds a `Scene` in the test's place; everything in it stops with the test."""
    return lambda **settings: Scene(place, running, **settings)
