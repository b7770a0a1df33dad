"""Bad clients: a proper reply or a bounded close, a log line, nothing half-stored, memory as before."""

import random
import socket
import struct

import pytest

from harness import smtp, wait
from harness.place import split

LIMITS = """[limits]
message_size = "200KB"
recipients = 100
sessions = 20
command_timeout = "1s"
data_timeout = "1s"
"""
MIB = 1024 * 1024


@pytest.fixture
def stage(scene):
    """An edge with short time-outs and small limits; at the end of each test nothing is stored and it still works."""
    made = scene(provider=False, extra=LIMITS)
    yield made
    assert made.relay.messages() == [], "half-stored"
    bodies = made.relay.state / "bodies"
    assert [path for path in bodies.glob("*") if path.is_file()] == []
    made.send(1)
    assert made.relay.run_cycle()["sent"] == 1


def assert_logged(stage, before):
    """The session left a log line of its own."""
    wait.until(lambda: len(stage.relay.log()) > before, "a log line")


def test_garbage(stage):
    """Must show: garbage on the port: replies 500 and in the end a close, a log line."""
    before = len(stage.relay.log())
    noise = random.Random(1)
    with smtp.Dialogue(stage.relay.site) as dialogue:
        try:
            for _ in range(200):
                dialogue.send(noise.randbytes(300).replace(b"\n", b" ") + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        codes = dialogue.closed()
    assert set(codes) <= {500, 501, 502, 503, 421, 550, 554}, codes
    assert_logged(stage, before)


@pytest.mark.parametrize(
    "first",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["TLS hello", "HTTP"],
)
def test_other_protocols(stage, first):
    """A client of another protocol is refused or closed within the command time-out."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.send(first)
        codes = dialogue.closed()
    assert set(codes) <= {500, 501, 502, 421, 521, 554}, codes


def test_stalls_before_a_command(stage):
    """Must show: a client that stalls is closed with 421 when the command time-out is over, not before."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client")
        started = wait.time.monotonic()
        assert dialogue.closed() == [421]
    assert 0.8 <= wait.time.monotonic() - started < 4


def test_stalls_in_a_line(stage):
    """Bytes that never make a line do not keep a session alive: one byte now and then is a stall too."""
    started = wait.time.monotonic()
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.socket.settimeout(0.2)
        while wait.time.monotonic() - started < 6:
            try:
                dialogue.send(b"N")
                if dialogue.socket.recv(100) is not None:
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    assert wait.time.monotonic() - started < 5


def test_stalls_in_data(stage):
    """Must show: a client that stalls inside DATA is closed with 421; nothing is stored."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        begin(dialogue)
        dialogue.send(b"Subject: stalled\r\n\r\nhalf a li")
        assert dialogue.closed() == [421]


def begin(dialogue, extra=""):
    dialogue.expect(250, "EHLO client")
    dialogue.expect(250, f"MAIL FROM:<alice@branch.example>{extra}")
    dialogue.expect(250, "RCPT TO:<bob@remote.example>")
    dialogue.expect(354, "DATA")


def flood(dialogue, piece, most):
    """Sends `piece` until `most` bytes are out or the server closes."""
    sent = 0
    try:
        while sent < most:
            dialogue.send(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


def test_endless_command_line(stage):
    """Must show: an endless line: 500 or a close, and memory does not grow with it."""
    before = stage.relay.rss_bytes()
    with smtp.Dialogue(stage.relay.site) as dialogue:
        flood(dialogue, b"N" * 65536, 50 * MIB)
        try:
            codes = dialogue.closed()
        except (OSError, AssertionError):
            codes = []
    assert set(codes) <= {500, 421, 554}, codes
    assert stage.relay.rss_bytes() - before < 8 * MIB


def test_endless_text_line(stage):
    """An endless line in DATA: refused by length, size or a close; nothing is stored, memory does not grow."""
    before = stage.relay.rss_bytes()
    with smtp.Dialogue(stage.relay.site) as dialogue:
        begin(dialogue)
        flood(dialogue, b"x" * 65536, 20 * MIB)
        try:
            dialogue.send(b"\r\n.\r\n")
            code = dialogue.reply()[0]
        except (OSError, AssertionError):
            code = 0
    assert code == 0 or 500 <= code <= 599, code
    assert stage.relay.rss_bytes() - before < 8 * MIB


def test_over_the_limit_by_announcement(stage):
    """A SIZE above the limit is refused at MAIL with 552, before a byte of it is sent."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        keywords = dialogue.expect(250, "EHLO client")
        assert "SIZE 200000" in keywords
        dialogue.expect(552, "MAIL FROM:<alice@branch.example> SIZE=200001")
        dialogue.expect(250, "MAIL FROM:<alice@branch.example> SIZE=200000")


