//! A whole system on one machine, to be looked at.
