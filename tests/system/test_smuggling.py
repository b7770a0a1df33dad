"""Only CRLF ends a line and only CRLF.CRLF ends data: refused in, asserted out. And nobody relays through us."""

from collections import Counter

import pytest

from harness import smtp, spool
from harness.grpc_client import failure
from harness.line import Line
from harness.smuggling import ENDS, HEAD, SMUGGLED, TEXTS, WAYS

BY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@pytest.fixture(scope="module")
def module_running():
    things = []
    yield lambda thing: things.append(thing) or thing
    for thing in reversed(things):
        thing.stop()


@pytest.fixture(scope="module")
def edge(module_running, request):
    """One relay for all inbound cases of this file; each leaves nothing behind."""
    from harness.place import Place
    from harness.scene import Scene

    place = Place("smuggling")
    lmtp = place.endpoint()
    listener = f'[[listener]]\naddress = "{lmtp}"\nprotocol = "lmtp"\nrelay_from = ["127.0.0.1/32"]\n'
    made = Scene(place, module_running, provider=False, extra=listener)
    made.lmtp = lmtp
    yield made
    if request.session.testsfailed == 0:
        place.remove()


def begin(dialogue):
    dialogue.expect(250, "EHLO client.branch.example")
    dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
    dialogue.expect(250, "RCPT TO:<bob@remote.example>")
    dialogue.expect(354, "DATA")


def assert_refused(edge, way, before, wrong, behind):
    """The three parts, said by that way and ended by a real CRLF.CRLF or a last chunk, are refused with exactly the replies
    that they are due; nothing is stored."""
    known = len(edge.relay.messages())
    with smtp.Dialogue(edge.lmtp if way.lmtp else edge.relay.site) as dialogue:
        way.begin(dialogue, "alice@branch.example", ["bob@remote.example"])
        codes = way.send(dialogue, before, wrong, behind)
        refused = next((at for at, code in enumerate(codes) if code != 250), None)
        assert refused is not None, codes
        assert all(500 <= code <= 599 for code in codes[refused:]), codes
        # The next reply answers NOOP, or the server has closed: nothing in between was taken for a command.
        dialogue.send(b"NOOP\r\n")
        after = dialogue.reply()[0]
        # Where a chunk ends is known, so a chunk never closes.
        assert after == 250 or (after == 0 and not way.chunked), after
        if after == 250:
            dialogue.expect(221, "QUIT")
    assert len(edge.relay.messages()) == known


@BY
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_malformed_end_of_data(edge, end, way):
    """Must show: each malformed end of data of mail-protocol.md 3.6 is refused inbound, by DATA, by BDAT and by LMTP; what
    follows it is never taken for commands."""
    assert_refused(edge, way, HEAD + b"text", end, SMUGGLED)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_malformed_end_in_pieces(edge, end):
    """The same when each byte of the end comes in a segment of its own: a decoder must keep its state."""
    import socket

    with smtp.Dialogue(edge.relay.site) as dialogue:
        dialogue.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin(dialogue)
        dialogue.send(HEAD + b"text")
        for byte in end:
            dialogue.send(bytes([byte]))
        dialogue.send(b"more\r\n.\r\n")
        assert 500 <= dialogue.reply()[0] <= 599
    assert edge.relay.messages() == []


