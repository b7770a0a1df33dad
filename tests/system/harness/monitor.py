"""The monitor as a black box, and the far end of its webhook."""

import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import wait
from .grpc_client import MONITOR
from .relay import Daemon

CONFIG = """
state = "{state}"
{extra}
[relay]
address = "{relay}"

[grpc]
listen = "{grpc}"
{webhook}
[[monitor]]
name = "isp"
link = "isp"
recipient = "no-such-user@remote.example"
reverse_path = "probe-*@branch.example"
{settings}
"""


class Monitor(Daemon):
    """Watches the link `isp` of a relay; `settings` are further lines of its `[[monitor]]`."""

    program = "monitor-svc"
    package = MONITOR

    def __init__(self, place, relay, settings="", webhook=None, extra="", env=None):
        super().__init__(place, "monitor", env=env)
        self.write(
            CONFIG.format(
                state=place.folder / "monitor-state",
                extra=extra,
                relay=relay.grpc,
                grpc=self.grpc,
                webhook=f'[webhook]\nurl = "{webhook.url}"\n' if webhook else "",
                settings=settings,
            )
        )

    def show(self):
        return self.client.call("MonitorService/GetMonitor", name="monitors/isp")

    def probes(self):
        """All of them, newest first."""
        return self.client.call("ProbeService/ListProbes", parent="monitors/isp", page_size=1000)["probes"]

    def run_probe(self, **fields):
        return self.client.call("MonitorService/RunProbe", name="monitors/isp", **fields)

    def wait_for_state(self, state, seconds=30):
        wait.until(lambda: self.show()["state"] == state, lambda: f"{state}; is {self.show()}", seconds)
        return self.show()

    def wait_for_probe(self, state, seconds=60):
        """The newest probe in that state."""

        def found():
            return next((probe for probe in self.probes() if probe["state"] == state), None)

        return wait.until(found, lambda: f"a probe {state}; have {self.probes()}; log\n{self.log_text()[-3000:]}", seconds)


class Webhook:
    """Takes notices; `status` is what it answers with. `notices` has each body with its Idempotency-Key, as it came.

    With a folder it speaks https only; `certificate` is the file there that a client must trust, and no system does."""

    def __init__(self, folder=None):
        webhook = self
        self.status, self.notices = 200, []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                webhook.notices.append({**body, "key": self.headers["Idempotency-Key"]})
                self.send_response(webhook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # What a client gets wrong is for its own log.
        self._server.handle_error = lambda *_: None
        if folder:
            self._speak_tls(folder)
        self.url = f"{'https' if folder else 'http'}://127.0.0.1:{self._server.server_address[1]}/linkmail"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _speak_tls(self, folder):
        self.certificate, key = folder / "webhook.pem", folder / "webhook.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            + ["-keyout", key, "-out", self.certificate, "-days", "2", "-subj", "/CN=webhook"]
            + ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        # Shaken hands by the thread of the connection, not by the one that accepts.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    def states(self):
        """The states that were told, each notice once, in the order of their first coming."""
        seen = {}
        for notice in self.notices:
            seen.setdefault(notice["id"], notice["state"])
        return list(seen.values())

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
