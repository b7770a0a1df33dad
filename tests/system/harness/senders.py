"""Mail servers that are not ours as clients of ours: each takes anything at its `endpoint` and hands it in through the door
whose domain it is for, by that door's way of TLS, with the relay's certificate verified, and its mechanism of AUTH."""

from .doors import PASSWORD, USER
from .exim import Exim
from .opensmtpd import OpenSmtpd
from .place import split
from .postfix import Postfix
from .sendmail import Sendmail

EXIM_ROUTER = """
{name}:
  driver = manualroute
  domains = {domain}
  route_list = * {host}::{port} byname
  transport = {mode}
  self = send
"""

EXIM_TRANSPORTS = """
clear:
  driver = smtp
  hosts_avoid_tls = *
  hosts_try_auth = *

starttls:
  driver = smtp
  hosts_require_tls = *
{verifying}

implicit:
  driver = smtp
  protocol = smtps
{verifying}
"""

EXIM_VERIFYING = """
  tls_verify_certificates = {roots}
  tls_verify_hosts = *
  hosts_try_auth = *
"""

EXIM_LOGINS = f"""
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^{USER}^{PASSWORD}

login:
  driver = plaintext
  public_name = LOGIN
  client_send = : {USER} : {PASSWORD}

cram:
  driver = cram_md5
  public_name = CRAM-MD5
  client_name = {USER}
  client_secret = {PASSWORD}
"""

# Who it is, and that the other side is who it should be wherever there is TLS.
SENDMAIL_RULES = f"""
LOCAL_RULESETS
Sauthinfo
R$*\t$# "U:{USER}" "P:{PASSWORD}"

LOCAL_TLS_SERVER
ROK\t$@ OK
RNONE\t$@ OK
R$*\t$#error $@ 4.7.0 $: "454 the certificate is " $1
"""


def postfix(place, doors, known):
    """TLS by STARTTLS or from the first octet, which is another service; AUTH by Cyrus SASL."""
    lines = {"transport": [], "policy": [], "passwords": []}
    for door in known:
        where = f"[{door.host}]:{door.port}"
        service = "smtps" if door.mode == "implicit" else "smtp"
        lines["transport"].append(f"{door.domain} {service}:{where}")
        lines["policy"].append(f"{where} {'none' if door.mode == 'clear' else 'verify match=relay.branch.example'}")
        if door.mechanism:
            lines["passwords"].append(f"{where} {USER}:{PASSWORD}")
    files = {name: place.folder / f"doors-{name}" for name in lines}
    for name, path in files.items():
        path.write_text("\n".join([*lines[name], ""]))
    settings = {
        "transport_maps": f"texthash:{files['transport']}",
        "smtp_tls_policy_maps": f"texthash:{files['policy']}",
        "smtp_tls_CAfile": doors.authority.certificate,
        "smtp_sasl_auth_enable": "yes",
        "smtp_sasl_password_maps": f"texthash:{files['passwords']}",
        "smtp_sasl_security_options": "noanonymous",
    }
    services = "smtps unix - - n - - smtp\n  -o smtp_tls_wrappermode=yes\n  -o smtp_tls_security_level=encrypt"
    return Postfix(place, "sender", settings=settings, services=services)


def exim(place, doors, known):
    routers = [
        EXIM_ROUTER.format(name=door.name.replace("-", "_"), domain=door.domain, host=door.host, port=door.port, mode=door.mode)
        for door in known
    ]
    verifying = EXIM_VERIFYING.format(roots=doors.authority.certificate)
    transports = EXIM_TRANSPORTS.format(verifying=verifying)
    return Exim(
        place,
        "exim-sender",
        settings={"queue_only": "false", "dsn_advertise_hosts": "*", "smtp_accept_queue_per_connection": "0"},
        routers="".join(routers),
        transports=transports,
        authenticators=EXIM_LOGINS,
    )


def opensmtpd(place, doors, known):
    endpoint = place.endpoint()
    secrets = place.folder / "doors-secrets"
    secrets.write_text(f"relay {USER}:{PASSWORD}\n")
    lines = ["listen on {} port {}".format(*split(endpoint)), f"table secrets file:{secrets}"]
    schemes = {"clear": "smtp+notls", "starttls": "smtp+tls", "implicit": "smtps"}
    for door in known:
        label, auth = ("relay@", " auth <secrets>") if door.mechanism else ("", "")
        lines.append(f'action "{door.name}" relay host "{schemes[door.mode]}://{label}{door.endpoint}"{auth}')
        lines.append(f'match from any for domain "{door.domain}" action "{door.name}"')
    return OpenSmtpd(place, "opensmtpd-sender", "\n".join([*lines, ""]), [endpoint], roots=doors.authority.certificate)


def sendmail(place, doors, known):
    """AUTH by Cyrus SASL."""
    routes = {door.domain: door.endpoint for door in known}
    identity = doors.authority.issue("sendmail", f"IP:{place.address}")
    return Sendmail(place, "sendmail-sender", routes, identity, doors.authority.certificate, rules=SENDMAIL_RULES)
