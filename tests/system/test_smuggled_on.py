"""What real servers downstream make of it: Postfix and Exim, in chunks and by DATA, and Dovecot by LMTP. Whatever was handed
in, by whatever way, each of them has it as one message or not at all, and never as two.

Postfix and Dovecot are told, or left, to take more than one end of data, as they do by default here: what goes wrong before
them goes wrong in them.
"""

from collections import Counter

import pytest

from harness import smtp, spool, wait
from harness.dovecot import Dovecot
from harness.exim import Exim
from harness.mailbox import Mailbox
from harness.postfix import Postfix
from harness.relay import Relay
from harness.smuggling import ENDS, HEAD, SMUGGLED, TEXTS, WAYS

SMTP = ("postfix-bdat", "postfix-data", "exim-bdat", "exim-data")
ALL = (*SMTP, "dovecot")
# What must not be in a text, with the second message behind it; those beyond 96 KiB are sent as they are read.
BAD = ENDS | {name: text for name, text in TEXTS.items() if text is not None}
LARGE = ("LF.LF", "CRLF.LF", "CR.CR", "CRLF.CRCRLF")


class Downstream:
    """The five servers, and a domain of each."""

    def __init__(self, place, running):
        self._running, self._worlds, self.servers = running, {}, {}
        for name in SMTP:
            self._worlds[name] = running(Mailbox(place.endpoint()))
            made = self._postfix if name.startswith("postfix") else self._exim
            self.servers[name] = made(place, name, name.endswith("bdat"))
        self.servers["dovecot"] = Dovecot(place, "dovecot")

    def _postfix(self, place, name, chunking):
        settings = {"smtpd_forbid_bare_newline": "no", "smtpd_discard_ehlo_keywords": "" if chunking else "chunking"}
        return Postfix(place, name, sink=self._worlds[name].endpoint, settings=settings)

    def _exim(self, place, name, chunking):
        settings = {"chunking_advertise_hosts": "*" if chunking else "", "smtp_accept_queue_per_connection": "0"}
        return Exim(place, name, sink=self._worlds[name].endpoint, settings=settings)

    def start(self):
        for server in self.servers.values():
            self._running(server).start()

    def routes(self):
        """A route to each of them."""
        scheme = {"dovecot": "lmtp"}
        return "".join(
            f'[[route]]\ndomains = ["{name}.example"]\nto = "{scheme.get(name, "smtp")}://{server.endpoint}"\n'
            for name, server in self.servers.items()
        )

    def contents(self, name):
        """What that one has, or handed on."""
        if name == "dovecot":
            return [content for _, content in self.servers[name].contents()]
        return [mail.content for mail in self._worlds[name].mails]


def everywhere(who):
    """That name at each of them."""
    return [f"{who}@{name}.example" for name in ALL]


@pytest.fixture
def downstream(place, running):
    return Downstream(place, running)


@pytest.fixture
def relay(place, running, downstream):
    """A relay before them, with a listener of LMTP at `lmtp`."""
    lmtp = place.endpoint()
    listener = f'[[listener]]\naddress = "{lmtp}"\nprotocol = "lmtp"\nrelay_from = ["127.0.0.1/32"]\n'
    made = running(Relay(place, "127.0.0.1:9", "127.0.0.1:9", extra=listener + downstream.routes()))
    made.lmtp = lmtp
    return made


def assert_each_has(downstream, expected):
    """Each of them has these contents once each, behind what it put in front of them, and nothing else."""
    for name in ALL:
        wait.until(lambda: len(downstream.contents(name)) >= len(expected), lambda: f"{name}: {downstream.contents(name)}")
        came = Counter(next((e for e in expected if c.endswith(e)), c) for c in downstream.contents(name))
        assert came == Counter(expected), name


# A text that looks like an end of data and a second message, which is one all the same.
HONEST = {
    "a dot alone": b"text\r\n.\r\n" + SMUGGLED,
    "a dot at once": b".\r\n" + SMUGGLED,
    "dots already": b"text\r\n..\r\n...\r\n.x\r\n",
    "no end of the last line": b"text\r\n.",
}


