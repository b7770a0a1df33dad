//! Delivery straight to the mail exchangers of each domain.

pub mod dane;
pub mod exchangers;
pub mod name_servers;
pub mod sts;
#[cfg(test)]
mod test_zone;
