"""The spool as a thing to be kept: copied under load, put back, moved to PostgreSQL; a message out of it, and in again."""

import random
import shutil
import sqlite3
import subprocess
import threading

import pytest

from harness import smtp, spool, wait
from harness.mailbox import Mailbox
from harness.postgres import Postgres
from harness.relay import BINARY, Relay, cli, environment


class Load:
    """Clients that hand in messages until `stop`, one in four above 64 KiB. `accepted`: the ids that got 250."""

    def __init__(self, relay, clients=4):
        self.relay = relay
        self.accepted = set()
        self.over = threading.Event()
        self.failed = []
        self.threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _client(self):
        try:
            with smtp.Dialogue(self.relay.site) as dialogue:
                dialogue.expect(250, "EHLO client.branch.example")
                while not self.over.is_set():
                    lines = 2000 if random.random() < 0.25 else 20
                    content, id = smtp.message(body=("x" * 70 + "\n") * lines)
                    code = dialogue.transaction("alice@branch.example", ["bob@remote.example"], smtp.stuffed(content))
                    assert code == 250, f"answered {code}"
                    self.accepted.add(id)
        except (OSError, AssertionError) as error:
            self.failed.append(error)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(timeout=30)
        assert not self.failed, self.failed


def elsewhere(place, running, stage, state):
    """A relay beside that of `stage`, with a spool of its own, that delivers to a world of its own."""
    world, text = running(Mailbox(place.endpoint())), stage.relay.config.read_text()
    relay = running(Relay(place, stage.mailbox.endpoint, world.endpoint, state=state))
    relay.name, config = "elsewhere", relay.config
    relay.config = place.folder / "elsewhere.toml"
    shutil.move(config, relay.config)
    stage.relay.write(text)
    return relay, world


def backup(stage, to):
    done = cli("spool", "backup", "--state", str(stage.relay.state), "--to", str(to))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_backups_under_load_hold_everything_that_was_accepted_before_and_not_delivered(scene, place, running):
    """Must show: mail comes in and goes out, with bodies in files, while backups are made. Each is whole: what had its 250
    before it began is in it, or was delivered by its end. The relay loses nothing by it, and leaves no file behind."""
    stage = scene(provider=False)
    load = Load(stage.relay)
    try:
        wait.until(lambda: len(load.accepted) > 100, "100 accepted")
        # It goes on as long as mail comes in.
        cycle = stage.relay.client.call("CycleService/RunCycle", parent="links/isp")
        copies = []
        for number in range(4):
            sent = len(stage.world.mails)
            wait.until(lambda: len(stage.world.mails) > sent + 10, "deliveries")
            before = set(load.accepted)
            said = backup(stage, place.folder / f"backup-{number}")
            copies.append((place.folder / f"backup-{number}", before, set(stage.world.ids()), said))
    finally:
        load.stop()
    stage.relay.ended(cycle["name"])
    stage.relay.run_cycle()
    wait.until(lambda: stage.world.ids().keys() == load.accepted, "all delivered")
    assert set(stage.world.ids().values()) == {1}
    for number, (folder, before, delivered, said) in enumerate(copies):
        state = place.folder / f"restored-{number}"
        done = cli("spool", "restore", "--state", str(state), "--from", str(folder))
        assert done.returncode == 0, done.stderr
        assert "goes again" in done.stdout
        relay, world = elsewhere(place, running, stage, state)
        relay.start()
        waiting = sum(count for (state, _), count in relay.outcomes().items() if state == "QUEUED")
        assert f" {waiting} recipients queued" in said
        assert f" {waiting} recipients queued" in done.stdout
        relay.run_cycle()
        assert len(world.mails) == waiting > 0
        assert set(world.ids().values()) == {1}
        assert before - delivered - world.ids().keys() == set(), "accepted before the backup, and not in it"
        assert world.ids().keys() <= load.accepted
        relay.stop()
    # What stayed behind for a backup goes with the next body.
    stage.send(1, body=("x" * 70 + "\n") * 2000)
    stage.relay.run_cycle()
    assert list((stage.relay.state / "bodies").iterdir()) == []


