//! The four messages of SCRAM (RFC 5802 7), as both sides read and write them.
//!
//! What is signed is the text that crossed the line, not what was understood of it; so messages that are read keep it.
//!
//! Limits: no channel binding; extensions that are not mandatory are passed over.

use std::str::Split;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

use crate::credential::{Iterations, MAX_SALT};
use crate::keyed::Sha256Bytes;
use crate::name::{Name, PrepareError};
use crate::nonce::{MAX_NONCE, Nonce};

/// A refusal by the server is kept up to this many octets; those of RFC 5802 7 are shorter.
const MAX_SERVER_ERROR: usize = 64;

/// Why a message of SCRAM cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum MessageError {
    #[error("malformed SCRAM message")]
    Malformed,
    #[error("channel binding, which was not offered")]
    ChannelBinding,
    #[error("a mandatory extension, and none is known")]
    Extension,
    #[error("the name: {0}")]
    Name(PrepareError),
    #[error("the count of iterations is not 4096 to 2000000")]
    Iterations,
}

use MessageError::Malformed;

/// client-first-message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst {
    /// gs2-header, which is repeated in the last message of the client.
    pub(crate) header: String,
    /// client-first-message-bare.
    pub(crate) bare: String,
    pub(crate) authorization: Option<Name>,
    pub(crate) name: Name,
    pub(crate) nonce: String,
}

impl ClientFirst {
    pub(crate) fn new(name: Name, nonce: &Nonce) -> ClientFirst {
        let escaped = name.as_str().replace('=', "=3D").replace(',', "=2C");
        ClientFirst {
            header: "n,,".to_owned(),
            bare: format!("n={escaped},r={nonce}"),
            authorization: None,
            name,
            nonce: nonce.as_str().to_owned(),
        }
    }

    pub(crate) fn parse(text: &str) -> Result<ClientFirst, MessageError> {
        let mut parts = text.splitn(3, ',');
        match parts.next() {
            // y: the client could bind, and thinks that we cannot; it is right, -PLUS is never offered.
            Some("n" | "y") => {}
            Some(flag) if flag.starts_with("p=") => return Err(MessageError::ChannelBinding),
            _ => return Err(Malformed),
        }
        let authorization = match parts.next().ok_or(Malformed)? {
            "" => None,
            text => Some(read_name(text.strip_prefix("a=").ok_or(Malformed)?)?),
        };
        let bare = parts.next().ok_or(Malformed)?;
        let mut attributes = Attributes::new(bare)?;
        let name = read_name(attributes.take('n')?)?;
        let nonce = read_nonce(attributes.take('r')?)?.to_owned();
        attributes.end()?;
        Ok(ClientFirst {
            header: text[..text.len() - bare.len()].to_owned(),
            bare: bare.to_owned(),
            authorization,
            name,
            nonce,
        })
    }

    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.header, self.bare)
    }
}

/// server-first-message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerFirst {
    pub(crate) text: String,
    /// The nonce of the client with that of the server behind it.
    pub(crate) nonce: String,
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: Iterations,
}

impl ServerFirst {
    pub(crate) fn new(nonce: String, salt: &[u8], iterations: Iterations) -> ServerFirst {
        ServerFirst {
            text: format!(
                "r={nonce},s={},i={iterations}",
                BASE64_STANDARD.encode(salt)
            ),
            nonce,
            salt: salt.to_vec(),
            iterations,
        }
    }

    pub(crate) fn parse(text: &str) -> Result<ServerFirst, MessageError> {
        let mut attributes = Attributes::new(text)?;
        let nonce = read_nonce(attributes.take('r')?)?.to_owned();
        let salt = read_base64(attributes.take('s')?)?;
        if salt.is_empty() || salt.len() > MAX_SALT {
            return Err(Malformed);
        }
        let iterations = Iterations::parse(attributes.take('i')?)
            .ok_or(Malformed)?
            .map_err(|_| MessageError::Iterations)?;
        attributes.end()?;
        Ok(ServerFirst {
            text: text.to_owned(),
            nonce,
            salt,
            iterations,
        })
    }
}

/// client-final-message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFinal {
    /// client-final-message-without-proof.
    pub(crate) without_proof: String,
    /// The header of the client's first message, repeated.
    pub(crate) header: Vec<u8>,
    pub(crate) nonce: String,
    pub(crate) proof: Sha256Bytes,
}

impl ClientFinal {
    /// What is signed, and sent with the proof behind it.
    pub(crate) fn without_proof(header: &str, nonce: &str) -> String {
        format!("c={},r={nonce}", BASE64_STANDARD.encode(header))
    }

    pub(crate) fn write(without_proof: &str, proof: Sha256Bytes) -> String {
        format!("{without_proof},p={}", BASE64_STANDARD.encode(proof))
    }

