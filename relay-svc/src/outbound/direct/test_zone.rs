//! A name server for one test: it answers from a table, over UDP, on a port of its own; signed, if the test asks for that.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    proto::{
        dnssec::{
            DnssecSigner, SigningKey, TrustAnchors,
            crypto::Ed25519SigningKey,
            rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG},
        },
        op::{Message, MessageType, ResponseCode},
        rr::{
            DNSClass, Name, RData, Record, RecordSet, RecordType,
            rdata::{CNAME, MX, NS, SOA, TLSA, TXT},
        },
    },
};
use tokio::net::UdpSocket;

use super::name_servers::{Dnssec, NameServers};

/// An answer that is none of records.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// This code alone.
    Code(ResponseCode),
    /// That the name does not exist, without the zone that says so.
    NoNameWithoutZone,
    /// That the name does not exist, as a zone says that has nothing to do with it, and that signs nothing.
    NoNameBy(&'static str),
    /// Nothing.
    Silence,
}

/// What the name server knows. Names that are above a known one exist; others do not.
#[derive(Clone, Default)]
pub(super) struct Zone {
    records: Vec<Record>,
    replies: HashMap<Name, Reply>,
    authentic: Vec<Name>,
    signer: Option<Arc<DnssecSigner>>,
    unsigned: Vec<Name>,
    forged: Vec<Name>,
}

/// The zone that is signed.
const APEX: &str = "example.";

/// It serves until it is dropped.
pub(super) struct Served {
    at: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

impl Zone {
    pub(super) fn record(mut self, at: &str, data: RData) -> Self {
        self.records.push(Record::from_rdata(name(at), 60, data));
        self
    }

    pub(super) fn a(self, at: &str, address: &str) -> Self {
        let data = match address.parse().unwrap() {
            std::net::IpAddr::V4(four) => RData::A(four.into()),
            std::net::IpAddr::V6(six) => RData::AAAA(six.into()),
        };
        self.record(at, data)
    }

    pub(super) fn mx(self, at: &str, preference: u16, host: &str) -> Self {
        self.record(at, RData::MX(MX::new(preference, name(host))))
    }

    pub(super) fn cname(self, at: &str, target: &str) -> Self {
        self.record(at, RData::CNAME(CNAME(name(target))))
    }

    pub(super) fn txt(self, at: &str, text: &str) -> Self {
        self.record(at, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    pub(super) fn reply(mut self, at: &str, reply: Reply) -> Self {
        self.replies.insert(name(at), reply);
        self
    }

    /// Answers for this name have the AD bit, if it was asked for.
    pub(super) fn authentic(mut self, at: &str) -> Self {
        self.authentic.push(name(at));
        self
    }

    pub(super) fn tlsa(self, at: &str, usage: u8, data: &[u8]) -> Self {
        let data = TLSA::new(usage.into(), 1.into(), 1.into(), data.to_vec());
        self.record(at, RData::TLSA(data))
    }

    /// Signs all of it with a new key; whoever validates starts from this anchor.
    pub(super) fn signed(mut self) -> (Self, TrustAnchors) {
        let pkcs8 = Ed25519SigningKey::generate_pkcs8().unwrap();
        let key = Ed25519SigningKey::from_pkcs8(&pkcs8).unwrap();
        let public = key.to_public_key().unwrap();
        let mut anchors = TrustAnchors::empty();
        anchors.insert_with_name(&public, name(APEX).into());
        let dnskey = DNSKEY::from_key(&public);
        self = self.record(APEX, RData::DNSSEC(DNSSECRData::DNSKEY(dnskey.clone())));
        let years = Duration::from_secs(20 * 365 * 86_400);
        let signer = DnssecSigner::new(dnskey, Box::new(key), name(APEX), years);
        self.signer = Some(Arc::new(signer));
        (self, anchors)
    }

    /// A zone of its own below the signed one, proven not to be signed.
    pub(super) fn unsigned(mut self, at: &str) -> Self {
        self.unsigned.push(name(at));
        self.record(at, RData::NS(NS(name("ns.example."))))
    }

    /// What is at this name has a signature that is none.
    pub(super) fn forged(mut self, at: &str) -> Self {
        self.forged.push(name(at));
        self
    }

    pub(super) async fn serve(self) -> Served {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                if let Some(answer) = self.answer(&question) {
                    let _ = socket.send_to(&answer.to_vec().unwrap(), client).await;
                }
            }
        });
        Served { at, task }
    }