def test_a_backup_is_refused_where_it_would_be_none(scene, place):
    """Must show: each refusal of `spool backup`, with its message and exit code, and that it leaves nothing."""
    stage = scene(provider=False)
    stage.send(1)
    full = place.folder / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    state, empty = str(stage.relay.state), str(place.folder / "empty")
    shared = place.folder / "shared.toml"
    shared.write_text(f'spool = "postgres://a@b/c"\n{stage.relay.config.read_text()}')
    for given, code, said in [
        (["--state", state, "--to", str(full)], 65, "not empty: expected an empty folder"),
        (["--state", empty, "--to", str(place.folder / "x")], 65, "there is no spool.sqlite: expected the state folder"),
        (["--state", state, "--to", str(full / "mine")], 73, "mine: File exists"),
        (["--config", str(shared), "--to", empty], 78, "the spool lies in PostgreSQL"),
    ]:
        done = cli("spool", "backup", *given)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr
    assert [path.name for path in full.iterdir()] == ["mine"]
    assert cli("spool", "backup", "--config", str(stage.relay.config), "--to", empty).returncode == 0


def test_a_backup_says_what_of_the_spool_is_damaged(scene, place):
    """Must show: a body that is missing is named, with exit 65, and everything else is in the backup."""
    stage = scene(provider=False)
    stage.send(2, body=("x" * 70 + "\n") * 2000)
    one, _ = (stage.relay.state / "bodies").iterdir()
    one.unlink()
    done = cli("spool", "backup", "--state", str(stage.relay.state), "--to", str(place.folder / "copy"))
    assert done.returncode == 65
    assert "backed up: 2 messages" in done.stdout
    assert f"bodies/{one.name} is missing" in done.stderr
    assert len(list((place.folder / "copy" / "bodies").iterdir())) == 1


def test_a_restore_is_refused_where_it_would_do_harm(scene, place, running):
    """Must show: each refusal of `spool restore`, with its message and exit code, and that the state folder is as it was:
    a folder in use, one with a spool, no backup, one of a newer version, damaged bodies of both kinds, a damaged
    database. `--damaged` restores the rest, and what is damaged is set aside when it is to be sent."""
    stage = scene(provider=False)
    for lines in (1, 2000, 2000, 1):
        stage.send(1, body=("x" * 70 + "\n") * lines)
    good = place.folder / "good"
    assert backup(stage, good) == "backed up: 4 messages, 4 recipients queued, 0 held; 2 bodies in files\n"

    def restore(source, state, *more):
        return cli("spool", "restore", "--from", str(source), "--state", str(state), *more)

    def broken(name, breaks):
        copy = place.folder / name
        shutil.copytree(good, copy)
        breaks(copy)
        return copy

    def sql(statement, *values):
        def run(copy):
            with sqlite3.connect(copy / "spool.sqlite") as database:
                database.execute(statement, values)

        return run

    def shorten(copy):
        body = min((copy / "bodies").iterdir())
        body.write_bytes(body.read_bytes()[:-1])

    def change(copy):
        body = min((copy / "bodies").iterdir())
        body.write_bytes(b"Y" + body.read_bytes()[1:])

    def scribble(copy):
        octets = bytearray((copy / "spool.sqlite").read_bytes())
        octets[8192 * 3 : 8192 * 5] = b"\xff" * 8192 * 2
        (copy / "spool.sqlite").write_bytes(octets)

    empty = place.folder / "empty"
    cases = [
        (good, stage.relay.state, 75, "another relay-svc is using this state folder"),
        (place.folder / "nothing", empty, 65, "there is no spool.sqlite: it is no backup"),
        (broken("newer", sql("PRAGMA user_version = 99")), empty, 65, "written by a newer version (schema 99"),
        (broken("short", shorten), empty, 65, "1 messages of the backup are damaged"),
        (broken("changed", change), empty, 65, "its hash differs"),
        (broken("gone", lambda copy: min((copy / "bodies").iterdir()).unlink()), empty, 65, "is missing): with --damaged"),
        (broken("inline", sql("UPDATE bodies SET content = x'00' WHERE seq = 1")), empty, 65, "its hash differs"),
        (broken("bodiless", sql("DELETE FROM bodies")), empty, 65, "2 messages of the backup are damaged"),
        (broken("scribbled", scribble), empty, 65, "the database is damaged"),
    ]
    for source, state, code, said in cases:
        done = restore(source, state)
        assert (done.returncode, done.stdout) == (code, ""), f"{source}: {done.stdout} {done.stderr}"
        assert said in done.stderr, f"{source}: {done.stderr}"
        if state == empty and empty.exists():
            assert not (empty / "spool.sqlite").exists()
            shutil.rmtree(empty)
    done = restore(place.folder / "changed", empty, "--damaged")
    assert done.returncode == 65
    assert "4 recipients queued" in done.stdout
    assert "1 messages are damaged and cannot be sent" in done.stderr
    again = restore(good, empty)
    assert again.returncode == 65
    assert "holds" in again.stderr and "expected the state folder of a relay that has no spool yet" in again.stderr
    relay, world = elsewhere(place, running, stage, empty)
    relay.start()
    relay.run_cycle()
    assert relay.outcomes() == {("DELIVERED", 1): 3, ("SET_ASIDE", 0): 1}
    assert len(world.mails) == 3
    stage.relay.run_cycle()
    assert stage.relay.outcomes() == {("DELIVERED", 1): 4}


