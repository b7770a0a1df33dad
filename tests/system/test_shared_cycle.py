"""One cycle per link across replicas: what comes in over any of them is counted to it, and any of them may be asked for it."""

import threading
import uuid

import pytest

from harness import smtp, wait
from harness.grpc_client import failure
from harness.peer import Peer
from harness.provider import Provider
from harness.relay import seconds_between
from harness.replicas import TAKEN_OVER, Group

DOMAIN = "branch.example"


@pytest.fixture
def group(place, running):
    return lambda count=2, **settings: Group(place, running, count, **{"trigger": "[]", **settings})


def asking(endpoint):
    """The key of a link whose provider is there."""
    return f'[{{ host = "smtp://{endpoint}", etrn = ["{DOMAIN}"] }}]'


def test_what_another_replica_takes_is_counted_to_the_keepers_cycle(place, running, group):
    """Must show: a provider releases to the replica that does not keep the link: each message has the cycle, the cycle has all
    of them and their octets, and receiving ends with the last one announced, long before it would be quiet."""
    released = [place.endpoint(), place.endpoint()]
    provider = running(Provider(place, [(f'["{DOMAIN}"]', released[1], '["127.0.0.0/8"]')])).start()
    for _ in range(9):
        content, _ = smtp.message(sender="bob@remote.example", to="user@branch.example")
        smtp.submit(provider.endpoint, "bob@remote.example", ["user@branch.example"], content)
    stage = group(released=released, dequeue=asking(provider.endpoint), quiet="20s")
    keeper, other = stage.replicas
    cycle = keeper.run_cycle()
    stage.mailbox.wait_for(9)
    assert [len(one.logged("message accepted", link="isp")) for one in (keeper, other)] == [0, 9]
    found = other.messages()
    assert [message["cycle"] for message in found] == 9 * [cycle["name"]]
    sizes = sum(int(message["size_bytes"]) for message in found)
    assert (int(cycle["received"]), int(cycle["received_bytes"])) == (9, sizes)
    assert seconds_between(cycle["start_time"], cycle["end_time"]) < 15


def test_a_cycle_is_not_quiet_while_mail_comes_in_over_another_replica(place, running, group):
    """Must show: a message that is under way over the other replica for longer than `quiet` is waited for, and counted."""
    provider = running(Peer(place.endpoint()))
    stage = group(dequeue=asking(provider.endpoint), quiet="2s")
    keeper, other = stage.replicas
    content, _ = smtp.message(sender="bob@remote.example", to="user@branch.example")
    raw = smtp.stuffed(content)
    begun = threading.Event()
    dialogue = smtp.Dialogue(other.released)

    def release():
        dialogue.expect(250, "EHLO provider.example")
        dialogue.expect(250, "MAIL FROM:<bob@remote.example>")
        dialogue.expect(250, "RCPT TO:<user@branch.example>")
        dialogue.expect(354, "DATA")
        dialogue.send(raw[:100])
        begun.set()

    provider.on_etrn = release
    with dialogue:
        name = keeper.client.call("CycleService/RunCycle", parent="links/isp")["name"]
        assert begun.wait(15)

        def runs():
            return keeper.client.call("CycleService/GetCycle", name=name)["phase"] == "RECEIVE"

        wait.until(runs, "receiving")
        wait.stays(runs, "the end of receiving", 6)
        dialogue.send(raw[100:])
        assert dialogue.reply()[0] == 250
    cycle = keeper.ended(name)
    assert (cycle["outcome"], int(cycle["received"])) == ("COMPLETE", 1)


