//! The server side of an exchange: each mechanism step by step, and the reason of each failure.

use super::*;
use crate::client::ClientExchange;
use crate::credential::{Iterations, ScramKeys};

const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
    WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
/// RFC 7677 3.
const SCRAM: [&str; 4] = [
    "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
     p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
];
/// Our part of the nonce there.
const SCRAM_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const TIM: &str = "tim b913a602c7eda7a495b4e6e7334d3890";
const PRINTED: &str = "1896.697170952";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn setup(nonce: &str) -> ServerSetup {
    ServerSetup {
        nonce: nonce.parse().unwrap(),
        hostname: "postoffice.reston.mci.net".to_owned(),
        decoy: Decoy::new([9; 32], Iterations::new(4096).unwrap()),
    }
}

/// `user` has keys alone, `tim` a clear secret alone, and `both` has both; the password of all is `pencil`, but for
/// that of `tim`, which is the one of RFC 2195.
fn stored(name: &Name) -> Option<Credential> {
    let keys = Credential::from_keys(ScramKeys::decode(PENCIL).unwrap());
    let secret = |text| Password::parse(text).unwrap();
    match name.as_str() {
        "user" => Some(keys),
        "tim" => Some(Credential::default().with_cram_md5(secret("tanstaaftanstaaf"))),
        "both" => Some(keys.with_cram_md5(secret("pencil"))),
        _ => None,
    }
}

/// Gives the responses one after the other; every step but the questions for credentials.
fn run(mechanism: Mechanism, nonce: &str, responses: &[Option<&[u8]>]) -> Vec<Step> {
    let (initial, further) = responses.split_first().unwrap();
    let initial = initial.map(<[u8]>::to_vec);
    let (mut exchange, mut step) = ServerExchange::start(mechanism, initial, setup(nonce));
    let mut further = further.iter().copied().flatten();
    let mut steps = Vec::new();
    loop {
        if let Step::NeedCredential { name } = &step {
            step = exchange.look_up(stored(name));
            continue;
        }
        steps.push(step);
        match further.next() {
            Some(response) => step = exchange.respond(response),
            None => return steps,
        }
    }
}

fn challenge(text: &str) -> Step {
    Step::Challenge(text.as_bytes().to_vec())
}

fn accepted(text: &str) -> Step {
    Step::Accepted { name: name(text) }
}

#[test]
fn scram_is_that_of_rfc_7677() {
    let [first, answer, last, signature] = SCRAM;
    let rest = [Some(first), Some(last), Some("")].map(|text| text.map(str::as_bytes));
    let with_auth = run(Mechanism::ScramSha256, SCRAM_NONCE, &rest);
    let expected = [challenge(answer), challenge(signature), accepted("user")];
    assert_eq!(with_auth, expected);
    let asked = run(
        Mechanism::ScramSha256,
        SCRAM_NONCE,
        &[&[None], rest.as_slice()].concat(),
    );
    assert_eq!(asked, [[challenge("")].as_slice(), &expected].concat());
}

#[test]
fn cram_md5_is_that_of_rfc_2195() {
    assert_eq!(
        run(Mechanism::CramMd5, PRINTED, &[None, Some(TIM.as_bytes())]),
        [
            challenge("<1896.697170952@postoffice.reston.mci.net>"),
            accepted("tim")
        ]
    );
}

/// The form of RFC 4616 4, with the names that are stored here.
#[test]
fn plain_and_login_are_held_against_the_keys_of_scram() {
    let plain = b"\0user\0pencil".as_slice();
    assert_eq!(
        run(Mechanism::Plain, "x", &[None, Some(plain)]),
        [challenge(""), accepted("user")]
    );
    for response in [
        plain,
        b"user\0user\0pencil",
        "u\u{ad}ser\0user\0pencil\u{ad}".as_bytes(),
    ] {
        assert_eq!(
            run(Mechanism::Plain, "x", &[Some(response)]),
            [accepted("user")]
        );
    }
    for (first, asked) in [(None, 1), (Some(b"both".as_slice()), 0)] {
        let name = [Some(b"both".as_slice())];
        let responses = [&[first], &name[..asked], &[Some(b"pencil".as_slice())]].concat();
        let steps = run(Mechanism::Login, "x", &responses);
        let expected = [
            challenge("Username:"),
            challenge("Password:"),
            accepted("both"),
        ];
        assert_eq!(steps, expected[1 - asked..]);
    }
}

