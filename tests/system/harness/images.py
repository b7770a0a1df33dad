"""What images are built from: a context with the binaries of this run, and the Debian base under its public name.

The base is made by debootstrap, because no image can be pulled here. It is kept beside the binaries, so that only the
first run makes it.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .island import need
from .relay import BINARY, REPOSITORY

BASE = "debian:bookworm-slim"
DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"
BINARIES = ("relay-svc", "monitor-svc", "linkmail-quickstart")
# target -> the image as the compose file and the manifests call it
TARGETS = {
    "relay-svc": "linkmail/relay-svc:0.1.0",
    "monitor-svc": "linkmail/monitor-svc:0.1.0",
    "receiver": "linkmail/receiver:0.1.0",
}
# What the base does not need, as the public image does not have it.
LEFT_OUT = ("dev", "var/cache", "var/log", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale")


def cache():
    """The folder for what is kept from run to run; outside of what git knows."""
    folder = BINARY.resolve().parent.parent / "containers"
    folder.mkdir(exist_ok=True)
    return folder


def base():
    """The base as a tarball of a root file system, with the certificates: no build needs a network."""
    kept = cache() / "debian-bookworm-slim.tar"
    if kept.exists():
        return kept
    need("debootstrap", "tar")
    folder = Path(tempfile.mkdtemp(prefix="linkmail-base-"))
    try:
        quick = ["eatmydata"] if shutil.which("eatmydata") else []
        made = subprocess.run(
            [*quick, "debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(folder)],
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stdout[-4000:] + made.stderr
        whole = kept.with_suffix(f".{os.getpid()}")
        left_out = [f"--exclude=./{name}/*" for name in LEFT_OUT]
        subprocess.run(["tar", "-C", folder, *left_out, "-cf", whole, "."], check=True)
        whole.rename(kept)
    finally:
        shutil.rmtree(folder)
    return kept


def context(folder):
    """Lays out the context of a build in `folder`, as a clone with built binaries has it. They are stripped."""
    need("strip")
    release = folder / "target" / "release"
    release.mkdir(parents=True)
    shutil.copy(REPOSITORY / ".dockerignore", folder)
    for name in BINARIES:
        built = BINARY.with_name(name)
        assert built.exists(), f"{built} was not built"
        subprocess.run(["strip", "-o", release / name, built], check=True)
    return folder
