"""A private Postfix: its own configuration, queue and data folders, no chroot, one listener on a loopback address.

It plays, by arguments: the smart host that takes anything and hands it to `sink`; the provider that keeps the mail of
the domains in `hold` until ETRN and then sends it to the address given there; a host that refuses the recipients in
`refuse`. One instance may play all of them.

Limits: needs root, because Postfix starts as root. No DNS: all next hops are addresses.
"""

import contextlib
import json
import os
import subprocess
from pathlib import Path

from . import wait

MASTER = """
{endpoint} inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix - - n - - smtp
held      unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
tlsmgr    unix - - n 1000? 1 tlsmgr
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
{services}
"""

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
multi_instance_name = {instance}
multi_instance_enable = yes
myhostname = {hostname}
mydestination =
local_recipient_maps =
alias_maps =
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_bind_address = {address}
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
smtpd_recipient_restrictions = check_recipient_access texthash:{folder}/access, permit_mynetworks, reject
smtpd_relay_restrictions = permit_mynetworks, reject
transport_maps = texthash:{folder}/transport
relay_domains = {domains}
fast_flush_domains = {domains}
defer_transports = held
default_transport = {default}
in_flow_delay = 0
message_size_limit = 50000000
notify_classes =
smtp_tls_security_level = none
smtpd_tls_security_level = none
"""


class Postfix:
    """Runs from `start` to `stop`. `endpoint` is where it listens."""

    def __init__(self, place, name, sink=None, hold=None, refuse=None, settings=None, island=None, endpoint=None, services=""):
        """`sink`: ADDRESS:PORT, default: everything waits. `hold`: domain -> ADDRESS:PORT of the site.
        `refuse`: recipient -> reply, such as "550 5.1.1 No such user". `settings` are parameters of main.cf that replace
        those above; `island` is where it runs; `endpoint` is a free one of the place unless given; `services` are lines of
        master.cf."""
        self.folder = place.folder / name
        self.endpoint = endpoint or place.endpoint()
        self.hold = dict(hold or {})
        self.refuse = dict(refuse or {})
        self._address, self._port = self.endpoint.rsplit(":", 1)
        self._name = name
        self._hostname = f"{name}.provider.example"
        self._sink = sink
        self._settings = dict(settings or {})
        self._services = services
        self._wrapper = island.command() if island else []
        self._inside = island.inside if island else contextlib.nullcontext
        self._running = False

    def _write(self):
        config = self.folder / "etc"
        for path in (config, self.folder / "queue", self.folder / "data"):
            path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["chown", "postfix", str(self.folder / "data")], check=True)
        bracketed = "smtp:[{}]:{}".format(*self._sink.rsplit(":", 1)) if self._sink else "retry:no sink"
        text = MAIN.format(
            folder=self.folder,
            instance=f"postfix-{self._name}",
            hostname=self._hostname,
            address=self._address,
            domains=" ".join(self.hold),
            default=bracketed,
        )
        kept = [line for line in text.splitlines() if line.split(" =")[0] not in self._settings]
        changed = [f"{name} = {value}" for name, value in self._settings.items()]
        (config / "main.cf").write_text("\n".join([*kept, *changed, ""]))
        (config / "master.cf").write_text(MASTER.format(endpoint=self.endpoint, services=self._services).lstrip())
        (self.folder / "access").write_text("".join(f"{who} {reply}\n" for who, reply in self.refuse.items()))
        (self.folder / "transport").write_text(
            "".join("{} held:[{}]:{}\n".format(domain, *to.rsplit(":", 1)) for domain, to in self.hold.items())
        )

    def _postfix(self, *arguments, check=True):
        return subprocess.run(
            [*self._wrapper, "postfix", "-c", str(self.folder / "etc"), *arguments],
            check=check,
            capture_output=True,
            text=True,
            env={**os.environ, "MAIL_LOGTAG": self._name},
        )

    def start(self):
        self._write()
        done = self._postfix("start", check=False)
        assert done.returncode == 0, f"postfix did not start: {done.stdout}{done.stderr}{self.log()}"
        self._running = True
        wait.until(self._listens, lambda: f"{self._name} listens; log: {self.log()}")
        return self

    def _listens(self):
        import socket

        try:
            with self._inside(), socket.create_connection((self._address, int(self._port)), timeout=1) as probe:
                return probe.recv(3) == b"220"
        except OSError:
            return False

    def reconfigure(self, **settings):
        """Changes parameters of the running instance."""
        self._settings |= settings
        self._write()
        self._postfix("reload")

    def flush(self):
        """Tries everything that waits, due or not."""
        subprocess.run(["postqueue", "-c", str(self.folder / "etc"), "-f"], check=True)

    def stop(self):
        if self._running:
            self._postfix("stop", check=False)
            self._running = False

    def log(self):
        path = Path(self.folder / "maillog")
        return path.read_text(errors="replace") if path.exists() else ""

    def queue(self):
        """What waits here, as `postqueue -j` tells it: a list of {sender, recipients, queue_name, …}."""
        done = subprocess.run(
            ["postqueue", "-c", str(self.folder / "etc"), "-j"], check=True, capture_output=True, text=True
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def waiting(self):
        """How many messages are in the queue."""
        return len(self.queue())

    def wait_for_held(self, count):
        """Returns when `count` messages are deferred, that is: kept until ETRN."""

        def held():
            queue = self.queue()
            return len(queue) == count and all(entry["queue_name"] == "deferred" for entry in queue)

        wait.until(held, lambda: f"{count} held messages; queue {self.queue()}; log {self.log()}")
