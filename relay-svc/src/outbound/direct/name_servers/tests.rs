//! Answers of a name server of our own.

use super::super::test_zone::{Reply, Zone};
use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

#[tokio::test]
async fn what_is_not_there_is_told_from_what_cannot_be_said() {
    let zone = Zone::default()
        .a("mx.remote.example.", "192.0.2.1")
        .a("mx.remote.example.", "2001:db8::1")
        .cname("www.remote.example.", "mx.remote.example.")
        .cname("dangling.remote.example.", "nowhere.remote.example.")
        .cname("round.remote.example.", "about.remote.example.")
        .cname("about.remote.example.", "round.remote.example.")
        .reply("boxed.example.", Reply::NoNameWithoutZone)
        .reply("broken.example.", Reply::Code(ResponseCode::ServFail))
        .reply("refused.example.", Reply::Code(ResponseCode::Refused))
        .reply("silent.example.", Reply::Silence)
        .serve()
        .await;
    let servers = zone.name_servers(Dnssec::Off);
    let ask = async |at: &str| servers.ask(&name(at), RecordType::A).await;
    let found = async |at: &str| ask(at).await.unwrap().found;

    let answer = ask("www.remote.example.").await.unwrap();
    assert_eq!(answer.name, name("mx.remote.example."));
    assert!(matches!(answer.found, Found::Records(data) if data.len() == 1));
    assert!(!answer.proven);
    assert_eq!(found("remote.example.").await, Found::None);
    let sure = Found::NoName { sure: true };
    assert_eq!(found("nobody.example.").await, sure);
    assert_eq!(found("dangling.remote.example.").await, sure);
    let unsure = Found::NoName { sure: false };
    assert_eq!(found("boxed.example.").await, unsure);
    for (at, silent) in [
        ("broken.example.", false),
        ("refused.example.", false),
        ("round.remote.example.", false),
        ("silent.example.", true),
    ] {
        let error = ask(at).await.unwrap_err();
        let is_silent = matches!(error, LookupError::Silent(..));
        assert_eq!(is_silent, silent, "{at}: {error}");
    }
    let addresses = servers
        .addresses(&name("www.remote.example."))
        .await
        .unwrap();
    let addresses: Vec<String> = addresses
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(addresses, ["2001:db8::1", "192.0.2.1"]);
    assert!(servers.answer().await);
}

#[tokio::test]
async fn the_ad_bit_counts_only_where_it_is_trusted() {
    let zone = Zone::default()
        .a("signed.example.", "192.0.2.1")
        .a("plain.example.", "192.0.2.2")
        .authentic("signed.example.")
        .serve()
        .await;
    for (dnssec, at, proven) in [
        (Dnssec::TrustAd, "signed.example.", true),
        (Dnssec::TrustAd, "plain.example.", false),
        (Dnssec::Off, "signed.example.", false),
    ] {
        let servers = zone.name_servers(dnssec);
        let answer = servers.ask(&name(at), RecordType::A).await.unwrap();
        assert_eq!(answer.proven, proven, "{dnssec:?} {at}");
    }
}
