"""The manifests: good, restricted, fitting to the configurations in them; and their pods under podman."""

import ipaddress
import json
import re
import subprocess
import tomllib

import kubernetes_validate
import pytest
import yaml

from harness import images, kubernetes, smtp, wait
from harness.island import Island
from harness.kubernetes import FOLDER, Manifests, NameServer, Node
from harness.place import Place, split
from harness.receiver import Receiver
from harness.relay import BINARY, REPOSITORY

FOLDERS = sorted(str(path.parent.relative_to(FOLDER)) for path in FOLDER.rglob("kustomization.yaml"))
OVERLAYS = ("edge", "provider")
# The oldest version that is still looked after somewhere, and the newest that is known here.
VERSIONS = ("1.31", kubernetes_validate.latest_version())
SERVICES = {"relay": "relay-svc", "monitor": "monitor-svc"}


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request):
    return Manifests(request.param)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_strictly_valid(place, folder, version):
    """Must show: every folder is rendered by `kubectl kustomize`, and `kubernetes-validate --strict` finds nothing."""
    path = place.folder / "rendered.yaml"
    path.write_text(kubernetes.rendered(FOLDER / folder))
    code, said = kubernetes.strict(version, path)
    assert code == 0, said
    assert said.count(" passed ") == len(list(yaml.safe_load_all(path.read_text())))


def test_validation_can_fail(place):
    """A key that is misspelled is found: it is no formality."""
    path = place.folder / "rendered.yaml"
    text = kubernetes.rendered(FOLDER / "edge")
    path.write_text(text.replace("terminationGracePeriodSeconds", "terminationGraceSeconds"))
    for version in VERSIONS:
        assert kubernetes.strict(version, path)[0] != 0


def test_kubectl_of_other_machines_renders_the_same():
    """The kubectl that is fetched where the machine has none, or an old one, makes the same text."""
    for name in OVERLAYS:
        fetched = kubernetes.rendered(FOLDER / name, kubernetes.fetched_kubectl())
        assert fetched == kubernetes.rendered(FOLDER / name)


def configuration(overlay, workload):
    """The file that a workload's pods read: (its name, its text, its content)."""
    [(name, text)] = overlay.config_map(workload)["data"].items()
    return name, text, tomllib.loads(text)


