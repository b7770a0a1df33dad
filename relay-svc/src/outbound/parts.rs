//! How the recipients of a message are divided into transactions, by what the host takes in one (RFC 9422). Pure.

use std::collections::HashMap;

use linkmail_smtp::{Domain, ForwardPath, Priority, Recipient, Transaction};

use crate::spool::{Due, DueRecipient, Tick};

/// So many recipients go into one transaction: what every server must take (RFC 5321 4.5.3.1.8).
const RECIPIENTS: usize = 100;

/// What a host takes in one transaction; at least one of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// Recipients.
    pub(super) recipients: usize,
    /// Different domains of recipients, if there is a limit.
    pub(super) domains: Option<usize>,
}

impl Most {
    /// By what the host says: RCPTMAX and RCPTDOMAINMAX. A domain that a session does not take goes in the next one.
    pub(super) fn by(recipients: Option<u64>, domains: Option<u64>) -> Self {
        let at_least_one = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        Self {
            recipients: recipients.map_or(RECIPIENTS, at_least_one).min(RECIPIENTS),
            domains: domains.map(at_least_one),
        }
    }
}

/// The recipients of each transaction, by their places in a list of which only the domains matter; together all of them,
/// each once, and in their order but that with a limit of domains those of one stand together.
pub(super) fn divide(domains: &[&Domain], most: Most) -> Vec<Vec<usize>> {
    let mut places: Vec<usize> = (0..domains.len()).collect();
    if most.domains.is_some() {
        let mut seen = HashMap::new();
        for domain in domains {
            let rank = seen.len();
            seen.entry(*domain).or_insert(rank);
        }
        places.sort_by_key(|place| seen.get(domains[*place]));
    }
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut of_part = 0;
    for place in places {
        let last = parts.last_mut().filter(|part| part.len() < most.recipients);
        let is_other = |part: &&mut Vec<usize>| {
            let before = part.last().map(|before| domains[*before]);
            before != Some(domains[place])
        };
        match last {
            Some(part) if !is_other(&part) => part.push(place),
            Some(part) if most.domains.is_none_or(|most| of_part < most) => {
                of_part += 1;
                part.push(place);
            }
            _ => {
                of_part = 1;
                parts.push(vec![place]);
            }
        }
    }
    parts
}

/// The transaction of some recipients of a message.
pub(super) fn transaction(message: &Due, places: &[usize], now: Tick) -> Transaction {
    let wanted = |recipient: &DueRecipient| Recipient {
        path: ForwardPath::Mailbox(recipient.address.clone()),
        notify: recipient.wish.notify,
        original: recipient.wish.original.clone(),
    };
    let recipients = places.iter().filter_map(|at| message.recipients.get(*at));
    Transaction {
        reverse_path: message.reverse_path.clone(),
        recipients: recipients.map(wanted).collect(),
        size: message.size,
        eight_bit: message.eight_bit,
        utf8_header: message.utf8_header,
        ret: message.wish.ret,
        envelope_id: message.wish.envelope_id.clone(),
        // The receiver remembers it by recipient, so one id serves for all transactions and attempts.
        peer_id: Some(message.id.into()),
        priority: Some(message.wish.priority).filter(|priority| *priority != Priority::NORMAL),
        deliver_by: message.left(now),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// All lists of up to seven recipients at three domains, under all small limits.
    #[test]
    fn everybody_is_in_one_part_and_no_part_is_more_than_the_host_takes() {
        let named = ["a.example", "b.example", "c.example"];
        let named: [Domain; 3] = named.map(|text| text.parse().unwrap());
        for count in 0..=7 {
            for list in 0..3_usize.pow(count) {
                let digits = (0..count).map(|at| list / 3_usize.pow(at) % 3);
                let domains: Vec<&Domain> = digits.map(|digit| &named[digit]).collect();
                for (recipients, of_domains) in (1..=8).flat_map(|r| (0..=3).map(move |d| (r, d))) {
                    let most = Most::by(Some(recipients), (of_domains > 0).then_some(of_domains));
                    keeps(&domains, most);
                }
            }
        }
    }

    fn keeps(domains: &[&Domain], most: Most) {
        let parts = divide(domains, most);
        let mut all = parts.concat();
        if most.domains.is_none() {
            assert!(all.is_sorted());
            assert_eq!(parts.len(), domains.len().div_ceil(most.recipients));
        }
        all.sort_unstable();
        assert_eq!(all, (0..domains.len()).collect::<Vec<_>>());
        for part in &parts {
            let different: HashSet<_> = part.iter().map(|place| domains[*place]).collect();
            assert!((1..=most.recipients).contains(&part.len()), "{parts:?}");
            assert!(most.domains.is_none_or(|most| different.len() <= most));
        }
    }

    #[test]
    fn the_case_of_a_domain_does_not_matter_and_limits_have_bounds() {
        let domains: [Domain; 4] =
            ["a.example", "b.example", "A.Example", "c.example"].map(|text| text.parse().unwrap());
        let domains: Vec<&Domain> = domains.iter().collect();
        let parts = |domains_most| divide(&domains, Most::by(None, domains_most));
        assert_eq!(parts(None), [vec![0, 1, 2, 3]]);
        assert_eq!(parts(Some(1)), [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(parts(Some(2)), [vec![0, 2, 1], vec![3]]);
        assert_eq!(Most::by(Some(100_000), None).recipients, RECIPIENTS);
    }
}
