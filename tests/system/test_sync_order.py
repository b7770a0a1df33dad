"""250 means durable on every way in, by what strace sees: of a small message the commit's sync comes before the answer;
of a large one the sync of its file, its renaming, the sync of the folder, and then the commit."""

import ssl

import pytest

from harness import smtp, strace
from harness.certificates import Authority

SMALL, LARGE = 200, 300_000


class Way:
    """One way in. `send` hands in one message over a connection of its own, which is the last that connection does; returns
    the connection's name as strace shows it. `configure` changes the relay's file before the start."""

    def __init__(self, place, stage):
        self.place, self.stage = place, stage

    def configure(self):
        """As it is."""

    @property
    def endpoint(self):
        return self.stage.relay.site

    def hello(self):
        dialogue = smtp.Dialogue(self.endpoint, timeout=60)
        dialogue.expect(250, "EHLO client.branch.example")
        return dialogue

    def transfer(self, dialogue, recipient, content):
        assert dialogue.transaction("alice@branch.example", [recipient], smtp.stuffed(content)) == 250

    def send(self, recipient, content):
        with self.hello() as dialogue:
            host, port = dialogue.socket.getsockname()
            self.transfer(dialogue, recipient, content)
            return f"->{host}:{port}]"


class Data(Way):
    """DATA."""


class Chunks(Way):
    """BDAT, in three chunks of which each but the last is answered 250, too."""

    def transfer(self, dialogue, recipient, content):
        dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
        dialogue.expect(250, f"RCPT TO:<{recipient}>")
        third = len(content) // 3
        for last, chunk in (("", content[:third]), ("", content[third : 2 * third]), (" LAST", content[2 * third :])):
            dialogue.send(f"BDAT {len(chunk)}{last}\r\n".encode() + chunk)
            assert dialogue.reply()[0] == 250


class Lmtp(Way):
    """LMTP, at the listener of the site."""

    def configure(self):
        relay = self.stage.relay
        at = f'address = "{relay.site}"'
        relay.write(relay.config.read_text().replace(at, f'{at}\nprotocol = "lmtp"'))

    def hello(self):
        dialogue = smtp.Dialogue(self.endpoint, timeout=60)
        dialogue.expect(250, "LHLO client.branch.example")
        return dialogue


class Tls(Way):
    """DATA inside TLS."""

    def configure(self):
        relay = self.stage.relay
        self.authority = Authority(self.place)
        identity = self.authority.issue("relay", f"IP:{self.place.address}")
        at = f'address = "{relay.site}"'
        files = 'tls = {{ certificate = "{certificate}", key = "{key}" }}'.format(**identity.files())
        relay.write(relay.config.read_text().replace(at, f'{at}\n{files}\ntls_mode = "implicit"'))

    def hello(self):
        dialogue = smtp.Dialogue(self.endpoint, timeout=60, greeting=False)
        context = ssl.create_default_context(cafile=self.authority.certificate)
        dialogue.socket = context.wrap_socket(dialogue.socket, server_hostname=self.place.address)
        assert dialogue.reply()[0] == 220
        dialogue.expect(250, "EHLO client.branch.example")
        return dialogue


WAYS = [Data, Chunks, Lmtp, Tls]


