//! What a domain says of TLS to its exchangers (RFC 8461): the TXT record, the policy file, and what they demand. Pure.
//!
//! Strict: what is not as RFC 8461 has it is no record and no policy. Of the file alone, blank lines at its end are
//! passed over: editors leave them there.

use std::time::Duration;

/// No policy is kept for longer, whatever it says (RFC 8461 3.2).
const LONGEST: u64 = 31_557_600;
/// A policy file has so many lines at most.
const LINES: usize = 1000;

/// Why there is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than one TXT record, or none, begins as one of MTA-STS does.
    #[error("{0} TXT records begin with v=STSv1; expected one")]
    Records(usize),
    /// A field of the TXT record is none.
    #[error("a malformed field in the TXT record: {0:?}")]
    RecordField(String),
    /// The TXT record has no id.
    #[error("no id in the TXT record")]
    NoId,
    /// The file is not UTF-8.
    #[error("the policy is not UTF-8")]
    NotText,
    /// A line of the file is none.
    #[error("line {0} of the policy is malformed")]
    Line(usize),
    /// A key is missing.
    #[error("no {0:?} in the policy")]
    Missing(&'static str),
    /// A value is none of those that the key has.
    #[error("{0:?} is no {1}")]
    Value(String, &'static str),
}

/// Reads the id out of the TXT records of `_mta-sts.DOMAIN`; each record with its strings joined (RFC 8461 3.1).
///
/// # Errors
/// There is no policy.
pub fn record_id(records: &[Vec<u8>]) -> Result<String, PolicyError> {
    let ours = records.iter().filter(|r| r.starts_with(b"v=STSv1;"));
    let ours: Vec<_> = ours.collect();
    let [record] = ours.as_slice() else {
        return Err(PolicyError::Records(ours.len()));
    };
    let text = String::from_utf8_lossy(record);
    let mut fields: Vec<&str> = text
        .split(';')
        .map(|field| field.trim_matches([' ', '\t']))
        .collect();
    // The last field may end in a semicolon, and none stands before the first.
    fields.pop_if(|last| last.is_empty());
    let mut id = None;
    for field in fields.iter().skip(1) {
        let malformed = || PolicyError::RecordField((*field).to_owned());
        let (name, value) = field.split_once('=').ok_or_else(malformed)?;
        let is_value = match name {
            "id" => {
                (1..=32).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_alphanumeric())
            }
            _ => !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'='),
        };
        if !is_name(name) || !is_value {
            return Err(malformed());
        }
        if name == "id" {
            // Of what stands there twice the first counts.
            id.get_or_insert_with(|| value.to_owned());
        }
    }
    id.ok_or(PolicyError::NoId)
}

/// The name of a field, in record and file.
fn is_name(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    first && text.len() <= 32 && text.bytes().all(rest)
}

/// What happens to mail that cannot be sent as the policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// It is not sent.
    Enforce,
    /// It is sent all the same.
    Testing,
    /// There is nothing to be followed any more.
    None,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Policy {
    /// What happens to mail that cannot be sent so.
    pub mode: PolicyMode,
    /// The names of the exchangers, in lower case; `*.` in front stands for one label.
    pub mx: Vec<String>,
    /// Seconds for which it may be kept.
    pub max_age: u64,
}

/// What a policy demands of one exchanger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing.
    Nothing,
    /// TLS, with a certificate for its name from an authority that browsers trust (RFC 8461 4.2).
    Verified,
    /// It must not be used: the policy does not name it.
    NotThisHost,
}

