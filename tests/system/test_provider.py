"""The provider: our own relay holds mail for sites, answers ETRN at once, and releases behind it."""

import os
import re
import smtplib
import subprocess
import threading
from collections import Counter

import pytest

from harness import smtp, wait
from harness.grpc_client import failure
from harness.line import Line
from harness.mailbox import Mailbox
from harness.peer import Peer
from harness.place import split
from harness.provider import Provider
from harness.relay import Relay

HERE = '["127.0.0.0/10"]'
"""Who may ask: every client of the tests that has not chosen an address of its own."""
STRANGER = "127.77.0.9"


def etrn(provider, node, source=None):
    """Asks once; the reply's code and last line."""
    with smtp.Dialogue(provider.endpoint, source=source) as dialogue:
        dialogue.expect(250, "EHLO site.example")
        dialogue.send(f"ETRN {node}\r\n".encode())
        code, text = dialogue.reply()
        dialogue.expect(221, "QUIT")
        return code, text[-1]


def hold(provider, domain, count):
    """Lets `count` messages for a domain wait at the provider, in one session; their Message-IDs."""
    ids = set()
    with smtp.Dialogue(provider.endpoint) as dialogue:
        dialogue.expect(250, "EHLO world.example")
        for _ in range(count):
            content, id = smtp.message(sender="bob@world.example", to=f"user@{domain}")
            code = dialogue.transaction("bob@world.example", [f"user@{domain}"], smtp.stuffed(content))
            assert code == 250
            ids.add(id)
        dialogue.expect(221, "QUIT")
    return ids


@pytest.fixture
def site(place, running):
    """A site's own server, that released mail goes to, and a provider that holds for `branch.example`."""
    mailbox = running(Mailbox(place.endpoint()))
    nodes = [('["branch.example", "*.branch.example"]', mailbox.endpoint, HERE)]
    provider = running(Provider(place, nodes)).start()
    return mailbox, provider


def test_edge_and_own_provider(place, running):
    """Must show: an edge and our own provider: a full cycle. Mail out, ETRN, held mail back, each once."""
    world, mailbox = running(Mailbox(place.endpoint())), running(Mailbox(place.endpoint()))
    released = place.endpoint()
    provider = running(Provider(place, [('["branch.example"]', released, HERE)], world=world.endpoint)).start()
    edge = running(
        Relay(
            place,
            mailbox.endpoint,
            provider.endpoint,
            dequeue='[{ etrn = ["branch.example"] }]',
            released=released,
        )
    ).start()
    held = hold(provider, "branch.example", 3)
    content, id = smtp.message()
    smtp.submit(edge.site, "alice@branch.example", ["bob@remote.example"], content)
    assert (world.mails, mailbox.mails) == ([], [])

    cycle = edge.run_cycle()

    assert [mail.id for mail in world.wait_for(1)] == [id]
    assert mailbox.wait_for(3) and mailbox.ids() == Counter(held)
    assert (cycle["sent"], cycle["received"]) == (1, 3)
    asked = [(one["reply_code"], one["reply_text"]) for one in cycle["dequeue_requests"]]
    assert asked[0] == (253, "OK, 3 pending messages for node branch.example started")
    assert asked[1] == (251, "OK, no messages waiting for node branch.example")
    assert provider.held("branch.example") == 0


def test_a_thousand_messages_for_five_nodes(place, running):
    """Must show: 1,000 messages held for five nodes; each ETRN releases exactly its node's."""
    names = [f"site{n}.example" for n in range(5)]
    sites = {name: running(Mailbox(place.endpoint())) for name in names}
    nodes = [(f'["{name}"]', site.endpoint, HERE) for name, site in sites.items()]
    provider = running(Provider(place, nodes)).start()
    held = {name: set() for name in names}
    for _ in range(4):
        for name in names:
            held[name] |= hold(provider, name, 50)
    shown = provider.client.call("NodeService/ListNodes")["nodes"]
    assert {node["name"]: node["held_messages"] for node in shown} == {f"nodes/{name}": "200" for name in names}
    for done, name in enumerate(names, 1):
        code, text = etrn(provider, name.upper())
        assert (code, "200 pending" in text) == (253, True), text
        sites[name].wait_for(200, seconds=60)
        assert sites[name].ids() == Counter(held[name])
        assert [len(site.mails) for site in sites.values()] == [200] * done + [0] * (5 - done)
        wait.until(lambda: provider.node(name)["state"] == "HOLDING", "the release is over")
        assert etrn(provider, name) == (251, f"2.0.0 OK, no messages waiting for node {name}")


