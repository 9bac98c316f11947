//! Follows the one secret that a control plane distributes, `ROOTCA`: without it, an Envoy with our files would not know
//! the peers whose certificates lead to a new root.
//!
//! It is a delta ADS stream that asks for this resource alone. A bundle that cannot be read is refused by name (NACK),
//! and the last good one stays.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use leno_config::ir::Secret;
use leno_config::node::Node;
use leno_config::xds::{Decoded, Kind, decode, node_to_xds};
use leno_proxy::control_plane::{Access, Link, Purpose};
use leno_proxy::identity::Keyring;
use leno_proxy::identity::keyring::sentence;
use leno_proxy::xds::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info, warn};

/// For the response head, which some servers send with the first response.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// For the transport to take one request.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// More than all roots of a large federation.
const LARGEST_RESPONSE: usize = 4 << 20;

/// Follows until `stop` turns true or its sender is gone.
pub(super) async fn follow(access: Access, node: Node, keyring: Arc<Keyring>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = try_for_ever(&access, &node, &keyring) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn try_for_ever(access: &Access, node: &Node, keyring: &Keyring) {
    let mut backoff = Backoff::default();
    let mut last = String::new();
    for attempt in 0_usize.. {
        let mut began = None;
        if let Err(error) = converse(access, attempt, node, keyring, &mut began).await {
            let reason = sentence(error.as_ref());
            // A stream ends with its credential, and the next one has a newer: only what lasts is worth a line.
            if began.is_some() || reason == last {
                debug!("the stream of roots ended: {reason}");
            } else {
                warn!("cannot follow the mesh's roots, trying again: {reason}");
            }
            last = reason;
        }
        if let Some(began) = began {
            backoff.after_answered_stream(began.elapsed());
        }
        sleep(backoff.next(RandomState::new().hash_one(attempt))).await;
    }
}

/// One stream; ends only by breaking.
async fn converse(
    access: &Access,
    attempt: usize,
    node: &Node,
    keyring: &Keyring,
    began: &mut Option<Instant>,
) -> anyhow::Result<()> {
    let credentials = access.credentials(Purpose::Discovery, SystemTime::now());
    let turn = attempt % credentials.len().max(1);
    let credential = credentials.into_iter().nth(turn);
    let credential = credential.ok_or_else(|| anyhow::anyhow!(access.without_credentials()))?;
    let link = Link::open(access, credential).await?;
    let in_words = |status: tonic::Status| match link.refusal(&status) {
        Some(refusal) => anyhow::anyhow!(refusal),
        None => anyhow::anyhow!("{}: {}", status.code(), status.message().escape_default()),
    };
    let (requests, outgoing) = mpsc::channel(4);
    send(&requests, subscription(node)).await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(link.channel.clone()).max_decoding_message_size(LARGEST_RESPONSE);
    let call = client.delta_aggregated_resources(link.request(ReceiverStream::new(outgoing)));
    let mut responses = timeout(HEAD_DEADLINE, call).await?.map_err(in_words)?.into_inner();
    while let Some(response) = responses.message().await.map_err(in_words)? {
        began.get_or_insert_with(Instant::now);
        send(&requests, answer(response, keyring)).await?;
    }
    anyhow::bail!("the control plane closed the stream")
}

async fn send(requests: &mpsc::Sender<DeltaDiscoveryRequest>, request: DeltaDiscoveryRequest) -> anyhow::Result<()> {
    Ok(timeout(SEND_DEADLINE, requests.send(request)).await??)
}

fn subscription(node: &Node) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node_to_xds(node)),
        type_url: Kind::Secret.url().to_owned(),
        resource_names_subscribe: vec![Secret::ROOTS.to_owned()],
        ..Default::default()
    }
}

/// Takes what came, and says whether it was any good.
fn answer(response: DeltaDiscoveryResponse, keyring: &Keyring) -> DeltaDiscoveryRequest {
    let mut refused = Vec::new();
    for resource in response.resources {
        let Some(any) = resource.resource.filter(|_| resource.name == Secret::ROOTS) else { continue };
        match decode(Kind::Secret, &any) {
            Ok(Decoded::Secret(secret)) => {
                info!(domains = secret.bundles.len(), "the control plane sent the mesh's roots");
                keyring.set_secret(Some(Arc::new(secret)), SystemTime::now());
            }
            Ok(other) => refused.push(format!("{}: it is no secret", other.name())),
            Err(refusal) => refused.push(sentence(&refusal)),
        }
    }
    let error_detail = (!refused.is_empty()).then(|| {
        let message = refused.join("; ");
        warn!("the mesh's roots are not used, the last good ones stay: {message}");
        Status { code: tonic::Code::InvalidArgument.into(), message, details: Vec::new() }
    });
    DeltaDiscoveryRequest {
        type_url: Kind::Secret.url().to_owned(),
        response_nonce: response.nonce,
        error_detail,
        ..Default::default()
    }
}