impl Policy {
    /// Reads a policy file (RFC 8461 3.2).
    ///
    /// # Errors
    /// It is none.
    pub fn parse(file: &[u8]) -> Result<Self, PolicyError> {
        let text = std::str::from_utf8(file).map_err(|_| PolicyError::NotText)?;
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for (number, line) in text.trim_end().split('\n').enumerate() {
            let malformed = || PolicyError::Line(number + 1);
            let line = line.strip_suffix('\r').unwrap_or(line);
            let (name, value) = line.split_once(':').ok_or_else(malformed)?;
            let value = value.trim_matches([' ', '\t']);
            if !is_name(name) || value.chars().any(char::is_control) || number >= LINES {
                return Err(malformed());
            }
            // Of what stands there twice the first counts, but for mx.
            match name {
                "version" => _ = version.get_or_insert(value),
                "mode" => _ = mode.get_or_insert(value),
                "max_age" => _ = max_age.get_or_insert(value),
                "mx" => mx.push(pattern(value)?),
                _ if value.is_empty() => return Err(malformed()),
                _ => {}
            }
        }
        match version {
            Some("STSv1") => {}
            Some(other) => return Err(PolicyError::Value(other.to_owned(), "version")),
            None => return Err(PolicyError::Missing("version")),
        }
        let mode = match mode.ok_or(PolicyError::Missing("mode"))? {
            "enforce" => PolicyMode::Enforce,
            "testing" => PolicyMode::Testing,
            "none" => PolicyMode::None,
            other => return Err(PolicyError::Value(other.to_owned(), "mode")),
        };
        let max_age = max_age.ok_or(PolicyError::Missing("max_age"))?;
        let digits =
            (1..=10).contains(&max_age.len()) && max_age.bytes().all(|b| b.is_ascii_digit());
        let seconds = max_age.parse().ok().filter(|_| digits);
        let seconds: u64 =
            seconds.ok_or_else(|| PolicyError::Value(max_age.to_owned(), "max_age"))?;
        if mx.is_empty() && mode != PolicyMode::None {
            return Err(PolicyError::Missing("mx"));
        }
        Ok(Self {
            mode,
            mx,
            max_age: seconds.min(LONGEST),
        })
    }

    /// How long it may be kept.
    #[must_use]
    pub fn keep(&self) -> Duration {
        Duration::from_secs(self.max_age)
    }

    /// What it demands of an exchanger, by the name of its MX record.
    #[must_use]
    pub fn demand(&self, host: &str) -> Demand {
        match self.mode {
            PolicyMode::None | PolicyMode::Testing => Demand::Nothing,
            PolicyMode::Enforce if self.names(host) => Demand::Verified,
            PolicyMode::Enforce => Demand::NotThisHost,
        }
    }

    /// Whether it names an exchanger (RFC 8461 4.1).
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let named = |pattern: &String| match pattern.strip_prefix("*.") {
            Some(above) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == above),
            None => *pattern == host,
        };
        self.mx.iter().any(named)
    }
}

