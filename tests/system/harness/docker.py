"""A Docker daemon on an island, and a Compose project on it."""

import json
import os
import subprocess

from . import images, wait
from .island import need
from .relay import REPOSITORY

COMPOSE = REPOSITORY / "deploy" / "compose.yaml"
# Never, unless something hangs.
LIMIT = 240


class Docker:
    """`docker(...)` runs a command of Docker's client. The daemon runs from construction to `stop`."""

    def __init__(self, island, folder):
        need("dockerd", "docker", "iptables")
        self.island, self.folder = island, folder
        # The daemon's own client, where another one comes first on the path.
        self._client = "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"
        # The classic builder is everywhere; buildx is a package of its own.
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{folder / 'docker.sock'}", "DOCKER_BUILDKIT": "0"}
        self.env.pop("LINKMAIL_VERSION", None)
        self._log = folder / "dockerd.log"
        with open(self._log, "wb") as log:
            self._daemon = subprocess.Popen(
                # The daemon does not outlive a test run that is killed.
                ["setpriv", "--pdeathsig=TERM", *island.command("dockerd", *self._options())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait.until(self._ready, lambda: f"dockerd; log:\n{self._log.read_text()[-4000:]}", 60)

    def _options(self):
        """Everything of the daemon's lies in the folder."""
        return [
            f"--host={self.env['DOCKER_HOST']}",
            *(f"--{name}={self.folder / name}" for name in ("data-root", "exec-root", "pidfile")),
        ]

    def _ready(self):
        assert self._daemon.poll() is None, f"dockerd ended:\n{self._log.read_text()[-4000:]}"
        return self("info", check=False).returncode == 0

    def __call__(self, *arguments, check=True, seconds=LIMIT):
        return self.island.run(self._client, *arguments, check=check, env=self.env, timeout=seconds)

    def build(self, context, target, tag, dockerfile=images.DOCKERFILE):
        """Builds one target of a Dockerfile."""
        self("build", "--quiet", "--file", dockerfile, "--target", target, "--tag", tag, context)

    def inspect(self, what):
        [found] = json.loads(self("inspect", what).stdout)
        return found

    def health(self, container):
        """starting, healthy or unhealthy."""
        return self.inspect(container)["State"]["Health"]["Status"]

    def wait_for_health(self, container, seconds=60):
        def what():
            state = self.inspect(container)["State"]
            return f"{container} healthy; {json.dumps(state, indent=1)}\n{self.logs(container)[-4000:]}"

        wait.until(lambda: self.health(container) == "healthy", what, seconds)

    def logs(self, container):
        done = self("logs", container)
        return done.stdout + done.stderr

    def stop(self):
        """Whatever still runs is removed, then the daemon ends."""
        left = self("ps", "--all", "--quiet").stdout.split()
        if left:
            self("rm", "--force", "--volumes", *left)
        # nsenter became the daemon.
        self._daemon.terminate()
        self._daemon.wait(timeout=60)


class Project:
    """The Compose project of the repository. Containers are called by their service."""

    def __init__(self, docker):
        need("docker-compose", "tc")
        self.docker = docker

    def compose(self, *arguments, check=True, seconds=LIMIT):
        return self.docker.island.run(
            "docker-compose",
            "--project-name=linkmail",
            f"--file={COMPOSE}",
            *arguments,
            check=check,
            env=self.docker.env,
            timeout=seconds,
        )

    def up(self):
        self.compose("up", "--detach", "--no-build")
        return self

    def container(self, service):
        [found] = self.compose("ps", "--quiet", service).stdout.split()
        return found

    def slow_down(self, network, rate):
        """Whoever is on the network now receives no faster than `rate`, such as 8mbit. A container that starts later, or
        anew, is as fast as ever."""
        bridge = "br-" + self.docker.inspect(f"linkmail_{network}")["Id"][:12]
        run = self.docker.island.run
        for port in json.loads(run("ip", "-json", "link", "show", "master", bridge).stdout):
            limit = ("tbf", "rate", rate, "burst", "64kb", "latency", "400ms")
            run("tc", "qdisc", "replace", "dev", port["ifname"], "root", *limit)

    def run(self, service, *arguments, check=True, seconds=LIMIT):
        """Runs a command in the container of a service."""
        return self.docker("exec", self.container(service), *arguments, check=check, seconds=seconds)

    def lines(self, service, *arguments):
        """What a command in the container of a service prints, one JSON object a line."""
        return [json.loads(line) for line in self.run(service, *arguments).stdout.splitlines()]

    def received(self, port):
        """The mails that the receiver has got on that port."""
        printed = self.docker("logs", self.container("receiver")).stdout.splitlines()
        mails = [json.loads(line) for line in printed]
        return [mail for mail in mails if mail["listener"].endswith(f":{port}")]

    def stop(self):
        """Everything must end by itself, before Docker kills it."""
        self.compose("stop")
        ended = {
            service: self.docker.inspect(self.container(service))["State"]["ExitCode"]
            for service in self.compose("config", "--services").stdout.split()
        }
        self.compose("down", "--volumes")
        assert set(ended.values()) == {0}, ended
