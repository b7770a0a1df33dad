"""What every benchmark needs before it runs: the Python of the tests, root, a release build of the relay.

Runs under the system's Python too, until `go_on` has replaced it: the standard library only.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
VENV = TESTS / ".venv"


def go_on(program):
    """Goes on as the Python of the tests, as root, with the harness of the system tests in reach."""
    if Path(sys.prefix) != VENV:
        if not (VENV / "bin" / "python").exists():
            sys.exit(f"{program}: no {VENV}: run tests/run install")
        os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])
    if os.geteuid() != 0:
        os.execvp("sudo", ["sudo", "--preserve-env", sys.executable, *sys.argv])
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    # Its C implementation has crashed on messages of descriptors that came by reflection.
    os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(HERE), str(TESTS / "system")]


def build():
    """A release build, unless RELAY_SVC names a binary."""
    if "RELAY_SVC" in os.environ:
        return
    root = TESTS.parent
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--package", "relay-svc", "--bin", "relay-svc"]
    subprocess.run(command, cwd=root, check=True, stdout=sys.stderr)
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    os.environ["RELAY_SVC"] = str(target / "release" / "relay-svc")
