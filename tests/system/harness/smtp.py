"""An SMTP client for tests: raw bytes out, replies in, nothing repaired on the way."""

import socket
import uuid

from .place import split


class Dialogue:
    """One connection. `source` is the client's address, for policies that tell clients apart."""

    def __init__(self, endpoint, source=None, timeout=15.0, greeting=True):
        self.socket = socket.create_connection(
            split(endpoint), timeout=timeout, source_address=(source, 0) if source else None
        )
        self._buffer = b""
        if greeting:
            code, text = self.reply()
            assert code == 220, f"greeting {code} {text}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        """One line without CRLF; None when the server has closed."""
        while b"\r\n" not in self._buffer:
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not self._buffer, f"half a line before the close: {self._buffer!r}"
                return None
            self._buffer += more
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line.decode("utf-8")

    def reply(self):
        """(code, [text, …]); (0, []) when the server has closed."""
        texts = []
        while True:
            line = self.line()
            if line is None:
                assert not texts, f"closed inside a reply: {texts}"
                return 0, []
            assert line[:3].isdigit() and line[3:4] in ("", " ", "-"), f"not a reply: {line!r}"
            texts.append(line[4:])
            if line[3:4] != "-":
                return int(line[:3]), texts

    def command(self, text):
        """Sends one line and returns its reply code."""
        self.send(text.encode() + b"\r\n")
        return self.reply()[0]

    def expect(self, code, text):
        """Sends one line that must be answered with `code`."""
        self.send(text.encode() + b"\r\n")
        got = self.reply()
        assert got[0] == code, f"{text!r}: expected {code}, got {got}"
        return got[1]

    def closed(self):
        """Reads to the end; the replies that still came, as codes."""
        codes = []
        while (code := self.reply()[0]) != 0:
            codes.append(code)
        return codes

    def transaction(self, reverse_path, recipients, raw):
        """MAIL, RCPT, DATA and `raw` as it is (with its end of data); the reply code of the end of data."""
        self.expect(250, f"MAIL FROM:<{reverse_path}>")
        for recipient in recipients:
            self.expect(250, f"RCPT TO:<{recipient}>")
        self.expect(354, "DATA")
        self.send(raw)
        return self.reply()[0]


def stuffed(content):
    """`content` (ending in CRLF) as it goes over the wire after DATA, with its end."""
    assert content.endswith(b"\r\n")
    body = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    return body + b".\r\n"


def message(subject="hello", sender="alice@branch.example", to="bob@remote.example", body="Hello.", id=None, extra=""):
    """A message with CRLF line ends and its Message-ID without brackets."""
    id = id or f"{uuid.uuid4()}@test.example"
    text = (
        f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\nMessage-ID: <{id}>\r\n"
        f"Date: Tue, 01 Sep 2026 10:00:00 +0000\r\n{extra}\r\n"
    )
    return (text + body.replace("\n", "\r\n") + "\r\n").encode(), id


def submit(endpoint, reverse_path, recipients, content, source=None, helo="client.branch.example"):
    """Hands in one message over a connection of its own; fails unless it is accepted."""
    with Dialogue(endpoint, source=source) as dialogue:
        dialogue.expect(250, f"EHLO {helo}")
        code = dialogue.transaction(reverse_path, recipients, stuffed(content))
        assert code == 250, f"message answered {code}"
        dialogue.expect(221, "QUIT")


def swaks(endpoint, reverse_path, recipients, content, folder):
    """The same by swaks, a client that is not ours. Returns its transcript; fails unless swaks exits with 0."""
    import subprocess

    path = folder / f"swaks-{uuid.uuid4()}.eml"
    # swaks wants bare newlines in its file; it writes CRLF, stuffs dots and ends the last line itself.
    path.write_bytes(content.removesuffix(b"\r\n").replace(b"\r\n", b"\n"))
    host, port = split(endpoint)
    done = subprocess.run(
        [
            "swaks",
            "--server",
            host,
            "--port",
            str(port),
            "--from",
            reverse_path or "<>",
            "--to",
            ",".join(recipients),
            "--data",
            f"@{path}",
            "--no-strip-from",
            "--helo",
            "client.branch.example",
            "--timeout",
            "15",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"swaks exit {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout
