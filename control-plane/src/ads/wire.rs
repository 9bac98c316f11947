//! Envoy's messages of both variants ⇄ the words of a session and of its front end.
//!
//! A response is not built as one message: its head is encoded on its own, and the bytes of its resources, which the
//! snapshot holds ready, follow. Large ones go out as they are, shared with every other stream that sends them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};

use super::{session, world};

/// Largest message that is read. A request is large only when a proxy reconnects with the versions of all it holds.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// Resources below this size are copied together: a DATA frame of its own for each of a thousand small ones would cost
/// more than the copy, and a peer may take many tiny frames for an attack.
const WORTH_SHARING: usize = 16 << 10;

/// Copied bytes that go out at once.
const CHUNK: usize = 64 << 10;

/// What stands in front of a message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A request with what stands around the session's part.
#[derive(Debug)]
pub(crate) struct Received<T> {
    /// Set in the first request of a stream.
    pub(crate) node: Option<core::Node>,
    pub(crate) type_url: String,
    pub(crate) request: T,
}

impl From<discovery::DeltaDiscoveryRequest> for Received<session::Request> {
    fn from(message: discovery::DeltaDiscoveryRequest) -> Self {
        let discovery::DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions,
            response_nonce,
            error_detail,
            // Names by locator need a client feature that we do not announce.
            resource_locators_subscribe: _,
            resource_locators_unsubscribe: _,
        } = message;
        let (nonce, error) = (not_empty(response_nonce), error_detail.map(reason));
        let initial_versions = initial_resource_versions.into_iter().collect();
        Self { node, type_url, request: session::Request { subscribe, unsubscribe, initial_versions, nonce, error } }
    }
}

impl From<discovery::DiscoveryRequest> for Received<world::Request> {
    fn from(message: discovery::DiscoveryRequest) -> Self {
        let discovery::DiscoveryRequest {
            node,
            type_url,
            resource_names: names,
            response_nonce,
            error_detail,
            // Of the last response that was accepted as a whole, which does not say what the client holds.
            version_info: _,
            // Names by locator need a client feature that we do not announce.
            resource_locators: _,
        } = message;
        let (nonce, error) = (not_empty(response_nonce), error_detail.map(reason));
        Self { node, type_url, request: world::Request { names, nonce, error } }
    }
}

fn not_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn reason(status: google::rpc::Status) -> String {
    match status.message.is_empty() {
        true => format!("refused with code {} and without a reason", status.code),
        false => status.message,
    }
}

/// A response as the pieces of one gRPC message, prefix included.
pub(crate) fn pieces(response: &session::Response, control_plane: &str) -> Vec<Bytes> {
    let session::Response { kind, nonce, version, resources, removed } = response;
    let head = discovery::DeltaDiscoveryResponse {
        system_version_info: version.to_string(),
        type_url: kind.url().to_owned(),
        nonce: nonce.clone(),
        removed_resources: removed.iter().map(|name| Arc::clone(name).to_string()).collect(),
        control_plane: Some(core::ControlPlane { identifier: control_plane.to_owned() }),
        ..discovery::DeltaDiscoveryResponse::default()
    };
    message(&head.encode_to_vec(), resources.iter().map(|resource| &resource.bytes))
}

/// The same of the state-of-the-world variant.
pub(crate) fn world_pieces(response: &world::Response, control_plane: &str) -> Vec<Bytes> {
    let world::Response { kind, nonce, version, resources, errors } = response;
    let error = |(name, reason): &(Arc<str>, String)| discovery::ResourceError {
        resource_name: Some(discovery::ResourceName { name: name.to_string(), ..Default::default() }),
        error_detail: Some(google::rpc::Status {
            code: tonic::Code::FailedPrecondition.into(),
            message: reason.clone(),
            ..Default::default()
        }),
    };
    let head = discovery::DiscoveryResponse {
        version_info: version.to_string(),
        type_url: kind.url().to_owned(),
        nonce: nonce.clone(),
        control_plane: Some(core::ControlPlane { identifier: control_plane.to_owned() }),
        resource_errors: errors.iter().map(error).collect(),
        ..discovery::DiscoveryResponse::default()
    };
    message(&head.encode_to_vec(), resources.iter().map(|resource| &resource.state))
}

