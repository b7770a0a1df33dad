//! LinkService.

use std::sync::Arc;

use linkmail_proto::relay::v1 as wire;
use linkmail_service::page::{self, List};
use tonic::{Request, Response, Status};

use super::{
    Services,
    convert::{self, LinkFacts},
    errors::{DOMAIN, not_found, of_spool},
};
use crate::{config::Link, cycle::LinkView, link::LinkState, names::LinkName, spool::SpoolError};

pub(super) struct Links {
    services: Services,
}

impl Links {
    pub(super) fn new(services: Services) -> Self {
        Self { services }
    }

    async fn show(&self, link: &Arc<Link>, view: LinkView) -> Result<wire::Link, SpoolError> {
        let spool = &self.services.spool;
        let view = self.as_its_keeper_sees(&link.name, view).await?;
        let facts = LinkFacts {
            queued: spool.queued_over(&link.name).await?,
            latest: spool
                .cycles(Some(link.name.clone()), i64::MAX, 1)
                .await?
                .pop()
                .map(|(_, record)| record),
            last_complete: spool.last_complete(link.name.clone()).await?,
        };
        Ok(convert::link(link, view, &facts))
    }

    /// How a link stands: here, or with the replica that keeps it. One without a keeper is down.
    async fn as_its_keeper_sees(
        &self,
        link: &LinkName,
        here: LinkView,
    ) -> Result<LinkView, SpoolError> {
        let Services { spool, desk, .. } = &self.services;
        if !spool.is_shared() || desk.keeps(link) {
            return Ok(here);
        }
        Ok(spool.link_view(link).await?.unwrap_or(LinkView {
            state: LinkState::Down,
            next: None,
            ..here
        }))
    }
}

#[tonic::async_trait]
impl wire::link_service_server::LinkService for Links {
    async fn get_link(
        &self,
        request: Request<wire::GetLinkRequest>,
    ) -> Result<Response<wire::Link>, Status> {
        let name = request.into_inner().name;
        let link = convert::link_name("name", &name)?;
        let (link, view) = self
            .services
            .desk
            .link(&link)
            .ok_or_else(|| not_found("LINK_NOT_FOUND", &name))?;
        let shown = self
            .show(&link, view)
            .await
            .map_err(|failed| of_spool(&failed))?;
        Ok(Response::new(shown))
    }

    async fn list_links(
        &self,
        request: Request<wire::ListLinksRequest>,
    ) -> Result<Response<wire::ListLinksResponse>, Status> {
        let call = request.into_inner();
        let limit = page::size(DOMAIN, call.page_size)? as usize;
        let list = List {
            domain: DOMAIN,
            arguments: &["links"],
        };
        // Links come from the configuration: a place in their order is good while the process runs.
        let skip = usize::try_from(list.place(&call.page_token)?.unwrap_or(0)).unwrap_or(0);
        let all = self.services.desk.links();
        let more = all.len() > skip + limit;
        let mut links = Vec::new();
        for (link, view) in all.iter().skip(skip).take(limit) {
            links.push(
                self.show(link, *view)
                    .await
                    .map_err(|failed| of_spool(&failed))?,
            );
        }
        let next = i64::try_from(skip + limit).unwrap_or(i64::MAX);
        let next_page_token = if more {
            list.token(next)
        } else {
            String::new()
        };
        Ok(Response::new(wire::ListLinksResponse {
            links,
            next_page_token,
        }))
    }
}
