//! ProbeService.

use linkmail_proto::monitor::v1 as wire;
use linkmail_service::page::{self, List};
use tonic::{Request, Response, Status};

use super::{
    Services, convert,
    errors::{DOMAIN, of_ledger},
};

pub(super) struct Probes {
    services: Services,
}

impl Probes {
    pub(super) fn new(services: Services) -> Self {
        Self { services }
    }
}

#[tonic::async_trait]
impl wire::probe_service_server::ProbeService for Probes {
    async fn get_probe(
        &self,
        request: Request<wire::GetProbeRequest>,
    ) -> Result<Response<wire::Probe>, Status> {
        let name = request.into_inner().name;
        let (monitor, id) = convert::probe_name("name", &name)?;
        let found = self.services.ledger.probe(id).await;
        let found = found.map_err(|failed| of_ledger(&failed))?;
        let probe = found
            .filter(|probe| probe.monitor == monitor)
            .ok_or_else(|| DOMAIN.not_found("PROBE_NOT_FOUND", &name))?;
        Ok(Response::new(convert::probe(&probe)))
    }

    async fn list_probes(
        &self,
        request: Request<wire::ListProbesRequest>,
    ) -> Result<Response<wire::ListProbesResponse>, Status> {
        let call = request.into_inner();
        let monitor = convert::monitor_or_all("parent", &call.parent)?;
        if let Some(name) = &monitor
            && self.services.desk.monitor(name).is_none()
        {
            return Err(DOMAIN.not_found("MONITOR_NOT_FOUND", &call.parent));
        }
        let limit = page::size(DOMAIN, call.page_size)?;
        let list = List {
            domain: DOMAIN,
            arguments: &["probes", &call.parent],
        };
        let before = list.place(&call.page_token)?.unwrap_or(i64::MAX);
        let found = self
            .services
            .ledger
            .probes(monitor, before, limit + 1)
            .await;
        let mut found = found.map_err(|failed| of_ledger(&failed))?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let last = found.last().map_or(0, |(seq, _)| *seq);
        Ok(Response::new(wire::ListProbesResponse {
            probes: found
                .iter()
                .map(|(_, probe)| convert::probe(probe))
                .collect(),
            next_page_token: if more {
                list.token(last)
            } else {
                String::new()
            },
        }))
    }
}