def fill(stage, count):
    """Lets `count` messages wait, one in ten above 64 KiB; their ids."""
    ids = set()
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client.branch.example")
        for number in range(count):
            content, id = smtp.message(body=("x" * 70 + "\n") * (2000 if number % 10 == 0 else 5))
            code = dialogue.transaction("alice@branch.example", ["bob@remote.example"], smtp.stuffed(content))
            assert code == 250
            ids.add(id)
    return ids


def share(stage, database):
    """From now on the relay of `stage` has its spool in the database."""
    stage.relay.write(f'spool = "{database.url}"\n' + stage.relay.config.read_text())


def move(stage, database):
    return cli("spool", "move", "--from", str(stage.relay.state), "--to", database.url)


def test_a_spool_that_was_moved_goes_on_in_postgresql(scene, place, running):
    """Must show: 2,000 messages of both kinds, one of them done, one in a cycle's record, move to PostgreSQL: counts are
    those that were, each is delivered once by a relay that starts there, numbers go on behind those that were given, and
    the relay refuses to start on what was left, saying where the spool is."""
    stage = scene(provider=False)
    stage.send(1)
    first = stage.relay.run_cycle()
    ids = fill(stage, 2000)
    before = standing(stage.relay)
    stage.relay.terminate()
    with sqlite3.connect(stage.relay.state / "spool.sqlite") as database:
        numbers = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))
        requests = database.execute("SELECT count(*) FROM requests").fetchone()
    database = running(Postgres(place)).start()
    done = move(stage, database)
    assert done.returncode == 0, done.stderr
    assert "moved: 2001 messages, 2000 recipients queued, 0 held; 200 bodies in files" in done.stdout
    assert f'set spool = "{database.url}"' in done.stdout
    assert database.value("select count(*) from requests") == str(requests[0])
    assert database.value("select count(*) from large_bodies") == "200"
    for table, number in numbers.items():
        assert database.value(f"select nextval(pg_get_serial_sequence('{table}', '{numbered(table)}'))") == str(number + 1)

    refused = cli("serve", "--config", str(stage.relay.config))
    assert refused.returncode == 65
    assert f"this spool was moved to {database.url}" in refused.stderr
    again = move(stage, database)
    assert again.returncode == 65
    assert f"this spool was moved to {database.url} before" in again.stderr

    share(stage, database)
    stage.relay.start()
    assert standing(stage.relay) == before
    assert stage.relay.client.call("CycleService/GetCycle", name=first["name"]) == first
    stage.relay.run_cycle()
    assert ids <= stage.world.ids().keys() and len(stage.world.ids()) == 2001
    assert set(stage.world.ids().values()) == {1}
    assert database.value("select count(*) from large_bodies") == "0"


