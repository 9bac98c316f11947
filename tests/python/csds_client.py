"""Asks for the status of clients: csds_client.py TARGET [ROOT TOKEN]. A line per resource: NODE TYPE NAME STATUS."""

import sys

import grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc


def main(target, root=None, token=None):
    metadata = ()
    if root:
        with open(root, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(target, credentials)
        if token:
            with open(token, encoding="ascii") as file:
                metadata = (("authorization", f"Bearer {file.read().strip()}"),)
    else:
        channel = grpc.insecure_channel(target)
    stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
    request = csds_pb2.ClientStatusRequest()
    try:
        answer = stub.FetchClientStatus(request, timeout=20, metadata=metadata)
        streamed = list(stub.StreamClientStatus(iter([request]), timeout=20, metadata=metadata))
    except grpc.RpcError as error:
        print(f"error {error.code().name} {error.details()}")
        return
    same = len(streamed) == 1 and len(streamed[0].config) == len(answer.config)
    print(f"answers {'agree' if same else 'differ'}")
    for client in answer.config:
        for config in client.generic_xds_configs:
            kind = config.type_url.rsplit(".", 1)[-1]
            status = csds_pb2.ConfigStatus.Name(config.config_status)
            print(f"{client.node.id} {kind} {config.name} {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
