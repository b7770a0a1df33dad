//! Laws of an exchange: the right password lets in and no other does, whatever the name; and no input makes either side
//! panic or lets a stranger in.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use linkmail_sasl::{
    ClientExchange, Credential, CredentialFile, Decoy, Failure, Iterations, Mechanism, Name, Nonce,
    Password, ServerExchange, ServerSetup, Step,
};
use proptest::prelude::*;

const SERVER_NONCE: [u8; 18] = [5; 18];

fn iterations() -> Iterations {
    Iterations::new(Iterations::MIN).unwrap()
}

fn setup() -> ServerSetup {
    ServerSetup {
        nonce: Nonce::from_random(SERVER_NONCE),
        hostname: "relay.test".to_owned(),
        decoy: Decoy::new([9; 32], iterations()),
    }
}

/// Text with what is special to one mechanism or another, and with letters that SASLprep changes.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9,=. \u{e9}\u{df}\u{436}\u{3bb}\u{8a9e}\u{2168}\u{a0}\u{ad}]{1,24}",
        "[\u{5d0}-\u{5ea}]{1,8}",
        "(e\u{301}|=2C|=3D|,n=|,,){1,8}",
    ]
}

fn name() -> impl Strategy<Value = Name> {
    text().prop_filter_map("no name", |text| Name::parse(&text).ok())
}

fn password() -> impl Strategy<Value = (String, Password)> {
    text().prop_filter_map("no password", |text| {
        Password::parse(&text).ok().map(|password| (text, password))
    })
}

/// The last step, when this is stored and each challenge is answered by `respond`.
fn drive(
    (mut server, mut step): (ServerExchange, Step),
    stored: &Credential,
    mut respond: impl FnMut(&[u8]) -> Vec<u8>,
) -> Step {
    loop {
        step = match &step {
            Step::Challenge(challenge) => server.respond(&respond(challenge)),
            Step::NeedCredential { .. } => server.look_up(Some(stored.clone())),
            Step::Accepted { .. } | Step::Failed(_) => return step,
        };
    }
}

/// Our client against our server; whether the client believes the server, too.
fn log_in(mut client: ClientExchange, stored: &Credential) -> (Step, bool) {
    let initial = client.initial_response();
    let server = ServerExchange::start(client.mechanism(), initial, setup());
    let last = drive(server, stored, |challenge| {
        client.respond(challenge).unwrap()
    });
    (last, client.finish().is_ok())
}

/// PLAIN or LOGIN, as any client does them.
fn log_in_showing(mechanism: Mechanism, name: &str, password: &str, stored: &Credential) -> Step {
    let server = ServerExchange::start(mechanism, None, setup());
    drive(server, stored, |challenge| match challenge {
        b"Username:" => name.as_bytes().to_vec(),
        b"Password:" => password.as_bytes().to_vec(),
        _ => format!("\0{name}\0{password}").into_bytes(),
    })
}

