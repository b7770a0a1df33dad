//! Writes seeds for the fuzz targets, made from the transcripts: `cargo run -p linkmail-laws --example seeds FOLDER`.
//!
//! They are where `tests/fuzz/run --minimise` started; made again, they bring new transcripts into the corpus.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use linkmail_smtp::data::DataState;
use linkmail_tests::transcript::{Mark, Speaker};
use linkmail_tests::{Transcript, transcripts_below};

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("a folder to write to"));
    let transcripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../transcripts");
    let mut seeds = Seeds { folder, written: 0 };
    for path in transcripts_below(&transcripts).expect("the transcripts") {
        let transcript = Transcript::read(&path).expect("a transcript");
        let said = client_octets(&transcript);
        seeds.server(&said);
        seeds.data(&said);
        seeds.chunks(&said);
    }
    seeds.client();
    println!("{} seeds", seeds.written);
}

/// What the client says in a transcript.
fn client_octets(transcript: &Transcript) -> Vec<u8> {
    let mut said = Vec::new();
    for entry in &transcript.session {
        match &entry.mark {
            Mark::Line(Speaker::Client, line) => {
                said.extend_from_slice(line.as_bytes());
                said.extend_from_slice(b"\r\n");
            }
            Mark::Bytes(Speaker::Client, bytes) => said.extend_from_slice(bytes),
            Mark::Data(size) => {
                said.extend(std::iter::repeat_n(b'x', (*size).min(1100)));
                said.extend_from_slice(b"\r\n.\r\n");
            }
            Mark::Chunk(size) => said.extend(std::iter::repeat_n(b'x', (*size).min(1100))),
            _ => {}
        }
    }
    said
}

struct Seeds {
    folder: PathBuf,
    written: usize,
}

impl Seeds {
    fn write(&mut self, target: &str, octets: &[u8]) {
        let folder = self.folder.join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        let name = format!("seed-{:03}", self.written);
        std::fs::write(folder.join(name), octets).expect("a seed");
        self.written += 1;
    }

    /// With the switches that the words of the session ask for, and in three kinds of pieces.
    fn server(&mut self, said: &[u8]) {
        let text = String::from_utf8_lossy(said).to_uppercase();
        let bits = |words: &[(&str, u8)]| {
            let asked = words.iter().filter(|(word, _)| text.contains(word));
            asked.fold(0, |sum, (_, bit)| sum | bit)
        };
        let first = bits(&[("LHLO", 1), ("STARTTLS", 8), ("AUTH", 0x20)]);
        let second = bits(&[("NOTIFY", 1), ("RET=", 1), ("SMTPUTF8", 2), ("XLMID", 4)]);
        for limits in [1, 0] {
            let header = [first, second, limits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            self.write("server_session", &[&header, said].concat());
        }
    }

    /// What follows each DATA.
    fn data(&mut self, said: &[u8]) {
        let mut rest = said;
        while let Some(at) = rest.windows(6).position(|window| window == b"DATA\r\n") {
            rest = &rest[at + 6..];
            let data = linkmail_laws::reference::decode(rest);
            self.write(
                "data_decoder",
                &[&[1, 2, 3], &rest[..data.consumed]].concat(),
            );
            if data.state != DataState::Ended {
                return;
            }
            rest = &rest[data.consumed..];
        }
    }

    /// The commands as operations.
    fn chunks(&mut self, said: &[u8]) {
        let mut operations = vec![0, 0, 3, 40];
        let mut rest = said;
        while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
            let line = String::from_utf8_lossy(&rest[..end]).to_uppercase();
            rest = &rest[end + 2..];
            let mut words = line.split(' ');
            match words.next().unwrap_or_default() {
                "MAIL" => operations.push(0),
                "RCPT" => operations.push(0x20),
                "RSET" => operations.push(0x50),
                "BDAT" => {
                    let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
                    let octets = &rest[..rest.len().min(size)];
                    rest = &rest[octets.len()..];
                    let octets = &octets[..octets.len().min(47)];
                    operations.push(0x80 | u8::from(words.next().is_some()));
                    operations.push(octets.len() as u8);
                    operations.extend_from_slice(octets);
                    operations.push(0);
                }
                _ => {}
            }
        }
        if operations.len() > 6 {
            self.write("bdat", &operations);
        }
    }

    /// Peers that are well, with everything that they may offer, and some that refuse.
    fn client(&mut self) {
        let messages = [
            &[1, 6][..],
            b"a\r\n.b\n",
            &[5, 0x45],
            b".\r\n.c",
            &[2, 2],
            b"\r\n",
            &[12, 9],
            b"one\r\ntwo\n",
        ];
        for first in [0, 1, 2, 4, 6, 8, 0x82, 0x30] {
            for offers in [0, 1, 2, 3, 0x0f, 0x1f] {
                for script in [[0; 4], [0, 0, 0xb0, 0], [0, 0, 0, 0xb0]] {
                    let header = [first, 3, offers, 3, 1];
                    let input = [&header[..], &messages.concat(), &script].concat();
                    self.write("client_session", &input);
                }
            }
        }
    }
}
