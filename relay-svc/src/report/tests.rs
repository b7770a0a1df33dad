//! The text of reports, and whom they tell of what.

use linkmail_smtp::{DeliverBy, Reply, dsn::Notify};

use super::*;

fn report(head: &[u8]) -> String {
    let (postmaster, sender) = (
        mailbox("MAILER-DAEMON@relay.branch.example"),
        mailbox("\"odd name\"@branch.example"),
    );
    let subject = Subject {
        hostname: "relay.branch.example",
        postmaster: &postmaster,
        sender: &sender,
        arrived: Stamp(1_795_458_600_000),
        envelope_id: None,
        deliver_by: None,
        head,
    };
    let refused = Reply::new(
        550,
        Some(linkmail_smtp::Enhanced(5, 1, 1)),
        "no such\u{e9} user",
    );
    let failures = [
        Told::refused(
            mailbox("nobody@else.example"),
            &refused,
            "mail.isp.example:25".into(),
        ),
        Told::expired(
            mailbox("late@else.example"),
            Diagnostic::Words("connection refused".into()),
            "mail.isp.example:25".into(),
        ),
    ];
    String::from_utf8(write(&subject, &failures, Stamp(1_795_458_660_000)).unwrap()).unwrap()
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text.as_bytes()).unwrap()
}

