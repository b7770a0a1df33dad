//! The lines of an envelope, with the parameters that the server offers to take.

use crate::ehlo::SizeOffer;

use super::ClientSession;

impl ClientSession {
    /// MAIL of the newest transaction.
    pub(super) fn mail_line(&self) -> Vec<u8> {
        let Some(newest) = self.flying.back() else {
            return Vec::new();
        };
        let transaction = &newest.transaction;
        let path = transaction.reverse_path.to_bytes();
        let mut line = [b"MAIL FROM:<".as_slice(), &path, b">"].concat();
        if let Some(offered) = &self.capabilities {
            if offered.size != SizeOffer::NotOffered {
                line.extend_from_slice(format!(" SIZE={}", transaction.size).as_bytes());
            }
            if offered.eight_bit_mime && transaction.eight_bit {
                line.extend_from_slice(b" BODY=8BITMIME");
            }
        }
        line
    }
}
