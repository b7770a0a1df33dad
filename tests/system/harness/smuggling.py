"""What SMTP smuggling is made of, and every way by which a text can be handed in.

One table for all tests: the malformed ends of data, the texts that are no text, the second message behind them. In chunks
(RFC 3030) there is no end of data, so there the same octets are only a text that must not be.
"""

from dataclasses import dataclass

# What follows a malformed end of data in an attack: a second message that the first server never saw as one.
SMUGGLED = (
    b"MAIL FROM:<ceo@branch.example>\r\nRCPT TO:<victim@remote.example>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n"
)

ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CR.LF": b"\r.\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.CR": b"\r\n.\r",
    "LF.CR": b"\n.\r",
    "CRLFNUL.CRLF": b"\r\n\0.\r\n",
    "CRLF.NULCRLF": b"\r\n.\0\r\n",
}
TEXTS = {
    "bare LF": b"one\ntwo\r\n",
    "bare CR": b"one\rtwo\r\n",
    "CRCRLF": b"one\r\r\n",
    "LFCR": b"one\n\rtwo\r\n",
    "NUL": b"one\0two\r\n",
    "bare LF in the header": None,
}
HEAD = b"From: alice@branch.example\r\nSubject: test\r\nMessage-ID: <planted@test.example>\r\n\r\n"


@dataclass(frozen=True)
class Way:
    """How a text is handed in. `lmtp`: to a listener of LMTP (RFC 2033). `chunked`: by BDAT; `split`: each octet of what is
    wrong in a chunk of its own."""

    lmtp: bool = False
    chunked: bool = False
    split: bool = False

    def begin(self, dialogue, sender, recipients):
        """Greets, and says from whom to whom."""
        dialogue.expect(250, f"{'LHLO' if self.lmtp else 'EHLO'} client.branch.example")
        dialogue.expect(250, f"MAIL FROM:<{sender}>")
        for recipient in recipients:
            dialogue.expect(250, f"RCPT TO:<{recipient}>")

    def send(self, dialogue, before, wrong, behind):
        """Says the three parts, with their end of data or as the last chunk; the code of each reply."""
        if not self.chunked:
            dialogue.expect(354, "DATA")
            dialogue.send(before + wrong + behind)
            return [dialogue.reply()[0]]
        chunks = [before + wrong + behind]
        if self.split:
            chunks = [before, *(wrong[at : at + 1] for at in range(len(wrong))), behind]
        last = len(chunks) - 1
        said = [b"BDAT %d%s\r\n%s" % (len(c), b" LAST" if at == last else b"", c) for at, c in enumerate(chunks)]
        dialogue.send(b"".join(said))
        return [dialogue.reply()[0] for _ in said]

    def take(self, dialogue, content, recipients):
        """The code for each reply to a text that is one, which is stuffed where it is sent by DATA."""
        if self.chunked:
            dialogue.send(b"BDAT %d LAST\r\n%s" % (len(content), content))
        else:
            dialogue.expect(354, "DATA")
            body = content if content.endswith(b"\r\n") else content + b"\r\n"
            dialogue.send((b"\r\n" + body).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
        return [dialogue.reply()[0] for _ in range(len(recipients) if self.lmtp else 1)]


WAYS = {
    "DATA": Way(),
    "BDAT": Way(chunked=True),
    "BDAT-split": Way(chunked=True, split=True),
    "LMTP-DATA": Way(lmtp=True),
    "LMTP-BDAT": Way(lmtp=True, chunked=True),
    "LMTP-BDAT-split": Way(lmtp=True, chunked=True, split=True),
}