#[test]
fn a_report_names_each_recipient_with_its_status_and_returns_only_the_header() {
    let text =
        report(b"Subject: gr\xc3\xbc\xc3\x9fe\r\nFrom: a@branch.example\r\n\r\nsecret body\r\n");
    for expected in [
        "To: \"odd name\"@branch.example\r\n",
        "report-type=delivery-status",
        "Auto-Submitted: auto-replied\r\n",
        "Reporting-MTA: dns; relay.branch.example\r\nArrival-Date: Mon, 23 Nov 2026 18:30:00 +0000\r\n",
        "Final-Recipient: rfc822; nobody@else.example\r\nAction: failed\r\nStatus: 5.1.1\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 no such? user\r\n",
        "Final-Recipient: rfc822; late@else.example\r\nAction: failed\r\nStatus: 5.4.7\r\n",
        "Subject: gr????e\r\nFrom: a@branch.example\r\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert!(!text.contains("secret"));
    assert!(text.is_ascii());
}

#[test]
fn what_was_asked_for_stands_in_the_report_and_success_is_told_as_relayed() {
    let (postmaster, sender) = (
        mailbox("MAILER-DAEMON@relay.branch.example"),
        Mailbox::parse_utf8("j\u{f6}rg@branch.example".as_bytes()).unwrap(),
    );
    let id = EnvelopeId::new("an id").unwrap();
    let subject = Subject {
        hostname: "relay.branch.example",
        postmaster: &postmaster,
        sender: &sender,
        arrived: Stamp(1_795_458_600_000),
        envelope_id: Some(&id),
        deliver_by: None,
        head: b"Subject: x\r\n\r\n",
    };
    let taken = Reply::new(250, None, "queued as 1");
    let odd = Mailbox::parse_utf8("ren\u{e9}@else.example".as_bytes()).unwrap();
    let told = [Told::relayed(odd, &taken, "mail.isp.example".into())
        .with_original(OriginalRecipient::parse(b"rfc822;r+2B@else.example", false))];
    let text = write(&subject, &told, Stamp(1_795_458_660_000)).unwrap();
    let text = String::from_utf8(text).unwrap();
    for expected in [
        "To: j\u{f6}rg@branch.example\r\n",
        "Subject: Your message was handed on\r\n",
        "Original-Envelope-Id: an id\r\n",
        "Original-Recipient: rfc822;r+@else.example\r\n",
        "Final-Recipient: utf-8;ren\\x{E9}@else.example\r\nAction: relayed\r\nStatus: 2.0.0\r\n",
        "Diagnostic-Code: smtp; 250 queued as 1\r\n",
        "a server that will not report that it arrived",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
}

#[test]
fn a_report_is_sendable_whatever_the_message_was() {
    for head in [
        &b""[..],
        b"no line end",
        b"A: b\rC\nD\0\r\n\r\n",
        &[0xff; 70_000],
    ] {
        let text = report(head).replace("\r\n", "");
        assert!(!text.contains(['\r', '\n', '\0']), "{text:?}");
    }
}

#[test]
fn a_message_is_returned_whole_for_a_failure_that_asked_for_it_and_not_over_a_line() {
    let refused = Reply::new(550, None, "no");
    let failed = [Told::refused(
        mailbox("b@else.example"),
        &refused,
        "mx".into(),
    )];
    let taken = Reply::new(250, None, "yes");
    let relayed = [Told::relayed(
        mailbox("b@else.example"),
        &taken,
        "mx".into(),
    )];
    let small = Original {
        ret: Some(Ret::Full),
        size: WHOLE_LIMIT,
        eight_bit: false,
    };
    let to = |text: &str| NextHop::parse(text).unwrap();
    let site = to("smtp://mail.branch.example");
    assert!(returns_whole(small, &failed, &site));
    assert!(returns_whole(small, &failed, &NextHop::Report));
    assert!(!returns_whole(small, &relayed, &site), "RFC 3461 4.3");
    let held = NextHop::Hold(crate::names::Node::of(&"ship.example".parse().unwrap()));
    for line in [to("link:isp"), held] {
        assert!(!returns_whole(small, &failed, &line), "{line}");
    }
    let size = WHOLE_LIMIT + 1;
    for other in [
        Original { ret: None, ..small },
        Original {
            ret: Some(Ret::Headers),
            ..small
        },
        Original { size, ..small },
        Original {
            eight_bit: true,
            ..small
        },
    ] {
        assert!(!returns_whole(other, &failed, &site), "{other:?}");
    }
}

#[test]
fn what_stands_around_a_message_makes_one_report_with_it() {
    let (postmaster, sender) = (mailbox("MAILER-DAEMON@a.example"), mailbox("a@b.example"));
    let subject = Subject {
        hostname: "a.example",
        postmaster: &postmaster,
        sender: &sender,
        arrived: Stamp(1_795_458_600_000),
        envelope_id: None,
        deliver_by: None,
        head: b"Subject: not here\r\n\r\n",
    };
    let refused = Reply::new(550, None, "no");
    let told = [Told::refused(
        mailbox("b@else.example"),
        &refused,
        "mx".into(),
    )];
    let (before, behind) = write_around(&subject, &told, Stamp(1_795_458_660_000)).unwrap();
    let (before, behind) = (
        String::from_utf8(before).unwrap(),
        String::from_utf8(behind).unwrap(),
    );
    assert!(before.contains("The message is attached.\r\n"));
    assert!(!before.contains("not here"));
    let part = "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n";
    assert!(before.ends_with(part), "{before}");
    let (_, boundary) = before.split_once("boundary=\"").unwrap();
    let (boundary, _) = boundary.split_once('"').unwrap();
    assert_eq!(behind, format!("\r\n--{boundary}--\r\n"));
}

#[test]
fn what_is_late_is_told_with_its_last_word_and_until_when_it_is_tried() {
    let (postmaster, sender) = (
        mailbox("postmaster@branch.example"),
        mailbox("a@branch.example"),
    );
    let accepted = Stamp(1_795_458_600_000);
    let hours = |n: i64| Stamp(accepted.0 + n * 3_600_000);
    let subject = Subject {
        hostname: "relay.branch.example",
        postmaster: &postmaster,
        sender: &sender,
        arrived: accepted,
        envelope_id: None,
        deliver_by: Some(hours(2)),
        head: b"Subject: x\r\n\r\nbody\r\n",
    };
    let busy = Reply::new(451, Some(linkmail_smtp::Enhanced(4, 2, 1)), "come later");
    let odd = Reply::new(451, Some(linkmail_smtp::Enhanced(5, 2, 1)), "in two minds");
    let told = [
        Told::delayed(
            mailbox("one@else.example"),
            &LastWord::Reply(&busy, "mail.isp.example"),
            Tried::At(hours(3)),
            Some(hours(120)),
        ),
        Told::delayed(
            mailbox("two@else.example"),
            &LastWord::Words("the line is down"),
            Tried::Never,
            None,
        ),
        Told::delayed(
            mailbox("three@else.example"),
            &LastWord::Reply(&odd, "mail.isp.example"),
            Tried::Now,
            None,
        ),
    ];
    let text = String::from_utf8(write(&subject, &told, hours(4)).unwrap()).unwrap();
    for expected in [
        "Subject: Your message is late and still being tried\r\n",
        "you need not send it again",
        "mail.isp.example said: 451 4.2.1 come later\r\n    It is tried until Sat, 28 Nov 2026 18:30:00 +0000.\r\n",
        "<two@else.example>:\r\n    the line is down\r\n",
        "Arrival-Date: Mon, 23 Nov 2026 18:30:00 +0000\r\nDeliver-By-Date: Mon, 23 Nov 2026 20:30:00 +0000\r\n",
        "Action: delayed\r\nStatus: 4.2.1\r\nRemote-MTA: dns; mail.isp.example\r\nDiagnostic-Code: smtp; 451 4.2.1 come later\r\n\
         Last-Attempt-Date: Mon, 23 Nov 2026 21:30:00 +0000\r\nWill-Retry-Until: Sat, 28 Nov 2026 18:30:00 +0000\r\n",
        "Final-Recipient: rfc822; two@else.example\r\nAction: delayed\r\nStatus: 4.4.0\r\n\r\n",
        "Final-Recipient: rfc822; three@else.example\r\nAction: delayed\r\nStatus: 4.0.0\r\n",
        "Last-Attempt-Date: Mon, 23 Nov 2026 22:30:00 +0000\r\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert_eq!(text.matches("Will-Retry-Until").count(), 1);
    assert!(!text.contains("will not be tried again"));
    assert!(!returns_whole(
        Original {
            ret: Some(Ret::Full),
            size: 10,
            eight_bit: false
        },
        &told,
        &NextHop::Report,
    ));
}

#[test]
fn a_host_that_took_a_message_is_told_of_to_who_will_not_hear_it_else() {
    let host = |words: &str| Host {
        dsn: words.contains("DSN"),
        deliver_by: words.contains("BY"),
    };
    for (notify, by, offered, is_told) in [
        ("SUCCESS", "", "", true),
        ("SUCCESS,DELAY", "", "BY", true),
        ("SUCCESS", "", "DSN", false),
        ("FAILURE", "", "", false),
        ("", "", "", false),
        ("NEVER", "60;NT", "", false),
        ("", "60;N", "DSN", true),
        ("FAILURE", "60;N", "", true),
        ("", "60;N", "DSN BY", false),
        ("", "60;R", "BY", false),
        ("", "60;RT", "DSN BY", true),
        ("DELAY", "60;NT", "DSN BY", true),
        ("SUCCESS", "60;R", "BY", true),
    ] {
        let (notify, by) = (
            Notify::parse(notify.as_bytes()),
            DeliverBy::parse(by.as_bytes()),
        );
        let told = relay_is_told(notify, by, host(offered));
        assert_eq!(told, is_told, "{notify:?} {by:?} {offered}");
    }
}

#[test]
fn a_failure_has_a_status_of_failure_whatever_the_host_wrote() {
    let reply = Reply::new(550, Some(linkmail_smtp::Enhanced(4, 1, 1)), "no");
    let told = Told::refused(mailbox("a@b.example"), &reply, "mail.isp.example".into());
    assert_eq!(told.status, "5.0.0");
}
