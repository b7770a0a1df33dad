//! A name server for one test: it answers from a table, over UDP, on a port of its own.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    proto::{
        dnssec::TrustAnchors,
        op::{Message, MessageType, ResponseCode},
        rr::{
            Name, RData, Record, RecordType,
            rdata::{CNAME, MX, SOA, TXT},
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
    /// Nothing.
    Silence,
}

/// What the name server knows. Names that are above a known one exist; others do not.
#[derive(Debug, Clone, Default)]
pub(super) struct Zone {
    records: Vec<Record>,
    replies: HashMap<Name, Reply>,
    authentic: Vec<Name>,
}

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
            let soa = SOA::new(
                name("ns.example."),
                name("root.example."),
                1,
                60,
                60,
                60,
                60,
            );
            answer.add_authority(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
            if !exists {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
        }
        Some(answer)
    }
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