/// One message of gRPC from its parts.
#[expect(clippy::expect_used, reason = "a session keeps its responses below 64 MiB")]
fn message<'a>(head: &[u8], resources: impl Iterator<Item = &'a Bytes> + Clone) -> Vec<Bytes> {
    let length = head.len() + resources.clone().map(Bytes::len).sum::<usize>();
    let mut pieces = Vec::new();
    let mut chunk = BytesMut::with_capacity((PREFIX + length).min(CHUNK + WORTH_SHARING));
    chunk.put_u8(0);
    chunk.put_u32(u32::try_from(length).expect("invariant: a session keeps its responses below 64 MiB"));
    chunk.extend_from_slice(head);
    for resource in resources {
        if resource.len() >= WORTH_SHARING {
            pieces.push(chunk.split().freeze());
            pieces.push(resource.clone());
        } else {
            chunk.extend_from_slice(resource);
            if chunk.len() >= CHUNK {
                pieces.push(chunk.split().freeze());
            }
        }
    }
    pieces.push(chunk.freeze());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Reads messages of one type off a stream.
#[derive(Debug)]
pub(crate) struct MessageDecoder<T>(std::marker::PhantomData<T>);

impl<T> Default for MessageDecoder<T> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T: Message + Default> Decoder for MessageDecoder<T> {
    type Item = T;
    type Error = Status;

    /// Most requests are acknowledgements, and the buffer stays for as long as the stream.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(1 << 10, 32 << 10)
    }

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let refused = |error| Status::invalid_argument(format!("the request is not a discovery request: {error}"));
        T::decode(buffer).map(Some).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;
    use leno_config::xds::Kind;

    use super::session::Response;
    use super::*;
    use crate::snapshot::Resource;
    use crate::snapshot::tests::snapshot;

    fn decode(pieces: &[Bytes]) -> discovery::DeltaDiscoveryResponse {
        let mut bytes = Bytes::from(pieces.concat());
        let prefix = bytes.split_to(PREFIX);
        assert_eq!(prefix[0], 0);
        assert_eq!(prefix[1..], u32::try_from(bytes.len()).unwrap().to_be_bytes());
        discovery::DeltaDiscoveryResponse::decode(bytes).unwrap()
    }

    #[test]
    fn the_pieces_of_a_response_are_one_message() {
        let snapshot = snapshot(&[(Kind::Route, "a", "1"), (Kind::Route, "b", "2")]);
        let resources = snapshot.set(Kind::Route).resources.values().cloned().collect();
        let removed = vec!["gone".into()];
        let response = Response { kind: Kind::Route, nonce: "7".into(), version: "v".into(), resources, removed };
        let message = decode(&pieces(&response, "leno"));
        assert_eq!(message.type_url, Kind::Route.url());
        assert_eq!((message.nonce.as_str(), message.system_version_info.as_str()), ("7", "v"));
        assert_eq!(message.removed_resources, ["gone"]);
        let names = message.resources.iter().map(|resource| (&*resource.name, &*resource.version));
        assert_eq!(names.collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
    }

    #[test]
    fn the_pieces_of_a_response_with_everything_are_one_message() {
        let snapshot = snapshot(&[(Kind::Route, "a", "1"), (Kind::Route, "b", "2")]);
        let resources = snapshot.set(Kind::Route).resources.values().cloned().collect();
        let errors = vec![("c".into(), "cannot be said".to_owned())];
        let response = world::Response { kind: Kind::Route, nonce: "7".into(), version: "v".into(), resources, errors };
        let mut bytes = Bytes::from(world_pieces(&response, "leno").concat());
        bytes.advance(PREFIX);
        let message = discovery::DiscoveryResponse::decode(bytes).unwrap();
        assert_eq!((message.nonce.as_str(), message.version_info.as_str()), ("7", "v"));
        assert_eq!(message.type_url, Kind::Route.url());
        assert_eq!(message.resources.iter().map(|any| &*any.value).collect::<Vec<_>>(), [b"a 1", b"b 2"]);
        let [error] = &message.resource_errors[..] else { panic!("{message:?}") };
        assert_eq!(error.resource_name.as_ref().unwrap().name, "c");
        assert_eq!(error.error_detail.as_ref().unwrap().message, "cannot be said");
    }

    #[test]
    fn large_resources_are_shared_and_small_ones_are_copied_together() {
        let resource = |size: usize| {
            let padding = discovery::DeltaDiscoveryResponse {
                resources: vec![discovery::Resource { name: "x".repeat(size), ..Default::default() }],
                ..Default::default()
            };
            let bytes = Bytes::from(padding.encode_to_vec());
            Arc::new(Resource { name: "x".into(), version: "1".into(), state: bytes.clone(), bytes })
        };
        let (small, large) = (resource(100), resource(WORTH_SHARING));
        let mut resources = vec![Arc::clone(&small); 2000];
        resources.push(Arc::clone(&large));
        resources.push(small);
        let response =
            Response { kind: Kind::Route, nonce: "1".into(), version: "v".into(), resources, removed: Vec::new() };
        let pieces = pieces(&response, "leno");
        assert!(pieces.iter().any(|piece| piece.as_ptr() == large.bytes.as_ptr()));
        assert!(pieces.len() < 10, "{} pieces", pieces.len());
        assert_eq!(decode(&pieces).resources.len(), 2002);
    }

    #[test]
    fn a_refusal_without_a_text_is_a_refusal() {
        let status = envoy_types::pb::google::rpc::Status { code: 3, ..Default::default() };
        let message = discovery::DeltaDiscoveryRequest {
            error_detail: Some(status),
            response_nonce: "3".into(),
            ..Default::default()
        };
        let received = Received::<session::Request>::from(message);
        assert_eq!(received.request.nonce.as_deref(), Some("3"));
        assert_eq!(received.request.error.as_deref(), Some("refused with code 3 and without a reason"));
    }
}
