//! What is recorded of a session, what is withheld, and that it stays bounded.

use super::*;

#[test]
fn a_session_reads_as_a_transcript() {
    let mut recorder = Recorder::new();
    recorder.server(b"220 relay.test ESMTP\r\n");
    recorder.client(b"EHLO a");
    recorder.client(b".example\r\nDATA\r\n");
    recorder.server(b"354 go\r\n");
    recorder.client(b"secret\r\n.");
    recorder.client(b"\r\nQU\x01IT\r\n");
    recorder.client(b"NOOP\nRSET\r\nha");
    recorder.mark("!close");
    assert_eq!(
        recorder.text(),
        "S: 220 relay.test ESMTP\nC: EHLO a.example\nC: DATA\nS: 354 go\nC# 8 octets of data\nC\\ QU\\x01IT\\r\\n\nC\\ NOOP\\n\nC: RSET\nC\\ ha\n!close\n"
    );
}

#[test]
fn smuggling_shows_and_data_does_not() {
    let mut recorder = Recorder::new();
    recorder.server(b"354 go\r\n");
    recorder.client(b"secret\r\n.\nMAIL FROM:<>\r\n");
    assert_eq!(
        recorder.text(),
        "S: 354 go\n# 8 octets of data, then a malformed end\nC: MAIL FROM:<>\n"
    );
}

#[test]
fn chunks_are_counted_whatever_the_pieces() {
    let said = b"BDAT 8\r\nsecret\r\nBDAT 0\r\nBDAT 4 LAST\r\nRSETNOOP\r\nBDAT x\r\nBDAT 9\r\nhalf";
    for piece in [1, 2, 7, 1000] {
        let mut recorder = Recorder::new();
        for piece in said.chunks(piece) {
            recorder.client(piece);
        }
        assert_eq!(
            recorder.text(),
            "C: BDAT 8\nC# 8 octets of chunk\nC: BDAT 0\nC: BDAT 4 LAST\nC# 4 octets of chunk\nC: NOOP\nC: BDAT x\nC: BDAT 9\n# 4 octets of chunk, then no end\n",
            "{piece}"
        );
    }
}

#[test]
fn credentials_are_withheld() {
    let long = "c2VjcmV0".repeat(400);
    for piece in [1, 3, 1000, 100_000] {
        let mut recorder = Recorder::new();
        let mut say = |client: &str, server: &str| {
            for piece in client.as_bytes().chunks(piece) {
                recorder.client(piece);
            }
            recorder.server(server.as_bytes());
        };
        say("auth plain AHNlY3JldA==\r\n", "535 5.7.8 no\r\n");
        say("AUTH LOGIN\r\n", "334 VXNlcm5hbWU6\r\n");
        say("c2VjcmV0\r\n", "334 UGFzc3dvcmQ6\r\n");
        say("*\r\n", "501 5.7.0 cancelled\r\n");
        say("NOOP\r\n", "250 2.0.0 OK\r\n");
        say(
            "NOOP\r\nAUTH LOGIN\r\nc2VjcmV0\r\nc2VjcmV0\r\n",
            "250 OK\r\n334 \r\n",
        );
        say(&format!("{long}\r\n"), "235 2.7.0 yes\r\n");
        say(&format!("AUTH X {long}\r\n{long}\r\n"), "334 \r\n");
        say("c2Vjcm", "");
        let text = recorder.text();
        assert!(!text.contains("2Vjcm") && !text.contains("AHNl"), "{text}");
        assert!(text.starts_with("C: AUTH plain [withheld]\nS: 535 5.7.8 no\nC: AUTH LOGIN\nS: 334 [withheld]\nC: [withheld]\nS: 334 [withheld]\nC: *\nS: 501 5.7.0 cancelled\nC: NOOP\nS: 250 2.0.0 OK\nC: NOOP\nC: AUTH LOGIN\nC: [withheld]\nC: [withheld]\nS: 250 OK\nS: 334 \n"), "{text}");
    }
}

#[test]
fn the_record_is_bounded_and_keeps_both_ends() {
    let mut recorder = Recorder::new();
    for number in 0..100_000 {
        recorder.client(format!("NOOP {number}\r\n").as_bytes());
    }
    recorder.client(&[b'x'; 1_000_000]);
    let text = recorder.text();
    assert!(text.len() < 2 * MAX_PART + 100, "{}", text.len());
    assert!(text.starts_with("C: NOOP 0\n"));
    assert!(text.contains(" octets of transcript left out\n"));
    assert!(text.trim_end().ends_with('x'));
}

#[test]
fn data_begins_behind_a_code_without_a_text_too() {
    for answer in ["354\r\n", "354 \r\n", "354-go\r\n354\r\n"] {
        let mut recorder = Recorder::new();
        recorder.client(b"DATA\r\n");
        recorder.server(answer.as_bytes());
        recorder.client(b"private words\r\n.\r\n");
        assert!(!recorder.text().contains("private"), "{answer:?}");
    }
}