def standing(relay):
    """Its messages; when the next attempt is by the wall clock it computes anew each time."""
    messages = relay.messages()
    for message in messages:
        for recipient in message["recipients"]:
            recipient.pop("next_attempt_time", None)
    return messages


def numbered(table):
    return "revision" if table == "journal" else "seq"


def test_a_move_that_is_killed_is_begun_again(scene, place, running):
    """Must show: kill -9 while a move copies each kind of row: a relay refuses to start on half a spool, and still starts
    on the embedded one; the move that is begun again moves everything, once."""
    stage = scene(provider=False)
    ids = fill(stage, 300)
    stage.relay.terminate()
    database = running(Postgres(place)).start()
    assert cli("spool", "move", "--from", str(empty_spool(stage, place)), "--to", database.url).returncode == 0
    database.value("create function wait_long() returns trigger as 'begin perform pg_sleep(600); end' language plpgsql")
    embedded = stage.relay.config.read_text()
    command = [str(BINARY), "spool", "move", "--from", str(stage.relay.state), "--to", database.url]
    asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    for table in ("messages", "recipients", "bodies", "large_bodies", "body_chunks"):
        at_row = "after insert" if table == "messages" else "before insert"
        database.value(f"create trigger t {at_row} on {table} for each row execute function wait_long()")
        with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as process:
            wait.until(lambda: database.value(asleep) == "1", f"rows of {table}", 30)
            process.kill()
        database.value("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")
        wait.until(lambda: database.value(asleep) == "0", "the end of its connection")
        database.value(f"drop trigger t on {table}")
        assert database.value("select split_part(value, ' ', 1) from meta where key = 'moving'") == "copying"
    share(stage, database)
    refused = cli("serve", "--config", str(stage.relay.config))
    assert refused.returncode == 65
    assert "a spool is being moved into this database, or that was interrupted" in refused.stderr
    stage.relay.write(embedded)
    stage.relay.start()
    assert len(stage.relay.messages()) == 300
    stage.relay.terminate()
    done = move(stage, database)
    assert done.returncode == 0, done.stderr
    assert "moved: 300 messages" in done.stdout
    share(stage, database)
    stage.relay.start()
    stage.relay.run_cycle()
    assert stage.world.ids() == dict.fromkeys(ids, 1)


def test_a_move_that_was_killed_before_its_last_step_ends(scene, place, running):
    """Must show: between marking the embedded spool as moved and letting relays start on the database neither can be
    started on; the move that is begun again ends it, and copies nothing twice."""
    stage = scene(provider=False)
    ids = fill(stage, 20)
    stage.relay.terminate()
    database = running(Postgres(place)).start()
    assert move(stage, database).returncode == 0
    with sqlite3.connect(stage.relay.state / "spool.sqlite") as spool_file:
        [(value,)] = spool_file.execute("SELECT value FROM meta WHERE key = 'moved'")
    token = value.split()[0]
    database.value(f"insert into meta values ('moving', 'copied {token}')")
    share(stage, database)
    assert "or that was interrupted" in cli("serve", "--config", str(stage.relay.config)).stderr
    done = move(stage, database)
    assert (done.returncode, done.stdout) == (0, "moved before, and now ended\n"), done.stderr
    stage.relay.start()
    stage.relay.run_cycle()
    assert stage.world.ids() == dict.fromkeys(ids, 1)


