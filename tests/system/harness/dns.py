"""A name server for one test, and the wrapper that makes a process use it: its own /etc/resolv.conf in a mount name
space of its own, so nothing on the machine changes. Answers A questions only; other types get an empty answer."""

import socket
import struct
import threading

NXDOMAIN, SERVFAIL, SILENT = "nxdomain", "servfail", "silent"


class Dns:
    """Listens on `place.address` port 53. `answer` is an IPv4 address, or one of NXDOMAIN, SERVFAIL, SILENT."""

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
        self.asked.append(".".join(labels))
        if self.answer == SILENT:
            return None
        code = {NXDOMAIN: 3, SERVFAIL: 2}.get(self.answer, 0)
        found = code == 0 and kind == 1
        head = packet[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, int(found), 0, 0)
        data = struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(self.answer) if found else b""
        return head + section + data