def test_what_is_handed_in_comes_out_as_one_message_or_none(downstream, relay):
    """Must show: by DATA, by BDAT and by LMTP, each variant is refused and reaches none of them, and a text that has a dot
    alone on a line, and a message behind it, reaches each of them as one message, octet for octet."""
    downstream.start()
    relay.start()
    expected = []
    for way in WAYS.values():
        with smtp.Dialogue(relay.lmtp if way.lmtp else relay.site) as dialogue:
            dialogue.expect(250, f"{'LHLO' if way.lmtp else 'EHLO'} client.branch.example")
            for body in HONEST.values():
                content = smtp.message()[0].removesuffix(b"Hello.\r\n") + body
                dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
                for recipient in everywhere("user"):
                    dialogue.expect(250, f"RCPT TO:<{recipient}>")
                codes = way.take(dialogue, content, ALL)
                assert set(codes) == {250}, codes
                expected.append(content.removesuffix(b"\r\n") + b"\r\n")
        for wrong in BAD.values():
            with smtp.Dialogue(relay.lmtp if way.lmtp else relay.site) as dialogue:
                way.begin(dialogue, "alice@branch.example", ["victim@dovecot.example"])
                codes = way.send(dialogue, HEAD + b"text", wrong, SMUGGLED)
                assert 500 <= codes[-1] <= 599, codes
    wait.until(lambda: {state for state, _ in relay.outcomes()} == {"DELIVERED"}, lambda: f"all; are {relay.outcomes()}")
    assert_each_has(downstream, expected)
    assert relay.outcomes() == {("DELIVERED", 1): len(expected) * len(ALL)}


def test_what_lies_in_the_spool_comes_out_as_one_message_or_none(downstream, relay):
    """Must show: each variant, planted into the spool past all that refuses it, reaches none of the servers in any form, and
    what stands before and behind it reaches each of them once."""
    relay.start()
    planted, expected = [], []
    bodies = [(wrong, b"") for wrong in BAD.values()] + [(ENDS[name], b"good line\r\n" * 8000) for name in LARGE]
    for number, (wrong, before) in enumerate(bodies):
        for who in ("bad", "good"):
            body = "x" * 70 if who == "good" or not before else "\n".join(["y" * 70] * 1300)
            content, id = smtp.message(body=body)
            smtp.submit(relay.site, "alice@branch.example", everywhere(f"{who}{number}"), content)
            if who == "good":
                expected.append(content)
            else:
                planted.append((id, before + b"text" + wrong + SMUGGLED))
    assert relay.terminate() == 0
    for id, body in planted:
        stored = spool.read_body(relay.state, id)
        spool.plant(relay.state, id, stored[: stored.index(b"\r\n\r\n") + 4] + body)
    downstream.start()
    relay.start()

    states = {"bad": "SET_ASIDE", "good": "DELIVERED"}
    names = [(who, number) for number in range(len(bodies)) for who in states]
    relay.wait_for_states({address: states[who] for who, n in names for address in everywhere(f"{who}{n}")})
    assert_each_has(downstream, expected)


@pytest.mark.parametrize("name, way", [("postfix-data", WAYS["DATA"]), ("dovecot", WAYS["LMTP-DATA"])], ids=["postfix", "dovecot"])
def test_the_attack_is_real(downstream, running, name, way):
    """What the tests above rule out: said to the server itself, one text is two messages."""
    server = running(downstream.servers[name])
    server.start()
    with smtp.Dialogue(server.endpoint) as dialogue:
        way.begin(dialogue, "alice@branch.example", ["user@remote.example"])
        way.send(dialogue, HEAD + b"text", ENDS["LF.LF"], SMUGGLED)
        wait.until(lambda: len(downstream.contents(name)) >= 2, lambda: f"two messages; {downstream.contents(name)}")
    assert sum(b"smuggled" in content for content in downstream.contents(name)) == 1
