"""Wrong configurations with their exact text, and the exit codes of every command.

A case is a file in bad_configs/: a comment `# ! KEY` stands on each line that is wrong (`# !` alone: the file is not
TOML there), and NAME.stderr has the exact text. The marks are checked apart from the text, so that a text that was
rewritten with UPDATE_EXPECT=1 cannot hide a wrong line, a wrong key or a missing error.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.relay import BINARY, REPOSITORY, cli, environment

BAD = Path(__file__).parent / "bad_configs"
USAGE, NO_SUCH, UNAVAILABLE, OS_ERROR, CANNOT_CREATE = 64, 65, 69, 71, 73
TRY_AGAIN, NOT_PERMITTED, CONFIG = 75, 77, 78
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def marked(path):
    """[(line, key)] that the file says are wrong, in file order."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        found += [(number, key.strip()) for key in re.findall(r"# !([^#]*)", line)]
    return found


@pytest.mark.parametrize("path", sorted(BAD.glob("*.toml")), ids=lambda path: path.stem)
def test_bad_file(path):
    """Must show: configuration errors: exit 78, each with file, line, key and what would be right, all errors of a file
    at once and in file order, exact to the byte."""
    done = cli("check", "--config", path.name, cwd=BAD)
    assert done.returncode == CONFIG, done.stderr
    assert done.stdout == ""
    told = []
    for line in done.stderr.splitlines():
        match = re.fullmatch(
            rf"{re.escape(path.name)}:(\d+): (?:([a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): )?(.+)", line
        )
        assert match, f"not FILE:LINE: KEY: TEXT: {line!r}"
        told.append((int(match.group(1)), match.group(2) or ""))
    assert told == marked(path), done.stderr
    expected = path.with_suffix(".stderr")
    if os.environ.get("UPDATE_EXPECT") == "1":
        expected.write_text(done.stderr)
    assert done.stderr == expected.read_text()


def test_table_is_large_enough():
    """Must show: a table of at least 15 bad files with their exact text."""
    files = {path.stem for path in BAD.glob("*.toml")}
    assert len(files) >= 15
    assert files == {path.stem for path in BAD.glob("*.stderr")}


def test_example_of_the_issue():
    """Must show: the example text, letter by letter."""
    text = (BAD / "issue_example.stderr").read_text().replace("issue_example.toml", "relay.toml")
    assert text == 'relay.toml:12: link[0].dial.driver: unknown driver "implict"; one of implicit, command\n'


def test_serve_says_the_same():
    """`serve` refuses with the same text and code as `check`, and starts nothing."""
    done = cli("serve", "--config", "several.toml", cwd=BAD)
    assert (done.returncode, done.stderr) == (CONFIG, (BAD / "several.stderr").read_text())


def test_shipped_example_is_right():
    """The example that ships passes `check`: exit 0, one line."""
    done = cli("check", "--config", str(REPOSITORY / "deploy" / "examples" / "relay.toml"))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_every_commented_default_is_accepted(tmp_path):
    """Every key of the example that is commented out is right as it stands there."""
    text = (REPOSITORY / "deploy" / "examples" / "relay.toml").read_text()
    # Keys that name files, with those that need them: these files are not there. test_listener.py has them all.
    files = {"credentials", "login", "tls", "tls_mode", "auth", "auth_in_clear", "relay_by", "sender_map", "recipients_file", "verify"}
    files.add("spool_password_file")
    uncommented = []
    for line in text.splitlines():
        # A commented key; alternatives of `dial` and `dequeue` would be second values of the same key.
        key = re.match(r"# ([a-z_]+) = ", line)
        uncommented.append(line[2:] if key and key.group(1) not in {"dial", "dequeue", *files} else line)
    assert sum(one != other for one, other in zip(text.splitlines(), uncommented, strict=True)) >= 15
    path = tmp_path / "relay.toml"
    path.write_text("\n".join(uncommented))
    done = cli("check", "--config", str(path))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_not_utf8(tmp_path):
    """A file that is not UTF-8 is a configuration error with its line."""
    path = tmp_path / "relay.toml"
    path.write_bytes(b'hostname = "relay.branch.example"\nstate = "\xff"\n')
    done = cli("check", "--config", "relay.toml", cwd=tmp_path)
    assert done.returncode == CONFIG and done.stderr.startswith("relay.toml:2: "), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["serve", "--config"],
        ["serve", "--frobnicate"],
        ["cycle"],
        ["cycle", "run"],
        ["cycle", "run", "isp", "--config", "a", "--address", "b"],
        ["queue"],
        ["check", "--config", "a", "b"],
    ],
    ids=" ".join,
)
def test_usage(arguments):
    """Must show: exit 64 for usage."""
    done = cli(*arguments)
    assert done.returncode == USAGE, (done.returncode, done.stderr)
    assert done.stdout == "" and done.stderr


def test_help_is_no_error():
    """--help and --version exit with 0 and speak on standard output."""
    for flag in ("--help", "--version"):
        done = cli(flag)
        assert done.returncode == 0 and done.stdout, done


def configuration(place, state):
    """A minimal configuration with that state folder, on ports of the system's choice."""
    path = place.folder / "relay.toml"
    path.write_text(
        f'hostname = "relay.test"\nstate = "{state}"\n[grpc]\nlisten = "{place.endpoint()}"\n'
        '[[listener]]\naddress = "127.0.0.1:0"\n[[route]]\ndomains = ["*"]\nto = "link:isp"\n'
        '[[link]]\nname = "isp"\nsmart_host = "smtp://127.0.0.1:9"\ndial = { driver = "implicit" }\n'
    )
    return str(path)


