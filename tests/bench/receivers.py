"""Who takes the mail at the far end, and when it took each message.

The moment of acceptance is read off the receiver's own store, where it commits a message right before it says 250: the
time of change of Postfix's queue file and of Exim's header file (its renaming or, in Postfix, its change of mode),
`accepted_ms` of ours. That needs no parsing, works behind TLS, and costs the receiver nothing. The kernel stamps files by
its tick: up to 10 ms early.

No receiver hands anything on: Postfix puts it on hold, Exim queues only, ours keeps reports.
"""

import sqlite3

from harness.dovecot import Passwords
from harness.exim import Exim
from harness.postfix import Postfix

# As many as anybody opens, and more than that: the receiver is never what is waited for.
CONNECTIONS = 400
NETWORKS = "127.0.0.0/8 10.99.0.0/24"


class PostfixReceiver:
    """Debian's Postfix, as many connections as come. With `secret` only after STARTTLS and AUTH PLAIN."""

    name = "postfix"

    def __init__(self, site, chunking=True, secret=None):
        who = "permit_sasl_authenticated" if secret else "permit_mynetworks"
        settings = {
            "inet_interfaces": "all",
            "mynetworks": NETWORKS,
            "default_transport": "discard:",
            "default_process_limit": CONNECTIONS,
            "smtpd_client_connection_count_limit": 0,
            "smtpd_recipient_restrictions": f"check_recipient_access static:HOLD, {who}, reject",
            "smtpd_relay_restrictions": f"{who}, reject",
            "smtpd_discard_ehlo_keywords": "" if chunking else "chunking",
        }
        self._passwords = None
        if secret:
            socket = site.folder / "passwords"
            self._passwords = Passwords(socket, {secret.user: secret.password})
            settings |= {
                "smtpd_tls_security_level": "encrypt",
                "smtpd_tls_cert_file": secret.certificate,
                "smtpd_tls_key_file": secret.key,
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_type": "dovecot",
                "smtpd_sasl_path": socket,
                "smtpd_sasl_security_options": "noanonymous",
            }
        self._server = Postfix(site, "receiver", settings=settings, island=site.island)
        self.endpoint = self._server.endpoint
        self._kept = self._server.folder / "queue" / "hold"

    def start(self):
        self._server.start()

    def accepted(self):
        return [entry.stat().st_ctime for entry in self._kept.iterdir()]

    def count(self):
        return len(list(self._kept.iterdir()))

    def log(self):
        return self._server.log()

    def stop(self):
        self._server.stop()
        if self._passwords:
            self._passwords.stop()


AUTHENTICATOR = """
plain:
  driver = plaintext
  public_name = PLAIN
  server_advertise_condition = ${{if def:tls_in_cipher}}
  server_condition = ${{if and {{{{eq{{$auth2}}{{{user}}}}} {{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
"""


class EximReceiver:
    """Debian's Exim. With `secret` only after STARTTLS and AUTH PLAIN."""

    name = "exim"

    def __init__(self, site, chunking=True, secret=None):
        settings = {"chunking_advertise_hosts": "*" if chunking else ""}
        if secret:
            settings |= {
                "tls_advertise_hosts": "*",
                "tls_certificate": secret.certificate,
                "tls_privatekey": secret.key,
                "acl_smtp_mail": "${if def:sender_host_authenticated {accept}{deny}}",
            }
        self._server = Exim(
            site,
            "receiver",
            settings=settings,
            authenticators=AUTHENTICATOR.format(user=secret.user, password=secret.password) if secret else "",
            wrapper=site.wrapper,
        )
        self.endpoint = self._server.endpoint

    def start(self):
        self._server.start()

    def accepted(self):
        return [entry.stat().st_ctime for entry in self._server.spool.glob("*-H")]

    def count(self):
        return self._server.waiting()

    def log(self):
        return self._server.log()

    def stop(self):
        self._server.stop()


class OurReceiver:
    """A relay of ours, whose store is read while it runs."""

    name = "ours"

    def __init__(self, relay, endpoint):
        self.relay, self.endpoint = relay, endpoint

    def start(self):
        self.relay.start()

    def _read(self, what):
        path = self.relay.state / "spool.sqlite"
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return database.execute(f"SELECT {what} FROM messages").fetchall()
        finally:
            database.close()

    def accepted(self):
        return [stamp / 1000 for (stamp,) in self._read("accepted_ms")]

    def count(self):
        [(count,)] = self._read("count(*)")
        return count

    def log(self):
        return self.relay.log_text()

    def stop(self):
        self.relay.stop()


RECEIVERS = {receiver.name: receiver for receiver in (PostfixReceiver, EximReceiver)}