def test_a_move_is_refused_where_it_would_do_harm(scene, place, running):
    """Must show: each refusal of `spool move`, with its message and exit code, and that nothing is moved by it."""
    stage = scene(provider=False)
    stage.send(1)
    database = running(Postgres(place)).start()
    state, nobody = str(stage.relay.state), place.folder / "nobody"
    gone = database.url.replace("/postgres?", "/missing?")

    def refused(code, said, source=state, to=database.url, *more):
        done = cli("spool", "move", "--from", str(source), "--to", to, *more)
        assert (done.returncode, done.stdout) == (code, ""), f"{done.stdout} {done.stderr}"
        assert said in done.stderr, done.stderr

    refused(75, "another relay-svc is using this state folder")
    stage.relay.terminate()
    refused(65, "there is no spool.sqlite: expected the state folder of a relay", nobody)
    refused(64, "--to: expected postgres://USER@HOST/NAME", state, "mysql://a@b/c")
    refused(64, "the password stands in spool_password_file", state, "postgres://a:secret@b/c")
    refused(65, "--password-file:", state, database.url, "--password-file", str(nobody))
    refused(73, 'database "missing" does not exist', state, gone)
    # One that has other columns than the embedded spool.
    assert cli("spool", "move", "--from", str(empty_spool(stage, place)), "--to", database.url).returncode == 0
    database.value("alter table nodes add column more bigint")
    refused(65, "PostgreSQL has a column nodes.more that the embedded spool has not")
    database.value("alter table nodes drop column more")
    database.value("alter table nodes rename column seen_ms to saw_ms")
    refused(65, "PostgreSQL has no column nodes.seen_ms")
    database.value("alter table nodes rename column saw_ms to seen_ms")
    database.value("insert into nodes (node, reversed, seen_ms) values ('a', 'a', 0)")
    refused(65, "nodes has rows: expected an empty database")
    database.value("delete from nodes")
    share(stage, database)
    stage.relay.start()
    refused(75, "a relay uses this database: stop it first")
    stage.relay.terminate()
    assert "moved: 1 messages" in move(stage, database).stdout


def empty_spool(stage, place):
    """The state folder of a relay that never had mail."""
    copy = place.folder / "empty-spool"
    shutil.copytree(stage.relay.state, copy)
    with sqlite3.connect(copy / "spool.sqlite") as database:
        for table in ("bodies", "recipients", "messages", "requests", "cycles", "journal", "nodes", "meta"):
            database.execute(f"DELETE FROM {table}")
    return copy


def submit_with_wishes(stage, content, sender, third, parameters):
    """Hands in `content` for three people, with everything that MAIL and RCPT can ask for."""
    with smtp.Dialogue(stage.relay.site) as dialogue:
        dialogue.expect(250, "EHLO client.branch.example")
        dialogue.expect(250, f"MAIL FROM:<{sender}> {parameters}")
        dialogue.expect(250, "RCPT TO:<done@remote.example>")
        dialogue.expect(250, "RCPT TO:<bob@remote.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob+2Bx@remote.example")
        dialogue.expect(250, f"RCPT TO:<{third}> NOTIFY=NEVER ORCPT=utf-8;c\\x{{F6}}l@remote.example")
        dialogue.expect(354, "DATA")
        dialogue.send(smtp.stuffed(content))
        assert dialogue.reply()[0] == 250


def queue(relay, *arguments, code=0):
    done = relay.cli("queue", *arguments)
    assert done.returncode == code, f"{done.returncode}: {done.stdout} {done.stderr}"
    return done


WISHES = "RET=HDRS ENVID=QQ+2B314"


