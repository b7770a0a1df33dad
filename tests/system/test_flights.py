"""Many transactions in flight, against live servers: neighbours stay apart, limits are met, everything arrives once."""

import re
import time
from collections import Counter

import pytest

from harness import smtp, wait
from harness.exim import Exim
from harness.host import OFFERS, Host
from harness.mailbox import Mailbox
from harness.postfix import Postfix

SERVERS = pytest.mark.parametrize("server", ["postfix", "exim"])
CHUNKING = pytest.mark.parametrize("chunking", [True, False], ids=["bdat", "data"])
CONNECTIONS = pytest.mark.parametrize("connections", [1, 16])


@pytest.fixture
def far(place, running):
    """`far(server, …)`: a live server of that kind, which refuses the recipients in `refuse` and hands all else to the mailbox
    it returns too; nothing is handed on with `keep`."""

    def made(server, chunking=True, refuse=(), keep=False, **settings):
        world = running(Mailbox(place.endpoint()))
        if server == "postfix":
            # Its pause after each error would only make the test slow.
            common = {"smtpd_discard_ehlo_keywords": "" if chunking else "chunking", "smtpd_error_sleep_time": "0"}
            host = Postfix(
                place,
                "far",
                sink=world.endpoint,
                refuse={who: "550 5.1.1 No such user" for who in refuse},
                settings=common | settings,
            )
        else:
            common = {
                "chunking_advertise_hosts": "*" if chunking else "",
                # Handed on at once, not only the first ten of a connection.
                "smtp_accept_queue_per_connection": "0",
                "log_selector": "+received_recipients +received_sender",
            }
            host = Exim(
                place,
                "far",
                sink=None if keep else world.endpoint,
                refuse={who: "550 5.1.1 No such user" for who in refuse},
                settings=common | settings,
            )
        return running(host).start(), world

    return made


@pytest.fixture
def behind(scene):
    """`behind(host, …)`: a scene whose smart host is that one."""
    return lambda host, **settings: scene(provider=False, smart_host=lambda _: host.endpoint, **settings)


def hand_in(stage, envelopes, **made):
    """One message for each (reverse path, recipients), in one session; their Message-IDs in that order."""
    ids = []
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client.branch.example")
        for reverse_path, recipients in envelopes:
            content, id = smtp.message(sender=reverse_path, to=recipients[0], **made)
            assert dialogue.transaction(reverse_path, recipients, smtp.stuffed(content)) == 250
            ids.append(id)
        dialogue.expect(221, "QUIT")
    return ids


def arrived(mails):
    """(Message-ID, envelope sender, recipient) -> how often it came: a server may split what it hands on."""
    return Counter((mail.id, mail.reverse_path, who) for mail in mails for who in mail.recipients)


def id_of(mail):
    """The Message-ID of what a scripted host took."""
    return re.search(rb"Message-ID: <(\S+)>", mail.content)[1].decode()


def attempts(stage):
    """(state, attempts) -> how many recipients, of what the site handed in."""
    found = Counter()
    for message in stage.relay.messages():
        for one in message["recipients"]:
            if one["address"].endswith("@remote.example"):
                found[one["state"], one["attempts"]] += 1
    return dict(found)


@SERVERS
@CHUNKING
def test_neighbours_of_refused_messages(far, behind, server, chunking):
    """Must show: a flight in whose middle transactions lose all recipients: each neighbour arrives with its own sender and
    recipient, and each refused one is reported to its own sender, once."""
    envelopes = [(f"s{n}@branch.example", [f"r{n}@remote.example"]) for n in range(100)]
    unknown = {f"r{n}@remote.example" for n in range(1, 100, 3)}
    host, world = far(server, chunking, refuse=unknown)
    stage = behind(host)
    ids = hand_in(stage, envelopes)

    cycle = stage.relay.run_cycle()

    assert (cycle["sent"], cycle["refused"], cycle["deferred"]) == (67, 33, 0)
    world.wait_for(67)
    expected = {(id, sender, to) for id, (sender, [to]) in zip(ids, envelopes) if to not in unknown}
    assert arrived(world.mails) == Counter(expected)
    reports = stage.mailbox.wait_for(33)
    expected = {(sender, to) for sender, [to] in envelopes if to in unknown}
    final = re.compile(rb"Final-Recipient: rfc822; ?(\S+)")
    told = Counter((mail.recipients[0], final.search(mail.content)[1].decode()) for mail in reports)
    assert told == Counter(expected)
    assert {mail.reverse_path for mail in reports} == {""}
    assert attempts(stage) == {("DELIVERED", 1): 67, ("BOUNCED", 1): 33}


