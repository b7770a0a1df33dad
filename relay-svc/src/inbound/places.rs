//! How many sessions may be open at once, how many of them from one address, and how many are kept back for providers.
//!
//! Clients of the site that stall could otherwise hold every place, and mail that was paid for with a dialled line would
//! be turned away. The other way round is not needed: what a provider cannot take is left to the site.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// This part of the places is kept back, but at least one.
const KEPT_BACK: usize = 4;

/// Whom an address belongs to, as far as that can be told: of IPv6 the whole /64, which one host may have to itself.
pub(super) fn host_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

/// The places for sessions.
pub(super) struct Places {
    /// For everyone.
    open: Arc<Semaphore>,
    /// For clients that come over a link.
    kept: Arc<Semaphore>,
    /// The most from one address.
    per_client: usize,
    by_host: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place that is taken; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    host: IpAddr,
    by_host: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_host = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_host.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                by_host.remove(&self.host);
            }
        }
    }
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("as many sessions as are allowed are open")]
    Full,
    #[error("as many sessions as are allowed from one address are open")]
    OfClient,
}

impl Places {
    /// `total` places. None is kept back if no client can come over a link, or if there is only one.
    pub(super) fn new(total: usize, per_client: usize, any_link: bool) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        let kept = if any_link && total > 1 {
            (total / KEPT_BACK).max(1)
        } else {
            0
        };
        Self {
            open: Arc::new(Semaphore::new(total - kept)),
            kept: Arc::new(Semaphore::new(kept)),
            per_client,
            by_host: Arc::default(),
        }
    }

    /// A place, if one is free. Over a link those that are kept back go first, so that the others stay for the site.
    pub(super) fn take(&self, client: IpAddr, over_link: bool) -> Result<Place, NoPlace> {
        let host = host_of(client);
        let mut by_host = self.by_host.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = by_host.get(&host).copied().unwrap_or_default();
        if taken >= self.per_client {
            return Err(NoPlace::OfClient);
        }
        let kept = over_link.then_some(&self.kept);
        let permit = kept
            .into_iter()
            .chain([&self.open])
            .find_map(|places| Arc::clone(places).try_acquire_owned().ok())
            .ok_or(NoPlace::Full)?;
        by_host.insert(host, taken + 1);
        Ok(Place {
            host,
            by_host: Arc::clone(&self.by_host),
            _permit: permit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn fill(places: &Places, over_link: bool) -> Vec<Place> {
        std::iter::from_fn(|| places.take(CLIENT, over_link).ok()).collect()
    }

    #[test]
    fn stalled_clients_of_the_site_leave_a_quarter_to_the_provider() {
        for (total, of_site) in [(200, 150), (4, 3), (2, 1), (1, 1)] {
            let places = Places::new(total, usize::MAX, true);
            let site = fill(&places, false);
            assert_eq!(site.len(), of_site, "{total}");
            assert_eq!(fill(&places, true).len(), total - of_site, "{total}");
        }
    }

    #[test]
    fn a_provider_may_take_all_and_begins_with_what_is_kept_for_it() {
        let places = Places::new(8, usize::MAX, true);
        let provider: Vec<_> = (0..2)
            .filter_map(|_| places.take(CLIENT, true).ok())
            .collect();
        assert_eq!((provider.len(), fill(&places, false).len()), (2, 6));
        assert_eq!(fill(&places, true).len(), 6);
    }

    #[test]
    fn without_a_link_nothing_is_kept_back_and_no_number_is_too_large() {
        assert_eq!(fill(&Places::new(8, usize::MAX, false), false).len(), 8);
        let places = Places::new(usize::MAX, 1, true);
        assert!(places.take(CLIENT, true).is_ok());
    }

    #[test]
    fn one_address_has_so_many_and_gets_them_back() {
        let places = Places::new(8, 2, false);
        let mut taken = fill(&places, false);
        assert_eq!(taken.len(), 2);
        let again = |client: &str| places.take(client.parse().unwrap(), false);
        assert_eq!(again("::ffff:127.0.0.1").unwrap_err(), NoPlace::OfClient);
        let other = (again("2001:db8::1").unwrap(), again("2001:db8::2").unwrap());
        assert_eq!(again("2001:db8::3").unwrap_err(), NoPlace::OfClient);
        assert!(again("2001:db8:0:1::3").is_ok());
        taken.pop();
        drop(other);
        assert!(again("127.0.0.1").is_ok());
        drop(taken);
        assert!(places.by_host.lock().unwrap().is_empty());
    }
}