    pub(crate) fn parse(text: &str) -> Result<ClientFinal, MessageError> {
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Malformed)?;
        let mut attributes = Attributes::new(without_proof)?;
        let header = read_base64(attributes.take('c')?)?;
        let nonce = read_nonce(attributes.take('r')?)?.to_owned();
        attributes.end()?;
        Ok(ClientFinal {
            without_proof: without_proof.to_owned(),
            header,
            nonce,
            proof: read_base64(proof)?.try_into().map_err(|_| Malformed)?,
        })
    }
}

/// server-final-message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerFinal {
    Signature(Sha256Bytes),
    /// Printable ASCII, cut to [`MAX_SERVER_ERROR`].
    Error(String),
}

impl ServerFinal {
    pub(crate) fn write(signature: Sha256Bytes) -> String {
        format!("v={}", BASE64_STANDARD.encode(signature))
    }

    pub(crate) fn parse(text: &str) -> Result<ServerFinal, MessageError> {
        let mut attributes = Attributes::new(text)?;
        let is_error = text.starts_with("e=");
        let value = attributes.take(if is_error { 'e' } else { 'v' })?;
        attributes.end()?;
        if is_error {
            let printable = value.chars().filter(char::is_ascii_graphic);
            return Ok(ServerFinal::Error(
                printable.take(MAX_SERVER_ERROR).collect(),
            ));
        }
        let signature = read_base64(value)?.try_into().map_err(|_| Malformed)?;
        Ok(ServerFinal::Signature(signature))
    }
}

/// The AuthMessage of RFC 5802 3, which proof and signature are made over.
pub(crate) fn auth_message(first_bare: &str, server_first: &str, without_proof: &str) -> String {
    format!("{first_bare},{server_first},{without_proof}")
}

/// Attributes in the order in which RFC 5802 5.1 fixes them.
struct Attributes<'a>(Split<'a, char>);

impl<'a> Attributes<'a> {
    fn new(text: &'a str) -> Result<Attributes<'a>, MessageError> {
        if text.starts_with("m=") {
            return Err(MessageError::Extension);
        }
        Ok(Attributes(text.split(',')))
    }

    fn take(&mut self, letter: char) -> Result<&'a str, MessageError> {
        let attribute = self.0.next().ok_or(Malformed)?;
        attribute
            .strip_prefix(letter)
            .and_then(|rest| rest.strip_prefix('='))
            .ok_or(Malformed)
    }

    /// What is left must be attributes, too; their meaning is not known, and may be passed over.
    fn end(self) -> Result<(), MessageError> {
        let is_attribute = |text: &str| match text.as_bytes() {
            [letter, b'=', _, ..] => letter.is_ascii_alphabetic() && !text.contains('\0'),
            _ => false,
        };
        let mut rest = self.0;
        if rest.all(is_attribute) {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

/// saslname: `=2C` stands for a comma, `=3D` for an equals sign, and no other `=` may occur.
fn read_name(text: &str) -> Result<Name, MessageError> {
    let mut parts = text.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sign, rest) = if let Some(rest) = part.strip_prefix("2C") {
            (',', rest)
        } else if let Some(rest) = part.strip_prefix("3D") {
            ('=', rest)
        } else {
            return Err(Malformed);
        };
        name.push(sign);
        name.push_str(rest);
    }
    Name::parse(&name).map_err(MessageError::Name)
}

fn read_nonce(text: &str) -> Result<&str, MessageError> {
    // Both halves together.
    let fits = (1..=2 * MAX_NONCE).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text)
    } else {
        Err(Malformed)
    }
}

