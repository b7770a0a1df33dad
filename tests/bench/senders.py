"""Who sends the mail: each is started, filled while the line is not used, and then sent off.

`fill` hands in messages by SMTP at the sender's own site; `go` starts the clock and the sending, and returns the time of
the call.
"""

import time

from harness import smtp, wait
from harness.exim import Exim
from harness.postfix import Postfix
from harness.relay import BINARY, Daemon
from receivers import NETWORKS

# Of the sender's address, of a recipient elsewhere.
FROM, TO = "alice@branch.example", "bob@remote.example"

FILL_AT_ONCE = 500


def content(size):
    """A message of exactly `size` octets, lines of 78 at most, and unlike every other."""
    head, _ = smtp.message(body="")
    head = head.removesuffix(b"\r\n")
    line = b"It rained again, and the line was slow; nobody minded, for the post had time. \r\n"[-78:]
    assert size >= len(head) + 4, f"a message has {len(head) + 4} octets at least"
    body = (line * (size // len(line) + 1))[: size - len(head) - 2]
    # No line end may be cut in half.
    body = body.removesuffix(b"\r").ljust(size - len(head) - 2, b".")
    return head + body + b"\r\n"


def hand_in(site, endpoint, count, size, reverse_path=FROM, recipient=TO):
    """Hands in that many messages at a server of the same site."""
    while count:
        with site.inside(), smtp.Dialogue(endpoint, timeout=60) as dialogue:
            dialogue.expect(250, "EHLO client.branch.example")
            for _ in range(min(count, FILL_AT_ONCE)):
                code = dialogue.transaction(reverse_path, [recipient], smtp.stuffed(content(size)))
                assert code == 250, f"message answered {code}"
                count -= 1
            dialogue.expect(221, "QUIT")


OURS = """
hostname = "relay.branch.example"
state = "{state}"

[grpc]
listen = "{grpc}"

[limits]
sessions = 500

[[listener]]
address = "{site}"
relay_from = ["127.0.0.0/8", "10.99.0.0/24"]

[[listener]]
address = "{released}"
link = "isp"

[[route]]
domains = ["branch.example"]
to = "report"

[[route]]
domains = ["*"]
to = "link:isp"

[[link]]
name = "isp"
smart_host = "{smart_host}"
dial = {{ driver = "implicit", patience = "30s", attempts = 1, pause = "1s" }}
dequeue = {dequeue}
quiet = "5s"
bounce_wait = "1s"
{link}
"""

# What our configuration says for STARTTLS and AUTH, behind [[link]]; `--secure-link` replaces it.
SECURE_LINK = """
[[host]]
at = "smtp://{smart_host}"
tls = {{ mode = "required", roots = "{certificate}" }}
login = {{ user = "{user}", password_file = "{password_file}" }}
"""


class OurDaemon(Daemon):
    """A relay of ours at one site; its API on a Unix socket, which is the same in every name space."""

    def __init__(self, site, name):
        super().__init__(site, name, wrapper=site.wrapper)
        self.grpc = f"unix:{site.folder}/{name}.sock"
        self.state = site.folder / f"{name}-state"

    @property
    def binary(self):
        # Whatever its name.
        return BINARY

    def stop(self):
        # One that never came up has said why.
        if self.process is not None and self.process.poll() is not None:
            self._forget()
        super().stop()


class Edge(OurDaemon):
    """The relay at the site: sends over its link, asks over it, and takes what is released."""

    def __init__(self, site, smart_host, dequeue="[]", link=""):
        super().__init__(site, "edge")
        self.site, self.released = site.endpoint(), site.endpoint()
        self.write(
            OURS.format(
                state=self.state,
                grpc=self.grpc,
                site=self.site,
                released=self.released,
                smart_host=f"smtp://{smart_host}",
                dequeue=dequeue,
                link=link,
            )
        )

    def run_cycle(self):
        return self.client.call("CycleService/RunCycle", parent="links/isp")


class Ours:
    """linkmail's relay: one cycle of its link, asked for over gRPC."""

    name = "ours"

    def __init__(self, site, smart_host, secret=None, link="", secure_link=SECURE_LINK):
        if secret:
            link += "\n" + secure_link.format(smart_host=smart_host, **secret.fields())
        self._site = site
        self._edge = Edge(site, smart_host, link=link)

    def start(self):
        self._edge.start()

    def fill(self, count, size):
        hand_in(self._site, self._edge.site, count, size)
        # The client learns the API by reflection before the clock runs.
        self._edge.client.call("LinkService/ListLinks")

    def go(self):
        started = time.time()
        self._edge.run_cycle()
        return started

    def log(self):
        return self._edge.log_text()

    def stop(self):
        self._edge.stop()


class OursOne(Ours):
    """The same over one connection."""

    name = "ours-1"

    def __init__(self, site, smart_host, link="", **rest):
        super().__init__(site, smart_host, link=f"connections = 1\n{link}", **rest)


class PostfixSender:
    """Debian's Postfix: everything deferred, then released at once by `postqueue -f`."""

    name = "postfix"
    settings = {}

    def __init__(self, site, smart_host, secret=None, **_):
        settings = {
            "inet_interfaces": "all",
            "mynetworks": NETWORKS,
            "smtp_bind_address": "",
            "defer_transports": "held smtp",
        } | self.settings
        if secret:
            passwords = site.folder / "sasl"
            passwords.write_text("[{}]:{} {}:{}\n".format(*smart_host.rsplit(":", 1), secret.user, secret.password))
            settings |= {
                "smtp_tls_security_level": "encrypt",
                "smtp_sasl_auth_enable": "yes",
                "smtp_sasl_password_maps": f"texthash:{passwords}",
                "smtp_sasl_security_options": "noanonymous",
                "smtp_sasl_tls_security_options": "noanonymous",
            }
        self._site = site
        self._server = Postfix(site, "sender", sink=smart_host, settings=settings, island=site.island)

    def start(self):
        self._server.start()

    def fill(self, count, size):
        hand_in(self._site, self._server.endpoint, count, size)
        self._server.wait_for_held(count)
        self._server.reconfigure(defer_transports="held")
        # The new queue manager looks once over what waits, and finds nothing due.
        wait.until(lambda: "reload" in self._server.log(), "Postfix has its new configuration")

    def go(self):
        started = time.time()
        self._server.flush()
        return started

    def log(self):
        return self._server.log()

    def stop(self):
        self._server.stop()


class PostfixOne(PostfixSender):
    """The same, one message at a time."""

    name = "postfix-1"
    settings = {"smtp_destination_concurrency_limit": 1, "initial_destination_concurrency": 1}


class PostfixHundred(PostfixSender):
    """The same, tuned to a hundred connections at once."""

    name = "postfix-100"
    settings = {
        "smtp_destination_concurrency_limit": 100,
        "initial_destination_concurrency": 100,
        "default_process_limit": 300,
    }


EXIM_CLIENT = """
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^{user}^{password}
"""


class EximSender:
    """Debian's Exim: queues only, then one queue runner in two stages, so that one connection carries it all."""

    name = "exim"
    runners = 1

    def __init__(self, site, smart_host, secret=None, **_):
        sending = {"hosts_require_tls": "*", "hosts_require_auth": "*", "tls_verify_hosts": ""} if secret else {}
        self._site = site
        self._server = Exim(
            site,
            "sender",
            sink=smart_host,
            settings={"queue_only": "true"},
            sending=sending,
            authenticators=EXIM_CLIENT.format(user=secret.user, password=secret.password) if secret else "",
            wrapper=site.wrapper,
        )

    def start(self):
        self._server.start()

    def fill(self, count, size):
        hand_in(self._site, self._server.endpoint, count, size)

    def go(self):
        started = time.time()
        self._server.run_queue(self.runners, two_stages=True)
        return started

    def log(self):
        return self._server.log()

    def stop(self):
        self._server.stop()


class EximFive(EximSender):
    """The same with five queue runners at once."""

    name = "exim-5"
    runners = 5


SENDERS = {
    sender.name: sender
    for sender in (Ours, OursOne, PostfixSender, PostfixOne, PostfixHundred, EximSender, EximFive)
}
