"""Where a line is cut: the points of a session with Postfix or with a relay of ours, and with Exim, and what makes parameters of
them."""

import pytest

from .cut import FAR, FIN, NEAR, RESET, Point

# So many messages are on their way, with this text in each.
COUNT = 12
MIDDLE = "in the middle of the body"


def _replies(took):
    """At the replies to a flight, which say that a message was taken."""
    return {
        "mid-flight": Point(FAR, took, nth=5),
        "mid-flight, heard": Point(FAR, took, nth=5, after=True),
        "first reply": Point(FAR, took),
        "last reply": Point(FAR, took, nth=COUNT),
    }


def _reply_to_a_dot(took):
    return {
        "dot, in its reply": Point(FAR, took, nth=3),
        "dot, behind its reply": Point(FAR, took, nth=3, after=True),
    }


# Nothing of a message was sent by then.
EARLY = {
    "connect": Point(NEAR),
    "greeting, not heard": Point(FAR, rb"^220 "),
    "greeting, heard": Point(FAR, rb"^220 ", after=True),
    "EHLO, not heard": Point(NEAR, rb"EHLO "),
    "EHLO, heard": Point(NEAR, rb"EHLO ", after=True),
    "EHLO, in the answer": Point(FAR, rb"250-PIPELINING", after=True),
}
# A flight of whole messages is on its way.
IN_FLIGHT = {
    "MAIL, not heard": Point(NEAR, rb"MAIL FROM"),
    "MAIL, heard": Point(NEAR, rb"MAIL FROM", after=True),
    "MAIL, in the middle": Point(NEAR, rb"MAIL FROM", nth=6, after=True),
    "RCPT, not heard": Point(NEAR, rb"RCPT TO"),
    "RCPT, heard": Point(NEAR, rb"RCPT TO", nth=3, after=True),
    "BDAT, heard": Point(NEAR, rb"BDAT \d+", nth=4, after=True),
    "mid-body": Point(NEAR, MIDDLE.encode(), nth=3, after=True),
    **_replies(rb"250 2\.0\.0 (Ok: \d+ bytes )?(OK, )?queued"),
}
# Without CHUNKING.
DATA = {
    "DATA, not heard": Point(NEAR, rb"\r\nDATA\r\n", nth=2),
    "DATA, heard": Point(NEAR, rb"\r\nDATA\r\n", nth=2, after=True),
    "354, not heard": Point(FAR, rb"354 ", nth=3),
    "354, heard": Point(FAR, rb"354 ", nth=3, after=True),
    "mid-body": Point(NEAR, MIDDLE.encode(), nth=3, after=True),
    "dot, not heard": Point(NEAR, rb"\r\n\.\r\n", nth=3),
    "dot, heard": Point(NEAR, rb"\r\n\.\r\n", nth=3, after=True),
    **_reply_to_a_dot(rb"250 2\.0\.0 Ok: queued"),
}
# Around what else is said.
AROUND = {
    "ETRN, not heard": Point(NEAR, rb"ETRN "),
    "ETRN, heard": Point(NEAR, rb"ETRN ", after=True),
    "ETRN, in its reply": Point(FAR, rb"25[0-3] [^\r\n]*([Qq]ueuing|pending|messages)"),
    "QUIT, not heard": Point(NEAR, rb"QUIT\r\n"),
    "QUIT, heard": Point(NEAR, rb"QUIT\r\n", after=True),
    "QUIT, in its reply": Point(FAR, rb"221 "),
}
# STARTTLS in clear, then heads of TLS records: those of the client are its hello, its Finished, EHLO, AUTH, and the mail.
TLS = {
    "STARTTLS, not heard": Point(NEAR, rb"STARTTLS\r\n"),
    "STARTTLS, heard": Point(NEAR, rb"STARTTLS\r\n", after=True),
    "TLS, after 220": Point(FAR, rb"220 2\.0\.0 ", after=True),
    "TLS, client hello": Point(NEAR, rb"\x16\x03\x01"),
    "TLS, server hello": Point(FAR, rb"\x16\x03\x03"),
    "TLS, finished": Point(NEAR, rb"\x17\x03\x03", nth=1),
    "TLS, EHLO": Point(NEAR, rb"\x17\x03\x03", nth=2),
    "AUTH": Point(NEAR, rb"\x17\x03\x03", nth=3),
}
# At Exim, which has its own words for what it took. With CHUNKING and without.
EXIM_TOOK = rb"250 OK id="
EXIM = EARLY | {
    "MAIL, heard": IN_FLIGHT["MAIL, heard"],
    "RCPT, heard": IN_FLIGHT["RCPT, heard"],
    "BDAT, heard": IN_FLIGHT["BDAT, heard"],
    "mid-body": IN_FLIGHT["mid-body"],
    **_replies(EXIM_TOOK),
    "QUIT, not heard": AROUND["QUIT, not heard"],
    "QUIT, in its reply": AROUND["QUIT, in its reply"],
}
EXIM_DATA = {
    "DATA, heard": DATA["DATA, heard"],
    "354, not heard": DATA["354, not heard"],
    "mid-body": DATA["mid-body"],
    "dot, heard": DATA["dot, heard"],
    **_reply_to_a_dot(EXIM_TOOK),
}
EXIM_TLS = TLS | {"TLS, after 220": Point(FAR, rb"220 TLS", after=True)}
# Behind the records above: the mail, what it is answered with, and QUIT.
MAIL_IN_TLS = {
    "TLS, mail": Point(NEAR, rb"\x17\x03\x03", nth=4),
    "TLS, first replies": Point(FAR, rb"\x17\x03\x03", nth=10),
    "TLS, more replies": Point(FAR, rb"\x17\x03\x03", nth=14),
    "TLS, QUIT": Point(NEAR, rb"\x17\x03\x03", nth=5),
}
HOWS = pytest.mark.parametrize("how", [RESET, FIN])


def _rows(tables):
    rows = {name: (name, point) for table in tables for name, point in table.items()}
    return list(rows.values()), [name.replace(", ", "-") for name in rows]


def points(*tables):
    """Their rows as parameters."""
    rows, ids = _rows(tables)
    return pytest.mark.parametrize("name, point", rows, ids=ids)


def points_in_turn(*tables):
    """Their rows as parameters, each with one of the ways to cut, in turn."""
    rows, ids = _rows(tables)
    rows = [(*row, (RESET, FIN)[at % 2]) for at, row in enumerate(rows)]
    return pytest.mark.parametrize("name, point, how", rows, ids=[f"{id}-{row[2]}" for id, row in zip(ids, rows)])