def traced(place, scene, way, *prefix):
    """Hands in small and large messages by that way, to a relay under strace (and `prefix`). Returns the calls, the state
    folder, and Message-ID -> (recipient, connection, whether it is large)."""
    output = place.folder / "strace.out"
    stage = scene(provider=False, relay=False, wrapper=[*strace.wrapper(output), *prefix])
    by = way(place, stage)
    by.configure()
    stage.relay.start()
    sent = {}
    for number, size in enumerate((SMALL, LARGE, SMALL, LARGE)):
        content, id = smtp.message(body="x" * 70 + ("\n" + "y" * 70) * (size // 72))
        # It waits for its line: what a delivery writes is not taken for what the acceptance wrote.
        recipient = f"to-{number}@remote.example"
        sent[id] = (recipient, by.send(recipient, content), size == LARGE)
    # Killed, so that nothing the stop writes is taken for what the acceptance wrote.
    stage.relay.kill()
    return strace.read(output), stage.relay.state, sent


def judge(calls, state, sent):
    """Message-ID -> what is wrong; empty is good."""
    spool = strace.Spool(calls, state)
    faults = {}
    for id, (recipient, connection, large) in sent.items():
        # Nothing follows it on its connection.
        answers = [call for call in calls if call.name in strace.SENDS and call.target.endswith(connection)]
        assert answers, f"nothing was sent on {connection}"
        if fault := spool.fault(id, recipient, answers[-1], large):
            faults[id] = fault
    return faults


@pytest.mark.parametrize("way", WAYS)
def test_durable_before_250(place, scene, way):
    """Must show: on each way in, the syncs return before the bytes of the 250 leave, in the order that a crash needs."""
    assert judge(*traced(place, scene, way)) == {}


@pytest.mark.parametrize("way", WAYS)
def test_check_fails_without_syncing(place, scene, way):
    """Must show: the same check with syncing switched off finds out every single message."""
    faults = judge(*traced(place, scene, way, "eatmydata"))
    assert len(faults) == 4 and all("not synced" in fault for fault in faults.values()), faults


STEPS = {
    ".part": (strace.SYNCS, "not synced when it was renamed"),
    "/bodies": (strace.SYNCS, "the folder of its file not synced"),
    "-wal": (strace.SYNCS, "not synced in"),
    "": ({"rename"}, "not renamed"),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_missed(place, scene, step):
    """Must show: the same check, over what was seen but for one step, finds out each message that needs the step."""
    names, expected = STEPS[step]
    calls, state, sent = traced(place, scene, Data)
    faults = judge([c for c in calls if not (c.name in names and c.target.endswith(step))], state, sent)
    assert len(faults) == (4 if step == "-wal" else 2), faults
    assert all(expected in fault for fault in faults.values()), faults


def submitted(place, scene, *prefix):
    """The same over gRPC, whose answer names the message."""
    output = place.folder / "strace.out"
    stage = scene(provider=False, wrapper=[*strace.wrapper(output), *prefix])
    client = stage.relay.client
    client.service("linkmail.relay.v1.MessageService")
    sent = {}
    for number, size in enumerate((SMALL, LARGE)):
        content, id = smtp.message(body="x" * 70 + ("\n" + "y" * 70) * (size // 72))
        recipient = f"to-{number}@remote.example"
        answer = client.call(
            "MessageService/SubmitMessage", reverse_path="alice@branch.example", recipients=[recipient], content=content
        )
        sent[id] = (recipient, answer["name"], size == LARGE)
    stage.relay.kill()
    calls = strace.read(output)
    spool = strace.Spool(calls, stage.relay.state)
    faults = {}
    for id, (recipient, name, large) in sent.items():
        answer = next(c for c in calls if c.name in strace.SENDS and c.target.startswith("TCP") and name in c.text)
        if fault := spool.fault(id, recipient, answer, large):
            faults[id] = fault
    return faults


def test_durable_before_grpc_answers(place, scene):
    """Must show: the same for SubmitMessage."""
    assert submitted(place, scene) == {}


def test_check_of_grpc_fails_without_syncing(place, scene):
    """Must show: and its check can fail."""
    faults = submitted(place, scene, "eatmydata")
    assert len(faults) == 2 and all("not synced" in fault for fault in faults.values()), faults


def release(place, scene, *prefix):
    """Mail that a real Postfix releases in a cycle, small and large; the faults found."""
    output = place.folder / "strace.out"
    stage = scene(wrapper=[*strace.wrapper(output), *prefix])
    marks = {}
    for number, size in enumerate((SMALL, SMALL, LARGE)):
        content, id = smtp.message(to="user@branch.example", body="x" * 70 + ("\n" + "y" * 70) * (size // 72))
        marks[id] = f"to-{number}@branch.example"
        smtp.submit(stage.postfix.endpoint, "bob@remote.example", [marks[id]], content)
    stage.postfix.wait_for_held(3)
    assert stage.relay.run_cycle()["received"] == 3
    stage.relay.kill()
    return strace.unsynced(strace.read(output), str(stage.relay.state), marks)


def test_durable_before_a_release_is_answered(place, scene):
    """Must show: the same for what a provider releases, on the wire of a real Postfix."""
    assert release(place, scene) == {}


def test_check_of_a_release_fails_without_syncing(place, scene):
    """Must show: and its check can fail."""
    faults = release(place, scene, "eatmydata")
    assert len(faults) == 3 and all("not synced" in fault for fault in faults.values()), faults