    fn answer(&self, question: &Message) -> Option<Message> {
        let query = question.queries[0].clone();
        let mut answer = Message::new(
            question.metadata.id,
            MessageType::Response,
            question.metadata.op_code,
        );
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        match self.replies.get(&query.name) {
            Some(Reply::Silence) => return None,
            Some(Reply::Code(code)) => {
                answer.metadata.response_code = *code;
                return Some(answer);
            }
            Some(Reply::NoNameWithoutZone) => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                return Some(answer);
            }
            Some(Reply::NoNameBy(zone)) => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(soa(name(zone)));
                return Some(answer);
            }
            None => {}
        }
        let wants_ad = question.metadata.authentic_data;
        answer.metadata.authentic_data = wants_ad && self.authentic.contains(&query.name);
        let mut at = query.name.clone();
        for _ in 0..4 {
            let of = |kind| {
                let at = at.clone();
                let wanted = move |r: &&Record| r.name == at && r.record_type() == kind;
                self.records
                    .iter()
                    .filter(wanted)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            let (found, aliases) = (of(query.query_type), of(RecordType::CNAME));
            answer.add_answers(found.clone());
            let Some(alias) = aliases.first().filter(|_| found.is_empty()) else {
                break;
            };
            let RData::CNAME(target) = &alias.data else {
                break;
            };
            answer.add_answer(alias.clone());
            at = target.0.clone();
        }
        let exists = self.records.iter().any(|record| at.zone_of(&record.name));
        let found = answer
            .answers
            .last()
            .is_some_and(|r| r.record_type() == query.query_type);
        if !found {
            let zone = self.cut(&at).filter(|_| query.query_type != RecordType::DS);
            let zone = zone.unwrap_or(name(APEX));
            answer.add_authority(soa(zone));
            if !exists {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
        }
        if question
            .edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok)
        {
            self.sign(&at, &mut answer);
        }
        Some(answer)
    }

    /// The unsigned zone that a name is in.
    fn cut(&self, at: &Name) -> Option<Name> {
        self.unsigned.iter().find(|zone| zone.zone_of(at)).cloned()
    }

    /// Signatures for all that is there, and a denial of what is not.
    fn sign(&self, at: &Name, answer: &mut Message) {
        let Some(signer) = &self.signer else { return };
        let kind = answer.queries[0].query_type;
        let cut = |at: &Name| self.cut(at);
        let within = cut(at).filter(|zone| zone != at || kind != RecordType::DS);
        if within.is_none() && answer.answers.is_empty() {
            let of_it = self.records.iter().filter(|record| record.name == *at);
            let mut kinds: Vec<_> = of_it.map(Record::record_type).collect();
            if cut(at).is_some() {
                kinds = vec![RecordType::NS];
            }
            let next = at.prepend_label("0").unwrap();
            let denial = DNSSECRData::NSEC(NSEC::new_cover_self(next, kinds));
            answer.add_authority(Record::from_rdata(at.clone(), 60, RData::DNSSEC(denial)));
        }
        for section in [&mut answer.answers, &mut answer.authorities] {
            let mut sets = Vec::<RecordSet>::new();
            for record in section
                .iter()
                .filter(|r| cut(&r.name).is_none_or(|_| within.is_none()))
            {
                let kind = record.record_type();
                match sets
                    .iter_mut()
                    .find(|set| *set.name() == record.name && set.record_type() == kind)
                {
                    Some(set) => _ = set.insert(record.clone(), 0),
                    None => sets.push(record.clone().into()),
                }
            }
            for set in sets {
                let since = rcgen::date_time_ymd(2025, 1, 1);
                let mut signature = RRSIG::from_rrset(&set, DNSClass::IN, since, signer).unwrap();
                if self.forged.contains(set.name()) {
                    signature = RRSIG::from_sig(signature.input().clone(), vec![7; 64]);
                }
                let data = RData::DNSSEC(DNSSECRData::RRSIG(signature));
                section.push(Record::from_rdata(set.name().clone(), 60, data));
            }
        }
    }
}

fn soa(zone: Name) -> Record {
    let (server, person) = (name("ns.example."), name("root.example."));
    let soa = SOA::new(server, person, 1, 60, 60, 60, 60);
    Record::from_rdata(zone, 60, RData::SOA(soa))
}

impl Served {
    pub(super) fn name_servers(&self, dnssec: Dnssec) -> NameServers {
        self.with_anchors(dnssec, TrustAnchors::empty())
    }

    pub(super) fn with_anchors(&self, dnssec: Dnssec, anchors: TrustAnchors) -> NameServers {
        let mut connection = ConnectionConfig::udp();
        connection.port = self.at.port();
        let server = NameServerConfig::new(self.at.ip(), true, vec![connection]);
        let mut options = ResolverOpts::default();
        options.timeout = Duration::from_millis(500);
        options.attempts = 1;
        let config = ResolverConfig::from_name_servers(vec![server]);
        NameServers::new(config, options, dnssec, Arc::new(anchors)).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}
