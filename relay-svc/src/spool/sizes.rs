//! Which mail is too large for its link at any time: it waits in a queue of its own, for the hours that are kept for it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use super::{NewMessage, Spool};
use crate::names::{LinkName, NextHop};

/// The links that have such hours. A message of more octets than this goes over the link in those only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SizeLimits(BTreeMap<LinkName, u64>);

impl FromIterator<(LinkName, u64)> for SizeLimits {
    fn from_iter<T: IntoIterator<Item = (LinkName, u64)>>(limits: T) -> Self {
        Self(limits.into_iter().collect())
    }
}

impl SizeLimits {
    /// Where a message of so many octets waits that goes there.
    #[must_use]
    pub fn hop(&self, hop: NextHop, size: u64) -> NextHop {
        match hop {
            NextHop::Link(link) if self.0.get(&link).is_some_and(|limit| size > *limit) => {
                NextHop::Oversize(link)
            }
            hop => hop,
        }
    }

    /// Has the recipients of a message of so many octets wait where they belong.
    pub(super) fn sort(&self, message: &mut NewMessage, size: u64) {
        for recipient in &mut message.recipients {
            recipient.hop = self.hop(recipient.hop.clone(), size);
        }
    }

    /// Changes with any limit. Nothing without one.
    pub(super) fn fingerprint(&self) -> String {
        self.0
            .iter()
            .fold(String::new(), |mut print, (link, limit)| {
                // Writing to a string does not fail.
                let _ = write!(print, "\n{}{link} {limit}", NextHop::OVERSIZE);
                print
            })
    }
}

/// The limits as they are.
#[derive(Default)]
pub(super) struct Sizes(Mutex<Arc<SizeLimits>>);

impl Spool {
    /// Says how large mail may be for a link at any time. It holds for what is put into the spool from now on;
    /// [`Spool::reroute`] has it hold for what waits.
    pub fn limit_sizes(&self, limits: SizeLimits) {
        let mut known = self
            .inner
            .sizes
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Arc::new(limits);
    }

    /// Where a message of so many octets waits that goes there.
    #[must_use]
    pub fn sized_hop(&self, hop: NextHop, size: u64) -> NextHop {
        self.size_limits().hop(hop, size)
    }

    pub(super) fn size_limits(&self) -> Arc<SizeLimits> {
        let known = self.inner.sizes.0.lock();
        Arc::clone(&known.unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> LinkName {
        LinkName::parse(text).unwrap()
    }

    #[test]
    fn what_is_larger_than_the_limit_of_its_link_waits_apart() {
        let limits: SizeLimits = [(name("isp"), 1000)].into_iter().collect();
        let isp = || NextHop::Link(name("isp"));
        assert_eq!(limits.hop(isp(), 1000), isp());
        assert_eq!(limits.hop(isp(), 1001), NextHop::Oversize(name("isp")));
        let other = NextHop::Link(name("vsat"));
        assert_eq!(limits.hop(other.clone(), u64::MAX), other);
        assert_eq!(limits.hop(NextHop::Report, u64::MAX), NextHop::Report);
    }

    #[test]
    fn each_change_of_the_limits_shows_and_none_is_none() {
        let print = |limits: &[(&str, u64)]| {
            let limits = limits.iter().map(|(link, limit)| (name(link), *limit));
            limits.collect::<SizeLimits>().fingerprint()
        };
        assert_eq!(print(&[]), "");
        let all = [
            print(&[("isp", 1)]),
            print(&[("isp", 2)]),
            print(&[("vsat", 1)]),
            print(&[("isp", 1), ("vsat", 1)]),
        ];
        assert!(
            all.iter()
                .all(|one| all.iter().filter(|other| *other == one).count() == 1)
        );
    }
}
