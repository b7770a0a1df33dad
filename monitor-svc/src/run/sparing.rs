//! Log lines that strangers can cause: one in a while, with how many were left out. Pure.

use std::time::Duration;

use crate::clock::Stamp;

/// When the next line may be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sparing {
    every: Duration,
    not_before: Option<Stamp>,
    left_out: u64,
}

impl Sparing {
    /// At most one line in `every`.
    pub(super) const fn new(every: Duration) -> Self {
        Self {
            every,
            not_before: None,
            left_out: 0,
        }
    }

    /// Something is to be told of. If it may be: how much before it was left out.
    pub(super) fn tell(&mut self, now: Stamp) -> Option<u64> {
        if self.not_before.is_some_and(|not_before| now < not_before) {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.not_before = Some(now.plus(self.every));
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_says_what_was_left_out() {
        let mut sparing = Sparing::new(Duration::from_secs(60));
        let told = [0, 1, 59, 60, 61, 200, 300].map(|second| sparing.tell(Stamp(second * 1000)));
        let expected = [Some(0), None, None, Some(2), None, Some(1), Some(0)];
        assert_eq!(told, expected);
    }
}
