"""The host of a domain's MTA-STS policy (RFC 8461 3.3): one file over HTTPS, at port 443 of an address."""

import http.server
import ssl
import threading

PATH = "/.well-known/mta-sts.txt"


class PolicyHost:
    """Serves `policy` to whoever asks until `stop`; `fetched` counts. `identity` is its certificate."""

    def __init__(self, address, identity, policy):
        self.policy = policy
        self.fetched = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate, identity.key)
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path != PATH:
                    self.send_error(404)
                    return
                host.fetched += 1
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                self.wfile.write(host.policy.encode())

            def log_message(self, *_):
                pass

        self._server = http.server.HTTPServer((address, 443), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
