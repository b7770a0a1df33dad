"""Mail clients that are not ours. Each is a function `client(doors, door, content)` that hands in one message through a door,
from SENDER to the door's recipient, with the relay's certificate verified, and fails unless it was told 250."""

import json
import smtplib
import subprocess
from pathlib import Path

from .doors import NAME, NOBODY, PASSWORD, USER

SENDER = "alice@branch.example"
HELO = "client.branch.example"
NODE = Path(__file__).resolve().parents[2] / ".node" / "node_modules"

NODEMAILER = """
const { options, message } = JSON.parse(require("fs").readFileSync(0, "utf8"));
require("nodemailer").createTransport(options).sendMail(message).then(
    (info) => console.log(info.response),
    (error) => { console.error(error); process.exit(1); });
"""


def _run(*command, input=None, **more):
    done = subprocess.run(list(map(str, command)), input=input, capture_output=True, timeout=30, **more)
    assert done.returncode == 0, f"{command}: exit {done.returncode}:\n{(done.stdout + done.stderr).decode()}"
    return done.stdout.decode()


def _file(doors, content):
    path = doors.place.folder / "message.eml"
    path.write_bytes(content)
    return path


def swaks(doors, door, content):
    tls = {"clear": [], "starttls": ["--tls"], "implicit": ["--tlsc"]}[door.mode]
    tls += ["--tls-verify", "--tls-ca-path", doors.authority.certificate] if tls else []
    login = ["--auth", door.mechanism, "--auth-user", USER, "--auth-password", PASSWORD] if door.mechanism else []
    # It writes CRLF, stuffs dots and ends the last line itself.
    path = _file(doors, content.removesuffix(b"\r\n").replace(b"\r\n", b"\n"))
    where = ("--server", door.host, "--port", door.port, "--helo", HELO, "--from", SENDER, "--to", door.recipient)
    _run("swaks", *where, *tls, *login, "--data", f"@{path}", "--no-strip-from", "--timeout", "15")


def curl(doors, door, content):
    scheme, *tls = {"clear": ["smtp"], "starttls": ["smtp", "--ssl-reqd"], "implicit": ["smtps"]}[door.mode]
    login = ["--user", f"{USER}:{PASSWORD}", "--login-options", f"AUTH={door.mechanism}"] if door.mechanism else []
    where = ("--resolve", f"{NAME}:{door.port}:{door.host}", "--cacert", doors.authority.certificate)
    mail = ("--mail-from", SENDER, "--mail-rcpt", door.recipient, "--upload-file", _file(doors, content))
    _run("curl", "-sS", "--max-time", 20, *where, *tls, *login, *mail, f"{scheme}://{NAME}:{door.port}/{HELO}")


def msmtp(doors, door, content):
    lines = ["account default", f"host {door.host}", f"port {door.port}", f"from {SENDER}", f"domain {HELO}", "timeout 15"]
    if door.mode != "clear":
        lines += ["tls on", f"tls_trust_file {doors.authority.certificate}", f"tls_host_override {NAME}"]
        lines += [f"tls_starttls {'on' if door.mode == 'starttls' else 'off'}"]
    if door.mechanism != NOBODY:
        lines += [f"auth {door.mechanism.lower()}", f"user {USER}", f"password {PASSWORD}"]
    config = doors.place.folder / "msmtprc"
    config.write_text("\n".join([*lines, ""]))
    config.chmod(0o600)
    _run("msmtp", "-C", config, door.recipient, input=content.replace(b"\r\n", b"\n"))


def python(doors, door, content):
    import ssl

    context = ssl.create_default_context(cafile=str(doors.authority.certificate))
    secure = {"context": context} if door.mode == "implicit" else {}
    made = smtplib.SMTP_SSL if secure else smtplib.SMTP
    with made(door.host, door.port, local_hostname=HELO, timeout=15, **secure) as client:
        if door.mode == "starttls":
            client.starttls(context=context)
        if door.mechanism != NOBODY:
            client.login(USER, PASSWORD)
        client.sendmail(SENDER, [door.recipient], content)


def nodemailer(doors, door, content):
    options = {"host": door.host, "port": door.port, "name": HELO, "secure": door.mode == "implicit"}
    options |= {"requireTLS": door.mode == "starttls", "ignoreTLS": door.mode == "clear"}
    if door.mode != "clear":
        options["tls"] = {"ca": doors.authority.certificate.read_text(), "servername": NAME}
    if door.mechanism != NOBODY:
        options |= {"auth": {"user": USER, "pass": PASSWORD}, "authMethod": door.mechanism}
    message = {"envelope": {"from": SENDER, "to": door.recipient}, "raw": content.decode()}
    text = json.dumps({"options": options, "message": message}).encode()
    said = _run("node", "-e", NODEMAILER, input=text, env={"NODE_PATH": str(NODE), "PATH": "/usr/bin:/bin"})
    assert said.startswith("250 "), said