def test_etrn_during_a_release_loses_nothing(place, running):
    """Must show: a request that comes while a release runs is remembered: what was held before it goes too, once."""
    site = running(Peer(place.endpoint()))
    provider = running(Provider(place, [('["branch.example"]', site.endpoint, HERE)])).start()
    hold(provider, "branch.example", 20)
    replies, first = [], threading.Lock()

    def once():
        if first.acquire(blocking=False):
            hold(provider, "branch.example", 5)
            replies.append(etrn(provider, "branch.example")[0])

    site.on_body = once
    assert etrn(provider, "branch.example")[0] == 253
    wait.until(lambda: len(site.bodies) >= 25, lambda: f"25 messages, have {len(site.bodies)}")
    assert replies == [253]
    wait.until(lambda: provider.node("branch.example")["state"] == "HOLDING", "both releases are over")
    assert provider.held("branch.example") == 0
    assert len(site.bodies) == len(set(site.bodies)) == 25


def test_many_ask_at_once(place, running):
    """Twenty requests at the same moment, with mail coming in between: each message arrives, and arrives once."""
    site = running(Mailbox(place.endpoint()))
    provider = running(Provider(place, [('["branch.example"]', site.endpoint, HERE)])).start()
    ids = hold(provider, "branch.example", 100)
    more, codes = [], []

    def ask():
        codes.append(etrn(provider, "branch.example")[0])
        more.append(hold(provider, "branch.example", 1))
        codes.append(etrn(provider, "branch.example")[0])

    threads = [threading.Thread(target=ask) for _ in range(20)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert set(codes) <= {251, 253}
    site.wait_for(120, seconds=60)
    assert site.ids() == Counter(ids.union(*more))


def test_a_stranger_is_told_nothing(site):
    """Must show: a stranger gets 459 and no count, whether mail is held or not; and nothing is released."""
    mailbox, provider = site
    hold(provider, "branch.example", 2)
    texts = set()
    for node in ["branch.example", "nowhere.example", "empty.branch.example"]:
        code, text = etrn(provider, node, source=STRANGER)
        assert code == 459
        texts.add(text.replace(node, "NODE"))
    assert len(texts) == 1 and not re.search(r"\d+ (pending|messages)", texts.pop())
    assert etrn(provider, "@branch.example", source=STRANGER)[0] == 459
    assert etrn(provider, "#night", source=STRANGER)[0] == 459
    assert etrn(provider, "#night")[0] == 458
    assert (mailbox.mails, provider.held("branch.example")) == ([], 2)


def test_codes(site):
    """251, 253, 459, 501 and 503, as RFC 1985 has them; ETRN is offered."""
    _, provider = site
    with smtp.Dialogue(provider.endpoint) as dialogue:
        assert dialogue.command("ETRN branch.example") == 503
        assert "ETRN" in dialogue.expect(250, "EHLO site.example")
        dialogue.expect(251, "ETRN branch.example")
        dialogue.expect(459, "ETRN nowhere.example")
        dialogue.expect(501, "ETRN")
        dialogue.expect(501, "ETRN a b")
        dialogue.expect(250, "MAIL FROM:<>")
        dialogue.expect(503, "ETRN branch.example")


def test_sub_domains(site):
    """`@node` is the node and all below it; `node` is the node alone."""
    mailbox, provider = site
    domains = ["branch.example", "a.branch.example", "b.a.branch.example"]
    ids = {domain: hold(provider, domain, 2) for domain in domains}
    assert etrn(provider, "a.branch.example")[0] == 253
    mailbox.wait_for(2)
    assert mailbox.ids() == Counter(ids["a.branch.example"])
    code, text = etrn(provider, "@branch.example")
    assert (code, "4 pending" in text) == (253, True), text
    mailbox.wait_for(6)
    assert mailbox.ids() == Counter(set.union(*ids.values()))


def test_458_on_a_full_disk(place, running):
    """Must show: 458 when a release cannot be started; with room it can."""
    small = place.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=True)
    try:
        site = running(Mailbox(place.endpoint()))
        provider = Provider(place, [('["branch.example"]', site.endpoint, HERE)])
        config = provider.config.read_text().replace(str(place.folder / "provider-state"), str(small / "state"))
        provider.write(config + '\n[limits]\nreserve = "0B"\n')
        provider.start()
        hold(provider, "branch.example", 1)
        with open(small / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(b"x" * 512):
                    pass
            except OSError:
                pass
        assert etrn(provider, "branch.example")[0] == 458
        os.unlink(small / "filler")
        assert etrn(provider, "branch.example")[0] == 253
        site.wait_for(1)
        provider.stop()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_fetchmail_is_a_customer(place, site):
    """Must show: `fetchmail -p ETRN` as a customer of our provider."""
    mailbox, provider = site
    ids = hold(provider, "branch.example", 3)
    host, port = split(provider.endpoint)
    command = ["fetchmail", "-f", "/dev/null", "-N", "-v", "--pidfile", str(place.folder / "fetchmail.pid")]
    command += ["-p", "ETRN", "--service", str(port), "--fetchdomains", "branch.example", host]
    env = {**os.environ, "HOME": str(place.folder), "FETCHMAILHOME": str(place.folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    # 0: something was started. (1: nothing waits.)
    assert done.returncode == 0, f"exit {done.returncode}:\n{done.stdout}{done.stderr}"
    mailbox.wait_for(3)
    assert mailbox.ids() == Counter(ids)
    # The site has them before the provider has it on record.
    wait.until(lambda: provider.held("branch.example") == 0, "all is on record")
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert "no messages waiting" in again.stdout + again.stderr, again.stdout + again.stderr


@pytest.mark.parametrize("node", ["branch.example", "@branch.example"])
def test_msmtp_is_a_customer(place, site, node):
    """Must show: `msmtp --rmqs` as a customer of our provider."""
    mailbox, provider = site
    ids = hold(provider, "branch.example", 3)
    host, port = split(provider.endpoint)
    command = ["msmtp", "--file=/dev/null", f"--host={host}", f"--port={port}", f"--rmqs={node}", "--domain=site.example"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"exit {done.returncode}:\n{done.stdout}{done.stderr}"
    mailbox.wait_for(3)
    assert mailbox.ids() == Counter(ids)


def test_a_request_survives_kill(place, running):
    """A request that was answered is carried out after a crash, although nobody asks again."""
    endpoint = place.endpoint()
    provider = running(Provider(place, [('["branch.example"]', endpoint, HERE)])).start()
    ids = hold(provider, "branch.example", 5)
    assert etrn(provider, "branch.example")[0] == 253
    wait.until(lambda: provider.logged("release paused"), "the site is not there")
    provider.kill()
    site = running(Mailbox(endpoint))
    provider.start()
    site.wait_for(5)
    assert site.ids() == Counter(ids)


def test_a_site_that_comes_back_is_served_when_it_asks(place, running):
    """While the provider waits to try a site again, the site's own request starts it at once."""
    endpoint = place.endpoint()
    provider = running(Provider(place, [('["branch.example"]', endpoint, HERE)])).start()
    hold(provider, "branch.example", 2)
    etrn(provider, "branch.example")
    # The pauses double: behind the fifth try there are 16 s.
    wait.until(lambda: len(provider.logged("release paused")) >= 5, "five tries", 40)
    site = running(Mailbox(endpoint))
    assert etrn(provider, "branch.example")[0] == 253
    site.wait_for(2, seconds=5)
    assert provider.node("branch.example")["held_messages"] == "0"


def test_what_the_site_defers_stays_held_and_what_it_refuses_is_reported(place, running):
    """4yz leaves a message held for the next request; 5yz ends it with one report to its sender."""
    world = running(Mailbox(place.endpoint()))
    refuse = {"later@branch.example": "451 4.2.0 not now", "nobody@branch.example": "550 5.1.1 no such user"}
    site = running(Mailbox(place.endpoint(), refuse=refuse))
    provider = running(Provider(place, [('["branch.example"]', site.endpoint, HERE)], world=world.endpoint)).start()
    for user in ["user", "later", "nobody"]:
        content, _ = smtp.message(sender="bob@world.example", to=f"{user}@branch.example")
        smtp.submit(provider.endpoint, "bob@world.example", [f"{user}@branch.example"], content)
    assert etrn(provider, "branch.example")[0] == 253
    [report] = world.wait_for(1)
    assert report.reverse_path == "" and "nobody@branch.example" in report.content.decode()
    assert provider.logged("release asked for", node="branch.example")
    wait.until(lambda: provider.node("branch.example")["state"] == "HOLDING", "the release is over")
    node = provider.node("branch.example")
    assert (node["held_messages"], node["last_release"]) == ("1", "1 sent, 1 deferred, 1 refused")
    del refuse["later@branch.example"]
    assert etrn(provider, "branch.example")[0] == 253
    site.wait_for(2)


def test_every_recipient_is_tried(place, running):
    """A site that ends the session behind the first hundred recipients gets the rest in the next one: the request is not
    over before."""
    site = running(Peer(place.endpoint(), per_session=1))
    provider = running(Provider(place, [('["branch.example"]', site.endpoint, HERE)])).start()
    recipients = [f"user{n}@branch.example" for n in range(150)]
    smtp.submit(provider.endpoint, "bob@world.example", recipients, smtp.message()[0])
    assert etrn(provider, "branch.example")[0] == 253
    wait.until(lambda: provider.node("branch.example")["state"] == "HOLDING", "the release is over")
    assert {state for state, _ in provider.recipients().values()} == {"DELIVERED"}
    assert (len(site.bodies), site.sessions) == (2, 2)


def released(provider):
    """What the last release came to, once it is over."""
    wait.until(lambda: provider.node("branch.example")["state"] == "HOLDING", "the release is over")
    return provider.node("branch.example")["last_release"]


def test_a_release_goes_over_as_many_sessions_as_its_route_allows(place, running):
    """Must show: to a site without CHUNKING messages go side by side, over the connections that the route allows."""
    site = running(Peer(place.endpoint()))
    nodes = [('["branch.example"]', site.endpoint, HERE)]
    provider = running(Provider(place, nodes, of_hold="connections = 3")).start()
    hold(provider, "branch.example", 12)
    side_by_side, turn = threading.Barrier(3), threading.Lock()
    begun = []

    def together():
        with turn:
            begun.append(None)
            is_first = len(begun) <= 3
        if is_first:
            side_by_side.wait(20)

    site.on_body = together
    assert etrn(provider, "branch.example")[0] == 253
    assert released(provider) == "12 sent, 0 deferred, 0 refused"
    assert not side_by_side.broken
    assert len(site.bodies) == len(set(site.bodies)) == 12
    assert (site.most_open, site.sessions) == (3, 3)


def test_a_site_that_takes_fewer_connections_loses_nothing(place, running):
    """Must show: sessions that the site turns away at the greeting are no attempt and no failure; the others carry all."""
    site = running(Peer(place.endpoint(), at_once=2))
    nodes = [('["branch.example"]', site.endpoint, HERE)]
    provider = running(Provider(place, nodes, of_hold="connections = 8")).start()
    hold(provider, "branch.example", 40)
    site.on_body = lambda: wait.until(lambda: site.turned_away >= 4, "the others were turned away")
    assert etrn(provider, "branch.example")[0] == 253
    assert released(provider) == "40 sent, 0 deferred, 0 refused"
    assert len(site.bodies) == len(set(site.bodies)) == 40
    assert (site.most_open, site.sessions, site.turned_away) == (2, 6, 4)
    assert not provider.logged("release paused")


def test_what_broken_sessions_leave_goes_on_in_others(place, running):
    """Must show: a site that ends each of several sessions after three messages gets every message, and gets it once."""
    site = running(Peer(place.endpoint(), per_session=3))
    nodes = [('["branch.example"]', site.endpoint, HERE)]
    provider = running(Provider(place, nodes, of_hold="connections = 4")).start()
    hold(provider, "branch.example", 40)
    assert etrn(provider, "branch.example")[0] == 253
    assert released(provider) == "40 sent, 0 deferred, 0 refused"
    assert len(site.bodies) == len(set(site.bodies)) == 40
    assert site.sessions >= 14


def test_a_kill_during_a_release_over_several_sessions(place, running):
    """Must show: after a crash the release goes on by itself; nothing is lost, and what was in flight comes once more."""
    site = running(Peer(place.endpoint()))
    nodes = [('["branch.example"]', site.endpoint, HERE)]
    provider = running(Provider(place, nodes, of_hold="connections = 4")).start()
    hold(provider, "branch.example", 40)
    first, killed = threading.Lock(), threading.Event()

    def kill_at_the_tenth():
        if len(site.bodies) >= 10 and first.acquire(blocking=False):
            provider.kill()
            killed.set()

    site.on_body = kill_at_the_tenth
    assert etrn(provider, "branch.example")[0] == 253
    assert killed.wait(20)
    provider.start()
    wait.until(lambda: provider.node("branch.example")["state"] == "HOLDING", "the release is over")
    assert provider.held("branch.example") == 0
    times = Counter(site.bodies)
    assert len(times) == 40 and max(times.values()) <= 2


def test_what_a_busy_site_does_not_fetch_expires_all_the_same(place, running):
    """A site that asks again and again and cannot be reached keeps neither its own mail from expiring, nor that of others."""
    world = running(Mailbox(place.endpoint()))
    nodes = [
        ('["busy.example"]', place.endpoint(), HERE),
        ('["quiet.example"]', place.endpoint(), HERE),
    ]
    provider = running(Provider(place, nodes, world=world.endpoint, hold_expire="3s")).start()
    hold(provider, "busy.example", 60)
    hold(provider, "quiet.example", 1)
    stop = threading.Event()

    def ask():
        while not stop.wait(0.3):
            etrn(provider, "busy.example")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        world.wait_for(61, seconds=30)
    finally:
        stop.set()
        asking.join()
    assert (provider.held("busy.example"), provider.held("quiet.example")) == (0, 0)


def test_a_customer_with_many_nodes_keeps_nobody_waiting(place, running):
    """A host that never says a word has a few turns, however many nodes go there; another customer is served at once, and
    the provider does not spin."""
    silent = running(Line(place, "127.0.0.1:9"))
    silent.silent()
    site = running(Mailbox(place.endpoint()))
    nodes = [('["*.big.example"]', silent.endpoint, HERE), ('["branch.example"]', site.endpoint, HERE)]
    provider = running(Provider(place, nodes)).start()
    with smtp.Dialogue(provider.endpoint) as dialogue:
        dialogue.expect(250, "EHLO world.example")
        raw = smtp.stuffed(smtp.message()[0])
        for number in range(1500):
            assert dialogue.transaction("", [f"u@n{number}.big.example"], raw) == 250
    assert etrn(provider, "@big.example")[0] == 253
    wait.until(lambda: silent.held >= 4, "sessions with the silent host")
    ids = hold(provider, "branch.example", 3)
    assert etrn(provider, "branch.example")[0] == 253
    site.wait_for(3, seconds=10)
    assert site.ids() == Counter(ids)
    assert silent.held == 4
    begun = provider.cpu_seconds()
    wait.stays(lambda: True, "", 3)
    assert provider.cpu_seconds() - begun < 1


def test_what_is_being_sent_does_not_expire(place, running):
    """A message that its site takes its time over is delivered, and not given up as well."""
    world = running(Mailbox(place.endpoint()))
    site = running(Peer(place.endpoint()))
    released = threading.Event()
    site.on_body = lambda: released.wait(30)
    nodes = [('["branch.example"]', site.endpoint, HERE)]
    provider = running(Provider(place, nodes, world=world.endpoint, hold_expire="2s")).start()
    hold(provider, "branch.example", 1)
    assert etrn(provider, "branch.example")[0] == 253
    wait.until(lambda: site.bodies, "the message is at the site")
    hold(provider, "branch.example", 1)
    # The second one shows that the time of the first is over, too.
    world.wait_for(1, seconds=20)
    released.set()
    wait.until(lambda: provider.node("branch.example")["state"] == "HOLDING", "the release is over")
    states = sorted(message["recipients"][0]["state"] for message in provider.messages())
    assert states == ["BOUNCED", "DELIVERED", "DELIVERED"], "one held, one given up, and its report"
    assert len(world.mails) == 1


def test_a_site_that_stalls_keeps_nobody_waiting(place, running):
    """Sites that never answer the end of data have their turns; another site's mail goes meanwhile."""
    stalled = [running(Peer(place.endpoint(), stall=True)) for _ in range(40)]
    site = running(Mailbox(place.endpoint()))
    names = [f"stalled{n}.example" for n in range(40)]
    nodes = [(f'["{name}"]', peer.endpoint, HERE) for name, peer in zip(names, stalled, strict=True)]
    provider = running(Provider(place, [*nodes, ('["branch.example"]', site.endpoint, HERE)])).start()
    for name in names:
        hold(provider, name, 1)
        assert etrn(provider, name)[0] == 253
    wait.until(lambda: all(peer.stalled.is_set() for peer in stalled), "every site has its session")
    ids = hold(provider, "branch.example", 3)
    assert etrn(provider, "branch.example")[0] == 253
    site.wait_for(3, seconds=10)
    assert site.ids() == Counter(ids)


def test_held_mail_expires(place, running):
    """Held mail that nobody asks for is given up after `hold_expire`, with one report to its sender."""
    world = running(Mailbox(place.endpoint()))
    nodes = [('["branch.example"]', place.endpoint(), HERE)]
    provider = running(Provider(place, nodes, world=world.endpoint, hold_expire="2s")).start()
    hold(provider, "branch.example", 1)
    smtp.submit(provider.endpoint, "", ["user@branch.example"], smtp.message()[0])
    [report] = world.wait_for(1)
    assert report.reverse_path == "" and report.recipients == ("bob@world.example",)
    text = report.content.decode()
    assert "Status: 5.4.7" in text and "held for 2 s; it was never tried" in text
    expected = ["BOUNCED", "DELIVERED", "DISCARDED"]

    def states():
        return sorted(message["recipients"][0]["state"] for message in provider.messages())

    wait.until(lambda: states() == expected, lambda: f"{expected}, are {states()}")
    assert etrn(provider, "branch.example")[0] == 251


def test_held_mail_comes_back_when_the_time_of_its_sender_is_over(place, running):
    """RFC 2852: with BY=…;R a sender has it back as undeliverable although its site may still ask; other mail stays."""
    world = running(Mailbox(place.endpoint()))
    nodes = [('["branch.example"]', place.endpoint(), HERE)]
    provider = running(Provider(place, nodes, world=world.endpoint, hold_expire="20s")).start()
    hold(provider, "branch.example", 1)
    host, port = provider.endpoint.split(":")
    with smtplib.SMTP(host, int(port)) as client:
        client.ehlo()
        assert client.mail("bob@world.example", ["BY=1;R"])[0] == 250
        assert client.rcpt("user@branch.example")[0] == 250
        assert client.data(smtp.message()[0].decode())[0] == 250
    [report] = world.wait_for(1)
    text = report.content.decode()
    assert "Status: 5.4.7" in text and "Deliver-By-Date: " in text and "the time by which it was to be delivered is over" in text
    states = sorted(message["recipients"][0]["state"] for message in provider.messages() if message["origin"] == "smtp")
    assert states == ["BOUNCED", "HELD"]


def test_nodes_by_the_api(site):
    """NodeService: what is held, a release by call, errors; and the same by command."""
    mailbox, provider = site
    assert provider.node("Branch.Example")["name"] == "nodes/branch.example"
    ids = hold(provider, "branch.example", 2)
    node = provider.node("branch.example")
    assert (node["state"], node["held_messages"], node["release_to"]) == ("HOLDING", "2", mailbox.endpoint)
    assert int(node["held_bytes"]) > 400 and node["oldest_accept_time"]
    for name, reason in [("nodes/nowhere.example", "NODE_NOT_FOUND"), ("nowhere", "INVALID_FIELD")]:
        for method in ["GetNode", "ReleaseNode"]:
            assert failure(provider.client.call, f"NodeService/{method}", name=name).reason == reason
    listed = provider.cli("node", "list")
    assert (listed.returncode, "nodes/branch.example  2 held" in listed.stdout) == (0, True), listed
    released = provider.cli("node", "release", "branch.example")
    assert (released.returncode, "2 held" in released.stdout) == (0, True), released
    mailbox.wait_for(2)
    assert mailbox.ids() == Counter(ids)
    assert provider.cli("node", "release", "nowhere.example").returncode == 65


def test_submit_by_command(site):
    """`relay-svc submit` hands in what stands on standard input."""
    _, provider = site
    done = subprocess.run(
        [str(provider.binary), "submit", "--config", str(provider.config), "--from", "a@b.example", "user@branch.example"],
        input="Subject: hello\n\n.a dot\n",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0 and done.stdout.startswith("messages/"), done
    assert provider.held("branch.example") == 1
    refused = provider.cli("submit", "not an address")
    assert (refused.returncode, "recipients[0]" in refused.stderr) == (65, True), refused