fn read_base64(text: &str) -> Result<Vec<u8>, MessageError> {
    BASE64_STANDARD.decode(text).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn the_first_message_of_a_client() {
        for (text, header, asked_for, who) in [
            ("n,,n=user,r=abc", "n,,", None, "user"),
            ("y,,n=user,r=abc", "y,,", None, "user"),
            (
                "n,a=us=3Der,n=us=2Cer,r=abc,x=1,y==",
                "n,a=us=3Der,",
                Some("us=er"),
                "us,er",
            ),
            ("n,,n==3D2C=2C,r=abc", "n,,", None, "=2C,"),
            ("n,,n=\u{fc},r=abc", "n,,", None, "\u{fc}"),
        ] {
            let first = ClientFirst::parse(text).unwrap();
            assert_eq!(first.header, header);
            assert_eq!(first.authorization, asked_for.map(name));
            assert_eq!(first.name, name(who));
            assert_eq!(first.nonce, "abc");
            assert_eq!(first.text(), text);
        }
        let binding = MessageError::ChannelBinding;
        for (text, error) in [
            ("", Malformed),
            ("n", Malformed),
            ("n,", Malformed),
            ("n,,", Malformed),
            ("x,,n=user,r=abc", Malformed),
            ("p=tls-unique,,n=user,r=abc", binding),
            ("n,user,n=user,r=abc", Malformed),
            ("n,,r=abc,n=user", Malformed),
            ("n,,n=user", Malformed),
            ("n,,n=user,r=", Malformed),
            ("n,,n=user,r=a\u{7f}c", Malformed),
            ("n,,n=user,r=a c", Malformed),
            ("n,,n=us=er,r=abc", Malformed),
            ("n,,n=us=2cer,r=abc", Malformed),
            ("n,,n=,r=abc", MessageError::Name(PrepareError::Empty)),
            ("n,a=,n=user,r=abc", MessageError::Name(PrepareError::Empty)),
            (
                "n,,n=\u{7},r=abc",
                MessageError::Name(PrepareError::Prohibited),
            ),
            ("n,,m=1,n=user,r=abc", MessageError::Extension),
            ("n,,n=user,r=abc,", Malformed),
            ("n,,n=user,r=abc,1=x", Malformed),
            ("n,,n=user,r=abc,x=", Malformed),
        ] {
            assert_eq!(ClientFirst::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_written_as_it_is_read() {
        let first = ClientFirst::new(name("=2C,\u{fc}="), &"abc".parse().unwrap());
        assert_eq!(first.text(), "n,,n==3D2C=2C\u{fc}=3D,r=abc");
        assert_eq!(ClientFirst::parse(&first.text()), Ok(first));
    }

    #[test]
    fn the_first_message_of_a_server() {
        let four_thousand = Iterations::new(4096).unwrap();
        let first = ServerFirst::parse("r=abcdef,s=AAAA,i=4096,x=1").unwrap();
        assert_eq!(
            (
                first.nonce.as_str(),
                first.salt.as_slice(),
                first.iterations
            ),
            ("abcdef", [0; 3].as_slice(), four_thousand)
        );
        let long = format!("r=abcdef,s={},i=4096", "AAAA".repeat(MAX_SALT));
        for (text, error) in [
            ("", Malformed),
            ("r=abcdef,s=AAAA", Malformed),
            ("r=abcdef,i=4096,s=AAAA", Malformed),
            ("r=,s=AAAA,i=4096", Malformed),
            ("r=abcdef,s=,i=4096", Malformed),
            ("r=abcdef,s=AAA,i=4096", Malformed),
            (&long, Malformed),
            ("r=abcdef,s=AAAA,i=", Malformed),
            ("r=abcdef,s=AAAA,i=-1", Malformed),
            ("r=abcdef,s=AAAA,i=04096", Malformed),
            ("r=abcdef,s=AAAA,i=4095", MessageError::Iterations),
            ("r=abcdef,s=AAAA,i=4294967296", MessageError::Iterations),
            ("m=x,r=abcdef,s=AAAA,i=4096", MessageError::Extension),
        ] {
            assert_eq!(ServerFirst::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_last_message_of_a_client() {
        let proof = BASE64_STANDARD.encode([1; 32]);
        let last = ClientFinal::parse(&format!("c=biws,r=abc,x=y,p={proof}")).unwrap();
        assert_eq!(last.without_proof, "c=biws,r=abc,x=y");
        assert_eq!(last.header, b"n,,");
        assert_eq!(last.proof, [1; 32]);
        for text in [
            "".to_owned(),
            "c=biws,r=abc".to_owned(),
            "c=biws,r=abc,p=".to_owned(),
            "c=biws,r=abc,p=AAAA".to_owned(),
            format!("c=biws,p={proof}"),
            format!("r=abc,c=biws,p={proof}"),
            format!("c=b!ws,r=abc,p={proof}"),
            format!("c=biws,r=abc,p={proof},x=y"),
            format!("c=biws,r=abc,p={proof}\n"),
        ] {
            assert_eq!(ClientFinal::parse(&text), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn the_last_message_of_a_server() {
        let signature = ServerFinal::write([2; 32]);
        assert_eq!(
            ServerFinal::parse(&signature),
            Ok(ServerFinal::Signature([2; 32]))
        );
        assert_eq!(
            ServerFinal::parse("e=invalid-proof,x=1"),
            Ok(ServerFinal::Error("invalid-proof".to_owned()))
        );
        let long = format!("e={}\r\n", "x".repeat(1000));
        assert_eq!(
            ServerFinal::parse(&long),
            Ok(ServerFinal::Error("x".repeat(MAX_SERVER_ERROR)))
        );
        for text in ["", "v=", "v=AAAA", "V=AAAA", "x=1"] {
            assert_eq!(ServerFinal::parse(text), Err(Malformed), "{text:?}");
        }
    }
}
