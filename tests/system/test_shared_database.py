"""The way to PostgreSQL, and large bodies in it: TLS, the password, memory, what is left of messages that never came."""

import re

import pytest

from harness import smtp, wait
from harness.certificates import Authority
from harness.postgres import Postgres
from harness.relay import cli
from harness.replicas import Group, Replica

MIB = 1024 * 1024
LARGE = '[limits]\nmessage_size = "40MB"'


@pytest.fixture
def group(place, running):
    return lambda count=1, **settings: Group(place, running, count, **settings)


def by_tls(database, authority, host=None):
    """The address of a database whose certificate must be of `authority`."""
    place = f"{host or database.address}:{database.port}/postgres"
    return f"postgres://linkmail@{place}?sslmode=verify-full&sslrootcert={authority.certificate}"


def password(place, text):
    """The key of a file with this password."""
    file = place.folder / f"password-{text}"
    file.write_text(text + "\n")
    return f'spool_password_file = "{file}"'


def test_the_way_to_the_database_is_checked(place, running):
    """Must show: with sslmode=verify-full and the password from its file the relay runs, and every connection is by TLS; with
    another authority, another name of the host, a wrong password or none it does not start, and says what is wrong, where,
    and what to check."""
    authority, other = Authority(place), Authority(place, "other")
    identity = authority.issue("database", f"IP:{place.address}")
    database = running(Postgres(place, tls=identity, password="secret")).start()
    right = password(place, "secret")

    def replica(number, url, of_database):
        return Replica(place, number, url, place.endpoint(), place.endpoint(), of_database=of_database)

    runs = running(replica(0, by_tls(database, authority), right)).start()
    runs.submit()
    tls = "select count(*) filter (where ssl), count(*) from pg_stat_ssl join pg_stat_activity using (pid)"
    secret, connections = (int(n) for n in database.value(f"{tls} where application_name = 'linkmail'").split("|"))
    assert secret == connections > 0

    at = f"postgres://{place.address}/postgres: "
    check = "; check the user and the database of spool, and spool_password_file"
    refused = at + 'password authentication failed for user "linkmail"' + check
    untrusted = "the database of the spool does not answer: " + at + "the certificate was issued by nobody who is trusted"
    elsewhere = by_tls(database, authority).replace("/postgres?", "/elsewhere?")
    for number, (url, of_database, code, said) in enumerate(
        [
            (by_tls(database, other), right, 75, untrusted),
            (by_tls(database, authority), password(place, "wrong"), 78, refused),
            (by_tls(database, authority), "", 78, refused),
            (elsewhere, right, 78, 'elsewhere: database "elsewhere" does not exist' + check),
        ],
        1,
    ):
        wrong = replica(number, url, of_database)
        ended = cli("serve", "--config", str(wrong.config))
        assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
        assert "secret" not in ended.stderr


def test_a_host_with_another_name_is_not_trusted(place, running):
    """Must show: a certificate of the right authority for another host is refused by verify-full, and the log says so."""
    authority = Authority(place)
    identity = authority.issue("database", "DNS:db.branch.example")
    database = running(Postgres(place, tls=identity)).start()
    wrong = Replica(place, 0, by_tls(database, authority), place.endpoint(), place.endpoint())
    ended = cli("serve", "--config", str(wrong.config))
    assert ended.returncode == 75, ended.stderr
    assert re.search(r"the certificate is not for 127\S+; .*check the host and sslrootcert of spool", ended.stderr)


def most_resident(relay):
    """The most memory it ever had."""
    for line in open(f"/proc/{relay.pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def test_a_large_message_passes_in_pieces(group):
    """Must show: 30 MB in and out over PostgreSQL: whole, and the relay never has more than a small part of it in memory."""
    stage = group(extra=LARGE)
    relay = stage.replicas[0]
    stage.wait_for(relay.submit())
    before = most_resident(relay)
    content, id = smtp.message(body=("0123456789" * 7 + "\n") * 420_000)
    assert len(content) > 30_000_000
    smtp.submit(relay.site, "alice@branch.example", ["bob@remote.example"], content)
    stage.wait_for({id}, 120)
    [came] = [mail for mail in stage.world.mails if mail.id == id]
    assert came.content.endswith(content)
    assert most_resident(relay) - before < 12 * MIB
    wait.until(lambda: stage.database.value("select count(*) from body_chunks") == "0", "the body is gone")


def test_pieces_whose_message_never_came_are_swept(group):
    """Must show: a replica is killed while large messages come in: what was written of them stays for a day, in which they could
    still come, and is swept then, by whoever sweeps next."""
    stage = group(2, trigger="[]")
    left, dead = stage.replicas
    dialogues = [smtp.Dialogue(dead.site) for _ in range(2)]
    for dialogue in dialogues:
        dialogue.expect(250, "EHLO client.branch.example")
        dialogue.expect(250, "MAIL FROM:<alice@branch.example>")
        dialogue.expect(250, "RCPT TO:<bob@remote.example>")
        dialogue.expect(354, "DATA")
        dialogue.send((b"x" * 70 + b"\r\n") * 6000)
    bodies = "select count(distinct name) from body_chunks"
    wait.until(lambda: stage.database.value(bodies) == "2", "both in pieces")
    dead.kill()
    for dialogue in dialogues:
        dialogue.socket.close()
    # What one message that waits names is not swept, however old.
    content, _ = smtp.message(body=("x" * 70 + "\n") * 3000)
    smtp.submit(left.site, "alice@branch.example", ["bob@remote.example"], content)
    old = "update large_bodies set created_ms = created_ms - 2 * 86400000 where name <> "
    stage.database.value(old + "(select min(name) from large_bodies where name not in (select body_file from messages))")
    assert left.terminate() == 0
    left.start()
    wait.until(lambda: stage.database.value(bodies) == "2", "the old one is swept")
    named = "select count(*) from large_bodies where name in (select body_file from messages)"
    assert stage.database.value(named) == "1"
    assert stage.database.value("select count(distinct name) from large_bodies") == "2"
