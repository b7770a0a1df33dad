//! TLS and logins.

use super::*;

#[test]
fn nothing_is_said_in_clear_when_tls_is_required() {
    let tls = TlsUse::Required;
    for (offer, said) in [
        (
            &b"250-s.example\r\n250 AUTH PLAIN\r\n"[..],
            "STARTTLS is required and not offered",
        ),
        (
            b"250-s.example\r\n250 STARTTLS\r\n",
            "STARTTLS is required and was refused: 454 no",
        ),
    ] {
        let mut session = ClientSession::new(ClientConfig {
            tls,
            authenticate: true,
            ..config()
        });
        session.transmit(transaction(1), Content::Whole(b"x\r\n".to_vec()));
        session.receive(b"220 s.example\r\n");
        assert_eq!(written(&mut session), "EHLO client.test\r\n");
        session.receive(offer);
        if said.contains("refused") {
            assert_eq!(written(&mut session), "STARTTLS\r\n");
            session.receive(b"454 no\r\n");
        }
        assert!(matches!(
            outcome(&mut session),
            RecipientOutcome::NotTried(_)
        ));
        match session.step() {
            ClientStep::Closed(reason) => assert_eq!(reason.to_string(), said),
            step => panic!("open: {step:?}"),
        }
    }
}

#[test]
fn what_was_said_before_tls_is_forgotten_and_what_was_injected_ends_the_session() {
    let starting = || {
        let mut session = ClientSession::new(ClientConfig {
            tls: TlsUse::IfOffered,
            ..config()
        });
        session.receive(b"220 s.example\r\n");
        written(&mut session);
        session.receive(b"250-s.example\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
        assert_eq!(written(&mut session), "STARTTLS\r\n");
        session
    };
    let mut good = starting();
    good.receive(b"220 go\r\n");
    assert_eq!(good.step(), ClientStep::StartTls);
    good.tls_started();
    assert_eq!((good.is_encrypted(), good.capabilities()), (true, None));
    assert_eq!(written(&mut good), "EHLO client.test\r\n");
    let mut injected = starting();
    injected.receive(b"220 go\r\n250-EVIL\r\n250 PIPELINING\r\n");
    assert!(matches!(
        injected.step(),
        ClientStep::Closed(CloseReason::Protocol(_))
    ));
    // What comes while the shell makes the handshake, told before or after it, or cut in the middle of a line.
    for (octets, tells_after) in [
        (&b"250-EVIL\r\n"[..], false),
        (b"250 EVIL\r\n", true),
        (b"250-EVIL\r\n", true),
        (b"25", true),
    ] {
        let mut injected = starting();
        injected.receive(b"220 go\r\n");
        assert_eq!(injected.step(), ClientStep::StartTls);
        injected.receive(octets);
        if tells_after {
            injected.tls_started();
            injected.receive(b"250 s.example\r\n");
        }
        let ClientStep::Closed(CloseReason::Protocol(what)) = injected.step() else {
            panic!("{octets:?} {tells_after}");
        };
        assert_eq!(what, "octets in clear behind the answer to STARTTLS");
    }
}

#[test]
fn a_login_asks_the_shell_and_hides_what_it_says() {
    let mut session = ClientSession::new(ClientConfig {
        authenticate: true,
        ..config()
    });
    session.receive(b"220 s.example\r\n");
    written(&mut session);
    session.receive(b"250-s.example\r\n250 AUTH login Cram-MD5\r\n");
    assert_eq!(session.step(), ClientStep::Authenticate);
    let offered = session.capabilities().unwrap().auth.clone();
    assert_eq!(offered, ["LOGIN", "CRAM-MD5"]);
    session.auth("CRAM-MD5", None);
    let secret = |session: &mut ClientSession| match session.step() {
        ClientStep::WriteSecret(bytes) => String::from_utf8(bytes).unwrap(),
        step => panic!("not a secret: {step:?}"),
    };
    assert_eq!(secret(&mut session), "AUTH CRAM-MD5\r\n");
    assert_eq!(session.step(), ClientStep::Read(ClientPhase::Auth));
    session.receive(b"334 PDE+\r\n");
    assert_eq!(session.step(), ClientStep::AuthChallenge(b"<1>".to_vec()));
    session.auth_response(b"me 0f");
    assert_eq!(secret(&mut session), "bWUgMGY=\r\n");
    session.receive(b"235 2.7.0 welcome\r\n");
    assert_eq!(session.step(), ClientStep::Authenticated);
    assert_eq!(session.step(), ClientStep::Ready);
}

#[test]
fn a_long_initial_response_waits_for_an_empty_challenge() {
    let said = |octets: usize, challenge: &[u8]| {
        let mut session = ClientSession::new(ClientConfig {
            authenticate: true,
            ..config()
        });
        session.receive(b"220 s.example\r\n");
        written(&mut session);
        session.receive(b"250-s.example\r\n250 AUTH XOAUTH2\r\n");
        assert_eq!(session.step(), ClientStep::Authenticate);
        session.auth("XOAUTH2", Some(&vec![b'x'; octets]));
        let ClientStep::WriteSecret(first) = session.step() else {
            panic!("no AUTH");
        };
        assert_eq!(session.step(), ClientStep::Read(ClientPhase::Auth));
        session.receive(challenge);
        (first, session.step())
    };
    // "AUTH XOAUTH2 " and CRLF leave 497 octets, which base64 fills up to 496 of.
    let (fits, _) = said(372, b"235 welcome\r\n");
    assert_eq!(fits.len(), 511);
    let (alone, answer) = said(373, b"334 \r\n");
    assert_eq!(alone, b"AUTH XOAUTH2\r\n");
    let ClientStep::WriteSecret(answer) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(answer.len(), 500 + 2);
    assert!(answer.starts_with(b"eHh4eHh4") && answer.ends_with(b"==\r\n"));
    let (_, wrong) = said(373, b"334 eA==\r\n");
    assert!(matches!(
        wrong,
        ClientStep::Closed(CloseReason::Protocol(_))
    ));
    let (_, challenge) = said(372, b"334 eA==\r\n");
    assert_eq!(challenge, ClientStep::AuthChallenge(b"x".to_vec()));
}
