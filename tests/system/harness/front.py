"""An edge with a listener of its own beside those of the site: `endpoint`, with the keys that a test gives it."""

import ssl
import subprocess
import uuid

from . import smtp, wait
from .certificates import Authority
from .place import split
from .relay import add_credential

PASSWORD = "correct horse battery staple"


class Front:
    """`keys` are lines of the listener; `{tls}` in them is its TLS with a certificate for relay.branch.example. `top` stands before
    the first table, `limits` in [limits], `more` at the end. `logins` are names that may authenticate with PASSWORD, also by CRAM-MD5 with `in_clear`."""

    def __init__(self, place, scene, keys="", top="", limits="", more="", logins=("scanner",), in_clear=False, start=True, **settings):
        self.place = place
        self.authority = Authority(place)
        identity = self.authority.issue("relay", "DNS:relay.branch.example")
        self.certificate, self.key = identity.certificate, identity.key
        self.tls = f'tls = {{ certificate = "{self.certificate}", key = "{self.key}" }}'
        self.credentials = place.folder / "credentials"
        for name in logins:
            self.add(name, PASSWORD, *(["--cram-md5"] if in_clear else []))
        if logins:
            top += f'\ncredentials = "{self.credentials}"\n'
        self.endpoint = place.endpoint()
        self.stage = scene(provider=False, relay=False, extra=f"[limits]\n{limits}\n", **settings)
        self.relay = self.stage.relay
        text = self.relay.config.read_text().replace("[grpc]", f"{top}\n[grpc]", 1)
        keys = keys.replace("{tls}", self.tls)
        self.relay.write(f'{text}\n[[listener]]\naddress = "{self.endpoint}"\n{keys}\n{more}\n')
        if start:
            self.relay.start()

    def add(self, name, password=PASSWORD, *arguments):
        add_credential(self.credentials, name, password, *arguments)

    def hang_up(self, message="file read anew", count=1):
        """SIGHUP, and the wait until the relay says so."""
        import os
        import signal

        before = len(self.relay.logged(message))
        os.kill(self.relay.pid, signal.SIGHUP)
        wait.until(lambda: len(self.relay.logged(message)) >= before + count, message)

    @property
    def host(self):
        return split(self.endpoint)[0]

    @property
    def port(self):
        return split(self.endpoint)[1]

    def context(self, **identity):
        """A client's TLS that trusts the authority and no other; the name is checked against `server_hostname`."""
        context = ssl.create_default_context(cafile=str(self.authority.certificate))
        if identity:
            context.load_cert_chain(identity["certificate"], identity["key"])
        return context

    def delivered(self, to="remote.example"):
        """The message that is there, as the world or the site's own server got it."""
        if to == "remote.example":
            assert self.relay.run_cycle()["sent"] == 1
            return self.stage.world.wait_for(1)[0]
        return self.stage.mailbox.wait_for(1)[0]

    def accepted(self):
        """The log line of the one message that was accepted."""
        [line] = wait.until(lambda: self.relay.logged("message accepted"), "a message accepted")
        return line

    def swaks(self, *arguments, code=0, to="bob@remote.example", password=PASSWORD):
        """Hands in a message by swaks; its transcript."""
        done = subprocess.run(
            [
                *("swaks", "--server", self.host, "--port", str(self.port), "--from", "alice@branch.example"),
                *("--to", to, "--helo", "client.branch.example", "--timeout", "15", *arguments),
                *(("--auth-user", "scanner", "--auth-password", password) if "--auth" in arguments else ()),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, f"swaks exit {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def dialogue(self, **kwargs):
        return smtp.Dialogue(self.endpoint, **kwargs)


def content(**made):
    return smtp.message(id=f"{uuid.uuid4()}@test.example", **made)
