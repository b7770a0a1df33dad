//! Each kind of domain, asked of a name server of our own; touches loopback alone.

use hickory_resolver::proto::op::ResponseCode;

use super::super::name_servers::Dnssec;
use super::super::test_zone::{Reply as Said, Zone};
use super::*;

fn zone() -> Zone {
    Zone::default()
        .mx("two.example.", 20, "mx2.two.example.")
        .mx("two.example.", 10, "MX1.two.example.")
        .a("mx1.two.example.", "198.51.100.1")
        .a("mx1.two.example.", "2001:db8::1")
        .a("mx2.two.example.", "198.51.100.2")
        .mx("null.example.", 0, ".")
        .mx("nearly.example.", 0, ".")
        .mx("nearly.example.", 10, "mx1.two.example.")
        .a("implicit.example.", "198.51.100.3")
        .mx("xn--bcher-kva.example.", 10, "mx2.two.example.")
        .cname("alias.example.", "two.example.")
        .txt("mailless.example.", "no address, no exchanger")
        .mx("gone.example.", 10, "nobody.gone.example.")
        .mx("gone.example.", 20, "mx2.two.example.")
        .mx("allgone.example.", 10, "nobody.gone.example.")
        .mx("half.example.", 10, "broken.example.")
        .mx("half.example.", 20, "mx2.two.example.")
        .mx("dark.example.", 10, "broken.example.")
        .mx("backup.example.", 10, "mx1.two.example.")
        .mx("backup.example.", 20, "RELAY.branch.example.")
        .mx("backup.example.", 20, "equal.two.example.")
        .mx("backup.example.", 30, "mx2.two.example.")
        .a("equal.two.example.", "198.51.100.5")
        .mx("ours.example.", 10, "relay.branch.example.")
        .mx("here.example.", 10, "here.two.example.")
        .mx("here.example.", 20, "mx2.two.example.")
        .a("here.two.example.", "127.0.0.1")
        .mx("zero.example.", 10, "zero.two.example.")
        .a("zero.two.example.", "0.0.0.0")
        .reply("broken.example.", Said::Code(ResponseCode::ServFail))
        .reply("refused.example.", Said::Code(ResponseCode::Refused))
        .reply("boxed.example.", Said::NoNameWithoutZone)
        .reply("silent.example.", Said::Silence)
}

/// The hosts of a domain, or why there are none, as text.
fn told(found: Result<Exchangers, NoExchanger>) -> String {
    match found {
        Ok(found) => {
            let host = |host: &Exchanger| {
                let at: Vec<_> = host.addresses.iter().map(ToString::to_string).collect();
                format!("{} {}={}", host.preference, host.host, at.join("+"))
            };
            found.hosts.iter().map(host).collect::<Vec<_>>().join(", ")
        }
        Err(NoExchanger::Never(reply)) => reply.to_string().chars().take(10).collect(),
        Err(NoExchanger::NotNow(_)) => "not now".into(),
        Err(NoExchanger::NoNameServer(_)) => "no name server".into(),
    }
}

#[tokio::test]
async fn a_domain_that_takes_no_mail_says_so_and_nothing_else_does() {
    let served = zone().serve().await;
    let names = served.name_servers(Dnssec::Off);
    for (domain, expected) in [
        ("null.example", Some(true)),
        ("NULL.example", Some(true)),
        ("nearly.example", Some(false)),
        ("two.example", Some(false)),
        ("alias.example", Some(false)),
        ("implicit.example", Some(false)),
        ("mailless.example", Some(false)),
        ("nowhere.example", Some(false)),
        ("ours.example", Some(false)),
        ("refused.example", None),
        ("silent.example", None),
    ] {
        let domain = Destination::of(&domain.parse().unwrap());
        let found = are_none(&names, &domain).await.ok();
        assert_eq!(found, expected, "{domain}");
    }
}

