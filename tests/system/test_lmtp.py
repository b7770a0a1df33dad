"""The mailbox server may speak LMTP: it answers for each recipient, and each answer counts for its own."""

import socketserver
import threading

import pytest

from harness import smtp
from harness.place import split
from harness.relay import Relay


class _Session(socketserver.StreamRequestHandler):
    def reply(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self):
        taken = []
        self.reply("220 mail.test LMTP")
        while line := self.rfile.readline().decode():
            verb = line.split()[0].upper()
            self.server.verbs.append(verb)
            if verb == "LHLO":
                self.wfile.write(b"250-mail.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING\r\n")
            elif verb == "RCPT":
                taken.append(line[line.index("<") + 1 : line.index(">")])
                self.reply("250 2.1.5 OK")
            elif verb == "BDAT":
                self.server.contents.append(self.rfile.read(int(line.split()[1])))
                for recipient in taken:
                    self.reply(self.server.answers.get(recipient, "250 2.1.5 delivered"))
                taken = []
            elif verb == "QUIT":
                return self.reply("221 2.0.0 bye")
            elif verb in ("MAIL", "RSET"):
                self.reply("250 2.0.0 OK")
            else:
                self.reply("500 5.5.1 not here")


@pytest.fixture
def server(place):
    server = socketserver.ThreadingTCPServer(split(place.endpoint()), _Session)
    server.daemon_threads = True
    server.verbs, server.contents, server.answers = [], [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_each_recipient_has_its_own_answer(place, running, server):
    """RFC 2033 4.2: one delivered, one put off, one refused, of one message, told apart."""
    server.answers = {"full@branch.example": "452 4.2.2 full", "gone@branch.example": "550 5.1.1 gone"}
    mailbox = "{}:{}".format(*server.server_address)
    relay = running(Relay(place, mailbox, "127.0.0.1:9"))
    relay.config.write_text(relay.config.read_text().replace(f"smtp://{mailbox}", f"lmtp://{mailbox}"))
    relay.start()
    content, _ = smtp.message(sender="bob@remote.example")
    recipients = ["user@branch.example", "full@branch.example", "gone@branch.example"]
    smtp.submit(relay.released, "alice@branch.example", recipients, content)
    # The report of the refused one goes to alice, here too.
    relay.wait_for_states(
        {
            "user@branch.example": "DELIVERED",
            "full@branch.example": "QUEUED",
            "gone@branch.example": "BOUNCED",
            "alice@branch.example": "DELIVERED",
        }
    )
    assert "EHLO" not in server.verbs and "LHLO" in server.verbs
    assert content in server.contents[0]
