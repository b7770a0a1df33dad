//! A server that answers as relay-svc does, and notes what it was asked.

use std::sync::{Arc, Mutex};

use linkmail_proto::relay::v1 as wire;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{CYCLE, DOMAIN};

/// What was asked, with the trace that it came in.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) submissions: Vec<wire::SubmitMessageRequest>,
    pub(super) cycles: Vec<wire::RunCycleRequest>,
    pub(super) consumers: Vec<String>,
    pub(super) traces: Vec<String>,
}

#[derive(Clone, Default)]
pub(super) struct Fake {
    pub(super) heard: Arc<Mutex<Heard>>,
    pub(super) state: wire::recipient::State,
    pub(super) failure: Option<Status>,
}

impl Fake {
    fn hear<T>(&self, request: Request<T>, note: impl FnOnce(&mut Heard, T)) -> Result<(), Status> {
        let trace = request.metadata().get("traceparent");
        let trace = trace.map(|trace| trace.to_str().unwrap().to_owned());
        let mut heard = self.heard.lock().unwrap();
        heard.traces.extend(trace);
        note(&mut heard, request.into_inner());
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn message(&self) -> wire::Message {
        wire::Message {
            name: "messages/1".into(),
            accept_time: Some(prost_types::Timestamp {
                seconds: 1_795_458_600,
                nanos: 5_000_000,
            }),
            recipients: vec![wire::Recipient {
                state: self.state.into(),
                route: "link:isp".into(),
                ..wire::Recipient::default()
            }],
            ..wire::Message::default()
        }
    }
}

#[tonic::async_trait]
impl wire::message_service_server::MessageService for Fake {
    async fn submit_message(
        &self,
        request: Request<wire::SubmitMessageRequest>,
    ) -> Result<Response<wire::Message>, Status> {
        self.hear(request, |heard, call| heard.submissions.push(call))?;
        Ok(Response::new(self.message()))
    }

    async fn get_message(
        &self,
        request: Request<wire::GetMessageRequest>,
    ) -> Result<Response<wire::Message>, Status> {
        self.hear(request, |_, call| assert_eq!(call.name, "messages/1"))?;
        Ok(Response::new(self.message()))
    }

    async fn list_messages(
        &self,
        _: Request<wire::ListMessagesRequest>,
    ) -> Result<Response<wire::ListMessagesResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    type ExportMessageStream = ReceiverStream<Result<wire::ExportMessageResponse, Status>>;

    async fn export_message(
        &self,
        _: Request<wire::ExportMessageRequest>,
    ) -> Result<Response<Self::ExportMessageStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn import_message(
        &self,
        _: Request<wire::ImportMessageRequest>,
    ) -> Result<Response<wire::Message>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn hold_messages(
        &self,
        _: Request<wire::HoldMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn release_messages(
        &self,
        _: Request<wire::ReleaseMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn expedite_messages(
        &self,
        _: Request<wire::ExpediteMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn delete_messages(
        &self,
        _: Request<wire::DeleteMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn bounce_messages(
        &self,
        _: Request<wire::BounceMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn reroute_messages(
        &self,
        _: Request<wire::RerouteMessagesRequest>,
    ) -> Result<Response<wire::MessageChanges>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[tonic::async_trait]
impl wire::cycle_service_server::CycleService for Fake {
    async fn run_cycle(
        &self,
        request: Request<wire::RunCycleRequest>,
    ) -> Result<Response<wire::Cycle>, Status> {
        self.hear(request, |heard, call| heard.cycles.push(call))?;
        Ok(Response::new(wire::Cycle {
            name: CYCLE.into(),
            ..wire::Cycle::default()
        }))
    }

    async fn get_cycle(
        &self,
        request: Request<wire::GetCycleRequest>,
    ) -> Result<Response<wire::Cycle>, Status> {
        let ended = request.get_ref().name == CYCLE;
        self.hear(request, |_, _| ())?;
        let phase = if ended {
            wire::cycle::Phase::Ended
        } else {
            wire::cycle::Phase::HangUp
        };
        Ok(Response::new(wire::Cycle {
            phase: phase.into(),
            ..wire::Cycle::default()
        }))
    }

    async fn list_cycles(
        &self,
        _: Request<wire::ListCyclesRequest>,
    ) -> Result<Response<wire::ListCyclesResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    type WatchCyclesStream = ReceiverStream<Result<wire::WatchCyclesResponse, Status>>;

    async fn watch_cycles(
        &self,
        _: Request<wire::WatchCyclesRequest>,
    ) -> Result<Response<Self::WatchCyclesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[tonic::async_trait]
impl wire::report_service_server::ReportService for Fake {
    type WatchReportsStream = ReceiverStream<Result<wire::WatchReportsResponse, Status>>;

    async fn watch_reports(
        &self,
        request: Request<wire::WatchReportsRequest>,
    ) -> Result<Response<Self::WatchReportsStream>, Status> {
        self.hear(request, |heard, call| {
            assert_eq!(call.recipients, ["probe-*@branch.example"]);
            heard.consumers.push(call.consumer);
        })?;
        let (sender, stream) = tokio::sync::mpsc::channel(8);
        for (origin, link) in [
            ("smtp", "links/isp"),
            ("smtp", ""),
            ("report", ""),
            ("grpc", ""),
        ] {
            let report = wire::Report {
                name: format!("reports/{origin}{link}"),
                recipients: vec!["probe-1@branch.example".into()],
                content: b"Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n".into(),
                origin: origin.into(),
                link: link.into(),
                cycle: CYCLE.into(),
                ..wire::Report::default()
            };
            let answer = wire::WatchReportsResponse {
                report: Some(report),
                delivery_attempt: 1,
            };
            sender.send(Ok(answer)).await.unwrap();
        }
        let replaced = DOMAIN.error(Code::Aborted, "CONSUMER_REPLACED", "watched elsewhere", &[]);
        sender.send(Err(replaced)).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn acknowledge_report(
        &self,
        request: Request<wire::AcknowledgeReportRequest>,
    ) -> Result<Response<wire::Report>, Status> {
        self.hear(request, |heard, call| heard.consumers.push(call.consumer))?;
        Ok(Response::new(wire::Report::default()))
    }

    async fn get_report(
        &self,
        _: Request<wire::GetReportRequest>,
    ) -> Result<Response<wire::Report>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn list_reports(
        &self,
        _: Request<wire::ListReportsRequest>,
    ) -> Result<Response<wire::ListReportsResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}