fn pattern(value: &str) -> Result<String, PolicyError> {
    let name = value.strip_prefix("*.").unwrap_or(value);
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(PolicyError::Value(value.to_owned(), "mx"));
    }
    Ok(value.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_one_id_or_there_is_no_policy() {
        let id = |records: &[&str]| {
            let records: Vec<_> = records.iter().map(|r| r.as_bytes().to_vec()).collect();
            record_id(&records).map_err(|error| error.to_string())
        };
        for good in [
            "v=STSv1; id=20160831085700Z;",
            "v=STSv1;id=20160831085700Z",
            "v=STSv1; id=20160831085700Z ;",
            "v=STSv1; \t id=20160831085700Z; next=a:b; id=2",
        ] {
            assert_eq!(id(&[good]).as_deref(), Ok("20160831085700Z"), "{good}");
        }
        assert_eq!(id(&["v=spf1 -all", "v=STSv1; id=1"]).as_deref(), Ok("1"));
        for bad in [
            "",
            "v=STSv1",
            "v=STSv1;",
            "v=STSv1; id=",
            "v=STSv1; id=a-b",
            "v=STSv1; id=123456789012345678901234567890123",
            "v=STSv1; id=1;; x=y",
            "v=STSv1; id=1; x",
            "v=STSv1; id=1; x=",
            "v=STSv1; id=1; _x=y",
            "v=STSv2; id=1",
            "id=1; v=STSv1;",
            "V=STSv1; id=1",
        ] {
            assert!(id(&[bad]).is_err(), "{bad:?}");
        }
        assert!(id(&["v=STSv1; id=1", "v=STSv1; id=2"]).is_err());
    }

    #[test]
    fn a_policy_is_read_as_it_stands_in_the_rfc() {
        let file = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.Example.net\r\nmx:backupmx.example.com \r\nmax_age: 604800\r\n";
        let policy = Policy::parse(file).unwrap();
        let expected = Policy {
            mode: PolicyMode::Enforce,
            mx: ["mail.example.com", "*.example.net", "backupmx.example.com"]
                .map(str::to_owned)
                .to_vec(),
            max_age: 604_800,
        };
        assert_eq!(policy, expected);
        for (host, demand) in [
            ("mail.example.com", Demand::Verified),
            ("MAIL.example.com", Demand::Verified),
            ("mx1.example.net", Demand::Verified),
            ("a.mx1.example.net", Demand::NotThisHost),
            ("example.net", Demand::NotThisHost),
            (".example.net", Demand::NotThisHost),
            ("mail.example.com.evil.example", Demand::NotThisHost),
            ("192.0.2.1", Demand::NotThisHost),
        ] {
            assert_eq!(policy.demand(host), demand, "{host}");
        }
        for mode in [PolicyMode::Testing, PolicyMode::None] {
            let policy = Policy {
                mode,
                ..policy.clone()
            };
            assert_eq!(policy.demand("evil.example"), Demand::Nothing);
        }
    }

    #[test]
    fn a_policy_that_is_none_says_where() {
        let with = |lines: &str| Policy::parse(lines.as_bytes()).map_err(|error| error.to_string());
        for (file, wrong) in [
            ("", "line 1 of the policy is malformed"),
            (
                "version: STSv1\n\nmode: none\nmax_age: 1",
                "line 2 of the policy is malformed",
            ),
            (
                "version: STSv1\nmode\nmax_age: 1",
                "line 2 of the policy is malformed",
            ),
            (
                "version: STSv1\nmode: none\nmax_age: 1\nx:",
                "line 4 of the policy is malformed",
            ),
            (
                "version: STSv1\nmode: none\n<html>: 1",
                "line 3 of the policy is malformed",
            ),
            ("mode: none\nmax_age: 1", "no \"version\" in the policy"),
            (
                "version: STSv2\nmode: none\nmax_age: 1",
                "\"STSv2\" is no version",
            ),
            ("version: STSv1\nmax_age: 1", "no \"mode\" in the policy"),
            (
                "version: STSv1\nmode: Enforce\nmax_age: 1",
                "\"Enforce\" is no mode",
            ),
            ("version: STSv1\nmode: none", "no \"max_age\" in the policy"),
            (
                "version: STSv1\nmode: none\nmax_age: -1",
                "\"-1\" is no max_age",
            ),
            (
                "version: STSv1\nmode: none\nmax_age: 12345678901",
                "\"12345678901\" is no max_age",
            ),
            (
                "version: STSv1\nmode: enforce\nmax_age: 1",
                "no \"mx\" in the policy",
            ),
            (
                "version: STSv1\nmode: none\nmx: a..b\nmax_age: 1",
                "\"a..b\" is no mx",
            ),
            (
                "version: STSv1\nmode: none\nmx: *\nmax_age: 1",
                "\"*\" is no mx",
            ),
            (
                "version: STSv1\nmode: none\nmx: a.*.b\nmax_age: 1",
                "\"a.*.b\" is no mx",
            ),
        ] {
            assert_eq!(with(file), Err(wrong.to_owned()), "{file:?}");
        }
        assert!(Policy::parse(b"version: STSv1\nmode: none\nmax_age: \xff").is_err());
        let lenient =
            "version:STSv1\nmode: none\nmode: enforce\nfuture: thing\nmax_age: 9999999999\n\n";
        let policy = with(lenient).unwrap();
        assert_eq!((policy.mode, policy.max_age), (PolicyMode::None, LONGEST));
    }
}
