//! The state of a line. Pure.

/// Where a line is. Down is its normal state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// No call is up.
    Down,
    /// It is being dialled.
    Dialling,
    /// Mail may pass.
    Up,
    /// It is being hung up.
    HangingUp,
}

impl LinkState {
    /// The word for it in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Dialling => "dialling",
            Self::Up => "up",
            Self::HangingUp => "hanging up",
        }
    }

    /// Whether a line can go from here to there.
    #[must_use]
    pub fn can_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Down, Self::Dialling)
                | (Self::Dialling, Self::Up | Self::Down | Self::HangingUp)
                | (Self::Up, Self::HangingUp)
                | (Self::HangingUp, Self::Down)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::LinkState::{Dialling, Down, HangingUp, Up};

    #[test]
    fn a_line_comes_up_by_dialling_and_goes_down_by_hanging_up() {
        assert!(Down.can_become(Dialling) && Dialling.can_become(Up) && Up.can_become(HangingUp));
        assert!(Dialling.can_become(Down) && HangingUp.can_become(Down));
        assert!(!Down.can_become(Up) && !Up.can_become(Down) && !Up.can_become(Dialling));
    }
}
