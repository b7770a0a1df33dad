//! MessageService.

use std::net::{IpAddr, Ipv4Addr};

use linkmail_proto::relay::v1 as wire;
use linkmail_service::allow::Peer;
use linkmail_smtp::{
    DataEncoder, Enhanced, ForwardPath, ReversePath,
    trace::{HeaderScan, Received, received_line},
};
use opentelemetry::{Context, KeyValue, trace::SpanKind};
use tonic::{Code, Request, Response, Status};

use super::{
    Services,
    actions::{self, Asked},
    convert,
    errors::{error, invalid, invalid_for, not_found, of_spool},
    export, list,
};
use crate::{
    clock::Stamp,
    names::{MessageId, RequestId},
    operator::Action,
    policy::{self, Admitted, Denied},
    spool::{MessageWish, NewMessage, NewRecipient, Origin, RecipientWish, RequestKey},
    telemetry,
};

/// So many `Received` fields are a loop, as over SMTP.
const HOPS: usize = 100;
/// So many octets of a message are looked at in one go.
const PIECE: usize = 64 * 1024;

pub(super) struct Messages {
    pub(super) services: Services,
}

impl Messages {
    pub(super) fn new(services: Services) -> Self {
        Self { services }
    }

    /// What may be relayed for whom is the same as over SMTP.
    pub(super) fn admit(
        &self,
        recipients: &[String],
        peer: IpAddr,
    ) -> Result<Vec<Admitted>, Status> {
        if recipients.is_empty() || recipients.len() > self.services.recipients {
            return Err(invalid(
                "recipients",
                format!("expected 1 to {}", self.services.recipients),
            ));
        }
        let may_relay = policy::contains(&self.services.relay_from, peer);
        let mut admitted: Vec<Admitted> = Vec::new();
        for (index, text) in recipients.iter().enumerate() {
            let field = format!("recipients[{index}]");
            let path = ForwardPath::parse_utf8(text.as_bytes())
                .map_err(|wrong| invalid(&field, format!("{text:?} is not an address: {wrong}")))?;
            let one = self
                .services
                .policy
                .recipient(&path, may_relay)
                .map_err(|denied| refuse(denied, &field, text))?;
            if !admitted.iter().any(|known| known.address == one.address) {
                admitted.push(one);
            }
        }
        Ok(admitted)
    }

    /// Whether the header has octets above 127, of content that can be sent.
    pub(super) fn check(&self, content: &[u8], limit: u64) -> Result<bool, Status> {
        if content.len() as u64 > limit {
            return Err(invalid_for(
                "MESSAGE_TOO_LARGE",
                "content",
                format!("larger than {limit} octets"),
            ));
        }
        let mut scan = HeaderScan::new();
        scan.feed(content);
        if scan.received() >= HOPS {
            return Err(invalid_for(
                "MAIL_LOOP",
                "content",
                "too many hops, this message loops",
            ));
        }
        // What the outbound session would refuse to send is refused here.
        let (mut encoder, mut encoded) = (DataEncoder::new(), Vec::new());
        for piece in content.chunks(PIECE) {
            encoded.clear();
            encoder
                .encode(piece, &mut encoded)
                .map_err(|bad| invalid_for("BARE_NEWLINE", "content", bad.to_string()))?;
        }
        if !content.ends_with(b"\r\n") {
            return Err(invalid("content", "must end with CRLF"));
        }
        Ok(scan.eight_bit())
    }