/// The responses, of which the last one fails, and why it does.
type FailingRow<'a> = (&'a [&'a str], Failure);

fn assert_each_fails(mechanism: Mechanism, nonce: &str, rows: &[FailingRow<'_>]) {
    for (responses, failure) in rows {
        let mut given: Vec<_> = responses.iter().map(|text| Some(text.as_bytes())).collect();
        if mechanism == Mechanism::CramMd5 {
            given[0] = None;
        }
        let steps = run(mechanism, nonce, &given);
        let shown = format!("{mechanism} {responses:.100?}");
        assert_eq!(steps.last(), Some(&Step::Failed(*failure)), "{shown}");
        let failed = |step: &&Step| matches!(step, Step::Failed(_));
        assert_eq!(steps.iter().filter(failed).count(), 1, "{shown}");
    }
}

const EMPTY: PrepareError = PrepareError::Empty;
const CONTROL: PrepareError = PrepareError::Prohibited;

#[test]
fn each_failure_of_plain_has_its_reason() {
    use Failure::*;
    let long = "x".repeat(MAX_RESPONSE + 1);
    let longest = "x".repeat(MAX_RESPONSE);
    let rows: &[FailingRow<'_>] = &[
        (&[&long], TooLong),
        (&[&longest], Malformed),
        (&[""], Malformed),
        (&["\0user"], Malformed),
        (&["\0user\0pencil\0"], Malformed),
        (&["\0\0pencil"], Name(EMPTY)),
        (&["\0us\ner\0pencil"], Name(CONTROL)),
        (&["\0user\0"], Password(EMPTY)),
        (&["\0user\0pen\ncil"], Password(CONTROL)),
        // RFC 4616 4, the second example: acting for another.
        (&["Ursel\0Kurt\0xipj3plmq"], Authorization),
        (&["\0tim\0tanstaaftanstaaf"], Credentials),
        (&["\0user\0Pencil"], Credentials),
        (&["\0USER\0pencil"], Credentials),
        (&["\0nobody\0pencil"], Credentials),
    ];
    assert_each_fails(Mechanism::Plain, "x", rows);
}

#[test]
fn each_failure_of_login_has_its_reason() {
    use Failure::*;
    let long = "x".repeat(MAX_RESPONSE + 1);
    let rows: &[FailingRow<'_>] = &[
        (&[""], Name(EMPTY)),
        (&["user", ""], Password(EMPTY)),
        (&["user", &long], TooLong),
        (&["user", "wrong"], Credentials),
        (&["nobody", "pencil"], Credentials),
    ];
    assert_each_fails(Mechanism::Login, "x", rows);
}

#[test]
fn each_failure_of_cram_md5_has_its_reason() {
    use Failure::*;
    let rows: [(&str, Failure); 10] = [
        ("tim", Malformed),
        ("", Malformed),
        ("tim b913", Malformed),
        ("tim b913a602c7eda7a495b4e6e7334d389", Malformed),
        ("tim B913A602C7EDA7A495B4E6E7334D3890", Malformed),
        ("tim b913a602c7eda7a495b4e6e7334d38900", Malformed),
        (" b913a602c7eda7a495b4e6e7334d3890", Name(EMPTY)),
        ("tim b913a602c7eda7a495b4e6e7334d3891", Credentials),
        ("tom b913a602c7eda7a495b4e6e7334d3890", Credentials),
        ("user b913a602c7eda7a495b4e6e7334d3890", Credentials),
    ];
    for (response, failure) in rows {
        let row: FailingRow<'_> = (&["", response], failure);
        assert_each_fails(Mechanism::CramMd5, PRINTED, &[row]);
    }
}

#[test]
fn each_failure_of_scram_has_its_reason() {
    use Failure::*;
    let [first, _, last, _] = SCRAM;
    let long = "x".repeat(MAX_RESPONSE + 1);
    let unbound = last.replace("c=biws", "c=eSws");
    let other_nonce = last.replace("k0,", "k1,");
    let other_proof = last.replace("p=dHzb", "p=dHzc");
    let signed_more = last.replace(",p=", ",x=y,p=");
    let could_bind = first.replace("n,,", "y,,");
    let [both, tim] = ["both", "tim"].map(|name| first.replace("user", name));
    let rows: &[FailingRow<'_>] = &[
        (&[&long], TooLong),
        (&[""], Malformed),
        (&["p=tls-exporter,,n=user,r=x"], ChannelBinding),
        (&["n,,m=y,n=user,r=x"], Extension),
        (&["n,,n=,r=x"], Name(EMPTY)),
        (&["n,a=other,n=user,r=x"], Authorization),
        (&[first, ""], Malformed),
        (&[first, &unbound], OtherExchange),
        (&[first, &other_nonce], OtherExchange),
        (&[&could_bind, last], OtherExchange),
        (&[first, &other_proof], Credentials),
        (&[first, &signed_more], Credentials),
        (&[&both, last], Credentials),
        (&[&tim, last], Credentials),
        (&[first, last, "x"], Malformed),
        (&[first, last, "", ""], NotAsked),
    ];
    assert_each_fails(Mechanism::ScramSha256, SCRAM_NONCE, rows);
}

#[test]
fn bytes_that_are_no_text_and_an_early_response_fail() {
    for (mechanism, response, failure) in [
        (
            Mechanism::Plain,
            b"\0user\0\xff".as_slice(),
            Failure::Password(PrepareError::NotUtf8),
        ),
        (
            Mechanism::Login,
            b"\xff",
            Failure::Name(PrepareError::NotUtf8),
        ),
        (Mechanism::ScramSha256, b"n,,n=\xff,r=x", Failure::Malformed),
        (Mechanism::CramMd5, TIM.as_bytes(), Failure::InitialResponse),
        (Mechanism::CramMd5, b"", Failure::InitialResponse),
    ] {
        assert_eq!(
            run(mechanism, PRINTED, &[Some(response)]),
            [Step::Failed(failure)]
        );
    }
}

#[test]
fn an_answer_that_was_not_asked_for_ends_the_exchange() {
    let plain = Some(b"\0user\0pencil".to_vec());
    let (mut exchange, _) = ServerExchange::start(Mechanism::Plain, plain, setup("x"));
    assert_eq!(exchange.respond(b""), Step::Failed(Failure::NotAsked));
    let nothing = exchange.look_up(stored(&name("user")));
    assert_eq!(nothing, Step::Failed(Failure::NotAsked));
    let (mut exchange, _) = ServerExchange::start(Mechanism::Plain, None, setup("x"));
    assert_eq!(exchange.look_up(None), Step::Failed(Failure::NotAsked));
}

/// What a stranger sees of a name that is not there: a salt of the usual length, the same each time, of its own.
#[test]
fn a_name_that_is_not_known_has_a_salt_of_its_own() {
    let salt = |name: &str| {
        let first = format!("n,,n={name},r=abc");
        let steps = run(Mechanism::ScramSha256, "x", &[Some(first.as_bytes())]);
        let [Step::Challenge(challenge)] = &steps[..] else {
            panic!("{steps:?}");
        };
        String::from_utf8(challenge.clone()).unwrap()
    };
    assert_eq!(salt("nobody"), salt("nobody"));
    assert_ne!(salt("nobody"), salt("somebody"));
    // A clear secret alone looks like nothing at all.
    assert_eq!(salt("tim").len(), salt("user").len());
    assert_eq!(salt("nobody").len(), salt("user").len());
    assert!(salt("nobody").starts_with("r=abcx,s=") && salt("nobody").ends_with(",i=4096"));
}

/// Even who knows what a decoy is made of is not let in.
#[test]
fn a_decoy_lets_nobody_in() {
    let made_up = setup(PRINTED).decoy.clear_secret(&name("nobody"));
    let digest = crate::keyed::hmac_md5(&made_up, b"<1896.697170952@postoffice.reston.mci.net>");
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let response = format!("nobody {digits}");
    let steps = run(
        Mechanism::CramMd5,
        PRINTED,
        &[None, Some(response.as_bytes())],
    );
    assert_eq!(steps[1], Step::Failed(Failure::Credentials));
}

#[test]
fn no_secret_is_shown() {
    let plain = Some(b"\0user\0pencil".to_vec());
    let (exchange, step) = ServerExchange::start(Mechanism::Plain, plain, setup("x"));
    assert!(!format!("{exchange:?} {step:?}").contains("pencil"));
}

#[test]
fn a_client_of_ours_meets_a_server_of_ours() {
    let mut client = ClientExchange::scram_sha_256(
        name("user"),
        Password::parse("pencil").unwrap(),
        &"abc".parse().unwrap(),
    );
    let initial = client.initial_response();
    let (mut server, _) = ServerExchange::start(client.mechanism(), initial, setup("def"));
    let mut step = server.look_up(stored(&name("user")));
    while let Step::Challenge(challenge) = &step {
        step = server.respond(&client.respond(challenge).unwrap());
    }
    assert_eq!(step, accepted("user"));
    assert_eq!(client.finish(), Ok(()));
}