def test_over_the_limit_unannounced(stage):
    """Must show: a message over the limit is refused with 552 after its end, and the session goes on."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        begin(dialogue)
        dialogue.send(b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 3000 + b".\r\n")
        assert dialogue.reply()[0] == 552
        dialogue.expect(250, "NOOP")


def test_too_many_recipients(stage):
    """Too many recipients are 452 4.5.3 (RFC 5321 4.5.3.1.10), and the ones before stand."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
        for number in range(100):
            dialogue.expect(250, f"RCPT TO:<bob{number}@remote.example>")
        [text] = dialogue.expect(452, "RCPT TO:<more@remote.example>")
        assert text.startswith("4.5.3 ")
        dialogue.expect(250, "RSET")


def test_leaves_in_data(stage):
    """Must show: a client that leaves in DATA, by close and by reset: nothing half-stored, a log line."""
    for reset in (False, True):
        before = len(stage.relay.log())
        with smtp.Dialogue(stage.relay.site) as dialogue:
            begin(dialogue)
            dialogue.send(b"Subject: left\r\n\r\n" + b"line\r\n" * 5000)
            if reset:
                dialogue.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert_logged(stage, before)


def test_leaves_just_before_the_end(stage):
    """All of the message but the last byte of its end is not a message."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        begin(dialogue)
        dialogue.send(b"Subject: almost\r\n\r\nbody\r\n.\r")


@pytest.mark.parametrize(
    "line",
    [
        b"MAIL FROM:<\xff\xfe@branch.example>",
        b"EHLO \xc3\x28",
        b"MAIL FROM:<a@\xe2\x82.example>",
        b"\xff\xff\xff",
        b"MAIL FROM:<a\0b@branch.example>",
        b"VRFY \x80",
    ],
    ids=repr,
)
def test_invalid_utf8(stage, line):
    """Must show: invalid UTF-8 in commands is answered 5xx (or 252 for VRFY) in ASCII, and the session goes on."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.send(line + b"\r\n")
        code, texts = dialogue.reply()
        assert 500 <= code <= 599 or (line.startswith(b"VRFY") and code in (252, 503)), (code, texts)
        assert all(text.isascii() for text in texts)
        dialogue.expect(250, "NOOP")


def test_too_many_sessions(stage):
    """One session more than the limit is told 421 and closed; when one leaves there is room again. A quarter of 20 is
    kept back for the provider."""
    open_ones = [smtp.Dialogue(stage.relay.site) for _ in range(15)]
    more = smtp.Dialogue(stage.relay.site, greeting=False)
    assert more.closed() == [421]
    open_ones += [smtp.Dialogue(stage.relay.released) for _ in range(5)]
    more = smtp.Dialogue(stage.relay.released, greeting=False)
    assert more.closed() == [421]
    for dialogue in open_ones:
        dialogue.socket.close()

    def room():
        with smtp.Dialogue(stage.relay.site, greeting=False) as dialogue:
            return dialogue.reply()[0] == 220

    wait.until(room, "room for a session again")


def test_too_many_sessions_from_one_address(scene):
    """Must show: one address has so many sessions, one more is told 421, and others are served."""
    relay = scene(provider=False, extra="[limits]\nsessions_per_client = 3\n").relay
    open_ones = [smtp.Dialogue(relay.site) for _ in range(3)]
    assert smtp.Dialogue(relay.site, greeting=False).closed() == [421]
    assert smtp.Dialogue(relay.released, greeting=False).closed() == [421]
    smtp.Dialogue(relay.site, source="127.0.0.9")
    open_ones.pop().socket.close()

    def room():
        with smtp.Dialogue(relay.site, greeting=False) as dialogue:
            return dialogue.reply()[0] == 220

    wait.until(room, "room for a session again")


def dribble(dialogue, piece, seconds):
    """Sends `piece` every tenth of a second until the relay has had enough; how long that took, and its last word."""
    started = wait.time.monotonic()
    dialogue.socket.settimeout(0.1)
    while wait.time.monotonic() - started < seconds:
        try:
            dialogue.send(piece)
            if (code := dialogue.reply()[0]) == 421:
                return wait.time.monotonic() - started
            assert code == 250, code
            wait.time.sleep(0.1)
        except TimeoutError:
            continue
        except OSError:
            return wait.time.monotonic() - started
    raise AssertionError(f"borne for {seconds} s")


def test_dribbles_data(scene):
    """Must show: octets of a message one by one do not hold a session; a slow client that sends more is borne."""
    limits = '[limits]\ndata_timeout = "2s"\nslowest = "3000B"\n'
    relay = scene(provider=False, extra=limits).relay
    with smtp.Dialogue(relay.site) as dialogue:
        begin(dialogue)
        assert 1.5 <= dribble(dialogue, b"x", 8) < 4
    [line] = wait.until(lambda: relay.logged("inbound session had refusals"), "a log line")
    assert line["trouble"] == "too few octets in 2s", line
    with smtp.Dialogue(relay.site) as dialogue:
        begin(dialogue)
        with pytest.raises(AssertionError, match="borne for 5 s"):
            dribble(dialogue, b"a line of text\r\n", 5)
        dialogue.socket.settimeout(10)
        dialogue.send(b"\r\n.\r\n")
        assert dialogue.reply()[0] == 250


