//! NodeService: what is held for whom, and its release.

use linkmail_proto::relay::v1 as wire;
use linkmail_service::page::{self, List};
use tonic::{Request, Response, Status};

use super::{
    Services,
    convert::{count, size, time},
    errors::{DOMAIN, invalid, not_found, of_spool},
};
use crate::{
    clock::Stamp,
    names::{Node, NodeScope},
    route::Hold,
    spool::HeldNode,
};

pub(super) struct Nodes {
    services: Services,
}

impl Nodes {
    pub(super) fn new(services: Services) -> Self {
        Self { services }
    }

    /// Reads `nodes/{domain}`; it exists if a route holds its mail.
    fn known(&self, name: &str) -> Result<(Node, &Hold), Status> {
        let domain = name.strip_prefix("nodes/").map(str::parse);
        let Some(Ok(domain)) = domain else {
            let what = format!("{name:?} is not a node; expected nodes/{{domain}}");
            return Err(invalid("name", what));
        };
        let node = Node::of(&domain);
        let hold = self.services.policy.routes.hold_of(&node);
        hold.map(|hold| (node, hold))
            .ok_or_else(|| not_found("NODE_NOT_FOUND", name))
    }

    async fn get(&self, name: &str) -> Result<Response<wire::Node>, Status> {
        let (node, hold) = self.known(name)?;
        let found = self.services.spool.node(node.clone()).await;
        let found = found.map_err(|failed| of_spool(&failed))?;
        let held = found.unwrap_or_else(|| HeldNode::unheard_of(node));
        Ok(Response::new(convert(&held, Some(hold))))
    }
}

#[tonic::async_trait]
impl wire::node_service_server::NodeService for Nodes {
    async fn get_node(
        &self,
        request: Request<wire::GetNodeRequest>,
    ) -> Result<Response<wire::Node>, Status> {
        self.get(&request.into_inner().name).await
    }

    async fn list_nodes(
        &self,
        request: Request<wire::ListNodesRequest>,
    ) -> Result<Response<wire::ListNodesResponse>, Status> {
        let call = request.into_inner();
        let limit = page::size(DOMAIN, call.page_size)?;
        let list = List {
            domain: DOMAIN,
            arguments: &["nodes"],
        };
        let after = list.place(&call.page_token)?.unwrap_or(0);
        let found = self.services.spool.nodes(after, limit + 1).await;
        let mut found = found.map_err(|failed| of_spool(&failed))?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let last = found.last().map_or(0, |node| node.seq);
        let routes = &self.services.policy.routes;
        let nodes = found
            .iter()
            .map(|held| convert(held, routes.hold_of(&held.node)));
        Ok(Response::new(wire::ListNodesResponse {
            nodes: nodes.collect(),
            next_page_token: if more {
                list.token(last)
            } else {
                String::new()
            },
        }))
    }

    async fn release_node(
        &self,
        request: Request<wire::ReleaseNodeRequest>,
    ) -> Result<Response<wire::Node>, Status> {
        let name = request.into_inner().name;
        let (node, _) = self.known(&name)?;
        let scope = NodeScope::One(node);
        let requested = self
            .services
            .spool
            .request_release(scope, |_| true, Stamp::now())
            .await;
        requested.map_err(|failed| of_spool(&failed))?;
        self.get(&name).await
    }
}

fn convert(held: &HeldNode, hold: Option<&Hold>) -> wire::Node {
    let state = if held.releasing {
        wire::node::State::Releasing
    } else {
        wire::node::State::Holding
    };
    wire::Node {
        name: format!("nodes/{}", held.node),
        state: state.into(),
        held_messages: count(held.messages),
        held_bytes: size(held.bytes),
        oldest_accept_time: held.oldest.map(time),
        release_to: hold.map_or(String::new(), |hold| hold.release_to.to_string()),
        request_time: held.requested.map(time),
        last_release: held.last_release.clone(),
    }
}
