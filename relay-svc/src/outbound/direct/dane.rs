//! TLSA records of an exchanger (RFC 7672): looked up only where DNSSEC proves everything before them.

use hickory_resolver::proto::rr::{Name, RData, RecordType, rdata::TLSA};
use linkmail_service::tls::dane::Tlsa;

use super::{
    exchangers::Exchanger,
    name_servers::{Dnssec, Found, LookupError, NameServers},
};

/// Of one host no more records are looked at.
const RECORDS: usize = 64;

/// What DNSSEC says of the keys of an exchanger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dane {
    /// Nothing: the way to the host is not proven, or there are no records. DANE does not apply.
    None,
    /// Its certificate must fit one of these; with none that can be used it must at least speak TLS (RFC 7672 2.2).
    Records {
        /// The name that the records are of, which is the name to ask the host for (RFC 7672 2.2.3).
        base: String,
        /// The records, also those that cannot be used.
        records: Vec<Tlsa>,
    },
    /// It cannot be known whether there are records. The host must not be used now (RFC 7672 2.2): who keeps us from
    /// the records may be who waits for the mail.
    Unknown(String),
}

/// Looks up the records of one exchanger. `listed` is whether DNSSEC proves that it is one.
///
/// Where the host's name is an alias, the records may be of the name behind it, or of the alias (RFC 7672 2.2.2).
pub async fn look_up(names: &NameServers, listed: bool, host: &Exchanger, port: u16) -> Dane {
    // Who has not signed the addresses may have name servers that choke on a question for TLSA (RFC 7672 2.2.2).
    if names.dnssec() == Dnssec::Off || !listed || !host.proven {
        return Dane::None;
    }
    let mut bases = vec![&host.canonical];
    if host.host != host.canonical {
        bases.push(&host.host);
    }
    for base in bases {
        match records(names, base, port).await {
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                let base = base.clone();
                return Dane::Records { base, records };
            }
            Err(error) => return Dane::Unknown(error.to_string()),
        }
    }
    Dane::None
}

async fn records(names: &NameServers, base: &str, port: u16) -> Result<Vec<Tlsa>, LookupError> {
    let Ok(name) = Name::from_ascii(format!("_{port}._tcp.{base}.")) else {
        return Ok(Vec::new());
    };
    let answer = names.ask(&name, RecordType::TLSA).await?;
    match answer.found {
        Found::Records(data) if answer.proven => {
            Ok(data.iter().filter_map(tlsa).take(RECORDS).collect())
        }
        // The host's own zone is signed, so somebody on the way may say this. A part of it that is not signed does, too,
        // but nobody has one there.
        Found::None | Found::NoName { .. } if answer.unsigned_denial => {
            Err(LookupError::Bogus(name))
        }
        // Records that nobody signed say nothing, as if there were none.
        Found::Records(_) | Found::None | Found::NoName { .. } => Ok(Vec::new()),
    }
}

