//! The relay over gRPC. Each call is a CLIENT span under the current one.

use std::time::Duration;

use linkmail_proto::relay::v1 as wire;
use linkmail_proto::relay::v1::{
    cycle_service_client::CycleServiceClient, message_service_client::MessageServiceClient,
    report_service_client::ReportServiceClient,
};
use linkmail_service::client::call;
use opentelemetry_sdk::trace::SdkTracer;
use tokio_stream::StreamExt;
use tonic::{Request, Status, transport::Channel};

use super::{Asked, Message, Relay, RelayError, Reports, Submission, convert};
use crate::names::{LinkName, RequestId};

/// The wait for the answer to one call; the stream of reports takes as long as it takes.
const CALL: Duration = Duration::from_secs(30);
/// The wait for it here, where looking a name up and connecting count, too; also for the head of that stream.
const PATIENCE: Duration = Duration::from_secs(40);

/// A relay that is reached over a channel. Cheap to clone.
#[derive(Clone)]
pub struct GrpcRelay {
    channel: Channel,
    consumer: String,
    /// Whose reports are watched, as patterns: another monitor at the same relay has its own.
    recipients: Vec<String>,
    tracer: SdkTracer,
}

impl GrpcRelay {
    /// Reports for `recipients` are watched as `consumer`.
    #[must_use]
    pub fn new(
        channel: Channel,
        consumer: String,
        recipients: Vec<String>,
        tracer: SdkTracer,
    ) -> Self {
        Self {
            channel,
            consumer,
            recipients,
            tracer,
        }
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}

/// A call that has not ended by itself ends here.
async fn within<T>(sent: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(PATIENCE, sent)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

impl Relay for GrpcRelay {
    async fn submit(&self, submission: Submission) -> Result<Message, RelayError> {
        let mut client = MessageServiceClient::new(self.channel.clone());
        let message = wire::SubmitMessageRequest {
            request_id: submission.request.to_string(),
            reverse_path: submission.reverse_path,
            recipients: vec![submission.recipient],
            content: submission.content,
            smtputf8: false,
        };
        let method = "linkmail.relay.v1.MessageService/SubmitMessage";
        let answer = call(&self.tracer, method, request(message), |request| {
            within(async move { client.submit_message(request).await })
        });
        match answer.await {
            Ok(answer) => Ok(convert::message(answer.into_inner())),
            Err(status) => Err(convert::error(&status)),
        }
    }

    async fn message(&self, name: &str) -> Result<Message, RelayError> {
        let mut client = MessageServiceClient::new(self.channel.clone());
        let message = wire::GetMessageRequest {
            name: name.to_owned(),
        };
        let method = "linkmail.relay.v1.MessageService/GetMessage";
        let answer = call(&self.tracer, method, request(message), |request| {
            within(async move { client.get_message(request).await })
        });
        match answer.await {
            Ok(answer) => Ok(convert::message(answer.into_inner())),
            Err(status) => Err(convert::error(&status)),
        }
    }

    async fn run_cycle(&self, link: &LinkName, id: RequestId) -> Result<Asked, RelayError> {
        let mut client = CycleServiceClient::new(self.channel.clone());
        let message = wire::RunCycleRequest {
            parent: format!("links/{link}"),
            request_id: id.to_string(),
            trigger: wire::cycle::Trigger::Probe.into(),
        };
        let method = "linkmail.relay.v1.CycleService/RunCycle";
        let answer = call(&self.tracer, method, request(message), |request| {
            within(async move { client.run_cycle(request).await })
        });
        convert::asked(answer.await.map(tonic::Response::into_inner))
    }

    async fn has_ended(&self, cycle: &str) -> Result<bool, RelayError> {
        let mut client = CycleServiceClient::new(self.channel.clone());
        // Asked again and again: no span.
        let message = request(wire::GetCycleRequest {
            name: cycle.to_owned(),
        });
        match within(client.get_cycle(message)).await {
            Ok(answer) => Ok(convert::has_ended(answer.get_ref())),
            Err(status) => Err(convert::error(&status)),
        }
    }

    async fn reports(&self) -> Result<Reports, RelayError> {
        let mut client = ReportServiceClient::new(self.channel.clone());
        let message = Request::new(wire::WatchReportsRequest {
            consumer: self.consumer.clone(),
            recipients: self.recipients.clone(),
        });
        let answer = within(client.watch_reports(message)).await;
        let stream = answer
            .map_err(|status| convert::error(&status))?
            .into_inner();
        Ok(Box::pin(stream.filter_map(|answer| match answer {
            Ok(answer) => answer.report.map(|report| Ok(convert::report(report))),
            Err(status) => Some(Err(convert::error(&status))),
        })))
    }

    async fn acknowledge(&self, report: &str) -> Result<(), RelayError> {
        let mut client = ReportServiceClient::new(self.channel.clone());
        let message = wire::AcknowledgeReportRequest {
            name: report.to_owned(),
            consumer: self.consumer.clone(),
        };
        let method = "linkmail.relay.v1.ReportService/AcknowledgeReport";
        let answer = call(&self.tracer, method, request(message), |request| {
            within(async move { client.acknowledge_report(request).await })
        });
        answer
            .await
            .map(|_| ())
            .map_err(|status| convert::error(&status))
    }
}
