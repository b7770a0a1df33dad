//! Delivery straight to the mail exchangers of each domain, for places whose way to the outside is always there.
//!
//! `name_servers` asks; `exchangers` finds the hosts of a domain; `dane` and `sts` say what TLS they must speak, `demand`
//! which of the two counts; `deliver` is one turn of one domain; `turns` whose turn it is; `run` does all that.
//!
//! There is no line here that could be missing: what cannot be reached counts as an attempt, and is given up in the end.
//! Only when no name server says anything at all is nothing known of any domain, and nothing is counted.

pub mod dane;
mod deliver;
pub mod demand;
pub mod exchangers;
pub mod name_servers;
mod run;
pub mod sts;
#[cfg(test)]
mod test_zone;
mod turns;

pub use deliver::Direct;
pub use run::run;