fn tlsa(data: &RData) -> Option<Tlsa> {
    let RData::TLSA(TLSA {
        cert_usage,
        selector,
        matching,
        cert_data,
        ..
    }) = data
    else {
        return None;
    };
    Some(Tlsa {
        usage: (*cert_usage).into(),
        selector: (*selector).into(),
        matching: (*matching).into(),
        data: cert_data.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{
        exchangers::{self, Exchangers, NoExchanger, Ourselves},
        test_zone::{Reply, Zone},
    };
    use super::*;
    use crate::names::Destination;
    use hickory_resolver::proto::op::ResponseCode;

    const KEY: [u8; 32] = [7; 32];

    fn zone() -> Zone {
        Zone::default()
            .mx("one.example.", 10, "mx.one.example.")
            .a("mx.one.example.", "198.51.100.1")
            .tlsa("_25._tcp.mx.one.example.", 3, &KEY)
            .tlsa("_25._tcp.mx.one.example.", 0, &KEY)
            .mx("keyless.example.", 10, "mx.keyless.example.")
            .a("mx.keyless.example.", "198.51.100.2")
            .txt("_25._tcp.mx.keyless.example.", "no key")
            .mx("alias.example.", 10, "alias.one.example.")
            .cname("alias.one.example.", "mx.one.example.")
            .mx("renamed.example.", 10, "mx.renamed.example.")
            .cname("mx.renamed.example.", "mx.keyless.example.")
            .tlsa("_25._tcp.mx.renamed.example.", 2, &KEY)
            .mx("dark.example.", 10, "mx.dark.example.")
            .a("mx.dark.example.", "198.51.100.3")
            .reply(
                "_25._tcp.mx.dark.example.",
                Reply::Code(ResponseCode::ServFail),
            )
            .mx("plain.example.", 10, "mx.plain.example.")
            .a("mx.plain.example.", "198.51.100.4")
            .tlsa("_25._tcp.mx.plain.example.", 3, &KEY)
            .mx("outside.example.", 10, "mx.plain.example.")
            .a("implicit.example.", "198.51.100.5")
            .tlsa("_25._tcp.implicit.example.", 3, &KEY)
    }

    async fn find(names: &NameServers, domain: &str) -> Result<Exchangers, NoExchanger> {
        let ourselves = Ourselves::new("relay.branch.example".into(), &[], 25);
        let domain = Destination::of(&domain.parse().unwrap());
        exchangers::find(names, &domain, &ourselves, &mut || 0).await
    }

    async fn told(names: &NameServers, domain: &str) -> String {
        let found = match find(names, domain).await {
            Ok(found) => found,
            Err(none) => return format!("{none:?}").split('(').next().unwrap().to_owned(),
        };
        match look_up(names, found.proven, &found.hosts[0], 25).await {
            Dane::None => "none".to_owned(),
            Dane::Records { base, records } => {
                let usages: Vec<_> = records.iter().map(|r| r.usage.to_string()).collect();
                assert!(
                    records
                        .iter()
                        .all(|r| r.data == KEY && (r.selector, r.matching) == (1, 1))
                );
                format!("{base} {}", usages.join(" "))
            }
            Dane::Unknown(_) => "unknown".to_owned(),
        }
    }

    /// What is found in [`zone`], whoever proves it.
    const EXPECTED: [(&str, &str); 8] = [
        ("one.example", "mx.one.example 3 0"),
        ("alias.example", "mx.one.example 3 0"),
        ("renamed.example", "mx.renamed.example 2"),
        ("implicit.example", "implicit.example 3"),
        ("keyless.example", "none"),
        ("plain.example", "none"),
        ("outside.example", "none"),
        ("dark.example", "unknown"),
    ];

    #[tokio::test]
    async fn records_count_where_a_trusted_name_server_proves_the_way_to_them() {
        let mut zone = zone();
        for signed in [
            "one", "keyless", "alias", "renamed", "dark", "outside", "implicit",
        ] {
            zone = zone
                .authentic(&format!("{signed}.example."))
                .authentic(&format!("mx.{signed}.example."))
                .authentic(&format!("_25._tcp.mx.{signed}.example."));
        }
        let served = zone
            .authentic("alias.one.example.")
            .authentic("_25._tcp.implicit.example.")
            .serve()
            .await;
        let names = served.name_servers(Dnssec::TrustAd);
        for (domain, expected) in EXPECTED {
            assert_eq!(told(&names, domain).await, expected, "{domain}");
        }
        let names = served.name_servers(Dnssec::Off);
        assert_eq!(told(&names, "one.example").await, "none");
    }

    #[tokio::test]
    async fn a_signed_zone_is_validated_from_its_anchor_down() {
        let (zone, anchors) = zone()
            .mx("forged.example.", 10, "mx.one.example.")
            .mx("forgedhost.example.", 10, "mx.forgedhost.example.")
            .a("mx.forgedhost.example.", "198.51.100.6")
            .mx("forgedkey.example.", 10, "mx.forgedkey.example.")
            .a("mx.forgedkey.example.", "198.51.100.7")
            .tlsa("_25._tcp.mx.forgedkey.example.", 3, &KEY)
            .forged("forged.example.")
            .forged("mx.forgedhost.example.")
            .forged("_25._tcp.mx.forgedkey.example.")
            .mx("denied.example.", 10, "mx.denied.example.")
            .a("mx.denied.example.", "198.51.100.8")
            .reply(
                "_25._tcp.mx.denied.example.",
                Reply::NoNameBy("plain.example."),
            )
            .reply("gone.example.", Reply::NoNameBy("plain.example."))
            .unsigned("plain.example.")
            .signed();
        let served = zone.serve().await;
        let names = served.with_anchors(Dnssec::Validate, anchors);
        let forged = [
            ("forged.example", "NotNow"),
            ("forgedhost.example", "NotNow"),
            ("forgedkey.example", "unknown"),
            ("denied.example", "unknown"),
            ("gone.example", "NotNow"),
        ];
        let denied = Name::from_ascii("_25._tcp.mx.denied.example.").unwrap();
        let denied = names.ask(&denied, RecordType::TLSA).await.unwrap();
        assert!(denied.unsigned_denial, "{denied:?}");
        for (domain, expected) in EXPECTED.into_iter().chain(forged) {
            assert_eq!(told(&names, domain).await, expected, "{domain}");
        }
    }
}
