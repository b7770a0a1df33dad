//! The types that configuration values are read as.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::value::{FromConfig, Value};

/// A number of octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let best = SIZE_UNITS
            .iter()
            .filter(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor))
            .max_by_key(|(_, factor)| *factor);
        match best {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl FromConfig for String {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        value.parse_with(|text| Ok(text.to_owned()))
    }
}

impl FromConfig for PathBuf {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        value.parse_with(|text| match text {
            "" => Err("expected a path, found an empty string".to_owned()),
            text => Ok(PathBuf::from(text)),
        })
    }
}

impl FromConfig for bool {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| value.expected("true or false"))
    }
}

impl FromConfig for u16 {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        whole_number(value, u16::MAX.into())
    }
}

impl FromConfig for u32 {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        whole_number(value, u32::MAX.into())
    }
}

impl FromConfig for u64 {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        whole_number(value, u64::MAX)
    }
}

impl FromConfig for usize {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        whole_number(value, usize::MAX as u64)
    }
}

fn whole_number<T: TryFrom<i128>>(value: &Value<'_>, most: u64) -> Result<T, String> {
    value
        .as_integer()
        .and_then(|integer| T::try_from(integer).ok())
        .ok_or_else(|| value.expected(&format!("a whole number from 0 to {most}")))
}

/// Reads a duration, such as `90s`.
///
/// # Errors
/// A sentence for a person.
pub fn duration(text: &str) -> Result<Duration, String> {
    const WANTED: &str = "a duration such as \"500ms\", \"90s\", \"5m\", \"2h\" or \"7d\"";
    let milliseconds =
        with_unit(text, &DURATION_UNITS).map_err(|problem| problem.message(text, WANTED))?;
    Ok(Duration::from_millis(milliseconds))
}

impl FromConfig for Duration {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or_else(|| value.expected("a string such as \"90s\""))?;
        duration(text)
    }
}

impl std::str::FromStr for ByteSize {
    type Err = String;

    /// Reads a size with its unit, such as `25MB`.
    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "a size such as \"512KB\", \"25MB\" or \"64KiB\"";
        let octets =
            with_unit(text, &SIZE_UNITS).map_err(|problem| problem.message(text, WANTED))?;
        Ok(ByteSize(octets))
    }
}

impl FromConfig for ByteSize {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        if let Some(text) = value.as_str() {
            return text.parse();
        }
        value
            .as_integer()
            .and_then(|integer| u64::try_from(integer).ok())
            .map(ByteSize)
            .ok_or_else(|| value.expected("a size such as \"25MB\", or a number of octets"))
    }
}

/// Why a number with a unit is not one.
enum NotANumber {
    Malformed,
    UnitMissing,
    TooLarge,
}

impl NotANumber {
    fn message(self, text: &str, wanted: &str) -> String {
        match self {
            NotANumber::Malformed => format!("expected {wanted}, found {text:?}"),
            NotANumber::UnitMissing => format!("{text:?} has no unit; write {wanted}"),
            NotANumber::TooLarge => format!("{text:?} is too large"),
        }
    }
}

/// Reads `90s` as the number times the factor of its unit. No sign, fraction or space.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Result<u64, NotANumber> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(NotANumber::Malformed);
    }
    if unit.is_empty() {
        return Err(NotANumber::UnitMissing);
    }
    let factor = units.iter().find(|(name, _)| *name == unit);
    let (_, factor) = factor.ok_or(NotANumber::Malformed)?;
    let number: u64 = number.parse().map_err(|_| NotANumber::TooLarge)?;
    number.checked_mul(*factor).ok_or(NotANumber::TooLarge)
}

impl FromConfig for SocketAddr {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        const WANTED: &str = "an address such as \"127.0.0.1:25\" or \"[::]:25\"";
        let text = value.as_str().ok_or_else(|| value.expected(WANTED))?;
        text.parse()
            .map_err(|_| format!("expected {WANTED}, found {text:?}"))
    }
}

impl FromConfig for IpNet {
    fn from_config(value: &Value<'_>) -> Result<Self, String> {
        const WANTED: &str = "a network such as \"10.1.0.0/16\"";
        let text = value.as_str().ok_or_else(|| value.expected(WANTED))?;
        if let Ok(host) = text.parse::<IpAddr>() {
            return Ok(IpNet::from(host));
        }
        let network: IpNet = text
            .parse()
            .map_err(|_| format!("expected {WANTED}, found {text:?}"))?;
        if network.addr() != network.network() {
            let right = network.trunc();
            return Err(format!(
                "{text:?} has bits set behind its prefix; the network is {:?}",
                right.to_string()
            ));
        }
        Ok(network)
    }
}