@SERVERS
def test_partly_refused_messages(far, behind, server):
    """A message that loses some of its recipients goes to the others, under its own sender, between neighbours of both kinds."""
    envelopes = [(f"s{n}@branch.example", [f"r{n}-{m}@remote.example" for m in range(3)]) for n in range(12)]
    # None, the first, the last two, or all of them.
    lost = [[], [0], [1, 2], [0, 1, 2]]
    unknown = {f"r{n}-{m}@remote.example" for n in range(12) for m in lost[n % 4]}
    host, world = far(server, refuse=unknown)
    stage = behind(host, connections=1)
    ids = hand_in(stage, envelopes)
    stage.relay.run_cycle()
    expected = {(id, sender, to) for id, (sender, all) in zip(ids, envelopes) for to in all if to not in unknown}
    wait.until(lambda: len(arrived(world.mails)) >= len(expected), lambda: f"{expected}; came {arrived(world.mails)}")
    assert arrived(world.mails) == Counter(expected)
    reports = stage.mailbox.wait_for(9)
    assert Counter(mail.recipients for mail in reports) == Counter((f"s{n}@branch.example",) for n in range(12) if n % 4)
    assert attempts(stage) == {("DELIVERED", 1): 18, ("BOUNCED", 1): 18}


def received(exim):
    """(Message-ID, envelope sender, recipients) -> how often Exim took it."""
    line = re.compile(r" <= (\S+) .* id=(\S+) from <\S+> for (.+)$", re.M)
    return Counter((id, sender, tuple(who.split(" "))) for sender, id, who in line.findall(exim.log()))


@CONNECTIONS
@pytest.mark.parametrize("limit, count", [(20, 130), (None, 1150)], ids=["of 20", "its own"])
def test_a_limit_of_messages_per_connection(far, behind, connections, limit, count):
    """Must show: a flight past Exim's limit of messages per connection, the 1,000 that it has where nothing is configured and a
    low one, delivers everything once; what was refused because of it was not tried."""
    host, _ = far("exim", keep=True, **({"smtp_accept_max_per_connection": limit} if limit else {}))
    stage = behind(host, connections=connections)
    envelopes = [(f"s{n}@branch.example", [f"r{n}@remote.example"]) for n in range(count)]
    ids = hand_in(stage, envelopes)
    started = stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
    cycle = stage.relay.ended(started["name"], seconds=120)
    assert (cycle["outcome"], cycle["sent"], cycle["deferred"], cycle["refused"]) == ("COMPLETE", count, 0, 0)
    assert connections > 1 or "too many messages in one connection" in host.log(), "the limit was not met"
    assert received(host) == Counter((id, sender, tuple(to)) for id, (sender, to) in zip(ids, envelopes))
    assert attempts(stage) == {("DELIVERED", 1): count}
    assert stage.mailbox.mails == []


@CONNECTIONS
@CHUNKING
def test_a_limit_of_errors(far, behind, connections, chunking):
    """Must show: a flight past Postfix's limit of errors without a message in between (20) delivers everything once; nothing
    that stood behind its 421 is counted."""
    envelopes = [(f"s{n}@branch.example", [f"r{n}@remote.example"]) for n in range(130)]
    unknown = {f"r{n}@remote.example" for n in [*range(20, 55), *range(75, 105)]}
    host, world = far("postfix", chunking, refuse=unknown)
    stage = behind(host, connections=connections)
    ids = hand_in(stage, envelopes)
    stage.relay.run_cycles()
    assert connections > 1 or "too many errors after" in host.log(), "the limit was not met"
    world.wait_for(65)
    expected = {(id, sender, to) for id, (sender, [to]) in zip(ids, envelopes) if to not in unknown}
    assert arrived(world.mails) == Counter(expected)
    assert attempts(stage) == {("DELIVERED", 1): 65, ("BOUNCED", 1): 65}
    reports = stage.mailbox.wait_for(65)
    assert {count for count in Counter(mail.recipients for mail in reports).values()} == {1}