    async fn submit(
        &self,
        call: wire::SubmitMessageRequest,
        peer: IpAddr,
    ) -> Result<wire::Message, Status> {
        let request = request_id(&call.request_id)?;
        let reverse_path =
            ReversePath::parse_utf8(call.reverse_path.as_bytes()).map_err(|wrong| {
                invalid(
                    "reverse_path",
                    format!("{:?} is not an address: {wrong}", call.reverse_path),
                )
            })?;
        let admitted = self.admit(&call.recipients, peer)?;
        let eight_bit_header = self.check(&call.content, self.services.message_size)?;
        let request = request.map(|id| request_key(id, &call));
        let (id, now) = (MessageId::new(), Stamp::now());
        let attributes = vec![
            KeyValue::new(telemetry::SYSTEM, "smtp"),
            KeyValue::new(telemetry::MESSAGE, id.to_string()),
        ];
        let span = telemetry::start(
            "create outbound",
            SpanKind::Producer,
            &Context::current(),
            attributes,
        );
        let message = NewMessage {
            id,
            reverse_path,
            recipients: admitted
                .into_iter()
                .map(|a| NewRecipient {
                    address: a.address,
                    hop: a.hop,
                    wish: RecipientWish::default(),
                })
                .collect(),
            origin: Origin::Grpc,
            link: None,
            cycle: None,
            traceparent: telemetry::to_text(&span),
            accepted: now,
            request,
            wish: MessageWish::default(),
            utf8_header: is_internationalized(&call) && eight_bit_header,
            handover: None,
        };
        let stored = self.store(&message, &call.content, peer).await;
        telemetry::end(
            &span,
            stored
                .as_ref()
                .err()
                .map(|status| ("not_stored", status.message().to_owned())),
        );
        stored
    }

    async fn store(
        &self,
        message: &NewMessage,
        content: &[u8],
        peer: IpAddr,
    ) -> Result<wire::Message, Status> {
        let id = message.id.to_string();
        let line = received_line(&Received {
            from: b"",
            peer,
            by: &self.services.hostname,
            protocol: "GRPC",
            id: &id,
            recipient: None,
            date: &message.accepted.rfc2822(),
        });
        let mut draft = self.services.spool.draft();
        for part in [line.as_slice(), content] {
            draft
                .write(part)
                .await
                .map_err(|failed| of_spool(&failed))?;
        }
        let accepted = self
            .services
            .spool
            .accept(draft, message.clone())
            .await
            .map_err(|failed| of_spool(&failed))?;
        if accepted.id == message.id {
            tracing::info!(id = %accepted.id, %peer, size = accepted.size, "message accepted");
            self.services
                .instruments
                .accepted
                .add(1, &[KeyValue::new("origin", "grpc")]);
        }
        self.get(accepted.id).await
    }

    pub(super) async fn get(&self, id: MessageId) -> Result<wire::Message, Status> {
        let found = self
            .services
            .spool
            .message(id)
            .await
            .map_err(|failed| of_spool(&failed))?;
        found
            .map(|stored| convert::message(&stored))
            .ok_or_else(|| not_found("MESSAGE_NOT_FOUND", &format!("messages/{id}")))
    }
}

/// Whether MAIL would have said SMTPUTF8: the caller says it, or an address cannot do without.
fn is_internationalized(call: &wire::SubmitMessageRequest) -> bool {
    let mut addresses = call.recipients.iter().chain([&call.reverse_path]);
    call.smtputf8 || addresses.any(|address| !address.is_ascii())
}

fn request_key(id: RequestId, call: &wire::SubmitMessageRequest) -> RequestKey {
    let recipients = call.recipients.iter().map(String::as_bytes);
    let said = call.smtputf8.then_some(b"SMTPUTF8".as_slice());
    let parts = [call.reverse_path.as_bytes(), &call.content];
    RequestKey::new(id, parts.into_iter().chain(recipients).chain(said))
}

/// A caller that did not come through the listener, as in a test, has no address and may not relay.
pub(super) fn peer_of<T>(request: &Request<T>) -> IpAddr {
    Peer::of(request.extensions()).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// Reads an optional request id.
pub(super) fn request_id(text: &str) -> Result<Option<RequestId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    RequestId::parse(text)
        .map(Some)
        .ok_or_else(|| invalid("request_id", format!("{text:?} is not a UUID")))
}

fn refuse(denied: Denied, field: &str, address: &str) -> Status {
    let reply = denied.reply();
    let Enhanced(class, subject, detail) = reply.enhanced.unwrap_or(Enhanced(5, 0, 0));
    let status = format!("{class}.{subject}.{detail}");
    let metadata = [
        ("field", field),
        ("recipient", address),
        ("enhanced_status", status.as_str()),
    ];
    let message = format!("{field}: {address}: {}", reply.text());
    error(
        Code::PermissionDenied,
        "RECIPIENT_NOT_ALLOWED",
        message,
        &metadata,
    )
}