def test_state_folder_not_writable(place):
    """Must show: 73: a state folder that cannot be made, and one that this user may not write."""
    (place.folder / "file").write_text("")
    done = cli("serve", "--config", configuration(place, place.folder / "file" / "state"))
    assert done.returncode == CANNOT_CREATE, done.stderr
    assert str(place.folder / "file" / "state") in done.stderr

    (place.folder / "roots").mkdir(mode=0o755)
    done = cli("serve", "--config", configuration(place, place.folder / "roots"), wrapper=NOBODY)
    assert done.returncode == CANNOT_CREATE, done.stderr
    assert str(place.folder / "roots") in done.stderr


def test_one_process_at_a_time(scene):
    """A second relay on the same state folder stops at once, and the first is not disturbed."""
    stage = scene(provider=False)
    text = stage.relay.config.read_text()
    for endpoint in (stage.relay.site, stage.relay.released, stage.relay.grpc):
        text = text.replace(endpoint, "127.0.0.1:0")
    other = stage.relay.folder / "other.toml"
    other.write_text(text)
    done = cli("serve", "--config", str(other))
    assert done.returncode == TRY_AGAIN, (done.returncode, done.stderr)
    stage.send(1)
    assert stage.relay.run_cycle()["sent"] == 1


def test_service_unreachable(place):
    """Must show: 69: no relay answers, for every command that speaks to one, by --config and by --address."""
    config = configuration(place, place.folder / "state")
    for command in (["cycle", "run", "isp"], ["queue", "list"], ["healthcheck"]):
        for where in (["--config", config], ["--address", place.endpoint()]):
            done = cli(*command, *where)
            assert done.returncode == UNAVAILABLE, (command, where, done)
            assert done.stderr


def test_port_is_taken(place, scene):
    """A listener whose port is taken: the relay does not start; it says which one, with 71 (EX_OSERR)."""
    stage = scene(provider=False, relay=False)
    stage.relay.write(stage.relay.config.read_text().replace(stage.relay.site, stage.world.endpoint))
    done = stage.relay.cli("serve")
    assert done.returncode == OS_ERROR and stage.world.endpoint in done.stderr, done


def test_try_again(place, scene):
    """Must show: 75: the line was missing."""
    stage = scene(
        provider=False,
        dial=(
            '{ driver = "command", up = ["/bin/false"], down = ["/bin/true"], timeout = "5s", patience = "1s", '
            "attempts = 1 }"
        ),
    )
    done = stage.relay.cli("cycle", "run", "isp")
    assert done.returncode == TRY_AGAIN, done
    assert "LINE_MISSING" in done.stdout.upper().replace(" ", "_"), done.stdout


def test_not_permitted(scene):
    """Must show: 77: this user may not reach the API's socket, which is open to owner and group alone."""
    stage = scene(provider=False, relay=False)
    path = stage.relay.folder / "api.sock"
    stage.relay.write(
        stage.relay.config.read_text().replace(f'listen = "{stage.relay.grpc}"', f'listen = "unix:{path}"')
    )
    stage.relay.grpc = f"unix:{path}"
    stage.relay.start()
    for command in (["cycle", "run", "isp"], ["queue", "list"], ["healthcheck"]):
        done = cli(*command, "--address", f"unix:{path}", wrapper=NOBODY)
        assert done.returncode == NOT_PERMITTED, (command, done)
        assert str(path) in done.stderr


def test_cycle_run_prints_as_it_happens(scene):
    """`cycle run` prints the cycle while it runs, ends with 0 when it is complete, and takes --address too."""
    stage = scene(quiet="2s")
    stage.hold(1)
    stage.send(1)
    with subprocess.Popen(
        [str(BINARY), "cycle", "run", "isp", "--address", stage.relay.grpc],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as command:
        first = command.stdout.readline()
        cycles = stage.relay.client.call("CycleService/ListCycles", parent="links/isp")["cycles"]
        assert first.strip() and cycles[0]["phase"] != "ENDED", "the first line came while the cycle ran"
        rest, errors = command.communicate(timeout=30)
    assert command.returncode == 0, errors
    assert "complete: 1 sent, 1 received" in rest, first + rest


def test_unknown_link(scene):
    """A link that is not configured is told, not tried: 65 (EX_DATAERR)."""
    done = scene(provider=False).relay.cli("cycle", "run", "other")
    assert done.returncode == NO_SUCH and "other" in done.stderr, done


def test_queue_list(scene):
    """`queue list` shows what waits, for people and as JSON, one object a line."""
    import json

    stage = scene(provider=False)
    stage.send(2)
    text = stage.relay.cli("queue", "list")
    assert text.returncode == 0 and text.stdout.count("bob@remote.example") == 2, text
    done = stage.relay.cli("queue", "list", "--json")
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["name"] for one in listed} == {message["name"] for message in stage.relay.messages()}
    stage.relay.run_cycle()
    assert stage.relay.cli("queue", "list", "--json").stdout == ""


def test_healthcheck(scene):
    """`healthcheck`: 0 while the relay serves, whether the line is up or not; 69 when it does not."""
    stage = scene(provider=False)
    assert stage.relay.cli("healthcheck").returncode == 0
    assert stage.relay.terminate() == 0
    assert stage.relay.cli("healthcheck").returncode == UNAVAILABLE
