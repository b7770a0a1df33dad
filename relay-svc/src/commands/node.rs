//! `node list`, `node release`: what is held for whom, and its release.

use linkmail_proto::relay::v1::{
    ListNodesRequest, Node, ReleaseNodeRequest, node::State, node_service_client::NodeServiceClient,
};
use linkmail_service::{
    command::{request, say},
    exit::Exit,
    listen::GrpcAddress,
};

use super::PROGRAM;

pub(super) async fn list(address: &GrpcAddress) -> Result<(), Exit> {
    let mut nodes = NodeServiceClient::new(PROGRAM.connect(address).await?);
    let (mut page_token, mut any) = (String::new(), false);
    loop {
        let call = ListNodesRequest {
            page_size: 500,
            page_token,
        };
        let page = nodes.list_nodes(request(call)).await;
        let page = page
            .map_err(|status| PROGRAM.refused(&status))?
            .into_inner();
        for node in &page.nodes {
            any = true;
            say(in_words(node))?;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !any {
        say("nothing is held")?;
    }
    Ok(())
}

pub(super) async fn release(domain: &str, address: &GrpcAddress) -> Result<(), Exit> {
    let mut nodes = NodeServiceClient::new(PROGRAM.connect(address).await?);
    let call = ReleaseNodeRequest {
        name: format!("nodes/{domain}"),
    };
    let node = nodes.release_node(request(call)).await;
    let node = node.map_err(|status| PROGRAM.refused(&status))?;
    say(in_words(&node.into_inner()))
}

fn in_words(node: &Node) -> String {
    let mut text = format!(
        "{}  {} held ({} octets)",
        node.name, node.held_messages, node.held_bytes
    );
    if let Some(oldest) = node.oldest_accept_time {
        text.push_str(&format!(", oldest {oldest}"));
    }
    if node.release_to.is_empty() {
        text.push_str(", no route holds its mail any more");
    } else {
        text.push_str(&format!(", to {}", node.release_to));
    }
    if node.state() == State::Releasing {
        text.push_str(", being released");
    } else if !node.last_release.is_empty() {
        text.push_str(&format!("; last release: {}", node.last_release));
    }
    text
}
