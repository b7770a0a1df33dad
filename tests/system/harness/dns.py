"""A name server for one test, and the wrapper that makes a process use it: its own /etc/resolv.conf in a mount name
space of its own, so nothing on the machine changes."""

import socket
import struct
import threading

NXDOMAIN, SERVFAIL, SILENT = "nxdomain", "servfail", "silent"

KINDS = {"A": 1, "CNAME": 5, "SOA": 6, "MX": 15, "TXT": 16, "AAAA": 28, "TLSA": 52}


class Dns:
    """Listens on `place.address` port 53. `answer`, which may be changed while it runs, is one of

    - an IPv4 address: every name has it, and nothing else;
    - NXDOMAIN, SERVFAIL, SILENT: for every name;
    - a dictionary of names, in lower case without the last dot. Each has one of the three, or a list of records such as
      ("A", "127.0.0.1"), ("MX", 10, "mx.example"), ("CNAME", "mx.example"), ("TXT", "text"),
      ("TLSA", 3, 1, 1, bytes), and "AD": its answers are proven, says the name server, if it is asked. Names that are not
      there do not exist, and the zone says so."""

    def __init__(self, place, answer):
        self.answer = answer
        self.asked = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((place.address, 53))
        threading.Thread(target=self._serve, daemon=True).start()
        resolv = place.folder / "resolv.conf"
        resolv.write_text(f"nameserver {place.address}\noptions timeout:1 attempts:1\n")
        mount = f"mount --bind '{resolv}' /etc/resolv.conf && exec \"$@\""
        self.wrapper = ["unshare", "--mount", "sh", "-c", mount, "sh"]

    def stop(self):
        self._socket.close()

    def _serve(self):
        while True:
            try:
                question, client = self._socket.recvfrom(4096)
            except OSError:
                return
            reply = self._reply(question)
            if reply:
                self._socket.sendto(reply, client)

    def _reply(self, packet):
        end, labels = 12, []
        while packet[end]:
            labels.append(packet[end + 1 : end + 1 + packet[end]].decode())
            end += 1 + packet[end]
        kind = struct.unpack("!H", packet[end + 1 : end + 3])[0]
        section = packet[12 : end + 5]
        name = ".".join(labels)
        self.asked.append(name)
        if isinstance(self.answer, dict):
            answer = self.answer.get(name.lower(), [])
            exists = any(name.lower() == known or known.endswith("." + name.lower()) for known in self.answer)
        else:
            answer, exists = self.answer, True
            if answer not in (NXDOMAIN, SERVFAIL, SILENT):
                answer = [("A", answer)]
        if answer == SILENT:
            return None
        code, found, authority, flags = 0, b"", b"", 0x8180
        count = 0
        if isinstance(answer, str):
            code = {NXDOMAIN: 3, SERVFAIL: 2}[answer]
        else:
            wanted = [r for r in answer if r != "AD" and KINDS[r[0]] in (kind, KINDS["CNAME"])]
            count, found = len(wanted), b"".join(_record(name, *record) for record in wanted)
            if "AD" in answer and packet[3] & 0x20:
                flags |= 0x20
            if not wanted and isinstance(self.answer, dict):
                code = 0 if exists else 3
                authority = _record(name.rpartition(".")[2], "SOA")
        head = packet[:2] + struct.pack("!HHHHH", flags | code, 1, count, int(bool(authority)), 0)
        return head + section + found + authority


def _wire(name):
    """A name in the form of the protocol, uncompressed."""
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _record(name, kind, *data):
    if kind == "A":
        data = socket.inet_aton(*data)
    elif kind == "AAAA":
        data = socket.inet_pton(socket.AF_INET6, *data)
    elif kind == "MX":
        data = struct.pack("!H", data[0]) + _wire(data[1])
    elif kind == "CNAME":
        data = _wire(*data)
    elif kind == "TXT":
        data = bytes([len(data[0])]) + data[0].encode()
    elif kind == "TLSA":
        data = bytes(data[:3]) + data[3]
    else:
        data = _wire("ns.test") + _wire("root.test") + struct.pack("!IIIII", 1, 60, 60, 60, 1)
    return _wire(name) + struct.pack("!HHIH", KINDS[kind], 1, 1, len(data)) + data
