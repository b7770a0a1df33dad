"""Mail servers that are not ours as our smart host: each takes mail from everyone here and hands it on, at an endpoint in
clear that offers STARTTLS, and at one of TLS from the first octet; USER may log in at both. Larger messages than
SIZE_BYTES are refused, and so is who is called nobody."""

import re
import subprocess
from dataclasses import dataclass

from .exim import Exim
from .opensmtpd import OpenSmtpd
from .place import split
from .postfix import Postfix
from .sasl import Dovecot
from .sendmail import Sendmail

USER, PASSWORD = "branch", "correct-horse-battery"
SIZE_BYTES = 200_000

EXIM_LOGINS = f"""
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{USER}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth2
  server_advertise_condition = ${{if def:tls_in_cipher}}

login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{{USER}}}}}{{eq{{$auth2}}{{{PASSWORD}}}}}}}}}
  server_set_id = $auth1
  server_advertise_condition = ${{if def:tls_in_cipher}}

cram_md5:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{{USER}}}{{{PASSWORD}}}fail}}
  server_set_id = $auth1
"""


SENDMAIL_RULES = """
LOCAL_RULESETS
SLocal_check_rcpt
R$*\t$: $>canonify $1
Rnobody . $* < @ $* > $*\t$#error $@ 5.1.1 $: "550 no such user"
"""


@dataclass
class SmartHost:
    """`server` is what was started, `endpoints` has ADDRESS:PORT by mode; `login` is a regular expression for a line of its log,
    in which {} is the mechanism."""

    server: object
    endpoints: dict
    login: str

    def logins(self, mechanism):
        """How often it says that USER came in by that mechanism."""
        # Exim's names for them have no hyphens.
        return len(re.findall(self.login.format(mechanism.replace("-", ".")), self.server.log(), re.I))

    def stop(self):
        self.server.stop()


def _modes(clear, implicit):
    return {"clear": clear, "starttls": clear, "implicit": implicit}


def postfix(place, running, sink, identity, roots):
    """Logins by Dovecot, with SCRAM-SHA-256, CRAM-MD5, PLAIN and LOGIN."""
    dovecot = running(Dovecot(place, {USER: PASSWORD})).start()
    settings = {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_cert_file": identity.certificate,
        "smtpd_tls_key_file": identity.key,
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": dovecot.socket,
        "message_size_limit": SIZE_BYTES,
    }
    implicit = place.endpoint()
    services = f"{implicit} inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes"
    server = Postfix(place, "far", sink=sink, settings=settings, services=services)
    return SmartHost(server, _modes(server.endpoint, implicit), f"sasl_method={{}}, sasl_username={USER}")


def exim(place, running, sink, identity, roots):
    """Logins by its own CRAM-MD5, PLAIN and LOGIN."""
    implicit = place.endpoint()
    settings = {
        "tls_advertise_hosts": "*",
        "tls_certificate": identity.certificate,
        "tls_privatekey": identity.key,
        "tls_on_connect_ports": split(implicit)[1],
        "message_size_limit": SIZE_BYTES,
        "smtp_accept_queue_per_connection": "0",
        "dsn_advertise_hosts": "*",
    }
    server = Exim(place, "exim-far", sink=sink, settings=settings, authenticators=EXIM_LOGINS, ports=[split(implicit)[1]])
    return SmartHost(server, _modes(server.endpoint, implicit), f"A={{}}:{USER} ")


def opensmtpd(place, running, sink, identity, roots):
    """Logins by PLAIN and LOGIN, under TLS alone."""
    clear, implicit = place.endpoint(), place.endpoint()
    made = subprocess.run(["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True)
    secrets = place.folder / "far-secrets"
    secrets.write_text(f"{USER} {made.stdout}")
    key = place.folder / "opensmtpd.key"
    key.write_bytes(identity.key.read_bytes())
    key.chmod(0o600)
    lines = [
        f'pki far cert "{identity.certificate}"',
        f'pki far key "{key}"',
        f"smtp max-message-size {SIZE_BYTES}",
        f"table secrets file:{secrets}",
        "listen on {} port {} tls pki far auth-optional <secrets>".format(*split(clear)),
        "listen on {} port {} smtps pki far auth-optional <secrets>".format(*split(implicit)),
        f'action far relay host "smtp+notls://{sink}"',
        'match from any for rcpt-to regex "^nobody\\." reject',
        "match from any for any action far",
    ]
    server = OpenSmtpd(place, "opensmtpd-far", "\n".join([*lines, ""]), [clear, implicit], roots, trace=("smtp",))
    # The line of the login has no mechanism.
    return SmartHost(server, _modes(clear, implicit), r"<<< AUTH {}")


def sendmail(place, running, sink, identity, roots):
    """Logins by Cyrus SASL, with SCRAM-SHA-256, CRAM-MD5, PLAIN and LOGIN."""
    implicit = place.endpoint()
    server = Sendmail(
        place,
        "sendmail-far",
        {"*": sink},
        identity,
        roots,
        listeners=[(implicit, "s")],
        rules=SENDMAIL_RULES,
        settings=f"define(`confMAX_MESSAGE_SIZE', `{SIZE_BYTES}')",
        users={USER: PASSWORD},
    )
    return SmartHost(server, _modes(server.endpoint, implicit), r"<<< AUTH {}")
