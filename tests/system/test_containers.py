"""The images, and the Compose project that is made of them."""

import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from harness import images, smtp, wait
from harness.docker import Docker, Project
from harness.island import Island
from harness.place import Place
from harness.relay import REPOSITORY

# The least that a container may have: no capabilities, nothing to write but the state, no further rights.
HARD = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
SITE, PROVIDER = "127.0.0.1:2525", "127.0.0.1:2526"
WORLD_PORT, MAILBOX_PORT = 2525, 2526
# The restart of an edge and all its mail; much longer than it takes.
PATIENCE = 120


@pytest.fixture(scope="module")
def island():
    made = Island()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def folder():
    place = Place("containers")
    yield place.folder
    place.remove()


@pytest.fixture(scope="module")
def context(folder):
    """The context of the builds: a clone with built binaries, as far as a build can see it."""
    return images.context(folder / "context")


@pytest.fixture(scope="module")
def docker(island, folder, context):
    """A daemon that has the base, and the images of this run."""
    (folder / "docker").mkdir()
    daemon = Docker(island, folder / "docker")
    try:
        daemon("import", images.base(), images.BASE)
        for target, tag in images.TARGETS.items():
            daemon.build(context, target, tag)
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def project(docker):
    """The Compose project, up. Tests share it, and tell their mail apart by its Message-ID."""
    made = Project(docker).up()
    yield made
    made.stop()


def files(docker, image, folder):
    """The files in an image, by name, as tar knows them."""
    container = docker("create", image).stdout.strip()
    docker("export", f"--output={folder / 'image.tar'}", container)
    docker("rm", container)
    with tarfile.open(folder / "image.tar") as archive:
        return {member.name: member for member in archive.getmembers()}


@pytest.mark.parametrize("target", images.TARGETS)
def test_image(docker, place, context, target):
    """An image is the binary and what it needs: small, no shell, not root, ended by SIGTERM, healthy by itself."""
    image = images.TARGETS[target]
    found = docker.inspect(image)["Config"]
    [binary] = [name for name in images.BINARIES if found["Entrypoint"][0] == f"/{name}"]
    assert found["User"] == "65532:65532"
    assert found["StopSignal"] == "SIGTERM"
    assert list(found["Volumes"]) == ["/var/lib/linkmail"]
    assert {"title", "description", "licenses", "version"} <= {key.rsplit(".", 1)[1] for key in found["Labels"]}
    if target != "receiver":
        assert found["Healthcheck"]["Test"] == ["CMD", f"/{binary}", "healthcheck"]
    inside = files(docker, image, place.folder)
    size = (context / "target" / "release" / binary).stat().st_size
    assert sum(one.size for one in inside.values()) < size + 5_000_000
    # Docker makes the dev, proc and sys of each container.
    regular = [name for name, one in inside.items() if one.isfile() and not name.startswith(("dev/", ".docker"))]
    programs = [name for name in regular if inside[name].mode & 0o111 and not name.startswith(("lib", "etc/"))]
    assert programs == [binary]
    state = inside["var/lib/linkmail"]
    assert (state.uid, state.gid, state.mode & 0o7777) == (65532, 0, 0o770)


def test_version_of_the_images_is_that_of_the_project(docker):
    """The version stands in the Dockerfile, the Compose file, the manifests and Cargo.toml."""
    version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert f"ARG VERSION={version}" in images.DOCKERFILE.read_text()
    for tag in images.TARGETS.values():
        assert tag.endswith(f":{version}")
        assert docker.inspect(tag)["Config"]["Labels"]["org.opencontainers.image.version"] == version
    told = re.findall(r"LINKMAIL_VERSION:-([^}]+)}", (REPOSITORY / "deploy" / "compose.yaml").read_text())
    manifests = (REPOSITORY / "deploy" / "kubernetes").glob("*/kustomization.yaml")
    told += [tag for path in manifests for tag in re.findall(r"newTag: (\S+) ", path.read_text())]
    assert len(told) == 6 and set(told) == {version}


