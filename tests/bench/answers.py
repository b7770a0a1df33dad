"""How long a client waits for the answer to its message: from the final dot to the 250, in one session beside the load.

smtp-source does not say. This is a session more, in a process of its own, that sends message after message while the load
runs, and is as patient as any client.
"""

import json
import socket
import subprocess
import sys

# Not of load: the harness is not in reach of the other process.
FROM, TO = "alice@branch.example", "bob@remote.example"


class Answers:
    """From `start` to `end`, messages of `size` octets of payload to `endpoint`, in the group of the load."""

    def __init__(self, group, endpoint, size):
        self._command = group.command(sys.executable, __file__, endpoint, size)
        self._process = None
        self.seconds = []

    def start(self):
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self):
        """How many messages that were; `seconds` has what each waited for, in order of size."""
        said, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, f"the session that measures answers: exit {self._process.returncode}"
        self.seconds = sorted(json.loads(said))
        assert self.seconds, "the session that measures answers had none"
        return len(self.seconds)

    def share(self, part):
        """The time within which this part of all answers came."""
        return self.seconds[min(int(part * len(self.seconds)), len(self.seconds) - 1)]

    def stop(self):
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def measure(endpoint, size):
    """Sends until standard input ends, and at least once; returns what each answer took, in seconds."""
    import select
    import time

    host, _, port = endpoint.rpartition(":")
    took = []
    with socket.create_connection((host, int(port)), timeout=60) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies = stream.makefile("rb")

        def reply(code):
            while (line := replies.readline())[3:4] == b"-":
                pass
            assert line.startswith(code), line

        def say(line, code):
            stream.sendall(line.encode() + b"\r\n")
            reply(code)

        reply(b"220")
        say("EHLO client.branch.example", b"250")
        text = b"Subject: how long\r\n\r\n" + (b"x" * 70 + b"\r\n") * (size // 72)
        is_over = False
        # Once in any case, however short the load is.
        while not is_over:
            say(f"MAIL FROM:<{FROM}>", b"250")
            say(f"RCPT TO:<{TO}>", b"250")
            say("DATA", b"354")
            stream.sendall(text)
            begun = time.monotonic()
            stream.sendall(b".\r\n")
            reply(b"250")
            took.append(time.monotonic() - begun)
            is_over = bool(select.select([sys.stdin], [], [], 0)[0])
        say("QUIT", b"221")
    return took


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
