"""Whether a peer syncs a message before it says 250, as strace sees it."""

import subprocess
import threading

from harness import smtp, strace
from harness.place import Place
from relays import RELAYS
from senders import content

# Small and large of each: our relay stores them differently.
SIZES = [4096] * 5 + [65_536, 200_000]
CLIENTS = 3


def check(peer):
    """Hands in a few messages, from several clients at once; {"peer", "durable", "messages"}. Fails if a 250 left before
    what it answers for was synced."""
    place = Place("durable")
    output = place.folder / "strace.out"
    # Nothing listens at the next hop: what delivery writes is not taken for what acceptance wrote.
    relay = RELAYS[peer](place, place.endpoint())
    marks = {}
    try:
        relay.start()
        tracer = _attach(relay.group.processes(), output)
        clients = [threading.Thread(target=_hand_in, args=(relay.endpoint, number, marks)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(timeout=120)
        # Killed, so that nothing the stop writes is taken for what acceptance wrote.
        relay.group.kill()
        tracer.communicate(timeout=60)
    finally:
        relay.group.kill()
        relay.stop()
    assert len(marks) == CLIENTS * len(SIZES), f"{len(marks)} messages were accepted"
    faults = strace.unsynced(strace.read(output), str(relay.state), marks)
    place.remove()
    assert not faults, f"said 250 before the sync: {faults}"
    return {"peer": peer, "durable": True, "messages": len(marks)}


def _attach(processes, output):
    """strace on all of them and on what they start; returns when it sees each."""
    chosen = [part for pid in processes for part in ("-p", str(pid))]
    tracer = subprocess.Popen([*strace.wrapper(output), *chosen], stderr=subprocess.PIPE, text=True)
    unseen = set(processes)
    while unseen:
        line = tracer.stderr.readline()
        assert line, f"strace ended: exit {tracer.wait()}"
        # strace: Process 123 attached [with 4 threads]
        if " attached" in line:
            unseen.discard(int(line.split()[2]))
    return tracer


def _hand_in(endpoint, number, marks):
    with smtp.Dialogue(endpoint, timeout=60) as dialogue:
        dialogue.expect(250, "EHLO client.branch.example")
        for position, size in enumerate(SIZES):
            recipient = f"to-{number}-{position}@remote.example"
            text = content(size)
            code = dialogue.transaction("alice@branch.example", [recipient], smtp.stuffed(text))
            assert code == 250, f"answered {code}"
            marks[text.split(b"Message-ID: <")[1].split(b">")[0].decode()] = recipient
