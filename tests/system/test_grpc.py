"""An independent gRPC client, by reflection alone: it submits, runs, watches; errors are typed; policy holds."""

import threading
import uuid
from collections import Counter


from harness import smtp, wait
from harness.grpc_client import RELAY, Client, failure
from harness.relay import cli

SUBMIT = "MessageService/SubmitMessage"
SERVICES = {f"{RELAY}.{name}Service" for name in ("Message", "Cycle", "Link", "Node", "Report")}
DOMAIN = "relay.linkmail"


def submission(**changes):
    """A submission that is right, with some fields changed."""
    content, _ = smtp.message()
    return {"reverse_path": "alice@branch.example", "recipients": ["bob@remote.example"], "content": content} | changes


def test_submit_run_and_watch_to_the_end(scene):
    """Must show: an independent gRPC client (reflection, no generated code of ours) submits, runs a cycle, watches it
    to its end."""
    stage = scene()
    stage.hold(2)
    content, id = smtp.message()
    client = stage.relay.client
    message = client.call(SUBMIT, **submission(content=content))
    assert message["origin"] == "grpc" and message["recipients"][0]["state"] == "QUEUED"
    assert message["recipients"][0]["route"] == "link:isp"
    seen, ready = [], threading.Event()

    def watch():
        for answer in client.watch("CycleService/WatchCycles", parent="links/isp"):
            ready.set()
            seen.append(answer)
            if answer.get("cycle", {}).get("phase") == "ENDED":
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = client.call("CycleService/RunCycle", parent="links/isp")
    watcher.join(timeout=30)
    assert not watcher.is_alive()

    end = seen[-1]["cycle"]
    assert (end["name"], end["outcome"], end["trigger"]) == (started["name"], "COMPLETE", "API")
    assert (end["sent"], end["received"]) == (1, 2)
    phases = [record["phase"] for record in end["phases"]]
    assert phases[0] == "DIAL" and phases[-1] == "HANG_UP" and {"FORWARD", "DEQUEUE", "RECEIVE"} <= set(phases)
    revisions = [int(answer["revision"]) for answer in seen]
    assert revisions == sorted(revisions)
    assert end == client.call("CycleService/GetCycle", name=started["name"])
    [out] = stage.world.wait_for(1)
    assert out.id == id and out.content.endswith(content)
    after = client.call("MessageService/GetMessage", name=message["name"])
    assert after["recipients"][0]["state"] == "DELIVERED"
    stage.mailbox.wait_for(2)


def test_watch_resumes_over_a_restart(scene):
    """`since_revision` gives every change after it, also over a restart of the relay."""
    stage = scene(provider=False)
    first = stage.relay.run_cycle()
    since = None
    for answer in stage.relay.client.watch("CycleService/WatchCycles", parent="links/-"):
        assert answer["kind"] == "SNAPSHOT" and answer["cycle"] == first
        since = int(answer["revision"])
        break
    second = stage.relay.run_cycle()
    assert stage.relay.terminate() == 0
    stage.relay.start()
    changes = []
    for answer in stage.relay.client.watch("CycleService/WatchCycles", parent="links/isp", since_revision=since):
        changes.append(answer)
        if answer.get("cycle", {}).get("phase") == "ENDED":
            break
    assert {answer["kind"] for answer in changes} == {"CHANGE"}
    assert {answer["cycle"]["name"] for answer in changes} == {second["name"]}
    assert changes[-1]["cycle"] == second
    assert all(int(answer["revision"]) > since for answer in changes)


def test_services_and_health(scene):
    """Reflection lists what is served, nothing else of ours; each service has its health, whatever the line does."""
    stage = scene(provider=False)
    served = stage.relay.client.services()
    assert {name for name in served if name.startswith("linkmail.")} == SERVICES
    for name in {""} | SERVICES:
        assert stage.relay.client.health(name) == "SERVING", name
    older = Client(stage.relay.grpc, reflection="v1alpha")
    assert {name for name in older.services() if name.startswith("linkmail.")} == SERVICES
    older.stop()
    assert failure(stage.relay.client.health, "no.such.Service").code == "NOT_FOUND"