@SERVERS
@CHUNKING
def test_a_large_message_between_small_ones(far, behind, server, chunking):
    """20 MB between small messages: all arrive, byte for byte, and only once."""
    host, world = far(server, chunking)
    stage = behind(host, connections=1)
    line = "0123456789abcdef" * 4 + "\n.\n..\n"
    bodies = ["small before", "small too", line * (20_000_000 // len(line)), "small behind", "small at the end"]
    sent = {}
    for body in bodies:
        content, id = smtp.message(body=body)
        smtp.submit(stage.relay.site, "alice@branch.example", ["bob@remote.example"], content)
        sent[id] = content
    assert stage.relay.run_cycle()["sent"] == 5
    mails = world.wait_for(5)
    assert world.ids() == Counter(sent.keys())
    for mail in mails:
        # Whoever handed it on put trace fields above it.
        assert mail.content.endswith(sent[mail.id]), f"{mail.id}: {len(mail.content)} octets"


@SERVERS
def test_more_recipients_than_a_transaction_takes(far, behind, server):
    """A message to 250 people between others: each gets it once, from the right sender."""
    host, world = far(server)
    stage = behind(host, connections=1)
    many = [f"r{n}@remote.example" for n in range(250)]
    few = [["x@remote.example"], ["y@remote.example"]]
    envelopes = [("a@branch.example", few[0]), ("b@branch.example", many), ("c@branch.example", few[1])]
    ids = hand_in(stage, envelopes)
    assert stage.relay.run_cycle()["sent"] == 3
    expected = Counter((id, sender, to) for id, (sender, all) in zip(ids, envelopes) for to in all)
    wait.until(lambda: arrived(world.mails).total() >= 252, lambda: f"252 recipients, have {arrived(world.mails).total()}")
    assert arrived(world.mails) == expected
    assert attempts(stage) == {("DELIVERED", 1): 252}


def assert_all_within_limits(host, cycle, ids, envelopes):
    """The host saw nothing that it does not take, and got each message for each recipient once, in this cycle."""
    assert host.broken == []
    assert (cycle["deferred"], cycle["error"]) == (0, "")
    took = Counter((id_of(mail), mail.reverse_path, to) for mail in host.mails for to in mail.recipients)
    assert took == Counter((id, sender, to) for id, (sender, all) in zip(ids, envelopes) for to in all)


@CHUNKING
@CONNECTIONS
def test_limits_are_obeyed(place, running, behind, chunking, connections):
    """A host that says LIMITS MAILMAX=3 RCPTMAX=2 (RFC 9422) never sees more, and gets everything in one cycle."""
    offers = (*OFFERS, "LIMITS MAILMAX=3 RCPTMAX=2", *(["CHUNKING"] if chunking else []))
    host = running(Host(place.endpoint(), offers=offers, mail_max=3, recipients_max=2))
    stage = behind(host, connections=connections)
    envelopes = [(f"s{n}@branch.example", [f"r{n}-{m}@remote.example" for m in range(n % 6 + 1)]) for n in range(12)]
    ids = hand_in(stage, envelopes)
    cycle = stage.relay.run_cycle()
    assert_all_within_limits(host, cycle, ids, envelopes)
    assert attempts(stage) == {("DELIVERED", 1): 42}
    # A message that took several transactions, even in several sessions, is one.
    assert cycle["sent"] == 12


@CHUNKING
@CONNECTIONS
@pytest.mark.parametrize("most", [1, 2])
def test_a_limit_of_domains_is_obeyed(place, running, behind, chunking, connections, most):
    """A host that says RCPTDOMAINMAX (RFC 9422) never sees more domains of recipients in a session, and gets everything in one
    cycle."""
    offers = (*OFFERS, f"LIMITS RCPTMAX=3 RCPTDOMAINMAX={most}", *(["CHUNKING"] if chunking else []))
    host = running(Host(place.endpoint(), offers=offers, recipients_max=3, domains_max=most))
    stage = behind(host, connections=connections)
    people = [f"r{n}@d{n % 3}.example" for n in range(9)]
    envelopes = [(f"s{n}@branch.example", people[n : n + n % 5 + 1]) for n in range(5)]
    ids = hand_in(stage, envelopes)
    cycle = stage.relay.run_cycle()
    assert_all_within_limits(host, cycle, ids, envelopes)
    assert stage.relay.outcomes() == {("DELIVERED", 1): 15}
    assert cycle["sent"] == 5


def test_a_limit_of_domains_is_obeyed_without_a_link(place, running, scene):
    """The same where mail goes to a host at once: two domains that take turns, one in a session, and no pause between."""
    host = running(Host(place.endpoint(), offers=(*OFFERS, "CHUNKING", "LIMITS RCPTDOMAINMAX=1"), domains_max=1))
    stage = scene(provider=False, relay=False)
    route = f'[[route]]\ndomains = ["d0.example", "d1.example"]\nto = "smtp://{host.endpoint}"\n'
    stage.relay.write(f"{stage.relay.config.read_text()}\n{route}")
    stage.relay.start()
    begun = time.monotonic()
    people = [f"r{n}@d{n % 2}.example" for n in range(8)]
    hand_in(stage, [("a@branch.example", people), *(("a@branch.example", [one]) for one in people)])
    wait.until(lambda: stage.relay.outcomes() == {("DELIVERED", 1): 16}, lambda: f"16; are {stage.relay.outcomes()}", 30)
    assert time.monotonic() - begun < 15
    assert host.broken == []
    assert Counter(to for mail in host.mails for to in mail.recipients) == Counter(people * 2)


@pytest.mark.parametrize("chunking", [True, False], ids=["bdat", "data"])
def test_eight_bits_are_not_sent_to_seven(place, running, behind, chunking):
    """A body with octets above 127 is bounced with 5.6.3 where the host has no 8BITMIME, and none of it is sent; its neighbours
    go out."""
    offers = ("PIPELINING", "ENHANCEDSTATUSCODES", *(["CHUNKING"] if chunking else []))
    host = running(Host(place.endpoint(), offers=offers))
    stage = behind(host, connections=1)
    [first] = hand_in(stage, [("a@branch.example", ["x@remote.example"])])
    extra = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    [eight] = hand_in(stage, [("b@branch.example", ["eight@remote.example"])], body="Grüße aus der Ferne", extra=extra)
    [last] = hand_in(stage, [("c@branch.example", ["y@remote.example"])])
    cycle = stage.relay.run_cycle()
    assert (cycle["sent"], cycle["refused"], cycle["deferred"]) == (2, 1, 0)
    [report] = stage.mailbox.wait_for(1)
    assert report.recipients == ("b@branch.example",)
    assert b"Status: 5.6.3" in report.content and eight.encode() in report.content
    said = host.clear
    assert max(said) < 128 and b"eight@remote.example" not in said and eight.encode() not in said
    assert [mail.reverse_path for mail in host.mails] == ["a@branch.example", "c@branch.example"]


def test_eight_bits_are_sent_to_eight(place, running, behind):
    """The same goes out where 8BITMIME is offered, and says so: what the test above refuses is not refused everywhere."""
    host = running(Host(place.endpoint()))
    stage = behind(host)
    hand_in(stage, [("b@branch.example", ["eight@remote.example"])], body="Grüße aus der Ferne")
    assert stage.relay.run_cycle()["sent"] == 1
    assert b"BODY=8BITMIME" in host.clear
    assert "Grüße".encode() in host.mails[0].content