#[tonic::async_trait]
impl wire::message_service_server::MessageService for Messages {
    type ExportMessageStream = export::Stream;

    async fn export_message(
        &self,
        request: Request<wire::ExportMessageRequest>,
    ) -> Result<Response<Self::ExportMessageStream>, Status> {
        let peer = peer_of(&request);
        self.export(&request.into_inner(), peer)
            .await
            .map(Response::new)
    }

    async fn import_message(
        &self,
        request: Request<wire::ImportMessageRequest>,
    ) -> Result<Response<wire::Message>, Status> {
        let peer = peer_of(&request);
        self.import(request.into_inner(), peer)
            .await
            .map(Response::new)
    }

    async fn submit_message(
        &self,
        request: Request<wire::SubmitMessageRequest>,
    ) -> Result<Response<wire::Message>, Status> {
        let peer = peer_of(&request);
        self.submit(request.into_inner(), peer)
            .await
            .map(Response::new)
    }

    async fn get_message(
        &self,
        request: Request<wire::GetMessageRequest>,
    ) -> Result<Response<wire::Message>, Status> {
        let id = convert::message_id("name", &request.into_inner().name)?;
        self.get(id).await.map(Response::new)
    }

    async fn list_messages(
        &self,
        request: Request<wire::ListMessagesRequest>,
    ) -> Result<Response<wire::ListMessagesResponse>, Status> {
        list::list(&self.services, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn hold_messages(
        &self,
        request: Request<wire::HoldMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        let peer = peer_of(&request);
        let call = request.into_inner();
        let asked = Asked {
            action: Action::Hold,
            filter: call.filter,
            all: call.all,
            validate_only: call.validate_only,
            request_id: call.request_id,
            page_token: call.page_token,
        };
        actions::steer(&self.services, asked, peer).await
    }

    async fn release_messages(
        &self,
        request: Request<wire::ReleaseMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        let peer = peer_of(&request);
        let call = request.into_inner();
        let asked = Asked {
            action: Action::Release,
            filter: call.filter,
            all: call.all,
            validate_only: call.validate_only,
            request_id: call.request_id,
            page_token: call.page_token,
        };
        actions::steer(&self.services, asked, peer).await
    }

    async fn expedite_messages(
        &self,
        request: Request<wire::ExpediteMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        let peer = peer_of(&request);
        let call = request.into_inner();
        let asked = Asked {
            action: Action::Expedite,
            filter: call.filter,
            all: call.all,
            validate_only: call.validate_only,
            request_id: call.request_id,
            page_token: call.page_token,
        };
        actions::steer(&self.services, asked, peer).await
    }

    async fn delete_messages(
        &self,
        request: Request<wire::DeleteMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        let peer = peer_of(&request);
        let call = request.into_inner();
        let asked = Asked {
            action: Action::Delete,
            filter: call.filter,
            all: call.all,
            validate_only: call.validate_only,
            request_id: call.request_id,
            page_token: call.page_token,
        };
        actions::steer(&self.services, asked, peer).await
    }

    async fn bounce_messages(
        &self,
        request: Request<wire::BounceMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        let peer = peer_of(&request);
        let call = request.into_inner();
        let reason = actions::reason(call.reason)?;
        let asked = Asked {
            action: Action::Bounce { reason },
            filter: call.filter,
            all: call.all,
            validate_only: call.validate_only,
            request_id: call.request_id,
            page_token: call.page_token,
        };
        actions::steer(&self.services, asked, peer).await
    }

    async fn reroute_messages(
        &self,
        request: Request<wire::RerouteMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        let peer = peer_of(&request);
        let call = request.into_inner();
        let to = match call.route.as_str() {
            "" => None,
            text => {
                let hop = self.services.operator.hop(text);
                Some(hop.map_err(|wrong| invalid("route", wrong))?)
            }
        };
        let asked = Asked {
            action: Action::Reroute { to },
            filter: call.filter,
            all: call.all,
            validate_only: call.validate_only,
            request_id: call.request_id,
            page_token: call.page_token,
        };
        actions::steer(&self.services, asked, peer).await
    }
}