WRONG = [
    (SUBMIT, submission(recipients=[]), "recipients"),
    (SUBMIT, submission(recipients=["bob@remote.example", "not an address"]), "recipients[1]"),
    (SUBMIT, submission(recipients=["bob@remote.example\r\nRCPT TO:<eve@evil.example>"]), "recipients[0]"),
    (SUBMIT, submission(reverse_path="nobody"), "reverse_path"),
    (SUBMIT, submission(reverse_path="a@b.example> SIZE=1\r\nRSET"), "reverse_path"),
    (SUBMIT, submission(reverse_path="jörg"), "reverse_path"),
    (SUBMIT, submission(recipients=["jörg@remote..example"]), "recipients[0]"),
    (SUBMIT, submission(recipients=["j\u0085rg@remote.example"]), "recipients[0]"),
    (SUBMIT, submission(content=b""), "content"),
    (SUBMIT, submission(request_id="not-a-uuid"), "request_id"),
    ("MessageService/GetMessage", {"name": ""}, "name"),
    ("MessageService/GetMessage", {"name": "links/isp"}, "name"),
    ("MessageService/ListMessages", {"page_size": -1}, "page_size"),
    ("MessageService/ListMessages", {"page_token": "made up"}, "page_token"),
    ("CycleService/RunCycle", {}, "parent"),
    ("CycleService/RunCycle", {"parent": "isp"}, "parent"),
    ("CycleService/RunCycle", {"parent": "links/isp", "request_id": "1"}, "request_id"),
    ("CycleService/GetCycle", {"name": "links/isp"}, "name"),
    ("CycleService/ListCycles", {"parent": "nothing"}, "parent"),
    ("CycleService/ListCycles", {"parent": "links/isp", "page_size": -5}, "page_size"),
    ("LinkService/GetLink", {"name": "isp"}, "name"),
    ("LinkService/ListLinks", {"page_size": -1}, "page_size"),
]


def test_wrong_arguments(scene):
    """Must show: a wrong argument is INVALID_ARGUMENT naming the field, with ErrorInfo; nothing is stored."""
    stage = scene(provider=False)
    for path, request, field in WRONG:
        failed = failure(stage.relay.client.call, path, request)
        where = f"{path} {field}: {failed}"
        assert failed.code == "INVALID_ARGUMENT", where
        assert failed.fields == [field], where
        assert failed.domain == DOMAIN and failed.reason, where
        assert sorted(failed.details) == ["BadRequest", "ErrorInfo"], where
    watching = stage.relay.client.watch("CycleService/WatchCycles", parent="links/-", since_revision=-1)
    failed = failure(next, watching)
    assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", ["since_revision"]), failed
    assert stage.relay.messages() == []


def test_not_found_and_busy(scene):
    """Missing resources and a running cycle are typed errors with their reason; busy names the cycle that runs."""
    stage = scene(quiet="5s")
    client = stage.relay.client
    missing = str(uuid.uuid4())
    for path, request, reason in [
        ("MessageService/GetMessage", {"name": f"messages/{missing}"}, "MESSAGE_NOT_FOUND"),
        ("CycleService/GetCycle", {"name": f"links/isp/cycles/{missing}"}, "CYCLE_NOT_FOUND"),
        ("CycleService/RunCycle", {"parent": "links/other"}, "LINK_NOT_FOUND"),
        ("CycleService/ListCycles", {"parent": "links/other"}, "LINK_NOT_FOUND"),
        ("LinkService/GetLink", {"name": "links/other"}, "LINK_NOT_FOUND"),
    ]:
        failed = failure(client.call, path, request)
        assert (failed.code, failed.reason, failed.domain) == ("NOT_FOUND", reason, DOMAIN), f"{path}: {failed}"
    running = client.call("CycleService/RunCycle", parent="links/isp")
    busy = failure(client.call, "CycleService/RunCycle", parent="links/isp")
    assert (busy.code, busy.reason, busy.metadata.get("cycle")) == ("ABORTED", "LINK_BUSY", running["name"])
    assert stage.relay.cli("cycle", "run", "isp").returncode == 75
    stage.relay.ended(running["name"])


