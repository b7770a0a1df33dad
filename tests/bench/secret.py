"""What STARTTLS and AUTH need: a certificate for both sites' addresses, a user and a password."""

import subprocess


class Secret:
    """Files in `folder`, which everyone at both sites may read."""

    user, password = "branch", "correct-horse"

    def __init__(self, folder, addresses):
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        names = ",".join(["DNS:receiver.provider.example", *(f"IP:{address}" for address in sorted(set(addresses)))])
        made = subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-keyout", self.key, "-out", self.certificate, "-days", "2", "-subj", "/CN=receiver.provider.example"),
                # An end's certificate that is its own authority; some clients take none that calls itself an authority.
                *("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"),
            ],
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        # Exim reads it as its own user.
        self.key.chmod(0o644)
        self.password_file = folder / "password"
        self.password_file.write_text(f"{self.password}\n")
        self.password_file.chmod(0o600)

    def fields(self):
        """Everything by name."""
        return {"user": self.user, "password": self.password, **vars(self)}