def test_configurations_are_good(overlay, place):
    """What the pods read is what the binaries take."""
    for workload in overlay.workloads():
        name, text, _ = configuration(overlay, workload)
        (place.folder / name).write_text(text)
        binary = BINARY.with_name(SERVICES[workload["metadata"]["name"]])
        done = subprocess.run([binary, "check", "--config", place.folder / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        arguments = workload["spec"]["template"]["spec"]["containers"][0]["args"]
        assert arguments == ["serve", "--config", f"/etc/linkmail/{name}"]


def seconds(service, constant):
    """A duration in the source of a service."""
    for path in (REPOSITORY / service / "src").rglob("*.rs"):
        if found := re.search(rf"const {constant}: Duration = Duration::from_secs\((\d+)\)", path.read_text()):
            return int(found.group(1))
    raise AssertionError(f"{service} has no {constant}")


def test_pods_are_restricted(overlay):
    """Every pod fits the restricted profile, and has only its state to write."""
    assert overlay.workloads()
    for workload in overlay.workloads():
        pod = workload["spec"]["template"]["spec"]
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == context["fsGroup"] == 65532
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["fsGroupChangePolicy"] == "OnRootMismatch"
        assert pod["automountServiceAccountToken"] is False
        assert overlay.one("ServiceAccount", pod["serviceAccountName"])["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert writable == ["state"]
        service = SERVICES[workload["metadata"]["name"]]
        drain = seconds(service, "DRAIN") + seconds(service, "FLUSH")
        assert pod["terminationGracePeriodSeconds"] > drain + 10
    [namespace] = overlay.all("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    placed = {one["metadata"].get("namespace") for one in overlay.objects if one["kind"] != "Namespace"}
    assert placed == {namespace["metadata"]["name"]}


def test_one_owner_of_each_state(overlay):
    """No second pod ever opens a spool or a ledger, and a spool outlives its StatefulSet."""
    for workload in overlay.workloads():
        assert workload["spec"]["replicas"] == 1
    [relay] = overlay.all("StatefulSet")
    assert set(relay["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    for deployment in overlay.all("Deployment"):
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    claims = relay["spec"]["volumeClaimTemplates"] + overlay.all("PersistentVolumeClaim")
    assert all(claim["spec"]["accessModes"] == ["ReadWriteOncePod"] for claim in claims)
    for budget in overlay.all("PodDisruptionBudget"):
        assert "minAvailable" not in budget["spec"], "a node with a single replica could never be drained"


def test_probes_ask_for_health_alone(overlay):
    """Startup, readiness and liveness ask the gRPC health service, which says nothing of the line, where the kubelet can
    reach it."""
    for workload in overlay.workloads():
        [container] = workload["spec"]["template"]["spec"]["containers"]
        _, _, content = configuration(overlay, workload)
        address, port = split(content["grpc"]["listen"])
        assert address == "0.0.0.0" and content["grpc"]["allow"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["grpc"] == {"port": port}
            # A duration without a number is one second.
            assert container[probe]["timeoutSeconds"] >= 5


def selected(selector, labels):
    return selector.get("matchLabels", {}).items() <= labels.items()


def rules(overlay, workload, direction):
    """[(peers, ports)] of all policies that select the pods of a workload."""
    labels = workload["spec"]["template"]["metadata"]["labels"]
    found = []
    for policy in overlay.all("NetworkPolicy"):
        if selected(policy["spec"]["podSelector"], labels):
            for rule in policy["spec"].get(direction, []):
                peers = rule.get("from", rule.get("to"))
                found.append((peers, {port["port"] for port in rule["ports"] if port["protocol"] == "TCP"}))
    return found


def listened(content):
    """The ports that a configuration opens: (SMTP, gRPC)."""
    smtp_ports = {split(listener["address"])[1] for listener in content.get("listener", [])}
    return smtp_ports, split(content["grpc"]["listen"])[1]


def test_ports_are_those_of_the_configuration(overlay):
    """Containers, Services and policies name each port that the configuration opens, and no other."""
    for workload in overlay.workloads():
        _, _, content = configuration(overlay, workload)
        smtp_ports, grpc_port = listened(content)
        template = workload["spec"]["template"]
        [container] = template["spec"]["containers"]
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert set(named.values()) == smtp_ports | {grpc_port}
        services = [
            service
            for service in overlay.all("Service")
            if selected({"matchLabels": service["spec"]["selector"]}, template["metadata"]["labels"])
        ]
        led_to = {named[port["targetPort"]] for service in services for port in service["spec"]["ports"]}
        monitor = workload["metadata"]["name"] == "monitor"
        assert led_to == (set() if monitor else smtp_ports | {grpc_port})
        for service in services:
            if named[service["spec"]["ports"][0]["targetPort"]] in smtp_ports:
                # Policies of the relay look at the client's address.
                assert service["spec"]["externalTrafficPolicy"] == "Local"
        let_in = set().union(*(ports for _, ports in rules(overlay, workload, "ingress")))
        assert let_in == (set() if monitor else smtp_ports | {grpc_port})


def test_only_the_monitor_submits(overlay):
    """Must show: a NetworkPolicy lets only the monitor speak gRPC with the relay, and nothing is open by default."""
    deny = overlay.one("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in overlay.all("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            assert rule.get("ports"), f"{policy['metadata']['name']} opens every port"
    [relay] = overlay.all("StatefulSet")
    grpc = [peers for peers, ports in rules(overlay, relay, "ingress") if 7025 in ports]
    assert grpc == [[{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "monitor-svc"}}}]]
    for deployment in overlay.all("Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "monitor-svc"


def test_who_may_hand_in_mail_is_said_once():
    """The networks of a policy are those of the configuration behind it; what the provider releases comes from where the
    provider is."""
    edge, provider = Manifests("edge"), Manifests("provider")
    [relay] = edge.all("StatefulSet")
    _, _, content = configuration(edge, relay)
    blocks = {
        port: {peer["ipBlock"]["cidr"] for peer in peers}
        for peers, ports in rules(edge, relay, "ingress")
        for port in ports
        if port != 7025
    }
    for listener in content["listener"]:
        port = split(listener["address"])[1]
        if "relay_from" in listener:
            assert blocks[port] == set(listener["relay_from"])
        else:
            [block] = blocks[port]
            assert ipaddress.ip_network(block).num_addresses == 1
    [theirs] = provider.all("StatefulSet")
    _, _, content = configuration(provider, theirs)
    [hold] = [route for route in content["route"] if route["to"] == "hold"]
    assert hold["etrn_from"] == content["listener"][0]["relay_from"]


def targets(content):
    """host:port of all that a configuration makes its service connect to."""
    found = [link["smart_host"] for link in content.get("link", [])]
    found += [ask["host"] for link in content.get("link", []) for ask in link.get("dequeue", []) if "host" in ask]
    found += [route["to"] for route in content.get("route", []) if "://" in route["to"]]
    found += [route["release_to"] for route in content.get("route", []) if "release_to" in route]
    found += [content["relay"]["address"]] if "relay" in content else []
    found += [content["telemetry"]["otlp"]] if "otlp" in content.get("telemetry", {}) else []
    return {int(target.rsplit(":", 1)[1]) for target in found}


def test_ways_out_are_open(overlay):
    """Policies let out what the configuration connects to, names, and telemetry."""
    for workload in overlay.workloads():
        _, _, content = configuration(overlay, workload)
        let_out = set().union(*(ports for _, ports in rules(overlay, workload, "egress")))
        assert targets(content) and targets(content) <= let_out
        assert {53, 4317} <= let_out
        if workload["metadata"]["name"] == "monitor":
            host, port = content["relay"]["address"].split(":")
            assert int(port) in {one["port"] for one in overlay.one("Service", host)["spec"]["ports"]}


# Where things are in the world of the test. The provider and the site's public address are those of the configurations.
CLIENT, MAILBOX, WORLD, NAME_SERVER = "10.1.0.5", "10.1.0.25", "198.51.100.99", "10.96.0.53"
EDGE = {"relay-smtp": "10.1.0.20", "relay-released": "203.0.113.7", "relay-grpc": "10.96.0.10"}
PROVIDER = {"relay-smtp": "198.51.100.25", "relay-grpc": "10.96.0.20"}
NAMES = {
    "mx.provider.example": PROVIDER["relay-smtp"],
    "mx.branch.example": EDGE["relay-released"],
    "mail.branch.example": MAILBOX,
    "out.provider.example": WORLD,
    "relay-grpc": EDGE["relay-grpc"],
}


@pytest.fixture
def folder():
    """For what podman stores: too much to be kept when a test fails."""
    place = Place("kubernetes")
    yield place.folder
    place.remove()


@pytest.fixture
def node(folder, running):
    """A node with the images of this run, on an island that has the addresses of the world."""
    island = running(Island())
    for address in {CLIENT, MAILBOX, WORLD, NAME_SERVER, *EDGE.values(), *PROVIDER.values()}:
        island.run("ip", "address", "add", f"{address}/32", "dev", "lo")
    running(NameServer(island, folder, NAME_SERVER, NAMES))
    made = running(Node(island, folder))
    made("import", "--quiet", images.base(), f"docker.io/library/{images.BASE}")
    context = images.context(folder / "context")
    for target in ("relay-svc", "monitor-svc"):
        made.build(context, target, images.TARGETS[target])
    made.network("edge", "10.244.1.0/24", EDGE["relay-released"])
    made.network("provider", "10.244.2.0/24", PROVIDER["relay-smtp"])
    return made


def play(node, name, workload, services):
    """Starts the pod of a workload of an overlay; its container, when it is healthy."""
    manifests = Manifests(name)
    [found] = [one for one in manifests.workloads() if one["metadata"]["name"] == workload]
    pod, objects = manifests.pod(found, NAME_SERVER)
    manifests.publish(pod, services)
    node.play(pod, objects, name)
    [container] = pod["spec"]["containers"]
    running = f"{pod['metadata']['name']}-{container['name']}"
    node.wait_for_health(running, f"/{SERVICES[workload]}", "healthcheck")
    return running


def hand_in(node, source, service, reverse_path, recipient):
    """Hands in one message at a Service, from `source`; its Message-ID."""
    content, id = smtp.message(sender=reverse_path, to=recipient)
    with node.island.inside():
        smtp.submit(f"{service}:25", reverse_path, [recipient], content, source=source)
    return id


def test_pods_under_podman(node, running):
    """Must show: the edge and the provider pod run under podman with the rendered configuration, and a cycle goes between
    them; and so does the monitor's, whose probe proves ROUND_TRIP."""
    refused = {"no-such-user@world.example": "550 5.1.1 no such user"}
    world = running(Receiver(f"{WORLD}:25", refuse=refused, wrapper=node.island.command())).start()
    mailbox = running(Receiver(f"{MAILBOX}:25", wrapper=node.island.command())).start()
    play(node, "provider", "relay", PROVIDER)
    edge = play(node, "edge", "relay", EDGE)
    monitor = play(node, "edge", "monitor", {})
    pods = json.loads(node("pod", "ps", "--format=json").stdout)
    assert sorted(pod["Name"] for pod in pods) == [
        "linkmail-edge-monitor-0",
        "linkmail-edge-relay-0",
        "linkmail-provider-relay-0",
    ]
    out = hand_in(node, CLIENT, EDGE["relay-smtp"], "alice@branch.example", "bob@world.example")
    back = hand_in(node, WORLD, PROVIDER["relay-smtp"], "bob@world.example", "alice@branch.example")
    node.exec(monitor, "/monitor-svc", "probe", "run", "isp", "--wait=30s", check=False)

    def proven():
        if "ROUND_TRIP" in node.exec(monitor, "/monitor-svc", "probe", "list", "isp", "--json").stdout:
            return True
        # On a busy machine the bounce may miss the cycle that took the probe out; the next one brings it.
        node.exec(edge, "/relay-svc", "cycle", "run", "isp", check=False)

    wait.until(proven, lambda: node.logs(edge)[-8000:], 120)
    [mail] = world.wait_for(1)
    assert (mail["message_id"].strip("<>"), mail["recipients"]) == (out, ["bob@world.example"])
    [mail] = mailbox.wait_for(1)
    assert (mail["message_id"].strip("<>"), mail["recipients"]) == (back, ["alice@branch.example"])
    # Client and provider are known by the addresses that the policies name.
    lines = [json.loads(line) for line in node.logs(edge).splitlines() if '"message accepted"' in line]
    assert {CLIENT, PROVIDER["relay-smtp"]} <= {split(line["peer"])[0] for line in lines if ":" in line.get("peer", "")}
    assert node.exec(edge, "/relay-svc", "queue", "list", "--json").stdout == ""


def test_strangers_are_told_apart(node):
    """Client addresses come through the Services unchanged: who is not of the site may not send out."""
    play(node, "edge", "relay", EDGE)
    with node.island.inside(), smtp.Dialogue(f"{EDGE['relay-smtp']}:25", source=WORLD) as dialogue:
        dialogue.expect(250, "EHLO stranger.example")
        dialogue.expect(250, "MAIL FROM:<mallory@stranger.example>")
        assert dialogue.command("RCPT TO:<bob@world.example>") // 100 == 5
        dialogue.expect(250, "RCPT TO:<alice@branch.example>")
