"""What mail servers ask whether a login is right, for every mechanism that we speak: a Dovecot of its own, and the files
by which Cyrus SASL, which is part of a mail server, answers by itself."""

import subprocess

from . import wait

DOVECOT = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols =
ssl = no
disable_plaintext_auth = no
auth_failure_delay = 0
auth_mechanisms = scram-sha-256 cram-md5 plain login
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {folder}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
# No pauses for those who failed before.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {socket} {{
    mode = 0666
  }}
}}
"""

CYRUS = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {database}
mech_list: SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN
"""

# What saslpasswd2 writes.
SASLDB = """
use DB_File; use Fcntl;
my ($path, @entries) = @ARGV;
tie my %db, "DB_File", $path, O_RDWR|O_CREAT, 0644, $DB_HASH or die "$path: $!";
while (my ($user, $realm, $password) = splice @entries, 0, 3) { $db{"$user\\0$realm\\0userPassword"} = $password }
"""


class Dovecot:
    """Answers at the Unix socket `socket` from `start` to `stop`. `users`: name -> password."""

    def __init__(self, place, users):
        self.folder = place.folder / "dovecot"
        self.socket = place.folder / "dovecot-auth"
        self._users = users
        self.process = None

    def start(self):
        self.folder.mkdir()
        (self.folder / "users").write_text("".join(f"{user}:{password}\n" for user, password in self._users.items()))
        config = self.folder / "dovecot.conf"
        config.write_text(DOVECOT.format(folder=self.folder, socket=self.socket))
        with open(self.folder / "said", "wb") as said:
            self.process = subprocess.Popen(
                ["dovecot", "-F", "-c", str(config)], stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        wait.until(self._ready, lambda: f"Dovecot answers; it said: {(self.folder / 'said').read_text()}")
        return self

    def _ready(self):
        assert self.process.poll() is None, f"exit {self.process.returncode}: {(self.folder / 'said').read_text()}"
        return self.socket.is_socket()

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=10)
        self.process = None


def cyrus(folder, program, users, realm, at=None):
    """Makes the configuration and the passwords (name -> password in `realm`) of a program that calls itself `program`, in
    `folder`, which the program sees as `at`."""
    folder.mkdir()
    (folder / f"{program}.conf").write_text(CYRUS.format(database=(at or str(folder)) + "/sasldb2"))
    entries = [text for user, password in users.items() for text in (user, realm, password)]
    subprocess.run(["perl", "-e", SASLDB, str(folder / "sasldb2"), *entries], check=True)
