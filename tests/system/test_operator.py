"""What an operator does to mail that waits, by `relay-svc queue` and over gRPC."""

import json
from collections import Counter

import pytest

from harness import smtp, wait
from harness.grpc_client import failure
from harness.mailbox import Mailbox
from harness.postgres import Postgres
from harness.relay import Relay

SENDER = "alice@branch.example"
CALL = "MessageService/"


@pytest.fixture(params=["sqlite", "postgresql"])
def stage(request, place, running):
    """A relay with a smart host of its own, and one more link; on each engine. Mail waits until a cycle is run."""
    return make(place, running, running(Postgres(place).start()).url if request.param == "postgresql" else None)


def make(place, running, database):
    world, mailbox, other = (running(Mailbox(place.endpoint())) for _ in range(3))
    relay = Relay(place, mailbox.endpoint, world.endpoint)
    text = relay.config.read_text().replace('first = "1s"\nlongest = "2s"', 'first = "1h"\nlongest = "2h"')
    if database:
        text = text.replace("\nstate =", f'\nspool = "{database}"\nstate =', 1)
    second = f'[[link]]\nname = "vsat"\nsmart_host = "smtp://{other.endpoint}"\ndial = {{ driver = "implicit" }}\n'
    relay.write(text + second)
    return running(relay).start(), world, mailbox, other


def submit(relay, *recipients):
    """Hands in one message; its Message-ID and its name in the queue."""
    known = {message["name"] for message in relay.messages()}
    content, id = smtp.message()
    smtp.submit(relay.site, SENDER, list(recipients), content)
    [name] = [message["name"] for message in relay.messages() if message["name"] not in known]
    return id, name


