//! The answer to EHLO as our client reads it: what a server offers (RFC 5321 4.1.1.1).

use crate::reply::Reply;

/// What a server said about the size of messages (RFC 1870 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SizeOffer {
    /// SIZE is not offered: its parameter may not be sent.
    #[default]
    NotOffered,
    /// SIZE without a number, or with 0: no fixed limit.
    NoLimit,
    /// The largest message that is taken, in octets.
    Limit(u64),
}

/// What a server offers. After HELO nothing is offered, which is the default value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870).
    pub size: SizeOffer,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced_status_codes: bool,
    /// ETRN (RFC 1985).
    pub etrn: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// Every other line, as it was sent.
    pub others: Vec<Vec<u8>>,
}

impl Capabilities {
    /// Reads a positive reply to EHLO: a keyword per line behind the first, in any case.
    ///
    /// A SIZE whose number cannot be read counts as one without a limit.
    pub fn from_reply(reply: &Reply) -> Capabilities {
        let mut offered = Capabilities::default();
        for line in reply.lines.iter().skip(1) {
            let line = line.trim_ascii();
            let mut words = line.split(|byte| *byte == b' ');
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_slice() {
                b"PIPELINING" => offered.pipelining = true,
                b"SIZE" => offered.size = size_offer(words.next()),
                b"8BITMIME" => offered.eight_bit_mime = true,
                b"ENHANCEDSTATUSCODES" => offered.enhanced_status_codes = true,
                b"ETRN" => offered.etrn = true,
                b"CHUNKING" => offered.chunking = true,
                b"STARTTLS" => offered.starttls = true,
                b"DSN" => offered.dsn = true,
                _ => offered.others.push(line.to_vec()),
            }
        }
        offered
    }

    /// The largest message the server takes, in octets, if it named one.
    pub fn size_limit(&self) -> Option<u64> {
        match self.size {
            SizeOffer::Limit(limit) => Some(limit),
            SizeOffer::NotOffered | SizeOffer::NoLimit => None,
        }
    }
}

fn size_offer(number: Option<&[u8]>) -> SizeOffer {
    let limit = number
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse::<u64>().ok())
        .unwrap_or(0);
    match limit {
        0 => SizeOffer::NoLimit,
        limit => SizeOffer::Limit(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_know_no_case_and_the_rest_is_kept() {
        let reply = Reply::new(
            250,
            None,
            "PIPELINING.example greets you\nsize\nEtrn\nchunking\nAUTH=LOGIN\nX-ODD 1 2 \n\nDSN",
        );
        let offered = Capabilities::from_reply(&reply);
        assert!(!offered.pipelining);
        assert_eq!(offered.size, SizeOffer::NoLimit);
        assert!(offered.etrn && offered.chunking && offered.dsn);
        assert_eq!(
            offered.others,
            vec![b"AUTH=LOGIN".to_vec(), b"X-ODD 1 2".to_vec(), Vec::new()]
        );
        let size = |text: &str| Capabilities::from_reply(&Reply::new(250, None, text)).size;
        assert_eq!(size("h\nSIZE 0"), SizeOffer::NoLimit);
        assert_eq!(size("h\nSIZE x"), SizeOffer::NoLimit);
        assert_eq!(size("h"), SizeOffer::NotOffered);
    }
}
