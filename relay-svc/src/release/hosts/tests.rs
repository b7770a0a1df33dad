//! Whose turn it is, and with how many connections.

use std::time::Duration;

use super::*;

fn host(name: &str) -> HostPort {
    HostPort::parse_url(&format!("smtp://{name}.example")).unwrap()
}

fn node(name: &str) -> Node {
    Node::of(&format!("{name}.example").parse().unwrap())
}

/// The most connections to a host, where a test is not about that.
const MOST: usize = 16;

fn begun(hosts: &mut Hosts) -> Vec<String> {
    allotted(hosts).into_iter().map(|(node, _)| node).collect()
}

/// The turns that begin, each with its connections.
fn allotted(hosts: &mut Hosts) -> Vec<(String, usize)> {
    let now = Instant::now();
    std::iter::from_fn(|| hosts.begin(now))
        .map(|begun| (begun.node.to_string(), begun.connections))
        .collect()
}

fn connections(hosts: &mut Hosts) -> Vec<usize> {
    allotted(hosts).into_iter().map(|(_, most)| most).collect()
}

#[test]
fn the_turns_of_a_host_share_its_connections_and_never_have_more() {
    let mut hosts = Hosts::default();
    hosts.asked(&host("alone"), 16, node("a"));
    assert_eq!(
        connections(&mut hosts),
        [13],
        "three are kept for further turns"
    );
    for name in ["b", "c", "d", "e"] {
        hosts.asked(&host("alone"), 16, node(name));
    }
    assert_eq!(connections(&mut hosts), [1, 1, 1]);
    hosts.ended(&host("alone"), node("a"), End::Over);
    assert_eq!(
        connections(&mut hosts),
        [4],
        "the last of four that share them"
    );

    for name in ["a", "b", "c", "d"] {
        hosts.asked(&host("four"), 16, node(name));
    }
    assert_eq!(connections(&mut hosts), [4, 4, 4, 4]);
    for name in ["a", "b", "c"] {
        hosts.asked(&host("narrow"), 2, node(name));
    }
    assert_eq!(connections(&mut hosts), [1, 1]);
    hosts.ended(&host("narrow"), node("a"), End::Over);
    assert_eq!(allotted(&mut hosts), [("c.example".to_owned(), 1)]);

    for (most, alone) in [(1, 1), (2, 2), (4, 3), (8, 6)] {
        let of = host(&format!("of{most}"));
        hosts.asked(&of, most, node("a"));
        assert_eq!(connections(&mut hosts), [alone]);
        for name in ["b", "c", "d"] {
            hosts.asked(&of, most, node(name));
        }
        assert_eq!(connections(&mut hosts), vec![1; most - alone]);
    }
}

#[test]
fn of_several_routes_to_a_host_the_strictest_counts_and_all_hosts_together_have_a_limit() {
    let mut hosts = Hosts::default();
    hosts.asked(&host("h"), 16, node("a"));
    hosts.asked(&host("h"), 1, node("b"));
    assert_eq!(connections(&mut hosts), [1]);
    hosts.ended(&host("h"), node("a"), End::Over);
    assert_eq!(connections(&mut hosts), [1]);

    let mut hosts = Hosts::default();
    for n in 0..100 {
        hosts.asked(&host(&format!("h{n}")), 16, node("a"));
    }
    let open = connections(&mut hosts);
    assert_eq!(
        (open.len(), open.iter().sum::<usize>()),
        (100, 100 + FURTHER)
    );
    for n in 0..100 {
        hosts.ended(&host(&format!("h{n}")), node("a"), End::Over);
    }
    assert_eq!((hosts.further, hosts.hosts.len()), (0, 0));
}

#[test]
fn a_customer_with_many_nodes_has_a_few_turns_and_another_has_its_own() {
    let mut hosts = Hosts::default();
    for n in 0..50 {
        hosts.asked(&host("big"), MOST, node(&format!("n{n}")));
    }
    hosts.asked(&host("small"), MOST, node("s"));
    let first = [
        "n0.example",
        "s.example",
        "n1.example",
        "n2.example",
        "n3.example",
    ];
    assert_eq!(begun(&mut hosts), first);
    hosts.ended(&host("big"), node("n1"), End::Over);
    assert_eq!(begun(&mut hosts), ["n4.example"]);
}

#[test]
fn a_pause_ends_by_time_or_by_a_request() {
    let (mut hosts, now) = (Hosts::default(), Instant::now());
    let later = now + Duration::from_secs(60);
    for name in ["a", "b"] {
        hosts.asked(&host("h"), MOST, node(name));
        assert_eq!(begun(&mut hosts).len(), 1);
        hosts.ended(&host("h"), node(name), End::Pause(None, later));
    }
    assert_eq!((hosts.wake_at(), begun(&mut hosts).len()), (Some(later), 0));
    hosts.found(&host("h"), MOST, node("a"));
    assert!(begun(&mut hosts).is_empty(), "it is known, and waits");
    hosts.asked(&host("h"), MOST, node("a"));
    assert_eq!(begun(&mut hosts), ["a.example"]);
    let next = hosts.begin(later).map(|begun| begun.node);
    assert_eq!(next, Some(node("b")));
}

#[test]
fn a_request_during_a_turn_has_another_turn_and_a_broken_one_has_none() {
    let mut hosts = Hosts::default();
    let turn = |hosts: &mut Hosts| begun(hosts).len();
    hosts.asked(&host("h"), MOST, node("a"));
    assert_eq!(turn(&mut hosts), 1);
    hosts.asked(&host("h"), MOST, node("a"));
    assert_eq!(turn(&mut hosts), 0);
    hosts.ended(&host("h"), node("a"), End::Over);
    assert_eq!(turn(&mut hosts), 1);
    hosts.ended(&host("h"), node("a"), End::Broken);
    hosts.asked(&host("h"), MOST, node("a"));
    assert_eq!(turn(&mut hosts), 0);
}

#[test]
fn what_does_not_fit_is_looked_for_once_there_is_room_and_nothing_is_kept_of_the_done() {
    let mut hosts = Hosts::default();
    for n in 0..=REMEMBERED {
        hosts.asked(&host("h"), MOST, node(&format!("n{n}")));
    }
    let mut looks = 0;
    loop {
        let begun: Vec<_> = begun(&mut hosts);
        if begun.is_empty() {
            break;
        }
        for name in begun {
            let node = Node::of(&name.parse().unwrap());
            looks += u32::from(hosts.ended(&host("h"), node, End::Over));
        }
    }
    assert_eq!(looks, 1);
    assert!(hosts.hosts.is_empty() && hosts.next.is_empty() && hosts.running == 0);
}