def test_bad_content_is_refused(scene):
    """Bare CR, bare LF and NUL are BARE_NEWLINE, a message over the limit MESSAGE_TOO_LARGE; both name the field."""
    stage = scene(provider=False, extra='[limits]\nmessage_size = "100KB"\n')
    for content in (
        b"Subject: x\n\nbody\n",
        b"Subject: x\r\n\r\na\rb\r\n",
        b"Subject: x\r\n\r\n\n.\r\nMAIL\r\n",
        b"a: b\r\n\r\n\0\r\n",
    ):
        failed = failure(stage.relay.client.call, SUBMIT, submission(content=content))
        assert (failed.code, failed.reason, failed.fields) == ("INVALID_ARGUMENT", "BARE_NEWLINE", ["content"]), content
    large = submission(content=b"Subject: x\r\n\r\n" + b"x" * 70 * 2000 + b"\r\n")
    failed = failure(stage.relay.client.call, SUBMIT, large)
    assert (failed.code, failed.fields) == ("INVALID_ARGUMENT", ["content"]), failed
    assert stage.relay.messages() == []


def test_submit_is_idempotent(scene):
    """The same request id makes one message, also at the same moment and over a kill -9; with other content it is
    ALREADY_EXISTS."""
    stage = scene(provider=False)
    request = submission(request_id=str(uuid.uuid4()))
    names = []
    threads = [
        threading.Thread(target=lambda: names.append(stage.relay.client.call(SUBMIT, request)["name"]))
        for _ in range(8)
    ]
    stage.relay.client.service(f"{RELAY}.MessageService")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(names) == 8 and len(set(names)) == 1, names
    stage.relay.kill()
    stage.relay.start()
    assert stage.relay.client.call(SUBMIT, request)["name"] == names[0]
    other = failure(stage.relay.client.call, SUBMIT, request | {"recipients": ["carol@remote.example"]})
    assert (other.code, other.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    assert len(stage.relay.messages()) == 1
    assert stage.relay.run_cycle()["sent"] == 1
    stage.world.wait_for(1)


UTF8 = "jörg@remote.example"


def test_addresses_in_any_script_are_submitted(scene):
    """RFC 6531: a sender and a recipient outside of ASCII are shown as they were given, and Postfix gets them so."""
    stage = scene()
    content, _ = smtp.message(sender="rené@branch.example", to=UTF8)
    call = submission(reverse_path="rené@branch.example", recipients=[UTF8, "bob@remote.example"], content=content)
    message = stage.relay.client.call(SUBMIT, call)
    shown = [recipient["address"] for recipient in message["recipients"]]
    assert (message["reverse_path"], shown) == ("rené@branch.example", [UTF8, "bob@remote.example"])
    assert stage.relay.run_cycle()["sent"] == 1
    # Beside them may stand what Postfix reports of the world behind it, which has no SMTPUTF8.
    assert {stage.relay.recipients()[address][0] for address in shown} == {"DELIVERED"}
    log = stage.postfix.log
    wait.until(lambda: f"to=<{UTF8}>" in log() and "from=<rené@branch.example>" in log(), log)


def test_a_submitted_message_needs_smtputf8_as_over_smtp(scene):
    """RFC 6531 3.2: a host without SMTPUTF8 gets no such address, nor a header that was said to be of that kind, which it is
    beside such an address."""
    stage = scene(provider=False)
    content, _ = smtp.message(subject="Grüße")
    plain, _ = smtp.message()
    for call in [
        submission(recipients=[UTF8], content=plain),
        submission(content=content, smtputf8=True),
        submission(recipients=["jürg@remote.example", "ann@remote.example"], content=content),
        submission(recipients=["carol@remote.example"], content=content),
        submission(recipients=["dora@remote.example"], content=plain, smtputf8=True),
        submission(recipients=["jürgen@remote.example", "erna@remote.example"], content=plain),
    ]:
        stage.relay.client.call(SUBMIT, call)
    stage.relay.run_cycle()
    bounced, delivered = ("jörg", "bob", "jürg", "ann", "jürgen"), ("carol", "dora", "erna")
    expected = {f"{name}@remote.example": "BOUNCED" for name in bounced}
    expected |= {f"{name}@remote.example": "DELIVERED" for name in delivered}
    states = {address: state for address, (state, _) in stage.relay.recipients().items()}
    assert {address: states[address] for address in expected} == expected
    reports = [mail.content.decode() for mail in stage.mailbox.wait_for(4)]
    assert all("Status: 5.6.7" in text for text in reports)
    assert sorted(mail.recipients for mail in stage.world.mails) == [(f"{name}@remote.example",) for name in delivered]


def test_the_same_request_with_another_smtputf8_is_another(scene):
    """A request id belongs to everything that was said with it."""
    stage = scene(provider=False)
    call = submission(request_id=str(uuid.uuid4()))
    stage.relay.client.call(SUBMIT, call)
    other = failure(stage.relay.client.call, SUBMIT, call | {"smtputf8": True})
    assert (other.code, other.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


def test_run_is_idempotent(scene):
    """RunCycle with the same request id returns the cycle the first one started, also when it has ended."""
    stage = scene(provider=False)
    id = str(uuid.uuid4())
    first = stage.relay.client.call("CycleService/RunCycle", parent="links/isp", request_id=id)
    stage.relay.ended(first["name"])
    again = stage.relay.client.call("CycleService/RunCycle", parent="links/isp", request_id=id)
    assert (again["name"], again["phase"]) == (first["name"], "ENDED")
    assert len(stage.relay.client.call("CycleService/ListCycles", parent="links/isp")["cycles"]) == 1


def test_not_an_open_relay(scene):
    """Must show: not an open relay over gRPC: a caller outside `grpc.relay_from` reaches only our own domains."""
    stage = scene(provider=False, grpc_extra='relay_from = ["127.9.9.9/32"]')
    refused = failure(stage.relay.client.call, SUBMIT, submission())
    assert (refused.code, refused.reason) == ("PERMISSION_DENIED", "RECIPIENT_NOT_ALLOWED")
    mixed = failure(
        stage.relay.client.call, SUBMIT, submission(recipients=["user@branch.example", "bob@remote.example"])
    )
    assert mixed.code == "PERMISSION_DENIED"
    odd = failure(stage.relay.client.call, SUBMIT, submission(recipients=["jörg@remote.example"]))
    assert (odd.code, odd.reason) == ("PERMISSION_DENIED", "RECIPIENT_NOT_ALLOWED") and "jörg@remote.example" in odd.message
    assert stage.relay.messages() == [], "nothing of a refused submission is kept"
    stage.relay.client.call(SUBMIT, submission(recipients=["user@branch.example"]))
    stage.mailbox.wait_for(1)
    assert stage.world.mails == []


def listening(pid):
    """The TCP addresses a process listens on, from the kernel's tables: {(address, port)}."""
    import os
    from pathlib import Path

    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                address, port = words[1].split(":")
                if table == "tcp":
                    address = ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))
                found.add((address, int(port, 16)))
    return found