@pytest.mark.parametrize(
    "sender,third,parameters,subject,lines",
    [
        ("", "carol@remote.example", "", "empty", 5),
        ("alice@branch.example", "carol@remote.example", WISHES, "small", 5),
        ("alice@branch.example", "carol@remote.example", WISHES, "large", 3000),
        ("älice@branch.example", "cöl@remote.example", f"SMTPUTF8 {WISHES}", "grüße", 5),
    ],
)
def test_a_message_goes_out_with_its_envelope_and_in_again_elsewhere(
    place, running, scene, sender, third, parameters, subject, lines
):
    """Must show: an exported message has everything that SMTP said of it, and its content octet by octet; another relay
    takes it with all of that, for those who had no outcome, with its identity and its time, adds nothing, and sends it
    once, however often it is imported; --again makes it another message."""
    stage = scene(provider=False)
    content, id = smtp.message(subject=subject, body=("x" * 70 + "\n") * lines, to="bob@remote.example")
    submit_with_wishes(stage, content, sender, third, parameters)
    stage.relay.terminate()
    with sqlite3.connect(stage.relay.state / "spool.sqlite") as database:
        database.execute("UPDATE messages SET priority = -3, deliver_by = '7200;N'")
        database.execute("UPDATE recipients SET state = 2 WHERE idx = 0")
    stored = spool.read_body(stage.relay.state, id)
    stage.relay.start()
    [message] = stage.relay.messages()
    file = place.folder / "out.eml"
    queue(stage.relay, "export", message["name"], "--to", str(file))
    head, mark, rest = file.read_bytes().partition(b"X-Linkmail-Content: ")
    assert mark and rest.split(b"\r\n", 1)[1] == stored
    assert stored.endswith(content)
    assert head.decode() == (
        f"X-Linkmail-Message: {message['name']}\r\n"
        f"X-Linkmail-Accepted: {message['accept_time']}\r\n"
        f"X-Linkmail-Envelope-From: <{sender}> {parameters and parameters + ' '}MT-PRIORITY=-3 BY=7200;N\r\n"
        "X-Linkmail-Envelope-Done: <done@remote.example>\r\n"
        "X-Linkmail-Envelope-To: <bob@remote.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob+2Bx@remote.example\r\n"
        f"X-Linkmail-Envelope-To: <{third}> NOTIFY=NEVER ORCPT=utf-8;c\\x{{F6}}l@remote.example\r\n"
    )
    # To standard output it is the same.
    assert queue(stage.relay, "export", message["name"].split("/")[1]).stdout.encode() == file.read_bytes().replace(
        b"\r\n", b"\n"
    )

    there, world = elsewhere(place, running, stage, place.folder / "there")
    there.start()
    said = queue(there, "import", str(file)).stdout
    assert said == f"{message['name']}: <bob@remote.example> queued, <{third}> queued\n"
    again = place.folder / "again.eml"
    queue(there, "export", message["name"], "--to", str(again))
    assert again.read_bytes() == file.read_bytes().replace(b"X-Linkmail-Envelope-Done: <done@remote.example>\r\n", b"")
    assert queue(there, "import", str(file)).stdout == said
    if not sender.isascii():
        # The far end of these tests does not know SMTPUTF8.
        return
    there.run_cycle()
    [mail] = world.mails
    assert (mail.reverse_path, set(mail.recipients)) == (sender, {"bob@remote.example", third})
    assert mail.content == stored
    assert "delivered" in queue(there, "import", str(file)).stdout
    there.run_cycle()
    assert len(world.mails) == 1
    other = queue(there, "import", str(file), "--again").stdout
    assert message["name"] not in other and "queued" in other
    there.run_cycle()
    assert [mail.content for mail in world.mails] == [stored] * 2
    # The relay that it came from knows it, too.
    queue(stage.relay, "import", str(file))
    assert len(stage.relay.messages()) == 1


def test_a_file_that_no_relay_wrote_is_taken_once(scene, place):
    """Must show: a message as an editor left it goes to whom the command names, with one Received field, once for each
    such command however often it is given."""
    stage = scene(provider=False)
    content, id = smtp.message()
    file = place.folder / "plain.eml"
    file.write_bytes(content.replace(b"\r\n", b"\n"))
    to = ["--to", "bob@remote.example", "--to", "carol@remote.example"]
    first = queue(stage.relay, "import", str(file), "--from", "alice@branch.example", *to).stdout
    assert queue(stage.relay, "import", str(file), "--from", "alice@branch.example", *to).stdout == first
    stage.relay.run_cycle()
    [mail] = stage.world.mails
    assert mail.recipients == ("bob@remote.example", "carol@remote.example")
    assert mail.reverse_path == "alice@branch.example"
    assert mail.content.endswith(content) and mail.content.count(b"Received: ") == 1
    queue(stage.relay, "import", str(file), "--to", "bob@remote.example")
    stage.relay.run_cycle()
    assert stage.world.mails[1].reverse_path == ""