def test_commands_without_a_message(scene):
    """Must show: commands that lead to no message do not hold a session for ever, nor does a session that does nothing
    else than last."""
    relay = scene(provider=False, extra='[limits]\nbetween_messages = "2s"\n').relay
    with smtp.Dialogue(relay.site) as dialogue:
        assert 1.5 <= dribble(dialogue, b"NOOP\r\n", 8) < 6
    [line] = wait.until(lambda: relay.logged("inbound session had refusals"), "a log line")
    assert line["trouble"] == "no message in 2s of commands", line


def test_session_time(scene):
    """A session ends when it has lasted as long as it may."""
    relay = scene(provider=False, extra='[limits]\nsession_time = "2s"\n').relay
    with smtp.Dialogue(relay.site) as dialogue:
        begin(dialogue)
        assert 1.5 <= dribble(dialogue, b"a line of text\r\n", 8) < 4


def test_memory_of_two_hundred_sessions(scene):
    """Must show: 200 sessions in the middle of a message that is larger than what is kept in memory, and one of 25 MB
    beside them, stay under 100 MiB of resident memory."""
    relay = scene(provider=False, extra="[limits]\nsessions = 280\nsessions_per_client = 280\n").relay
    idle = relay.rss_bytes()
    body = b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 2500
    dialogues = [smtp.Dialogue(relay.site) for _ in range(200)]
    for dialogue in dialogues:
        begin(dialogue)
        dialogue.send(body)

    def bodies():
        folder = relay.state / "bodies"
        return [path.stat().st_size for path in folder.glob("*.part")]

    wait.until(lambda: len(bodies()) == 200 and min(bodies()) > 96 * 1024, lambda: f"{len(bodies())} bodies in files")
    most = relay.rss_bytes()
    print(f"idle {idle / MIB:.1f} MiB, 200 sessions {most / MIB:.1f} MiB")
    assert most < 100 * MIB, f"{most / MIB:.1f} MiB"
    for dialogue in dialogues:
        dialogue.send(b".\r\n")
    assert {dialogue.reply()[0] for dialogue in dialogues} == {250}
    assert relay.rss_bytes() < 100 * MIB


def test_never_reads(stage):
    """A client that sends and never reads its replies is not read on: memory does not grow with what it sends, others
    are served, and the relay still stops in time (the fixture)."""
    before = stage.relay.rss_bytes()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(1)
        client.connect(split(stage.relay.site))
        sent = 0
        # A full pipe (TimeoutError) or a close is what bounds it.
        with pytest.raises(OSError):
            while sent < 200 * MIB:
                sent += client.send(b"NOOP\r\n" * 10000)
        assert stage.relay.rss_bytes() - before < 8 * MIB
        with smtp.Dialogue(stage.relay.site) as dialogue:
            dialogue.expect(250, "EHLO client")


def bad_session(endpoint, kind, noise):
    """One of ten kinds of bad session, each ended by the client."""
    with smtp.Dialogue(endpoint, greeting=False) as dialogue:
        try:
            if kind == 0:
                return
            if kind == 1:
                dialogue.send(noise.randbytes(2000))
            elif kind == 2:
                flood(dialogue, b"x" * 20000, 100_000)
            elif kind == 3:
                dialogue.send(b"EHLO \xff\r\nMAIL FROM:<\xfe>\r\nQUIT\r\n")
            elif kind == 4:
                dialogue.send(b"EHLO a\r\nMAIL FROM:<a@branch.example> SIZE=99999999\r\n")
            else:
                dialogue.reply()
                begin(dialogue)
                dialogue.send(b"Subject: x\r\n\r\n")
                if kind == 5:
                    dialogue.send(b"y" * 50_000)
                elif kind == 6:
                    dialogue.send(b"line\r\n" * 20_000)
                elif kind == 7:
                    dialogue.send(b"smuggled\n.\nMAIL FROM:<b@branch.example>\r\n.\r\n")
                    dialogue.reply()
                elif kind == 8:
                    dialogue.send((b"x" * 78 + b"\r\n") * 3000 + b".\r\n")
                    dialogue.reply()
                else:
                    dialogue.send(b"one\0two\r\n.\r\n")
                    dialogue.reply()
            dialogue.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass


def test_memory_after_a_thousand_bad_sessions(stage):
    """Must show: resident memory within 8 MiB of idle after 1,000 bad sessions, and no descriptor is left open."""
    import os

    def descriptors():
        return len(os.listdir(f"/proc/{stage.relay.pid}/fd"))

    noise = random.Random(2)
    # Idle is the relay after it has worked once: a listener, the spool and the API have been used.
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client")
        dialogue.expect(221, "QUIT")
    idle, files = stage.relay.rss_bytes(), descriptors()
    for number in range(1000):
        bad_session(stage.relay.site, number % 10, noise)
    wait.until(lambda: descriptors() <= files, lambda: f"{files} descriptors again; {descriptors()}", 30)
    grown = stage.relay.rss_bytes() - idle
    assert grown < 8 * MIB, f"grown by {grown / MIB:.1f} MiB"
