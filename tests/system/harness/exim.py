"""A private Exim: its own configuration, spool and log, beside the machine's own mail server.

It plays, by arguments: the host that takes anything and keeps it (`sink=None`) or hands it to `sink`; the sender whose
queue waits until `run_queue`. One instance may play both.

It is unpacked, not installed (`tests/run install`), and runs without a set-user-id program: the daemon and its deliveries are
the user Debian-exim, which is enough to receive by SMTP and to send by SMTP. Limits: needs root to start; no local
delivery, no DNS: the next hop is an address.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from . import daemon
from .place import split

# Unpacked by tests/run install, unless the environment names another.
BINARY = Path(os.environ.get("EXIM", Path(__file__).resolve().parents[2] / ".exim" / "usr" / "sbin" / "exim4"))
USER = "Debian-exim"

CONFIG = """
primary_hostname = {hostname}
exim_path = {binary}
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/pid
local_interfaces = {address}
daemon_smtp_ports = {ports}
deliver_drop_privilege = true
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 0
smtp_connect_backlog = 250
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
{settings}

begin acl

rcpt:
{refusals}
  accept

begin routers

{routers}

far:
  driver = manualroute
  route_list = * {sink_host}::{sink_port} byname
  transport = far
  self = send
  no_more

begin transports

far:
  driver = smtp
{sending}

{transports}

begin retry

* * F,4d,1m

begin authenticators

{authenticators}
"""


class Exim:
    """Runs from `start` to `stop`. `endpoint` is where it listens."""

    def __init__(
        self,
        place,
        name,
        sink=None,
        refuse=None,
        settings=None,
        sending=None,
        authenticators="",
        routers="",
        transports="",
        ports=(),
        wrapper=(),
    ):
        """`sink`: ADDRESS:PORT, default: everything waits. `refuse`: recipient -> reply, such as "550 No such user".
        `settings` and `sending` are options of the program and of its SMTP transport, name -> value; `authenticators` is that
        part of the configuration as text; `routers` and `transports` stand before the router to `sink`; it listens at `ports`
        of its address too; `wrapper` is a command line to run everything under."""
        assert BINARY.exists(), f"no {BINARY}: `tests/run install` brings it"
        self.folder = place.folder / name
        self.endpoint = place.endpoint()
        self.process, self._runners = None, []
        self._name, self._wrapper = name, list(wrapper)
        address, port = split(self.endpoint)
        sink_host, sink_port = split(sink) if sink else ("127.0.0.1", 1)
        defaults = {
            "queue_only": "false" if sink else "true",
            "tls_advertise_hosts": "",
            "message_size_limit": "50M",
            "log_selector": "+millisec",
        }
        merged = defaults | (settings or {})
        self._text = CONFIG.format(
            binary=BINARY,
            hostname=f"{name}.provider.example",
            folder=self.folder,
            address=address,
            ports=" : ".join(map(str, (port, *ports))),
            sink_host=sink_host,
            sink_port=sink_port,
            settings="\n".join(f"{key} = {value}" for key, value in merged.items()),
            refusals="\n".join(f"  deny recipients = {who}\n       message = {reply}" for who, reply in (refuse or {}).items()),
            sending="\n".join(f"  {key} = {value}" for key, value in (sending or {}).items()),
            authenticators=authenticators,
            routers=routers,
            transports=transports,
        )

    @property
    def spool(self):
        """The folder with two files per message, -D and -H."""
        return self.folder / "spool" / "input"

    def _command(self, *arguments):
        return [*self._wrapper, str(BINARY), "-C", str(self.folder / "exim.conf"), *arguments]

    def start(self):
        (self.folder / "spool").mkdir(parents=True)
        (self.folder / "exim.conf").write_text(self._text)
        for path in (self.folder, self.folder / "spool"):
            shutil.chown(path, USER, USER)
        self.process = daemon.start(self._command("-bdf"))
        daemon.wait_until_it_listens(self.process, self._name, lambda: "listening for SMTP" in self.log(), self.log)
        return self

    def run_queue(self, runners=1, two_stages=False):
        """Starts that many queue runners over everything that waits, due or not; returns at once. `two_stages`: everything is
        routed first, so that what goes to one host goes over one connection."""
        self._runners += [
            subprocess.Popen(
                self._command("-qqff" if two_stages else "-qff"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for _ in range(runners)
        ]

    def waiting(self):
        """How many messages are in the spool."""
        return sum(name.endswith("-H") for name in os.listdir(self.spool)) if self.spool.exists() else 0

    def stop(self):
        """Ends the daemon and the queue runners, each with the deliveries in its process group."""
        for process in [*self._runners, *([self.process] if self.process else [])]:
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
            process.wait(timeout=10)
        if self.process:
            self.process.stderr.close()
        self.process, self._runners = None, []

    def log(self):
        """The main log, then the panic log, if there are any."""
        paths = (self.folder / "mainlog", self.folder / "paniclog")
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())
