"""An authority and the certificates that it issues, by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

CONFIG = """
[ca]
default_ca = it
[it]
database = {folder}/index
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
new_certs_dir = {folder}
unique_subject = no
[any]
commonName = supplied
"""


def _openssl(*arguments):
    made = subprocess.run(["openssl", *map(str, arguments)], capture_output=True)
    assert made.returncode == 0, made.stderr.decode(errors="replace")
    return made.stdout


@dataclass(frozen=True)
class Identity:
    """Two PEM files that every user may read: servers change theirs."""

    certificate: Path
    key: Path

    def files(self):
        """Both paths as text, by the names of the configuration."""
        return {"certificate": str(self.certificate), "key": str(self.key)}

    def digests(self):
        """SHA-256 of the public key and of the certificate, as pins are written."""
        key = _openssl("x509", "-in", self.certificate, "-noout", "-pubkey")
        der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key, capture_output=True, check=True)
        digest = subprocess.run(["openssl", "sha256", "-r"], input=der.stdout, capture_output=True, check=True).stdout
        whole = _openssl("x509", "-in", self.certificate, "-noout", "-fingerprint", "-sha256").decode()
        return (
            "spki-sha256:" + digest.split()[0].decode(),
            "cert-sha256:" + whole.split("=")[1].strip().replace(":", "").lower(),
        )


class Authority:
    """`certificate` is its own, for those who trust it."""

    def __init__(self, place, name="authority"):
        self._folder = place.folder / name
        self._folder.mkdir()
        self._key = self._folder / "authority.key"
        self.certificate = self._folder / "authority.pem"
        subject = ("-subj", f"/CN={name}", "-days", 2)
        _openssl("req", "-x509", *KEY, "-keyout", self._key, "-out", self.certificate, *subject)
        self._config = self._folder / "ca.conf"
        self._config.write_text(CONFIG.format(folder=self._folder))
        (self._folder / "index").touch()

    def issue(self, name, alternatives, expired=False):
        """A certificate for `alternatives`, such as "IP:127.0.0.1"; valid from yesterday to tomorrow, or a year ago."""
        identity = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        extensions = ("-addext", f"subjectAltName={alternatives}", "-addext", "basicConstraints=critical,CA:FALSE")
        subject = ("-subj", f"/CN={name}")
        _openssl("req", *KEY, "-keyout", identity.key, "-out", request, *subject, *extensions)
        days = ("20240101000000Z", "20250101000000Z") if expired else ("20250101000000Z", "20991231000000Z")
        period = ("-startdate", days[0], "-enddate", days[1])
        signer = ("-config", self._config, "-cert", self.certificate, "-keyfile", self._key)
        _openssl("ca", "-batch", "-notext", *signer, *period, "-in", request, "-out", identity.certificate)
        identity.key.chmod(0o644)
        return identity