#[tokio::test]
async fn each_kind_of_domain_has_its_exchangers_or_its_reason() {
    let served = zone().serve().await;
    let names = served.name_servers(Dnssec::Off);
    let listening = [
        SocketAddr::from(([0, 0, 0, 0], 25)),
        SocketAddr::from(([198, 51, 100, 9], 25)),
    ];
    let ourselves = Ourselves::new("relay.branch.example".into(), &listening, 25);
    for (domain, expected) in [
        (
            "two.example",
            "10 mx1.two.example=2001:db8::1+198.51.100.1, 20 mx2.two.example=198.51.100.2",
        ),
        (
            "alias.example",
            "10 mx1.two.example=2001:db8::1+198.51.100.1, 20 mx2.two.example=198.51.100.2",
        ),
        (
            "nearly.example",
            "10 mx1.two.example=2001:db8::1+198.51.100.1",
        ),
        ("implicit.example", "0 implicit.example=198.51.100.3"),
        ("gone.example", "20 mx2.two.example=198.51.100.2"),
        ("half.example", "20 mx2.two.example=198.51.100.2"),
        (
            "backup.example",
            "10 mx1.two.example=2001:db8::1+198.51.100.1",
        ),
        ("[198.51.100.7]", "0 198.51.100.7=198.51.100.7"),
        ("[IPv6:2001:db8::7]", "0 2001:db8::7=2001:db8::7"),
        ("null.example", "556 5.1.10"),
        ("nobody.example", "550 5.1.2 "),
        ("ours.example", "554 5.4.6 "),
        ("here.example", "554 5.4.6 "),
        ("[198.51.100.9]", "554 5.4.6 "),
        ("[127.0.0.1]", "554 5.4.6 "),
        ("mailless.example", "not now"),
        ("allgone.example", "not now"),
        ("dark.example", "not now"),
        ("zero.example", "not now"),
        ("broken.example", "not now"),
        ("refused.example", "not now"),
        ("boxed.example", "not now"),
        ("silent.example", "no name server"),
    ] {
        let domain = Destination::of(&domain.parse().unwrap());
        let found = find(&names, &domain, &ourselves, &mut || 0).await;
        if let Ok(found) = &found {
            let ascii = found.domain.as_deref().unwrap_or("[]");
            assert!(ascii == "xn--bcher-kva.example" || domain.as_str() == ascii || ascii == "[]");
        }
        assert_eq!(told(found), expected, "{domain}");
    }
}

#[test]
fn hosts_that_are_equally_preferred_take_turns() {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let listed = || {
        vec![
            (10, name("b.")),
            (10, name("a.")),
            (5, name("z.")),
            (10, name("z.")),
        ]
    };
    let order = |numbers: &[u64]| {
        let mut numbers = numbers.iter().copied();
        let hosts = in_order(listed(), &mut || numbers.next().unwrap());
        hosts.into_iter().map(|(_, host)| host).collect::<String>()
    };
    assert_eq!(order(&[1, 2, 3]), "zab");
    assert_eq!(order(&[2, 1, 3]), "zba");
}

#[test]
fn of_many_hosts_and_addresses_some_are_tried() {
    let many = |n: u16| (n, Name::from_ascii(format!("mx{n}.example.")).unwrap());
    let hosts = in_order((0..300).rev().map(many).collect(), &mut || 0);
    assert_eq!(hosts.len(), EXCHANGERS);
    assert_eq!(hosts[9].0, 9);
    let host = |preference| Exchanger {
        host: String::new(),
        canonical: String::new(),
        preference,
        addresses: (0..20).map(|n| IpAddr::from([198, 51, 100, n])).collect(),
        proven: false,
    };
    let mut hosts = vec![(1, host(1)), (2, host(2)), (3, host(3))];
    trim(&mut hosts);
    let left: Vec<_> = hosts.iter().map(|(_, host)| host.addresses.len()).collect();
    assert_eq!(left, [20, 4]);
}

#[tokio::test]
async fn what_is_proven_is_said_of_the_list_and_of_each_host() {
    let served = zone()
        .authentic("two.example.")
        .authentic("mx1.two.example.")
        .authentic("implicit.example.")
        .serve()
        .await;
    let names = served.name_servers(Dnssec::TrustAd);
    let ourselves = Ourselves::new("relay.branch.example".into(), &[], 25);
    for (domain, list, hosts) in [
        ("two.example", true, &[true, false][..]),
        ("implicit.example", true, &[true]),
        ("half.example", false, &[false]),
        ("[198.51.100.1]", false, &[false]),
    ] {
        let domain = Destination::of(&domain.parse().unwrap());
        let found = find(&names, &domain, &ourselves, &mut || 0).await.unwrap();
        assert_eq!(found.proven, list, "{domain}");
        let proven: Vec<_> = found.hosts.iter().map(|host| host.proven).collect();
        assert_eq!(proven, hosts, "{domain}");
    }
}