def test_exports_and_imports_that_cannot_be(scene, place):
    """Must show: each refusal of `queue export` and `queue import`, with its message and exit code; no file is left by it.
    A damaged message comes out when it is asked for as such, and does not go in."""
    stage = scene(provider=False)
    for lines in (1, 3000, 1):
        [id] = stage.send(1, body=("x" * 70 + "\n") * lines)
    stage.relay.terminate()
    bad = b"From: a@b\r\n\r\nnot what was accepted\r\n"
    spool.plant(stage.relay.state, id, bad, consistent=False)
    large = next((stage.relay.state / "bodies").iterdir())
    large.write_bytes(b"Y" + large.read_bytes()[1:])
    stage.relay.start()
    small, big, planted = (message["name"] for message in stage.relay.messages())
    out = place.folder / "out.eml"
    for name in (big, planted):
        said = queue(stage.relay, "export", name, "--to", str(out), code=70).stderr
        assert "the content cannot be given: it is not what was accepted: its hash differs" in said
        assert not out.exists() and not out.with_suffix(".eml.part").exists()
    queue(stage.relay, "export", planted, "--damaged", "--to", str(out))
    assert out.read_bytes().endswith(bad)
    assert "were line ends changed" in queue(stage.relay, "import", str(out), code=65).stderr
    assert "is there already" in queue(stage.relay, "export", small, "--to", str(out), code=73).stderr
    missing = "messages/0190a5a0-0000-7000-8000-000000000000"
    assert f"{missing}" in queue(stage.relay, "export", missing, code=65).stderr
    assert "expected messages/{id}" in queue(stage.relay, "export", "x", code=65).stderr

    good = place.folder / "good.eml"
    queue(stage.relay, "export", small, "--to", str(good))
    text = good.read_bytes()
    one_to = ["--to", "bob@remote.example"]
    for changed, arguments, said in [
        (text, one_to, "has an envelope of its own: expected no --from and no --to"),
        (text.replace(b"xxx", b"xyx", 1), [], "the content is not what was accepted: its hash differs"),
        (text[:-1], [], "was it cut, or were line ends changed?"),
        (text[:200], [], "the file was broken off"),
        (text.replace(b"-To: <bob", b"-To: bob"), [], "line 4: X-Linkmail-Envelope-To: "),
        (text.replace(b"X-Linkmail-Envelope-To: <bob@remote.example>\r\n", b""), [], "recipients: expected 1 to"),
        (text.replace(b"messages/", b"message/", 1), [], "envelope.name"),
        (b"From: a@b\r\n\r\nhello\r\n", [], "has no envelope: expected --to ADDRESS"),
    ]:
        file = place.folder / "changed.eml"
        file.write_bytes(changed)
        assert said in queue(stage.relay, "import", str(file), *arguments, code=65).stderr
    assert len(stage.relay.messages()) == 3
    stage.relay.run_cycle()
    said = queue(stage.relay, "export", small, code=65).stderr
    assert "every recipient has its outcome, and the content is gone" in said
    assert stage.relay.recipients()["bob@remote.example"][0] in ("DELIVERED", "SET_ASIDE")
    queue(stage.relay, "export", planted, "--damaged", "--to", str(place.folder / "aside.eml"))
    assert (place.folder / "aside.eml").read_bytes() == out.read_bytes()


def test_only_who_may_relay_sees_contents_and_imports_are_under_the_policy(scene, place):
    """Must show: a caller outside of `grpc.relay_from` exports nothing, and imports nothing for other domains."""
    stage = scene(provider=False)
    stage.send(1)
    [message] = stage.relay.messages()
    file = place.folder / "out.eml"
    queue(stage.relay, "export", message["name"], "--to", str(file))
    stage.relay.terminate()
    text = stage.relay.config.read_text()
    stage.relay.write(text.replace("[grpc]\n", "[grpc]\nrelay_from = []\n"))
    stage.relay.start()
    said = queue(stage.relay, "export", message["name"], code=77).stderr
    assert "only callers in grpc.relay_from may see the content of a message" in said
    said = queue(stage.relay, "import", str(file), "--again", code=77).stderr
    assert "bob@remote.example" in said
