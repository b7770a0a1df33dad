"""The monitor as a black box, and the far end of its webhook."""

import json
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
    """Takes notices; `status` is what it answers with. `notices` has each body with its Idempotency-Key, as it came."""

    def __init__(self):
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
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/linkmail"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def states(self):
        """The states that were told, each notice once, in the order of their first coming."""
        seen = {}
        for notice in self.notices:
            seen.setdefault(notice["id"], notice["state"])
        return list(seen.values())

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
