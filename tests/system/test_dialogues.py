"""The same dialogues to the relay and to a real Postfix: replies of the same class, or a difference that is known."""

import random

import pytest

from harness import smtp
from harness.postfix import Postfix

DIALOGUES = 60
COMMANDS = 14

CONTENT = b"From: alice@branch.example\r\nSubject: a dialogue\r\n\r\n..stuffed\r\nBDAT 3\r\n"

# A command, and octets that follow it at once.
WORDS = [
    ("EHLO client.branch.example", b""),
    ("HELO client.branch.example", b""),
    ("EHLO", b""),
    ("RSET", b""),
    ("NOOP", b""),
    ("NOOP and more", b""),
    ("VRFY bob@remote.example", b""),
    ("RSET now", b""),
    ("DATA now", b""),
    ("FOO", b""),
    ("MAIL FROM:<alice@branch.example>", b""),
    ("MAIL FROM:<alice@branch.example>", b""),
    ("MAIL FROM:<alice@branch.example>", b""),
    ("mail from:<alice@branch.example> size=100 body=8bitmime", b""),
    ("MAIL FROM:<>", b""),
    ("MAIL FROM: <alice@branch.example>", b""),
    ('MAIL FROM:<"a lice"@branch.example>', b""),
    ("MAIL FROM:<alice@branch.example> SIZE=999999999999", b""),
    ("MAIL FROM:<alice@branch.example> FOO=1", b""),
    ("MAIL FROM:<alice@branch.example> SIZE=x", b""),
    ("MAIL TO:<alice@branch.example>", b""),
    ("MAIL FROM:<alice@>", b""),
    ("RCPT TO:<bob@remote.example>", b""),
    ("RCPT TO:<bob@remote.example>", b""),
    ("RCPT TO:<bob@remote.example>", b""),
    ("RCPT TO:<bob@remote.example>", b""),
    ("RCPT TO:<@other.example:bob@remote.example>", b""),
    ('RCPT TO:<"b ob"@remote.example>', b""),
    ("RCPT TO:<>", b""),
    ("RCPT TO:<bob@remote.example> FOO=1", b""),
    ("RCPT FROM:<bob@remote.example>", b""),
    ("DATA", b""),
    ("DATA", b""),
    ("BDAT 6", b"a: b\r\n"),
    ("BDAT 6 LAST", b"QUIT\r\n"),
    ("BDAT 0 LAST", b""),
    ("ETRN nowhere.example", b""),
]


class Side:
    """One of the two servers, and what it replied."""

    def __init__(self, endpoint):
        self.dialogue = smtp.Dialogue(endpoint)

    def say(self, command, octets):
        """The class of the reply, or of the reply to the message where data begins."""
        self.dialogue.send(command.encode() + b"\r\n" + octets)
        code, text = self.dialogue.reply()
        if code == 354:
            self.dialogue.send(smtp.stuffed(CONTENT))
            code, text = self.dialogue.reply()
            return f"data {code // 100}", text
        return code // 100, text


# What a command starts with, our class and Postfix's, a word of Postfix's reply, whether both are in the same state
# behind it, and why they differ.
KNOWN = [
    ("ETRN", (5, 4), "unavailable", True, "the site's listener has no ETRN; Postfix asks whether it holds the domain"),
    ("MAIL", (2, 5), "nested MAIL", False, "BDAT before a recipient ends our transaction; at Postfix RSET is needed"),
    ("MAIL", (2, 5), "MAIL after BDAT", False, "and without a transaction: Postfix waits for RSET behind any BDAT"),
    ("MAIL", (2, 5), "size exceeds", False, "Postfix remembers the SIZE of a MAIL that it refused for it"),
]


def known(command, classes, text):
    """The difference that this is, if it is known."""
    for difference in KNOWN:
        start, expected, word, _, _ = difference
        if command.upper().startswith(start) and classes == expected and word in " ".join(text):
            return difference
    return None


@pytest.fixture(scope="module")
def servers():
    from harness.place import Place
    from harness.scene import Scene

    things = []

    def running(thing):
        things.append(thing)
        return thing

    place = Place("dialogues")
    scene = Scene(place, running, provider=False)
    postfix = running(Postfix(place, "oracle", sink=scene.world.endpoint))
    postfix.start()
    yield scene.relay, postfix
    for thing in reversed(things):
        thing.stop()
    place.remove()


def test_replies_are_of_the_same_class(servers):
    """Must show that what the relay takes and refuses is what a client knows from elsewhere."""
    relay, postfix = servers
    unknown, seen, compared = [], set(), 0
    for seed in range(DIALOGUES):
        chooser = random.Random(seed)
        ours, theirs, before = Side(relay.site), Side(postfix.endpoint), []
        said = [("EHLO client.branch.example", b"")] + chooser.choices(WORDS, k=COMMANDS)
        for command, octets in said:
            (our_class, our_text), (their_class, their_text) = ours.say(command, octets), theirs.say(command, octets)
            compared += 1
            before.append(command)
            if our_class == their_class:
                if our_class == 0:
                    break
                continue
            difference = known(command, (our_class, their_class), their_text)
            seen.add(difference)
            if difference is None:
                unknown.append(f"{before}: {our_class} {our_text} / {their_class} {their_text}")
            if difference is None or not difference[3]:
                # From here on the two are in different states.
                break
        ours.dialogue.socket.close()
        theirs.dialogue.socket.close()
    assert not unknown, "\n".join(unknown)
    assert seen == set(KNOWN), "a difference that does not occur any more"
    assert compared > DIALOGUES * 8, compared
