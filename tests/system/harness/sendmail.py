"""A private sendmail: its own configuration, queue and log, beside the machine's own mail server.

It plays, by arguments: the host that takes anything and hands it to a sink; the provider that keeps mail until ETRN; a
client that begins TLS or authenticates. What it said and heard, in clear, is in its log.

Unpacked, not installed (`tests/run install`); it runs as the user smmta. Limits: no DNS, all next hops are addresses; it
speaks TLS from the first octet as a server only.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from . import apart, daemon, wait
from .place import split
from .sasl import cyrus

# Unpacked by tests/run install, unless the environment names another.
ROOT = Path(os.environ.get("SENDMAIL_ROOT", Path(__file__).resolve().parents[2] / ".sendmail"))
BINARY = ROOT / "usr" / "libexec" / "sendmail" / "sendmail"
USER = "smmta"
# Its folder, to itself: it takes no certificate from below a folder that everyone may write to.
HOME = "/mnt"

CONFIG = """
include(`{cf}/m4/cf.m4')
VERSIONID(`private')
OSTYPE(`linux')
define(`confDOMAIN_NAME', `{hostname}')
define(`confPID_FILE', `{folder}/pid')
define(`STATUS_FILE', `{folder}/statistics')
define(`QUEUE_DIR', `{folder}/queue')
define(`ALIAS_FILE', `{folder}/aliases')
define(`HELP_FILE', `{folder}/help')
define(`confSERVICE_SWITCH_FILE', `{folder}/services')
define(`confRUN_AS_USER', `{user}')
define(`confCON_EXPENSIVE', `True')
define(`confTO_QUEUEWARN', `')
define(`confTO_IDENT', `0')
define(`confTLS_SRV_OPTIONS', `V')
define(`confQUEUE_LA', `10000')
define(`confREFUSE_LA', `10000')
define(`confCACERT', `{folder}/roots')
define(`confCACERT_PATH', `{folder}')
define(`confSERVER_CERT', `{folder}/certificate')
define(`confSERVER_KEY', `{folder}/key')
define(`confAUTH_MECHANISMS', `SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN')
TRUST_AUTH_MECH(`SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN')
FEATURE(`no_default_msa')
FEATURE(`promiscuous_relay')
FEATURE(`accept_unresolvable_domains')
FEATURE(`nocanonify')
{settings}
{listeners}
MAILER(`smtp')
LOCAL_CONFIG
ESASL_CONF_PATH={folder}/sasl
LOCAL_RULE_0
{routes}
{rules}
MAILER_DEFINITIONS
{mailers}
"""

MAILER = (
    "M{name}, P=[IPC], F=mDFMuXak8{flags}, S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, E=\\r\\n, L=2040, "
    "T=DNS/RFC822/SMTP, A=TCP $h {port}"
)


class Sendmail:
    """Runs from `start` to `stop`. `endpoint` is where it listens."""

    def __init__(self, place, name, routes, identity, roots, listeners=(), settings="", rules="", users=None):
        """`routes`: domain, or * for all else -> ADDRESS:PORT; a domain in front of which stands ! is kept until ETRN.
        `identity` and `roots` are of TLS; `listeners` are further (ADDRESS:PORT, modifiers): "s" is TLS from the first octet;
        `settings` is m4, `rules` are rulesets; `users`: name -> password, asked for by Cyrus SASL."""
        assert BINARY.exists(), f"no {BINARY}: `tests/run install` brings it"
        self.folder = place.folder / name
        self.endpoint = place.endpoint()
        self.process = None
        self._hostname = f"{name}.provider.example"
        self._name, self._routes, self._identity, self._roots = name, routes, identity, roots
        self._listeners = [(self.endpoint, ""), *listeners]
        self._settings, self._rules, self._users = settings, rules, users or {}

    def _write(self):
        for path in (self.folder, self.folder / "queue"):
            path.mkdir()
            path.chmod(0o700)
        files = {"certificate": self._identity.certificate, "key": self._identity.key, "roots": self._roots}
        for name, source in files.items():
            shutil.copyfile(source, self.folder / name)
            (self.folder / name).chmod(0o600)
        (self.folder / "services").write_text("hosts\tfiles\naliases\tfiles\n")
        # It wants to know its own name, and asks no server.
        (self.folder / "hosts").write_text(f"{split(self.endpoint)[0]} {self._hostname}\n")
        for name in ("aliases", "resolv.conf"):
            (self.folder / name).touch()
        routes, mailers = [], []
        for number, (domain, to) in enumerate(self._routes.items()):
            host, port = split(to)
            kept = "e" if domain.startswith("!") else ""
            # Addresses may have got a dot at their end.
            where = "$+" if domain == "*" else f"{domain.lstrip('!')} $*"
            routes.append(f"R$+ < @ {where} >\t$#to{number} $@ [{host}] $: $1 < @ {domain.lstrip('!').replace('*', '$2')} >")
            mailers.append(MAILER.format(name=f"to{number}", flags=kept, port=port))
        listeners = [
            "DAEMON_OPTIONS(`Name=in{}, Addr={}, Port={}, M={}')".format(number, *split(endpoint), modifiers)
            for number, (endpoint, modifiers) in enumerate(self._listeners)
        ]
        cyrus(self.folder / "sasl", "Sendmail", self._users, self._hostname, at=f"{HOME}/sasl")
        text = CONFIG.format(
            cf=ROOT / "usr" / "share" / "sendmail" / "cf",
            hostname=self._hostname,
            folder=HOME,
            user=USER,
            settings=self._settings,
            listeners="\n".join(listeners),
            routes="\n".join(routes),
            rules=self._rules,
            mailers="\n".join(mailers),
        )
        made = subprocess.run(["m4"], input=text, capture_output=True, text=True, check=True)
        (self.folder / "sendmail.cf").write_text(made.stdout)
        subprocess.run(["chown", "-R", USER, str(self.folder)], check=True)

    def start(self):
        self._write()
        binds = {self.folder / name: f"/etc/{name}" for name in ("hosts", "resolv.conf")} | {self.folder: HOME}
        arguments = (BINARY, "-C", f"{HOME}/sendmail.cf", "-bD", "-X", f"{HOME}/log")
        self.process = daemon.start(apart.command(binds, *arguments, hostname=self._hostname))
        daemon.wait_until_it_listens(self.process, self._name, self._accepts, self.log)
        return self

    def _accepts(self):
        return all(wait.listens(endpoint) for endpoint, _ in self._listeners)

    def waiting(self):
        """How many messages are in the queue."""
        return sum(path.name.startswith("qf") for path in (self.folder / "queue").iterdir())

    def stop(self):
        """Ends the daemon and its deliveries, which are in its process group."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=10)
        if self.process:
            self.process.stderr.close()
        self.process = None

    def log(self):
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""
