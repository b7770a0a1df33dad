//! When this program is built, in milliseconds since 1970: the wall clock is not believed before that.
//! `SOURCE_DATE_EPOCH` says it where builds are to be the same octet for octet.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = said.and_then(|text| text.parse::<u64>().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = seconds.unwrap_or_else(|| now().map_or(0, |time| time.as_secs()));
    println!("cargo:rustc-env=LINKMAIL_BUILT_MS={}", seconds * 1000);
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=build.rs");
}