def queue(relay, *arguments, code=0):
    """Runs `relay-svc queue …`; what it says."""
    done = relay.cli("queue", *arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout.strip() if code == 0 else done.stderr.strip()


def states(relay):
    return {address: state for address, (state, _) in relay.recipients().items()}


def test_each_command_does_what_it_says(stage):
    """Must show: hold, release, re-route, delete, bounce by filter, from the command line; each message arrives where the
    operator sent it, once, and the sender of what was bounced is told."""
    relay, world, mailbox, other = stage
    kept, kept_name = submit(relay, "kept@far.example")
    moved, _ = submit(relay, "moved@else.example")
    submit(relay, "gone@far.example")
    submit(relay, "back@far.example")

    assert queue(relay, "hold", "--recipient", "far.example", "--dry-run") == "3 recipients of 3 messages would be held"
    assert "ON_HOLD" not in states(relay).values()
    assert queue(relay, "hold", "--recipient", "far.example") == "3 recipients of 3 messages held"
    assert queue(relay, "reroute", "--recipient", "moved@*", "--to", "link:vsat", code=65).startswith("relay-svc: filter")
    text = queue(relay, "reroute", "--recipient", "mo*@else.example", "--to", "link:vsat")
    assert text == "1 recipient of 1 message rerouted"
    assert queue(relay, "delete", "--recipient", "gone@far.example") == "1 recipient of 1 message deleted"
    assert queue(relay, "bounce", "--recipient", "back@far.example", "--reason", "no such boat").endswith("bounced")

    relay.run_cycle()
    assert world.mails == [], "what is on hold stays"
    relay.run_cycle(link="vsat")
    assert [mail.id for mail in other.wait_for(1)] == [moved]
    [report] = mailbox.wait_for(1)
    text = report.content.decode()
    assert "no such boat" in text and "back@far.example" in text and "Status: 5.0.0" in text

    assert queue(relay, "release", kept_name) == "1 recipient of 1 message released"
    relay.run_cycle()
    assert [mail.id for mail in world.wait_for(1)] == [kept]
    wait.until(lambda: states(relay).get(SENDER) == "DELIVERED", "the report")
    expected = {
        "kept@far.example": "DELIVERED",
        "moved@else.example": "DELIVERED",
        "gone@far.example": "DISCARDED",
        "back@far.example": "BOUNCED",
        SENDER: "DELIVERED",
    }
    assert states(relay) == expected
    [logged] = relay.logged("recipient settled", outcome="discarded")
    assert logged["recipient"] == "gone@far.example" and logged["operator"] == "127.0.0.1"


def test_a_message_shows_what_was_tried_and_who_steered_it(stage):
    """Must show: each attempt that left a recipient waiting with the reply that caused it, until it is delivered; `expedite`
    tries it before its time."""
    relay, world, _, _ = stage
    world.refuse["bob@far.example"] = "451 4.2.1 The box is full"
    id, name = submit(relay, "bob@far.example")
    relay.run_cycle()
    waiting = relay.client.call(CALL + "GetMessage", name=name)["recipients"][0]
    assert (waiting["state"], waiting["attempts"]) == ("QUEUED", 1)
    relay.run_cycle()
    assert states(relay) == {"bob@far.example": "QUEUED"}, "its time has not come"

    world.refuse.clear()
    assert queue(relay, "expedite", "--older-than", "1h") == "nothing that fits was changed"
    assert queue(relay, "expedite", name.removeprefix("messages/")) == "1 recipient of 1 message expedited"
    relay.run_cycle()
    assert [mail.id for mail in world.wait_for(1)] == [id]
    wait.until(lambda: states(relay) == {"bob@far.example": "DELIVERED"}, "delivery")

    shown = json.loads(queue(relay, "show", name, "--json"))["recipients"][0]
    history = [(one["outcome"], one["reply"], one["operator"]) for one in shown["history"]]
    assert history == [("deferred", "451 4.2.1 The box is full", ""), ("expedited", "", "127.0.0.1")]
    host = f"[{world.endpoint.rsplit(':')[0]}]"
    assert (shown["history"][0]["remote_host"], shown["remote_host"]) == (host, host)
    words = queue(relay, "show", name)
    assert f"deferred by {host}: 451 4.2.1 The box is full" in words and "expedited from 127.0.0.1" in words
    assert f"delivered by {host}" in words
    [listed] = relay.messages()
    assert listed["recipients"][0]["history"] == []


def test_the_calls_and_their_errors(stage):
    """Must show: the same over gRPC: idempotent by request id, nothing by an empty filter, and each wrong argument named."""
    relay, world, _, _ = stage
    _, name = submit(relay, "a@far.example", "b@far.example")
    call = relay.client.call
    request_id = "8d2f3a30-7f3c-4d06-9a0e-1f6f8a6e7c11"
    of_a = {"recipient": "a@far.example"}
    first = call(CALL + "HoldMessages", filter=of_a, request_id=request_id)
    assert (first["changed_messages"], first["changed_recipients"], first["next_page_token"]) == ("1", "1", "")
    assert call(CALL + "ReleaseMessages", filter=of_a)["changed_recipients"] == "1"
    assert call(CALL + "HoldMessages", filter=of_a, request_id=request_id) == first
    assert states(relay)["a@far.example"] == "QUEUED", "a repeat changes nothing"
    assert call(CALL + "DeleteMessages", all=True, validate_only=True)["changed_recipients"] == "2"
    for method, code, reason, arguments in [
        ("HoldMessages", "ALREADY_EXISTS", "REQUEST_ID_REUSED", {"all": True, "request_id": request_id}),
        ("HoldMessages", "INVALID_ARGUMENT", "filter", {}),
        ("DeleteMessages", "INVALID_ARGUMENT", "filter", {"filter": {}}),
        ("DeleteMessages", "INVALID_ARGUMENT", "all", {"filter": of_a, "all": True}),
        ("HoldMessages", "INVALID_ARGUMENT", "filter.state", {"filter": {"state": "DELIVERED"}}),
        ("ReleaseMessages", "INVALID_ARGUMENT", "filter.state", {"filter": {"state": "HELD"}}),
        ("HoldMessages", "INVALID_ARGUMENT", "filter.recipient", {"filter": {"recipient": "a b"}}),
        ("HoldMessages", "INVALID_ARGUMENT", "filter.names[0]", {"filter": {"names": ["x"]}}),
        ("HoldMessages", "INVALID_ARGUMENT", "filter.route", {"filter": {"route": "x"}}),
        ("HoldMessages", "INVALID_ARGUMENT", "page_token", {"all": True, "page_token": "x"}),
        ("BounceMessages", "INVALID_ARGUMENT", "reason", {"all": True, "reason": "a\nb"}),
        ("RerouteMessages", "INVALID_ARGUMENT", "route", {"all": True, "route": "link:none"}),
        ("ListMessages", "INVALID_ARGUMENT", "state", {"state": "HELD", "filter": {"state": "QUEUED"}}),
    ]:
        error = failure(call, CALL + method, **arguments)
        assert error.code == code, (method, arguments, error)
        assert reason in (error.reason, error.metadata.get("field")), (method, arguments, error)
    # The list takes the same filter, and goes on from page to page.
    for _ in range(3):
        submit(relay, "c@far.example")
    assert len(relay.messages(filter={"recipient": "c@far.example", "state": "QUEUED"})) == 3
    page = call(CALL + "ListMessages", filter={"recipient": "c@far.example"}, page_size=2)
    assert len(page["messages"]) == 2
    token = page["next_page_token"]
    page = call(CALL + "ListMessages", filter={"recipient": "c@far.example"}, page_size=2, page_token=token)
    assert len(page["messages"]) == 1
    assert [message["name"] for message in relay.messages(filter={"names": [name]})] == [name]


def test_held_mail_is_released_by_its_node_and_steered_by_the_rest(place, running):
    """Mail that is held for a site can be kept back from it, given up and moved; sending it is another call, which the error
    names."""
    mailbox = running(Mailbox(place.endpoint()))
    hold = f'[[route]]\ndomains = ["ship.example"]\nto = "hold"\nrelease_to = "smtp://{mailbox.endpoint}"\netrn_from = ["127.0.0.0/8"]\n'
    relay = Relay(place, mailbox.endpoint, place.endpoint())
    relay.write(relay.config.read_text() + hold)
    running(relay).start()
    id, name = submit(relay, "captain@ship.example")
    error = failure(relay.client.call, CALL + "ExpediteMessages", filter={"names": [name]})
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "HELD_FOR_NODE")
    assert "node release" in queue(relay, "release", name, code=65)
    queue(relay, "hold", "--route", "hold:ship.example")
    relay.client.call("NodeService/ReleaseNode", name="nodes/ship.example")
    wait.until(
        lambda: relay.client.call("NodeService/GetNode", name="nodes/ship.example")["state"] == "HOLDING", "the release"
    )
    assert mailbox.mails == [] and states(relay) == {"captain@ship.example": "ON_HOLD"}
    queue(relay, "release", "--all")
    assert states(relay) == {"captain@ship.example": "HELD"}
    relay.client.call("NodeService/ReleaseNode", name="nodes/ship.example")
    assert mailbox.wait_for(1) and mailbox.ids() == Counter([id])
