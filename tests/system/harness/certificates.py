"""A certificate authority of a test's own, by the openssl command."""

import hashlib
import subprocess


def openssl(*arguments, **kwargs):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, **kwargs)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


class Authority:
    """`root` is its certificate. Files lie in `folder`."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self.root, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", "/CN=Test authority", "-keyout", self._key, "-out", self.root),
        )

    def issue(self, file, *names):
        """A certificate for these names, and its key: FILE.pem and FILE.key, replaced if they are there."""
        certificate, key = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        request, extensions = self.folder / f"{file}.csr", self.folder / f"{file}.ext"
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={names[0]}", "-keyout", key, "-out", request),
        )
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names))
        openssl(
            *("x509", "-req", "-in", request, "-CA", self.root, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extensions, "-out", certificate),
        )
        return certificate, key


def key_hash(certificate):
    """SHA-256 of the public key, as `relay_by` and `etrn_by` want it."""
    pem = openssl("x509", "-in", certificate, "-noout", "-pubkey")
    der = openssl("pkey", "-pubin", "-outform", "DER", input=pem)
    return "sha256:" + hashlib.sha256(der).hexdigest()
