"""A PostgreSQL server of a test's own, reached by a socket in its folder, or by TLS. It keeps its data over a restart."""

import os
import shutil
import subprocess
from pathlib import Path

from . import wait

NOBODY = 65534


class Postgres:
    """`url` names a database of it, for the configuration of a relay. With `tls`, an identity for its address, it listens at
    `endpoint` too, for TLS only; with `password` it wants that there. Not `synced`: for a test of many databases in which it
    is not the server that dies."""

    def __init__(self, place, tls=None, password=None, synced=True):
        self._options = [] if synced else ["-c", "fsync=off"]
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        assert found, "no PostgreSQL in /usr/lib/postgresql: tests/run install"
        self.programs = found[-1]
        self.folder = place.folder / "postgres"
        self.data = self.folder / "data"
        self.process = None
        self.tls, self.password = tls, password
        self.address, self.port = place.address, place.port()

    @property
    def endpoint(self):
        return f"{self.address}:{self.port}"

    @property
    def url(self):
        return f"postgres://linkmail@localhost/postgres?host={self.folder}"

    def start(self):
        if not self.data.exists():
            self.data.mkdir(parents=True)
            os.chown(self.folder, NOBODY, NOBODY)
            os.chown(self.data, NOBODY, NOBODY)
            made = ["-D", str(self.data), "-U", "linkmail", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
            subprocess.run([*self._as_nobody("initdb"), *made], check=True, capture_output=True)
        options = ["-D", str(self.data), "-k", str(self.folder), "-c", "listen_addresses="]
        if self.tls:
            options[-1] += self.address
            options += ["-p", str(self.port), *self._for_tls()]
        options += self._options
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([*self._as_nobody("postgres"), *options], stdout=log, stderr=log)
        wait.until(lambda: self._run("select 1").returncode == 0, "PostgreSQL", 30)
        if self.password:
            self._run(f"alter user linkmail password '{self.password}'")
        return self

    def _for_tls(self):
        files = []
        for key, path in (("ssl_cert_file", self.tls.certificate), ("ssl_key_file", self.tls.key)):
            own = shutil.copy(path, self.folder / key)
            os.chown(own, NOBODY, NOBODY)
            os.chmod(own, 0o600)
            files += ["-c", f"{key}={own}"]
        hba = self.folder / "hba"
        method = "scram-sha-256" if self.password else "trust"
        hba.write_text(f"local all all trust\nhostssl all all all {method}\n")
        return [*files, "-c", "ssl=on", "-c", f"hba_file={hba}"]

    def stop(self):
        if self.process is not None:
            # SIGINT: connections are broken off, what is committed stays.
            self.process.send_signal(2)
            self.process.wait(timeout=30)
            self.process = None

    def value(self, sql, database="postgres"):
        """The one value of an answer, as text."""
        done = self._run(sql, database)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _run(self, sql, database="postgres"):
        port = ["-p", str(self.port)] if self.tls else []
        connect = ["-h", str(self.folder), *port, "-U", "linkmail", "-d", database]
        psql = [str(self.programs / "psql"), *connect, "-Atc", sql]
        return subprocess.run(psql, capture_output=True, text=True, timeout=30)

    def _as_nobody(self, program):
        return [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            str(self.programs / program),
        ]
