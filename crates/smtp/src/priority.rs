//! The priority of a message (MT-PRIORITY, RFC 6710): what goes first where not everything can go at once.

use std::fmt;

/// From -9, the least urgent, to 9. A message without the parameter has 0 (RFC 6710 4.1). Greater is more urgent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(i8);

impl Priority {
    /// What a message has whose client says nothing.
    pub const NORMAL: Priority = Priority(0);

    /// None beyond -9 to 9.
    pub fn new(value: i8) -> Option<Priority> {
        (-9..=9).contains(&value).then_some(Priority(value))
    }

    /// Reads the value of `MT-PRIORITY=`: a digit, with a minus before it unless it is 0. No plus, no leading zero.
    pub fn parse(value: &[u8]) -> Option<Priority> {
        match value {
            [digit @ b'0'..=b'9'] => Some(Priority((digit - b'0').cast_signed())),
            [b'-', digit @ b'1'..=b'9'] => Some(Priority(-(digit - b'0').cast_signed())),
            _ => None,
        }
    }

    /// -9 to 9.
    pub fn get(self) -> i8 {
        self.0
    }
}

/// The value of `MT-PRIORITY=`.
impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nineteen_values_are_written_as_they_are_read() {
        for value in i8::MIN..=i8::MAX {
            let read = Priority::parse(value.to_string().as_bytes());
            assert_eq!(read, Priority::new(value));
            assert_eq!(read.is_some(), (-9..=9).contains(&value), "{value}");
            if let Some(read) = read {
                assert_eq!((read.get(), read.to_string()), (value, value.to_string()));
            }
        }
        for value in ["", "-", "-0", "+3", "03", "10", "-10", "3 ", "3.0", "high"] {
            assert_eq!(Priority::parse(value.as_bytes()), None, "{value:?}");
        }
        assert!(Priority::new(3) > Some(Priority::NORMAL));
        assert_eq!(Priority::default(), Priority::NORMAL);
    }
}
