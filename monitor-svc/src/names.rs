//! Names of things, parsed once at the edge: monitors, links, probes, the identities of calls.

use std::fmt;

use uuid::Uuid;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks the form.
            ///
            /// # Errors
            /// A sentence for a person: what is wrong and what would be right.
            pub fn parse(text: &str) -> Result<Self, String> {
                let fits = (1..=63).contains(&text.len())
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && text != "-";
                if fits {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(format!(
                        concat!("{:?} is not ", $noun, ": 1 to 63 letters, digits and hyphens"),
                        text
                    ))
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label!(
    /// The name of a monitor: letters, digits and hyphens, 1 to 63 of them.
    MonitorName,
    "a monitor name"
);
label!(
    /// The name of a link of the relay: letters, digits and hyphens, 1 to 63 of them.
    LinkName,
    "a link name"
);

/// The identity of a probe: a UUID (version 7, so that ids sort by time).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct ProbeId(Uuid);

impl ProbeId {
    /// A new identity, of now.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the last segment of a resource name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// The identity of a call, by which a repeat is known (AIP-155): a client's for us, or ours for the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A new identity.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads a UUID in any of its usual forms.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_digits_and_hyphens() {
        for good in ["isp", "a", "Branch-2", &"x".repeat(63)] {
            assert_eq!(MonitorName::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "-", "a b", "a.b", "a/b", "é", &"x".repeat(64)] {
            assert!(MonitorName::parse(bad).is_err(), "{bad}");
            assert!(LinkName::parse(bad).is_err(), "{bad}");
        }
    }
}
