"""Plants bodies straight into a stopped relay's spool, as a damaged disk or an older version would have left them."""

import hashlib
import sqlite3


def read_body(state, message_id):
    """The stored bytes of the message whose Message-ID is given."""
    with sqlite3.connect(state / "spool.sqlite") as database:
        for seq, file in database.execute("SELECT seq, body_file FROM messages WHERE done_ms IS NULL"):
            body = _load(state, database, seq, file)
            if message_id.encode() in body:
                return body
    raise AssertionError(f"no waiting message {message_id}")


def _load(state, database, seq, file):
    if file is not None:
        return (state / "bodies" / file).read_bytes()
    [(content,)] = database.execute("SELECT content FROM bodies WHERE seq = ?", (seq,))
    return content


def plant(state, message_id, body, consistent=True):
    """Replaces the stored body of that message by `body`. `consistent`: the recorded size and SHA-256 fit, so that
    nothing but the bytes themselves is wrong."""
    digest = hashlib.sha256(body).digest()
    with sqlite3.connect(state / "spool.sqlite") as database:
        for seq, file in database.execute("SELECT seq, body_file FROM messages WHERE done_ms IS NULL").fetchall():
            if message_id.encode() not in _load(state, database, seq, file):
                continue
            if file is not None:
                (state / "bodies" / file).write_bytes(body)
            else:
                database.execute("UPDATE bodies SET content = ? WHERE seq = ?", (body, seq))
            if consistent:
                database.execute("UPDATE messages SET size = ?, hash = ? WHERE seq = ?", (len(body), digest, seq))
            database.commit()
            return
    raise AssertionError(f"no waiting message {message_id}")
