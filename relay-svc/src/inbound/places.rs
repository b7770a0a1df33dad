//! How many sessions may be open at once, and how many of them are kept back for providers.
//!
//! Clients of the site that stall could otherwise hold every place, and mail that was paid for with a dialled line would
//! be turned away. The other way round is not needed: what a provider cannot take is left to the site.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// This part of the places is kept back, but at least one.
const KEPT_BACK: usize = 4;

/// The places for sessions.
pub(super) struct Places {
    /// For everyone.
    open: Arc<Semaphore>,
    /// For clients that come over a link.
    kept: Arc<Semaphore>,
}

impl Places {
    /// `total` places. None is kept back if no client can come over a link, or if there is only one.
    pub(super) fn new(total: usize, any_link: bool) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS);
        let kept = if any_link && total > 1 {
            (total / KEPT_BACK).max(1)
        } else {
            0
        };
        Self {
            open: Arc::new(Semaphore::new(total - kept)),
            kept: Arc::new(Semaphore::new(kept)),
        }
    }

    /// A place, if one is free; given back when it is dropped. Over a link those that are kept back go first, so that the
    /// others stay for the site.
    pub(super) fn take(&self, over_link: bool) -> Option<OwnedSemaphorePermit> {
        let kept = over_link.then_some(&self.kept);
        kept.into_iter()
            .chain([&self.open])
            .find_map(|places| Arc::clone(places).try_acquire_owned().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(places: &Places, over_link: bool) -> Vec<OwnedSemaphorePermit> {
        std::iter::from_fn(|| places.take(over_link)).collect()
    }

    #[test]
    fn stalled_clients_of_the_site_leave_a_quarter_to_the_provider() {
        for (total, of_site) in [(200, 150), (4, 3), (2, 1), (1, 1)] {
            let places = Places::new(total, true);
            let site = fill(&places, false);
            assert_eq!(site.len(), of_site, "{total}");
            assert_eq!(fill(&places, true).len(), total - of_site, "{total}");
        }
    }

    #[test]
    fn a_provider_may_take_all_and_begins_with_what_is_kept_for_it() {
        let places = Places::new(8, true);
        let provider: Vec<_> = (0..2).filter_map(|_| places.take(true)).collect();
        assert_eq!((provider.len(), fill(&places, false).len()), (2, 6));
        assert_eq!(fill(&places, true).len(), 6);
    }

    #[test]
    fn without_a_link_nothing_is_kept_back_and_no_number_is_too_large() {
        assert_eq!(fill(&Places::new(8, false), false).len(), 8);
        assert!(Places::new(usize::MAX, true).take(true).is_some());
    }
}