fn client(
    mechanism: Mechanism,
    name: &Name,
    password: &Password,
    nonce: [u8; 18],
) -> ClientExchange {
    match mechanism {
        Mechanism::CramMd5 => ClientExchange::cram_md5(name.clone(), password.clone()),
        _ => ClientExchange::scram_sha_256(
            name.clone(),
            password.clone(),
            &Nonce::from_random(nonce),
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_right_password_lets_in_and_no_other(
        name in name(),
        (right_text, right) in password(),
        (other_text, other) in password(),
        salt: [u8; 16],
        nonce: [u8; 18],
    ) {
        let stored = Credential::from_password(&right, &salt, iterations())
            .unwrap()
            .with_cram_md5(right.clone());
        let is_other = !stored.scram().unwrap().verify(&other);
        let accepted = Step::Accepted { name: name.clone() };
        let refused = Step::Failed(Failure::Credentials);
        for mechanism in [Mechanism::ScramSha256, Mechanism::CramMd5] {
            let (last, believed) = log_in(client(mechanism, &name, &right, nonce), &stored);
            prop_assert_eq!(&last, &accepted);
            prop_assert!(believed);
            if is_other {
                let (last, believed) = log_in(client(mechanism, &name, &other, nonce), &stored);
                prop_assert_eq!(&last, &refused);
                prop_assert_eq!(believed, mechanism == Mechanism::CramMd5);
            }
            let nothing = Credential::default();
            let (last, _) = log_in(client(mechanism, &name, &right, nonce), &nothing);
            prop_assert_eq!(&last, &refused);
        }
        for mechanism in [Mechanism::Plain, Mechanism::Login] {
            let last = log_in_showing(mechanism, name.as_str(), &right_text, &stored);
            prop_assert_eq!(&last, &accepted);
            if is_other {
                let last = log_in_showing(mechanism, name.as_str(), &other_text, &stored);
                prop_assert_eq!(&last, &refused);
            }
        }
    }

    /// A server without our keys can make us answer, but not believe it.
    #[test]
    fn a_server_that_knows_another_password_is_not_believed(
        name in name(),
        (_, ours) in password(),
        salt: [u8; 16],
        nonce: [u8; 18],
        signature: [u8; 32],
    ) {
        let mut client = client(Mechanism::ScramSha256, &name, &ours, nonce);
        let initial = client.initial_response();
        let (mut server, _) = ServerExchange::start(Mechanism::ScramSha256, initial, setup());
        let theirs = Password::parse("not ours").unwrap();
        let stored = Credential::from_password(&theirs, &salt, iterations()).unwrap();
        let Step::Challenge(salt) = server.look_up(Some(stored)) else {
            return Err(TestCaseError::fail("no salt"));
        };
        client.respond(&salt).unwrap();
        let forged = format!("v={}", base64(&signature));
        prop_assert!(client.respond(forged.as_bytes()).is_err());
        prop_assert!(client.finish().is_err());
    }

    #[test]
    fn a_file_reads_back_what_was_set(
        set in prop::collection::vec((name(), password(), any::<bool>()), 1..6),
        before in "(# [a-z:]{0,9}\r?\n|\r?\n| \t\n){0,4}",
    ) {
        let mut file = CredentialFile::parse(&before).unwrap();
        let mut kept = std::collections::BTreeMap::new();
        for (name, (_, password), is_clear) in set {
            let mut credential = Credential::from_password(&password, &[3; 16], iterations()).unwrap();
            if is_clear {
                credential = credential.with_cram_md5(password.clone());
            }
            if file.set(&name, credential).is_ok() {
                kept.insert(name, (password, is_clear));
            }
        }
        let text = file.to_string();
        prop_assert!(text.starts_with(&before));
        let again = CredentialFile::parse(&text).unwrap();
        prop_assert_eq!(again.to_string(), text);
        prop_assert_eq!(again.iter().count(), kept.len());
        for (name, (password, is_clear)) in kept {
            let credential = again.get(&name).unwrap();
            prop_assert!(credential.scram().unwrap().verify(&password));
            prop_assert_eq!(credential.has_cram_md5(), is_clear);
        }
    }
}

/// Pieces from which something close to a message is put together.
const PIECES: &[&[u8]] = &[
    b"n,,",
    b"y,,",
    b"p=",
    b"n=",
    b"a=",
    b"r=",
    b"s=AAAA",
    b"i=4096",
    b"c=biws",
    b"p=",
    b"v=",
    b"e=",
    b"m=",
    b"user",
    b"=2C",
    b"=3",
    b",",
    b"=",
    b"\0",
    b" ",
    b"\xff",
    b"\xc3\xbc",
    b"abc",
    b"0123456789abcdef0123456789abcdef",
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
];

fn input() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(prop::sample::select(PIECES), 0..12)
            .prop_map(|pieces| pieces.concat()),
    ]
}

proptest! {
    #[test]
    fn no_input_lets_a_stranger_in(
        mechanism in prop::sample::select(&Mechanism::ALL),
        initial in prop::option::of(input()),
        responses in prop::collection::vec(input(), 4),
    ) {
        let owner = Password::parse("pencil").unwrap();
        let stored = Credential::from_password(&owner, &[3; 16], iterations())
            .unwrap()
            .with_cram_md5(owner);
        let mut responses = responses.into_iter();
        let server = ServerExchange::start(mechanism, initial, setup());
        let last = drive(server, &stored, |_| responses.next().unwrap_or_default());
        prop_assert!(matches!(last, Step::Failed(_)), "{last:?}");
    }

    #[test]
    fn no_input_makes_a_client_believe(challenges in prop::collection::vec(input(), 0..5)) {
        let name = Name::parse("user").unwrap();
        let password = Password::parse("pencil").unwrap();
        let mut client = client(Mechanism::ScramSha256, &name, &password, [5; 18]);
        for challenge in challenges {
            let _ = client.respond(&challenge);
        }
        prop_assert!(client.finish().is_err());
    }

    #[test]
    fn no_text_makes_the_file_panic(
        text in "([a-z#: ]{0,4}:?(SCRAM-SHA-256|CRAM-MD5)?[$]?(4096)?:?[A-Za-z0-9+/=$:]{0,50}\r?\n?){0,4}",
    ) {
        if let Ok(file) = CredentialFile::parse(&text) {
            prop_assert_eq!(file.to_string(), text);
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}
