//! `tls = …` as it is read, and what is said of what is wrong.

use std::fs;

use linkmail_service::{
    config::Document,
    tls::{ClientTls, Mode, ServerTls},
};

use crate::authority::Authority;

/// The mode, or the errors.
fn next_hop(text: &str) -> Result<Mode, String> {
    let document = Document::parse("relay.toml", text).unwrap();
    let root = document.root();
    let tls = ClientTls::read(&root, "tls", Mode::Opportunistic);
    root.finish();
    document.finish().map_err(|errors| errors.to_string())?;
    Ok(tls.unwrap().mode())
}

fn listener(text: &str) -> Result<bool, String> {
    let document = Document::parse("relay.toml", text).unwrap();
    let root = document.root();
    let tls = ServerTls::read(&root, "tls");
    root.finish();
    document.finish().map_err(|errors| errors.to_string())?;
    Ok(tls.is_some())
}

#[test]
fn a_next_hop_is_a_word_or_a_table() {
    let authority = Authority::new("root");
    let own = authority.issue("site.example").files;
    let pin = format!("spki-sha256:{}", "0f".repeat(32));
    let roots = authority.roots();
    for (text, mode) in [
        (String::new(), Mode::Opportunistic),
        ("tls = \"none\"".to_owned(), Mode::None),
        ("tls = \"opportunistic\"".to_owned(), Mode::Opportunistic),
        ("tls = { roots = \"public\" }".to_owned(), Mode::Require),
        (
            format!("tls = {{ mode = \"implicit\", roots = {roots:?} }}"),
            Mode::Implicit,
        ),
        (
            format!(
                "tls = {{ mode = \"required\", pin = [{pin:?}], server_name = \"mx.example\" }}"
            ),
            Mode::Require,
        ),
        (
            format!(
                "tls = {{ mode = \"opportunistic\", certificate = {:?}, key = {:?} }}",
                own.certificate, own.key
            ),
            Mode::Opportunistic,
        ),
    ] {
        assert_eq!(next_hop(&text), Ok(mode), "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_next_hop_is_told_with_its_place() {
    let authority = Authority::new("root");
    let own = authority.issue("site.example").files;
    let other = authority.issue("other.example").files;
    let empty = authority.path("empty.pem");
    fs::write(&empty, "").unwrap();
    let broken = authority.path("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nMII").unwrap();
    for (text, message) in [
        ("tls = \"require\"".to_owned(), "relay.toml:1: tls: unknown mode \"require\"; one of required, opportunistic, implicit, none".to_owned()),
        ("tls = true".to_owned(), "relay.toml:1: tls: expected a string, found boolean true".to_owned()),
        ("tls = { mod = \"none\", roots = \"public\" }".to_owned(), "unknown key \"mod\"; did you mean \"mode\"?".to_owned()),
        ("tls = { roots = \"private\" }".to_owned(), "tls.roots: unknown roots \"private\"; \"system\", \"public\", or the absolute path of a PEM file".to_owned()),
        ("tls = { roots = \"/nowhere.pem\" }".to_owned(), "relay.toml:1: tls.roots: /nowhere.pem: cannot be read".to_owned()),
        (format!("tls = {{ roots = {empty:?} }}"), "holds no certificate; expected PEM that begins with -----BEGIN CERTIFICATE-----".to_owned()),
        (format!("tls = {{ roots = {broken:?} }}"), "is the file complete?".to_owned()),
        ("tls = { pin = [\"sha256:00\"] }".to_owned(), "tls.pin[0]: \"sha256:00\" is no pin; expected \"spki-sha256:\"".to_owned()),
        ("tls = { pin = [] }".to_owned(), "tls.pin: expected at least one pin".to_owned()),
        ("tls = { mode = \"opportunistic\", roots = \"public\" }".to_owned(), "tls.roots: mode = \"opportunistic\" verifies nobody".to_owned()),
        ("tls = { server_name = \"not a name\" }".to_owned(), "tls.server_name: \"not a name\" is no host name".to_owned()),
        (format!("tls = {{ certificate = {:?} }}", own.certificate), "tls.key: missing; this key is required".to_owned()),
        (format!("tls = {{ mode = \"opportunistic\", certificate = {:?}, key = {:?} }}", own.certificate, other.key), "tls.key: ".to_owned() + other.key.to_str().unwrap() + ": not the key of"),
    ] {
        let error = next_hop(&text).unwrap_err();
        assert!(error.contains(&message), "{text}\n{error}\n{message}");
    }
}

#[test]
fn a_listener_has_a_certificate_and_a_key_that_fit() {
    let authority = Authority::new("root");
    let own = authority.issue("mx.example").files;
    let other = authority.issue("other.example").files;
    let good = format!("certificate = {:?}, key = {:?}", own.certificate, own.key);
    let more = format!(
        "certificate = {:?}, key = {:?}",
        other.certificate, other.key
    );
    let roots = authority.roots();
    assert_eq!(listener(""), Ok(false));
    assert_eq!(listener(&format!("tls = {{ {good} }}")), Ok(true));
    let full = format!("tls = {{ {good}, by_name = [{{ {more} }}], client_roots = {roots:?} }}");
    assert_eq!(listener(&full), Ok(true));
    let encrypted = authority.path("encrypted.key");
    fs::write(
        &encrypted,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    for (text, message) in [
        ("tls = \"required\"".to_owned(), "tls: expected a table"),
        ("tls = {}".to_owned(), "tls.certificate: missing"),
        (
            format!(
                "tls = {{ certificate = {:?}, key = {:?} }}",
                own.certificate, own.certificate
            ),
            "tls.key: ",
        ),
        (
            format!(
                "tls = {{ certificate = {:?}, key = {encrypted:?} }}",
                own.certificate
            ),
            "the key is encrypted; expected one without a password",
        ),
        (
            format!("tls = {{ {good}, client_roots = 1 }}"),
            "tls.client_roots: expected a string",
        ),
        (
            format!("tls = {{ {good}, client_roots = \"/nowhere\" }}"),
            "tls.client_roots: /nowhere: cannot be read",
        ),
        (
            format!(
                "tls = {{ {good}, by_name = [{{ certificate = \"/nowhere\", key = \"/nowhere\" }}] }}"
            ),
            "tls.by_name: /nowhere: cannot be read",
        ),
    ] {
        let error = listener(&text).unwrap_err();
        assert!(error.contains(message), "{text}\n{error}");
    }
}