@pytest.mark.parametrize("way", [WAYS["DATA"], WAYS["BDAT"]], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("end", [ENDS["LF.LF"], ENDS["CRLF.LF"], ENDS["CR.CR"]], ids=["LF.LF", "CRLF.LF", "CR.CR"])
def test_provider_is_not_trusted_more(edge, end, way):
    """The listener of a link is under the same rule: no local hop and no provider is exempt."""
    with smtp.Dialogue(edge.relay.released) as dialogue:
        way.begin(dialogue, "bob@remote.example", ["user@branch.example"])
        [code] = way.send(dialogue, HEAD + b"text", end, SMUGGLED)
        assert 500 <= code <= 599
    assert edge.relay.messages() == []


@BY
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_bare_newlines_in_text(edge, text, way):
    """Bare CR, bare LF and NUL anywhere in the text are refused by every way in, never repaired."""
    before, wrong = (HEAD, text) if text is not None else (b"From: a@branch.example", b"\nSubject: x\r\n\r\nbody\r\n")
    assert_refused(edge, way, before, wrong, b".\r\n")


def test_bare_newline_in_commands(edge):
    """Only CRLF ends a command line: a bare LF never makes two commands out of one line."""
    with smtp.Dialogue(edge.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.send(b"NOOP\nNOOP\r\n")
        assert 500 <= dialogue.reply()[0] <= 599
        dialogue.send(b"NOOP\r\n")
        assert dialogue.reply()[0] in (250, 0)


def test_right_message_passes(edge):
    """The counter-check: dots, long lines, 8-bit octets and an empty body pass byte for byte."""
    bodies = [b"..\r\n.\r\n.a\r\n\r\n.\r\n", b"x" * 998 + b"\r\n", bytes(range(128, 256)) + b"\r\n", b""]
    expected = {}
    for body in bodies:
        content, id = smtp.message()
        content = content.removesuffix(b"Hello.\r\n") + body
        smtp.submit(edge.relay.site, "alice@branch.example", ["user@branch.example"], content)
        expected[id] = content
    for mail in edge.mailbox.wait_for(len(bodies)):
        assert mail.content.endswith(expected.pop(mail.id)), mail
    assert expected == {}


BAD_BODIES = {
    "LF.LF": b"good line\r\ntext\n.\nMAIL FROM:<ceo@branch.example>\r\n",
    "LF.CRLF": b"good line\r\ntext\n.\r\nMAIL FROM:<ceo@branch.example>\r\n",
    "CR.CR": b"good line\r\ntext\r.\rMAIL FROM:<ceo@branch.example>\r\n",
    "CRLF.LF": b"good line\r\ntext\r\n.\nMAIL FROM:<ceo@branch.example>\r\n",
    "CRLF.CRCRLF": b"good line\r\ntext\r\n.\r\r\nMAIL FROM:<ceo@branch.example>\r\n",
    "CR at the end": b"good line\r\ntext\r",
    "NUL": b"good line\r\ntext\0text\r\n",
    "far inside": b"good line\r\n" * 60_000 + b"text\n.\nMAIL FROM:<ceo@branch.example>\r\n",
}


def first_bad(body):
    """The index of the first byte that must not be sent."""
    for index, byte in enumerate(body):
        if byte == 0:
            return index
        if byte == 10 and body[index - 1 : index] != b"\r":
            return index
        if byte == 13 and body[index + 1 : index + 2] != b"\n":
            return index
    raise AssertionError("nothing is wrong with this body")


@pytest.mark.parametrize("bad", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_planted_body_is_set_aside(place, running, scene, bad):
    """Must show: malformed bodies planted straight into the spool stop the outbound session before the first bad byte
    and set the message aside; the others still go."""
    lines = []

    def recorded(far):
        lines.append(running(Line(place, far)).up())
        return lines[0].endpoint

    stage = scene(provider=False, smart_host=recorded)
    ids = []
    for number in range(5):
        # The third is the one to be damaged; a large one is stored as a large one.
        body = "x" * 70 if number != 2 or len(bad) < 100_000 else "\n".join(["y" * 70] * 9000)
        content, id = smtp.message(body=body)
        smtp.submit(stage.relay.site, "alice@branch.example", [f"bob{number}@remote.example"], content)
        ids.append(id)
    assert stage.relay.terminate() == 0
    stored = spool.read_body(stage.relay.state, ids[2])
    head = stored[: stored.index(b"\r\n\r\n") + 4]
    spool.plant(stage.relay.state, ids[2], head + bad)
    stage.relay.start()

    cycle = stage.relay.run_cycle()

    assert (cycle["sent"], cycle["deferred"], cycle["refused"]) == (4, 0, 0)
    assert "cannot be sent" in stage.relay.log_text(), "an operator is told"
    good = [id for id in ids if id != ids[2]]
    assert stage.relay.run_cycle()["sent"] == 0
    assert stage.world.ids() == Counter(good)
    states = {address: state for address, (state, _) in stage.relay.recipients().items()}
    assert states == {f"bob{number}@remote.example": "SET_ASIDE" if number == 2 else "DELIVERED" for number in range(5)}
    assert stage.mailbox.mails == [], "a damaged message is for an operator, not for a report"
    # On the wire: at most what stands before the first bad byte, and no end of data behind it.
    cut = first_bad(bad)
    for sent in lines[0].recorded:
        assert head + bad[:cut] + bad[cut : cut + 1] not in bytes(sent) or cut == len(bad)
        if head in sent:
            tail = bytes(sent[sent.index(head) :])
            wire = (head + bad[:cut]).replace(b"\r\n.", b"\r\n..")
            assert wire.startswith(tail), f"went on after the bad byte: {tail[-80:]!r}"
    # It stays for the operator, over a restart too.
    assert stage.relay.terminate() == 0
    stage.relay.start()
    assert [message["recipients"][0]["address"] for message in stage.relay.messages(state="SET_ASIDE")] == [
        "bob2@remote.example"
    ]


@pytest.mark.parametrize("lines", [1, 9000], ids=["in the database", "in a file"])
def test_body_that_is_not_what_was_accepted_is_set_aside(scene, lines):
    """Must show: a body whose hash is not that of its row is set aside alone; what is read with it goes."""
    stage = scene(provider=False)
    ids = []
    for number in range(5):
        content, id = smtp.message(body="\n".join(["x" * 70] * (lines if number == 2 else 1)))
        smtp.submit(stage.relay.site, "alice@branch.example", [f"bob{number}@remote.example"], content)
        ids.append(id)
    assert stage.relay.terminate() == 0
    stored = spool.read_body(stage.relay.state, ids[2])
    spool.plant(stage.relay.state, ids[2], stored.replace(b"xxxx", b"xxyx", 1), consistent=False)
    stage.relay.start()

    cycle = stage.relay.run_cycle()

    assert (cycle["sent"], cycle["deferred"], cycle["refused"]) == (4, 0, 0)
    assert stage.world.ids() == Counter(id for id in ids if id != ids[2])
    [aside] = stage.relay.messages(state="SET_ASIDE")
    assert [one["address"] for one in aside["recipients"]] == ["bob2@remote.example"]
    assert "its hash differs" in stage.relay.log_text(), "an operator is told why"
    assert stage.mailbox.mails == [], "a damaged message is for an operator, not for a report"


OUTSIDE = "127.0.0.2"  # not in relay_from


@pytest.mark.parametrize("listener", ["site", "released"])
@pytest.mark.parametrize(
    "recipient",
    [
        "<bob@remote.example>",
        "<@branch.example:bob@remote.example>",
        "<bob@[127.0.0.1]>",
        "<bob@branch.example.remote.example>",
        "<bob@xbranch.example>",
        "<bob@sub.branch.example>",
        "<bob@>",
        "<bob>",
        "<@>",
        "<bob@remote.example@branch.example>",
        "<bob@branch.example@remote.example>",
        "<bob@remote.example.>",
    ],
)
def test_not_an_open_relay(edge, listener, recipient):
    """Must show: not an open relay over SMTP: a client outside `relay_from` reaches only our own domains, whatever it
    writes as sender, on both listeners."""
    for sender in ("<eve@evil.example>", "<alice@branch.example>", "<>"):
        with smtp.Dialogue(getattr(edge.relay, listener), source=OUTSIDE) as dialogue:
            dialogue.expect(250, "EHLO branch.example")
            dialogue.expect(250, f"MAIL FROM:{sender}")
            code = dialogue.command(f"RCPT TO:{recipient}")
            assert 500 <= code <= 599, (recipient, code)
            assert dialogue.command("DATA") in (503, 554)
    assert edge.relay.messages(state="QUEUED") == []


def test_own_domains_from_anyone(edge):
    """The counter-check: anyone may deliver to our own domains, in any case, and to a quoted or percent local part,
    which stays a local part."""
    with smtp.Dialogue(edge.relay.site, source=OUTSIDE) as dialogue:
        dialogue.expect(250, "EHLO elsewhere.example")
        dialogue.expect(250, "MAIL FROM:<bob@remote.example>")
        for recipient in (
            "<User@branch.example>",
            "<user@BRANCH.Example>",
            "<bob%remote.example@branch.example>",
            '<"bob@remote.example"@branch.example>',
        ):
            dialogue.expect(250, f"RCPT TO:{recipient}")
        dialogue.expect(250, "RSET")


def test_etrn_is_for_providers(edge):
    """Nobody may ask an edge to release: nothing is held here."""
    with smtp.Dialogue(edge.relay.site, source=OUTSIDE) as dialogue:
        dialogue.expect(250, "EHLO elsewhere.example")
        assert dialogue.command("ETRN branch.example") in (458, 459, 500, 502)


def test_forged_arguments_over_grpc(edge):
    """Line ends in gRPC addresses never reach an SMTP session."""
    for field, value in (
        ("recipients", ["bob@remote.example>\r\nRCPT TO:<eve@evil.example"]),
        ("reverse_path", "alice@branch.example>\r\nRSET"),
    ):
        request = {"reverse_path": "a@branch.example", "recipients": ["bob@remote.example"], "content": HEAD} | {
            field: value
        }
        assert failure(edge.relay.client.call, "MessageService/SubmitMessage", request).code == "INVALID_ARGUMENT"
