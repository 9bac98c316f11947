"""A gRPC server with one method of each kind, and some that fail: grpc_server.py [NAME]. Messages are plain bytes: no
generated code."""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    context.send_initial_metadata((("x-server", "python"),))
    context.set_trailing_metadata((("x-trailer", "yes"),))
    return b"hello " + request


def server_stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def chat(requests, context):
    for request in requests:
        yield b"echo " + request


def fail(request, context):
    context.set_trailing_metadata((("x-trailer", "yes"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")


def name(request, context):
    return (sys.argv[1:] or ["nobody"])[0].encode()


def slow(request, context):
    time.sleep(5)
    return b"slow"


def twice(request, context):
    """Works at the second attempt: gRPC counts them in the metadata of each but the first."""
    attempts = dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts", "0")
    if attempts == "0":
        context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
    return f"attempt {int(attempts) + 1}".encode()


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Name": grpc.unary_unary_rpc_method_handler(name),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Twice": grpc.unary_unary_rpc_method_handler(twice),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("leno.Greeter", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"port {port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
