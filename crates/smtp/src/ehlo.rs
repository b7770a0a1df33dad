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

/// For whom a server looks at the ids of messages, by XLINKMAIL (docs/xlinkmail.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerOffer {
    /// XLINKMAIL is not offered: its parameter may not be sent.
    #[default]
    NotOffered,
    /// `XLINKMAIL`: for us, as we are.
    AsWeAre,
    /// `XLINKMAIL AUTH`: for us once we have authenticated ourselves.
    ByLogin,
}

impl PeerOffer {
    /// Words that are not known change nothing.
    fn read<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> PeerOffer {
        if words.any(|word| word.eq_ignore_ascii_case(b"AUTH")) {
            PeerOffer::ByLogin
        } else {
            PeerOffer::AsWeAre
        }
    }
}

/// Whether a server keeps to a time of delivery (RFC 2852 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliverByOffer {
    /// DELIVERBY is not offered: its parameter may not be sent.
    #[default]
    NotOffered,
    /// It does.
    Offered {
        /// The least time it takes for a message that is to be returned when late, in seconds; 0 where it names none.
        minimum: u32,
    },
}

impl DeliverByOffer {
    /// What stands behind a comma belongs to extensions of the extension. A minimum that cannot be read counts as none.
    fn read(word: Option<&[u8]>) -> DeliverByOffer {
        let first = word.and_then(|word| word.split(|byte| *byte == b',').next());
        let digits = first.filter(|digits| digits.len() <= 9);
        let minimum = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(0);
        DeliverByOffer::Offered { minimum }
    }
}

/// The limits that a server announces (RFC 9422 4); none where it says nothing, or nothing that can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// MAILMAX: the most transactions of one session.
    pub mail_max: Option<u64>,
    /// RCPTMAX: the most recipients of one transaction.
    pub rcpt_max: Option<u64>,
    /// RCPTDOMAINMAX: the most domains of recipients in one session.
    pub rcpt_domain_max: Option<u64>,
}

impl Limits {
    fn read<'a>(words: impl Iterator<Item = &'a [u8]>) -> Limits {
        let mut limits = Limits::default();
        for word in words {
            let Some((name, number)) = std::str::from_utf8(word)
                .ok()
                .and_then(|word| word.split_once('='))
            else {
                continue;
            };
            // RFC 9422 3: a limit is at least 1, of at most six digits.
            let number = number.parse().ok().filter(|number| *number > 0);
            match name.to_ascii_uppercase().as_str() {
                "MAILMAX" => limits.mail_max = number,
                "RCPTMAX" => limits.rcpt_max = number,
                "RCPTDOMAINMAX" => limits.rcpt_domain_max = number,
                _ => {}
            }
        }
        limits
    }
}

/// A name of a SASL mechanism (RFC 4422 3.1), in capital letters.
fn mechanism(word: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(word).ok()?.to_ascii_uppercase();
    (!name.is_empty()).then_some(name)
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
    /// SMTPUTF8 (RFC 6531).
    pub smtp_utf8: bool,
    /// MT-PRIORITY (RFC 6710). What its policy is called does not matter to us.
    pub mt_priority: bool,
    /// DELIVERBY (RFC 2852).
    pub deliver_by: DeliverByOffer,
    /// AUTH (RFC 4954): the mechanisms, in capital letters.
    pub auth: Vec<String>,
    /// XLINKMAIL, our own.
    pub xlinkmail: PeerOffer,
    /// LIMITS (RFC 9422).
    pub limits: Limits,
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
                b"XLINKMAIL" => offered.xlinkmail = PeerOffer::read(words),
                b"SMTPUTF8" => offered.smtp_utf8 = true,
                b"MT-PRIORITY" => offered.mt_priority = true,
                b"DELIVERBY" => offered.deliver_by = DeliverByOffer::read(words.next()),
                b"AUTH" => offered.auth.extend(words.filter_map(mechanism)),
                b"LIMITS" => offered.limits = Limits::read(words),
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
        let by = |text: &str| Capabilities::from_reply(&Reply::new(250, None, text)).deliver_by;
        assert_eq!(by("h"), DeliverByOffer::NotOffered);
        for (line, minimum) in [
            ("deliverby", 0),
            ("DELIVERBY 120", 120),
            ("DELIVERBY 120,X-FAST", 120),
            ("DELIVERBY ,X-FAST", 0),
            ("DELIVERBY soon", 0),
            ("DELIVERBY -5", 0),
            ("DELIVERBY 1000000000", 0),
        ] {
            let offer = DeliverByOffer::Offered { minimum };
            assert_eq!(by(&format!("h\n{line}")), offer, "{line}");
        }
        let priority =
            |text: &str| Capabilities::from_reply(&Reply::new(250, None, text)).mt_priority;
        assert!(priority("h\nmt-priority") && priority("h\nMT-PRIORITY MIXER") && !priority("h"));
        let peer = |text: &str| Capabilities::from_reply(&Reply::new(250, None, text)).xlinkmail;
        assert_eq!(peer("h"), PeerOffer::NotOffered);
        assert_eq!(peer("h\nXLinkMail"), PeerOffer::AsWeAre);
        assert_eq!(peer("h\nxlinkmail auth"), PeerOffer::ByLogin);
        assert_eq!(peer("h\nXLINKMAIL SOON AUTH"), PeerOffer::ByLogin);
        assert_eq!(peer("h\nXLINKMAIL SOON"), PeerOffer::AsWeAre);
    }
}
