//! One answer of a name server, read for what it says and what stands behind that.

use hickory_resolver::{
    net::{DnsError, NetError},
    proto::{
        dnssec::Proof,
        op::{Message, ResponseCode},
        rr::{Name, Record, RecordType},
    },
};

use super::{Dnssec, LookupError};

/// One message of a name server.
pub(super) struct Said {
    pub(super) answers: Vec<Record>,
    pub(super) code: ResponseCode,
    /// The AD bit; or, of our own validation, that what is not there is proven not to be.
    pub(super) trusted: bool,
    /// The zone that it speaks for.
    pub(super) zone: Option<Name>,
    /// We validate, and nothing that it says of what is not there has a signature.
    pub(super) unsigned_denial: bool,
}

impl Said {
    pub(super) fn read(
        name: &Name,
        answer: Result<Message, NetError>,
        dnssec: Dnssec,
    ) -> Result<Self, LookupError> {
        let failed = |why: String| LookupError::Failed(name.clone(), why);
        match answer {
            Ok(message) => match message.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => Ok(Self::of(message, dnssec)),
                code => Err(failed(code.to_string())),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Ok(Self {
                answers: Vec::new(),
                code: none.response_code,
                trusted: false,
                zone: none.soa.map(|soa| soa.name),
                unsigned_denial: dnssec == Dnssec::Validate,
            }),
            // Signed, but in a way that proves nothing: of a part of a zone that may hold what is not signed.
            Err(NetError::Dns(DnsError::Nsec {
                response,
                proof: Proof::Insecure,
                ..
            })) => Ok(Self {
                trusted: false,
                unsigned_denial: false,
                ..Self::of(response.into_message(), dnssec)
            }),
            Err(NetError::Dns(DnsError::Nsec { .. } | DnsError::DnssecBogus)) => {
                Err(LookupError::Bogus(name.clone()))
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(failed(code.to_string())),
            Err(error @ (NetError::Proto(_) | NetError::ForeignClassRecord { .. })) => {
                Err(failed(error.to_string()))
            }
            Err(error) => Err(LookupError::Silent(name.clone(), error.to_string())),
        }
    }

    fn of(message: Message, dnssec: Dnssec) -> Self {
        let authorities = &message.authorities;
        let soa = authorities
            .iter()
            .find(|record| record.record_type() == RecordType::SOA);
        let denied = authorities.iter().any(|record| record.proof.is_secure());
        Self {
            code: message.metadata.response_code,
            trusted: match dnssec {
                Dnssec::Validate => denied,
                Dnssec::TrustAd | Dnssec::Off => message.metadata.authentic_data,
            },
            zone: soa.map(|soa| soa.name.clone()),
            unsigned_denial: dnssec == Dnssec::Validate && !denied,
            answers: message.answers,
        }
    }
}