def test_context_is_small_and_whole(docker, place):
    """Of a clone with all its build products a build sees the sources and three binaries; and cargo finds in it every
    crate of the workspace."""
    clone = place.folder / "clone"
    known = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, known.split("\0")):
        if (REPOSITORY / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, clone / name)
    products = ["target/release/relay-svc", "target/release/deps/junk", "target/debug/relay-svc", "state/spool.sqlite"]
    for name in products:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes(b"x" * 100)
    dockerfile = place.folder / "Dockerfile"
    dockerfile.write_text("FROM scratch AS all\nCOPY . /\nCMD [\"none\"]\n")
    docker.build(clone, "all", "linkmail-context", dockerfile)
    container = docker("create", "linkmail-context").stdout.strip()
    seen = place.folder / "seen"
    docker("cp", f"{container}:/", seen)
    docker("rm", container)
    docker("rmi", "linkmail-context")
    names = {str(path.relative_to(seen)) for path in seen.rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith(("target/", "state/"))} == {"target/release/relay-svc"}
    assert not any(name.startswith((".git/", "tests/system", "docs")) for name in names)
    assert sum((seen / name).stat().st_size for name in names) < 5_000_000
    done = subprocess.run(
        ["cargo", "metadata", "--locked", "--offline", "--format-version=1", "--no-deps"],
        cwd=seen,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    crates = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["members"]
    assert len(json.loads(done.stdout)["packages"]) == len(crates)


def test_source_stage_ends_in_the_same_images(docker, place, context):
    """The targets that compile take the binaries from where cargo puts them. The compiler is a stand-in: it notes its
    command line, and the binaries lie in the context."""
    stand_in = place.folder / "rust"
    stand_in.mkdir()
    script = '#!/bin/sh\nset -e\necho "$@" >/cargo-was-called\ntest -s target/release/relay-svc\n'
    (stand_in / "cargo").write_text(script)
    (stand_in / "cargo").chmod(0o755)
    dockerfile = place.folder / "Dockerfile"
    dockerfile.write_text(f"FROM {images.BASE} AS rust\nCOPY cargo /usr/local/bin/cargo\n")
    docker.build(stand_in, "rust", "rust:1.95-bookworm", dockerfile)
    channel = tomllib.loads((REPOSITORY / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert f"FROM rust:{channel.rsplit('.', 1)[0]}-bookworm AS build\n" in images.DOCKERFILE.read_text()
    for target, tag in images.TARGETS.items():
        docker.build(context, f"{target}-from-source", f"{target}-from-source")
        ours, theirs = docker.inspect(tag)["Config"], docker.inspect(f"{target}-from-source")["Config"]
        for key in ("Entrypoint", "Cmd", "User", "Healthcheck", "Labels", "Volumes", "WorkingDir", "StopSignal"):
            assert ours.get(key) == theirs.get(key), key
    docker.build(context, "build", "linkmail-build")
    called = docker("run", "--rm", "--network=none", "linkmail-build", "cat", "/cargo-was-called").stdout
    assert called == "build --release --locked -p relay-svc -p monitor-svc -p linkmail-quickstart\n"


# service -> (its file, a configuration, a command that lists nothing)
CONFIGURATIONS = {
    "relay-svc": (
        "relay.toml",
        """
        hostname = "relay.branch.example"
        state = "/var/lib/linkmail"
        [[listener]]
        address = "0.0.0.0:2525"
        [[route]]
        domains = ["*"]
        to = "smtp://127.0.0.1:2600"
        """,
        ("queue", "list", "--json"),
    ),
    "monitor-svc": (
        "monitor.toml",
        """
        state = "/var/lib/linkmail"
        [[monitor]]
        name = "isp"
        link = "isp"
        recipient = "no-such-user@world.example"
        reverse_path = "probe-*@branch.example"
        """,
        ("monitor", "list", "--json"),
    ),
}


def configured(place, service, more=""):
    """The option that gives a container its configuration."""
    name, text, _ = CONFIGURATIONS[service]
    (place.folder / name).write_text(text + more)
    return f"--volume={place.folder / name}:/etc/linkmail/{name}:ro"


@pytest.mark.parametrize("service", CONFIGURATIONS)
@pytest.mark.parametrize("user", ["65532:65532", "41234:0"], ids=["own", "random"])
def test_runs_without_any_right(docker, place, service, user):
    """Must show: runs with a read-only root, no capabilities, and a uid that the image does not know. Neither a relay
    without a line nor a monitor without a relay is ill."""
    container = docker(
        "run", "--detach", *HARD, f"--user={user}", configured(place, service), "--health-interval=500ms",
        images.TARGETS[service],
    ).stdout.strip()  # fmt: skip
    docker.wait_for_health(container)
    docker("exec", container, f"/{service}", *CONFIGURATIONS[service][2])
    status = Path(f"/proc/{docker.inspect(container)['State']['Pid']}/status").read_text()
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert told["Uid"].split() == [user.split(":")[0]] * 4
    assert [int(told[key], 16) for key in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0]
    assert told["NoNewPrivs"] == "1"
    # It ends by SIGTERM, long before Docker would kill it.
    docker("stop", "--time=30", container)
    assert docker.inspect(container)["State"]["ExitCode"] == 0, docker.logs(container)
    docker("rm", "--volumes", container)


def test_health_is_told_from_illness(docker, place):
    """The health check fails where nothing serves: it is no formality."""
    mount = configured(place, "relay-svc", '[grpc]\nlisten = "127.0.0.1:1"\n')
    done = docker("run", "--rm", *HARD, mount, images.TARGETS["relay-svc"], "healthcheck", check=False)
    assert done.returncode == 69, done.stderr


def test_compose_file_is_good(docker):
    """Must show: docker-compose takes the file, and it opens nothing to the outside."""
    project = Project(docker)
    assert project.compose("config", "--quiet").stderr == ""
    told = yaml.safe_load(project.compose("config").stdout)
    for name, service in told["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def hand_in(project, endpoint, count, reverse_path, recipient, size=2_000):
    """Hands in `count` messages on a published port; the ids of those that got 250."""
    accepted = set()
    with project.docker.island.inside(), smtp.Dialogue(endpoint) as dialogue:
        dialogue.expect(250, "EHLO client.test.example")
        for _ in range(count):
            content, id = smtp.message(sender=reverse_path, to=recipient, body=("x" * 70 + "\n") * (size // 71))
            assert dialogue.transaction(reverse_path, [recipient], smtp.stuffed(content)) == 250
            accepted.add(id)
    return accepted


def arrived(project, port, ids):
    """How often each of these ids has come to the receiver."""
    counted = Counter(mail["message_id"].strip("<>") for mail in project.received(port))
    return {id: counted[id] for id in ids if counted[id]}


def test_cycle_between_containers(project):
    """Must show: a cycle between containers: a message goes out by the edge, held mail comes back by ETRN, and the
    monitor's probe proves ROUND_TRIP."""
    out = hand_in(project, SITE, 3, "alice@branch.example", "bob@world.example")
    back = hand_in(project, PROVIDER, 3, "bob@world.example", "alice@branch.example")
    project.run("monitor", "/monitor-svc", "probe", "run", "isp", "--wait=30s", check=False)

    def proven():
        if "ROUND_TRIP" in project.run("monitor", "/monitor-svc", "probe", "list", "isp", "--json").stdout:
            return True
        # On a busy machine the bounce may miss the cycle that took the probe out; the next one brings it.
        project.run("edge", "/relay-svc", "cycle", "run", "isp", check=False)

    wait.until(proven, lambda: project.compose("logs", "--no-color").stdout[-8000:], PATIENCE)
    wait.until(lambda: len(arrived(project, WORLD_PORT, out)) == 3, "mail in the world", PATIENCE)
    wait.until(lambda: len(arrived(project, MAILBOX_PORT, back)) == 3, "mail in the mailbox", PATIENCE)


@pytest.mark.parametrize("way", ["out", "back"])
def test_kill_in_mid_transfer(project, way):
    """Must show: kill -9 of the edge container in mid-transfer, and a start on its volume: nothing accepted is lost, each
    message arrives at least once, and the container becomes healthy."""
    docker = project.docker
    edge = project.container("edge")
    # Mail waits while the line is away, and comes over a slow one: all of it takes about eight seconds.
    docker("network", "disconnect", "linkmail_line", edge)
    if way == "out":
        port, sent = WORLD_PORT, hand_in(project, SITE, 400, "alice@branch.example", "bob@world.example", 10_000)
    else:
        port, sent = MAILBOX_PORT, hand_in(project, PROVIDER, 400, "bob@world.example", "alice@branch.example", 10_000)
    assert arrived(project, port, sent) == {}
    docker("network", "connect", "--alias=mx.branch.example", "linkmail_line", edge)
    project.slow_down("line", "4mbit")

    def under_way():
        # Starts nothing while a cycle runs.
        docker("exec", "--detach", edge, "/relay-svc", "cycle", "run", "isp")
        return len(arrived(project, port, sent)) >= 20

    wait.until(under_way, "20 messages are through", PATIENCE)
    # The next hop falls silent: what the edge has accepted is in its spool, and stays there until the kill.
    next_hop = project.container("provider" if way == "out" else "receiver")
    docker("pause", next_hop)
    waiting = ("/relay-svc", "queue", "list", "--json")
    wait.until(lambda: len(project.lines("edge", *waiting)) >= 20, "20 messages wait in the edge", PATIENCE)
    docker("kill", "--signal=KILL", edge)
    assert docker.inspect(edge)["State"]["ExitCode"] == 137
    docker("unpause", next_hop)
    assert len(arrived(project, port, sent)) < len(sent), "the kill came after the end"
    docker("start", edge)
    docker.wait_for_health(edge)

    def all_there():
        project.run("edge", "/relay-svc", "cycle", "run", "isp", check=False)
        return arrived(project, port, sent).keys() == sent

    wait.until(all_there, lambda: f"{len(arrived(project, port, sent))} of {len(sent)}", PATIENCE)
    assert project.lines("edge", *waiting) == []
    # Twice is what was in flight at the kill, and nothing else.
    assert max(arrived(project, port, sent).values()) <= 2