def test_binds_to_loopback(place, scene):
    """Without `grpc.listen` the API listens on 127.0.0.1:7025 alone; port 0 is a port of the system's choice, told in
    the ready line together with the listeners' real addresses."""
    import json

    stage = scene(provider=False, relay=False)
    text = stage.relay.config.read_text()
    text = text.replace(f'address = "{stage.relay.site}"', f'address = "{place.address}:0"')
    stage.relay.write(text.replace(f'listen = "{stage.relay.grpc}"', 'listen = "127.0.0.1:0"'))
    stage.relay.start()
    [ready] = stage.relay.logged("ready")
    host, port = ready["grpc"].rsplit(":", 1)
    assert host == "127.0.0.1" and int(port) > 0
    listeners = json.loads(ready["listeners"])
    assert len(listeners) == 2 and listeners[1] == stage.relay.released
    expected = {tuple(one.rsplit(":", 1)) for one in [ready["grpc"], *listeners]}
    assert {(address, str(number)) for address, number in listening(stage.relay.pid)} == expected
    assert Client(ready["grpc"]).health() == "SERVING"


def test_unix_socket(scene):
    """The API on a Unix socket: same services, and a caller counts as 127.0.0.1."""
    stage = scene(provider=False, relay=False)
    path = stage.relay.folder / "api.sock"
    stage.relay.write(
        stage.relay.config.read_text().replace(f'listen = "{stage.relay.grpc}"', f'listen = "unix:{path}"')
    )
    stage.relay.grpc = f"unix:{path}"
    stage.relay.start()
    stage.relay.client.call(SUBMIT, submission())
    assert stage.relay.run_cycle()["sent"] == 1
    assert stage.relay.cli("healthcheck").returncode == 0
    # A socket left by a crash does not keep the next run from starting.
    stage.relay.kill()
    stage.relay.start()
    assert stage.relay.client.health() == "SERVING"