def test_a_cycle_is_asked_of_the_replica_that_does_not_keep_the_link(place, running, group):
    """Must show: RunCycle on the other replica starts a cycle at the keeper; a repeat of the call, on either replica, gives
    that cycle; another call is told that it runs. Both show the link alike, meanwhile and after."""
    provider = running(Peer(place.endpoint()))
    stage = group(dequeue=asking(provider.endpoint), quiet="4s", trigger='[{ every = "1h" }]')
    keeper, other = stage.replicas
    wait.until(lambda: keeper.logged("cycle started", trigger="catch_up"), "the first cycle")
    # Nothing comes of what the provider promised.
    wait.until(lambda: link(keeper)["state"] == "DOWN" and link(keeper)["latest_cycle"], "its end", 30)
    wait.until(lambda: link(other) == link(keeper), lambda: f"{link(other)} as {link(keeper)}")
    assert link(other)["next_cycle_time"]

    id = str(uuid.uuid4())
    call = {"parent": "links/isp", "request_id": id, "trigger": "PROBE"}
    started = other.client.call("CycleService/RunCycle", **call)
    assert started["trigger"] == "PROBE"
    for asked in (other, keeper):
        assert asked.client.call("CycleService/RunCycle", **call)["name"] == started["name"]
    for asked in (other, keeper):
        busy = failure(asked.client.call, "CycleService/RunCycle", parent="links/isp")
        assert (busy.code, busy.reason, busy.metadata["cycle"]) == ("ABORTED", "LINK_BUSY", started["name"])
    reused = failure(other.client.call, "CycleService/RunCycle", parent="links/isp", request_id=submitted(other))
    assert (reused.code, reused.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    wait.until(lambda: link(other)["state"] == "UP", "the other shows that the line is up")
    listed = other.client.call("LinkService/ListLinks")["links"]
    assert [one["state"] for one in listed] == ["UP"]
    other.ended(started["name"])
    wait.until(lambda: link(other) == link(keeper) and link(other)["state"] == "DOWN", "down on both")
    assert not other.logged("cycle started")
    assert stage.database.value("select count(*) from calls") == "0"


def link(replica):
    return replica.client.call("LinkService/GetLink", name="links/isp")


def submitted(replica):
    """The request id of a message that was handed in."""
    id = str(uuid.uuid4())
    content, _ = smtp.message()
    message = {"reverse_path": "alice@branch.example", "recipients": ["carol@branch.example"], "content": content}
    replica.client.call("MessageService/SubmitMessage", request_id=id, **message)
    return id


def test_a_call_outlives_the_keeper(group):
    """Must show: the keeper stops before it takes a call that was handed on, and is killed: the next one takes it, within the
    time the caller waits, and a repeat gives the same cycle."""
    stage = group()
    keeper, other = stage.replicas
    keeper.pause()
    call = {"parent": "links/isp", "request_id": str(uuid.uuid4())}
    answers = []
    asked = threading.Thread(target=lambda: answers.append(other.client.call("CycleService/RunCycle", **call)))
    asked.start()
    wait.until(lambda: stage.database.value("select count(*) from calls") == "1", "the call is handed on")
    keeper.kill()
    asked.join(timeout=TAKEN_OVER)
    assert len(answers) == 1, "no answer"
    assert other.ended(answers[0]["name"])["outcome"] == "COMPLETE"
    assert other.client.call("CycleService/RunCycle", **call)["name"] == answers[0]["name"]
    assert len(other.logged("cycle started")) == 1


def test_a_call_that_nobody_takes_is_taken_back(group):
    """Must show: a link whose keeper never answers: the caller hears UNAVAILABLE and when to come again, and the call is
    withdrawn, so that no cycle begins by it later."""
    stage = group()
    other = stage.replicas[1]
    far = "update leases set owner = 'nobody', token = token + 1, expires_ms = expires_ms + 3600000 where name = 'link:isp'"
    stage.database.value(far)
    lost = failure(other.client.call, "CycleService/RunCycle", parent="links/isp")
    assert (lost.code, lost.reason) == ("UNAVAILABLE", "LINK_KEPT_ELSEWHERE")
    assert "RetryInfo" in lost.details
    assert "did not take the call" in lost.message
    assert stage.database.value("select count(*) from calls") == "0"
    assert link(other)["state"] == "DOWN"
