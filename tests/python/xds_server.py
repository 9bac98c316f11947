"""A control plane that is not Leno's: aggregated xDS v3 in the delta variant, in a few lines on grpcio and xds-protos.

xds_server.py FILE: FILE is JSON, kind of resource -> name -> resource, as Envoy's documentation writes them. When it is
replaced, the differences are sent, kind by kind. Every answer is printed: `ack KIND` or `nack KIND TEXT`. In place of a
resource, {"@damage": HOW, "resource": RESOURCE} sends its bytes without the last ({"cut": 1}) or with others behind them
({"append": HEX}).
"""

import hashlib
import json
import os
import queue
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import any_pb2, json_format

# Imported for their types: a resource in JSON names them by their URLs.
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as _forward_proxy  # noqa: F401
from envoy.extensions.filters.http.cors.v3 import cors_pb2 as _cors  # noqa: F401
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as _lua  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as _hcm  # noqa: F401
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2 as _tcp  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2 as _tls  # noqa: F401
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

TYPES = {
    "clusters": cluster_pb2.Cluster,
    "endpoints": endpoint_pb2.ClusterLoadAssignment,
    "secrets": secret_pb2.Secret,
    "listeners": listener_pb2.Listener,
    "routes": route_pb2.RouteConfiguration,
}
WILDCARD = ("clusters", "listeners")


def url(kind):
    return f"type.googleapis.com/{TYPES[kind].DESCRIPTOR.full_name}"


KINDS = {url(kind): kind for kind in TYPES}


def load(file):
    """Kind -> name -> (version, Any)."""
    with open(file) as opened:
        written = json.load(opened)
    resources = {}
    for kind, message in TYPES.items():
        resources[kind] = {}
        for name, value in written.get(kind, {}).items():
            packed = any_pb2.Any()
            packed.Pack(json_format.ParseDict(value.get("resource", value), message()))
            packed.value = damaged(packed.value, value.get("@damage", {}))
            version = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
            resources[kind][name] = (version, packed)
    return resources


def damaged(content, how):
    """The bytes of a resource, or what is left of them."""
    return content[: len(content) - how.get("cut", 0)] + bytes.fromhex(how.get("append", ""))


class Stream:
    """What one proxy asked for and holds."""

    def __init__(self):
        self.wanted = {}
        self.held = {}
        self.again = {}
        self.nonce = 0

    def hear(self, request):
        kind = KINDS.get(request.type_url)
        if kind is None:
            return
        if request.response_nonce:
            refused = request.error_detail.message.replace("\n", " ")
            print(f"nack {kind} {refused}" if request.HasField("error_detail") else f"ack {kind}", flush=True)
        first = kind not in self.wanted
        wanted = self.wanted.setdefault(kind, set())
        if first:
            self.held[kind] = dict(request.initial_resource_versions)
            if kind in WILDCARD and not request.resource_names_subscribe:
                wanted.add("*")
        wanted.update(request.resource_names_subscribe)
        wanted.difference_update(request.resource_names_unsubscribe)
        for name in request.resource_names_unsubscribe:
            self.held[kind].pop(name, None)
        self.again.setdefault(kind, set()).update(request.resource_names_subscribe)

    def due(self, resources):
        """One response for each kind that has changed, clusters first and routes last."""
        for kind, names in self.wanted.items():
            asked = self.again.pop(kind, set())
            there = {name: it for name, it in resources[kind].items() if "*" in names or name in names}
            held = self.held[kind]
            new = {name: it for name, it in there.items() if held.get(name) != it[0] or name in asked}
            gone = [name for name in held if name not in there] + [name for name in asked if name not in there and name != "*"]
            if not new and not gone:
                continue
            self.held[kind] = {name: it[0] for name, it in there.items()}
            self.nonce += 1
            found = [discovery_pb2.Resource(name=name, version=it[0], resource=it[1]) for name, it in new.items()]
            yield discovery_pb2.DeltaDiscoveryResponse(
                type_url=url(kind), nonce=str(self.nonce), resources=found, removed_resources=sorted(set(gone))
            )


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, file):
        self.file = file

    def DeltaAggregatedResources(self, requests, context):
        heard = queue.Queue()

        def read():
            try:
                for request in requests:
                    heard.put(request)
            except grpc.RpcError:
                pass
            heard.put(None)

        threading.Thread(target=read, daemon=True).start()
        stream, stamp, resources = Stream(), None, None
        while True:
            try:
                request = heard.get(timeout=0.02)
                if request is None:
                    return
                stream.hear(request)
            except queue.Empty:
                pass
            now = os.stat(self.file)
            if (now.st_ino, now.st_mtime_ns) != stamp:
                stamp, resources = (now.st_ino, now.st_mtime_ns), load(self.file)
            if heard.empty():
                yield from stream.due(resources)


def main(file):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ControlPlane(file), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"port {port}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(sys.argv[1])