def test_only_allowed_networks_connect(scene):
    """The API on every interface is open to the networks in `grpc.allow` and to loopback, and to nobody else. The relay
    runs in a network of its own that has one address of each kind."""
    network = 'ip link set lo up && ip addr add 192.0.2.7/32 dev lo && ip addr add 198.51.100.7/32 dev lo && exec "$@"'
    stage = scene(
        provider=False,
        relay=False,
        grpc_extra='allow = ["192.0.2.0/24"]',
        wrapper=["unshare", "--net", "sh", "-c", network, "sh"],
    )
    stage.relay.write(
        stage.relay.config.read_text().replace(f'listen = "{stage.relay.grpc}"', 'listen = "0.0.0.0:7025"')
    )
    stage.relay.start()
    inside = ["nsenter", f"--net=/proc/{stage.relay.pid}/ns/net"]
    codes = {
        address: cli("healthcheck", "--address", f"{address}:7025", wrapper=inside).returncode
        for address in ("127.0.0.1", "192.0.2.7", "198.51.100.7")
    }
    assert codes == {"127.0.0.1": 0, "192.0.2.7": 0, "198.51.100.7": 69}


def test_paging_has_no_gaps(scene):
    """Pages are in order, without gaps or repeats, also when messages are added in between; an empty token ends."""
    stage = scene(provider=False)
    names = [stage.relay.client.call(SUBMIT, submission())["name"] for _ in range(7)]
    seen, token = [], ""
    while True:
        page = stage.relay.client.call("MessageService/ListMessages", page_size=3, page_token=token)
        assert len(page["messages"]) <= 3
        seen += [message["name"] for message in page["messages"]]
        token = page["next_page_token"]
        if len(seen) == 3:
            names.append(stage.relay.client.call(SUBMIT, submission())["name"])
        if not token:
            break
    assert seen == names
    assert Counter(seen).most_common(1)[0][1] == 1


def test_links(scene):
    """Links are listed with their state, what waits for them, and their newest cycle."""
    stage = scene(provider=False)
    stage.send(2)
    [link] = stage.relay.client.call("LinkService/ListLinks")["links"]
    assert (link["name"], link["state"], link["queued_messages"]) == ("links/isp", "DOWN", "2")
    assert (link["smart_host"], link["driver"], link["latest_cycle"]) == (stage.world.endpoint, "implicit", "")
    cycle = stage.relay.run_cycle()
    link = stage.relay.client.call("LinkService/GetLink", name="links/isp")
    assert (link["state"], link["queued_messages"], link["latest_cycle"]) == ("DOWN", "0", cycle["name"])
    assert link["last_complete_time"] == cycle["end_time"]


def test_stop_with_a_silent_client_and_an_open_watch(scene):
    """SIGTERM with a silent TCP client and an open watch: the watch ends with UNAVAILABLE, the process with 0."""
    import socket

    from harness.place import split

    stage = scene(provider=False)
    client = stage.relay.client
    ended, ready = [], threading.Event()

    def watch():
        try:
            for _ in client.watch("CycleService/WatchCycles", parent="links/-"):
                ready.set()
        except Exception as error:
            ended.append(error)

    stage.relay.run_cycle()
    watcher = threading.Thread(target=watch)
    watcher.start()
    with socket.create_connection(split(stage.relay.grpc)):
        assert ready.wait(10)
        stage.relay._client = None
        assert stage.relay.terminate(seconds=15) == 0
    watcher.join(timeout=15)
    client.stop()
    assert [failed.code for failed in ended] == ["UNAVAILABLE"], ended
    wait.until(lambda: not watcher.is_alive(), "the watch ends")
