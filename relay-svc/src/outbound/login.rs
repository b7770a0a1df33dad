//! The relay's own login at a next hop: which mechanism, and what is said.
//!
//! PLAIN, LOGIN and XOAUTH2 are lettre's; SCRAM-SHA-256 and CRAM-MD5 are of `linkmail-sasl`, and SCRAM also proves the
//! server. A password goes only to a server that was verified, by roots, a pin or DANE: TLS with whoever answers keeps it
//! from who listens, and not from who stands between. With others only SCRAM and, where it is asked for, CRAM-MD5 are used.

use lettre::transport::smtp::authentication::{Credentials, Mechanism as Lettre};
use linkmail_sasl::{ClientExchange, Mechanism, Nonce, Password};
use ring::rand::{SecureRandom, SystemRandom};

use super::hosts::{Login, Sasl};

/// A login that is under way.
pub(super) struct Exchange {
    of: Of,
}

enum Of {
    Lettre(Lettre, Credentials),
    Sasl(Box<ClientExchange>),
}

/// How a login begins.
pub(super) struct Begun {
    /// The mechanism's name.
    pub(super) mechanism: &'static str,
    /// Its initial response, if it has one.
    pub(super) initial: Option<Vec<u8>>,
    pub(super) exchange: Exchange,
}

/// Begins a login by the best mechanism that both sides know and that may be used on this connection.
///
/// # Errors
/// There is none, or the password cannot be read: in words.
pub(super) async fn begin(
    login: &Login,
    offered: &[String],
    verified: bool,
) -> Result<Begun, String> {
    let mechanism = choose(login, offered, verified)?;
    let secret = secret(login).await?;
    Ok(match mechanism {
        Sasl::Token => by_lettre(Lettre::Xoauth2, "XOAUTH2", login, secret),
        Sasl::Password(Mechanism::Plain) => by_lettre(Lettre::Plain, "PLAIN", login, secret),
        Sasl::Password(Mechanism::Login) => by_lettre(Lettre::Login, "LOGIN", login, secret),
        Sasl::Password(own) => {
            let password = Password::parse(&secret)
                .map_err(|error| format!("{}: {error}", login.password_file.display()))?;
            let user = login.user.clone();
            let exchange = match own {
                Mechanism::CramMd5 => ClientExchange::cram_md5(user, password),
                _ => ClientExchange::scram_sha_256(user, password, &nonce()?),
            };
            Begun {
                mechanism: own.as_str(),
                initial: exchange.initial_response(),
                exchange: Exchange {
                    of: Of::Sasl(Box::new(exchange)),
                },
            }
        }
    })
}

fn choose(login: &Login, offered: &[String], verified: bool) -> Result<Sasl, String> {
    let has = |sasl: &&Sasl| offered.iter().any(|name| name == sasl.name());
    let known: Vec<_> = login.mechanisms.iter().filter(has).collect();
    match known.iter().find(|sasl| verified || !sasl.gives_secret()) {
        Some(sasl) => Ok(**sasl),
        None if known.is_empty() => Err(format!(
            "no mechanism to log in with: the server offers {}",
            if offered.is_empty() {
                "none".to_owned()
            } else {
                offered.join(", ")
            }
        )),
        None => Err(
            "the password may not go to a server that was not verified: the login needs TLS with a certificate that is"
                .into(),
        ),
    }
}

fn by_lettre(mechanism: Lettre, name: &'static str, login: &Login, secret: String) -> Begun {
    let credentials = Credentials::new(login.user.as_str().to_owned(), secret);
    let initial = mechanism
        .supports_initial_response()
        .then(|| mechanism.response(&credentials, None).ok())
        .flatten();
    Begun {
        mechanism: name,
        initial: initial.map(String::into_bytes),
        exchange: Exchange {
            of: Of::Lettre(mechanism, credentials),
        },
    }
}

impl Exchange {
    /// The answer to a challenge; it may take a while to compute. Errors: the challenge makes no sense, in words.
    pub(super) fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, String> {
        match &mut self.of {
            Of::Sasl(exchange) => exchange
                .respond(challenge)
                .map_err(|error| error.to_string()),
            // The server tells with this what it refuses; an empty answer lets it say so (XOAUTH2).
            Of::Lettre(Lettre::Xoauth2, _) => Ok(Vec::new()),
            Of::Lettre(mechanism, credentials) => {
                let text = std::str::from_utf8(challenge).map_err(|error| error.to_string())?;
                let answer = mechanism.response(credentials, Some(text));
                answer
                    .map(String::into_bytes)
                    .map_err(|error| error.to_string())
            }
        }
    }

    /// The server says that the login succeeded. Errors: it did not prove that it knows the password, where it has to.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.of {
            Of::Sasl(exchange) => exchange.finish().map_err(|error| error.to_string()),
            Of::Lettre(..) => Ok(()),
        }
    }
}

/// The first line of the password file.
async fn secret(login: &Login) -> Result<String, String> {
    let path = &login.password_file;
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| format!("the password cannot be read: {}: {error}", path.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("{}: no password on the first line", path.display())),
    }
}

fn nonce() -> Result<Nonce, String> {
    let mut octets = [0; 18];
    SystemRandom::new()
        .fill(&mut octets)
        .map_err(|_| "the system gives no random numbers".to_owned())?;
    Ok(Nonce::from_random(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_mechanism_is_taken_and_no_password_goes_to_just_anyone() {
        let login = |mechanisms: &[&str]| Login {
            user: linkmail_sasl::Name::parse("branch").unwrap(),
            password_file: "/nowhere".into(),
            mechanisms: mechanisms
                .iter()
                .map(|name| Sasl::parse(name).unwrap())
                .collect(),
        };
        let all = login(&["SCRAM-SHA-256", "plain", "LOGIN", "XOAUTH2"]);
        let offers = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let chosen = |login: &Login, offered: &str, verified| {
            choose(login, &offers(offered), verified).map(|sasl| format!("{sasl:?}"))
        };
        for (offered, verified, expected) in [
            (
                "LOGIN PLAIN SCRAM-SHA-256",
                true,
                Ok("Password(ScramSha256)"),
            ),
            ("LOGIN PLAIN", true, Ok("Password(Plain)")),
            ("XOAUTH2", true, Ok("Token")),
            ("PLAIN SCRAM-SHA-256", false, Ok("Password(ScramSha256)")),
            (
                "PLAIN LOGIN XOAUTH2",
                false,
                Err(
                    "the password may not go to a server that was not verified: the login needs TLS with a certificate that is",
                ),
            ),
            (
                "CRAM-MD5",
                true,
                Err("no mechanism to log in with: the server offers CRAM-MD5"),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(
                chosen(&all, offered, verified),
                expected,
                "{offered} {verified}"
            );
        }
        let asked_for = login(&["CRAM-MD5"]);
        let expected = Ok("Password(CramMd5)".to_owned());
        assert_eq!(chosen(&asked_for, "CRAM-MD5 PLAIN", false), expected);
        assert!(Sasl::parse("GSSAPI").is_err());
    }
}
