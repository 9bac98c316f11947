"""Calls every method of grpc_server.py through a sidecar: grpc_client.py ADDRESS AUTHORITY. Ends with 0 if all is well."""

import queue
import sys

import grpc

DEADLINE = 20


def unary(channel):
    reply, call = channel.unary_unary("/leno.Greeter/Unary").with_call(b"mesh", timeout=DEADLINE)
    assert reply == b"hello mesh", reply
    assert ("x-server", "python") in tuple(call.initial_metadata()), call.initial_metadata()
    assert ("x-trailer", "yes") in tuple(call.trailing_metadata()), call.trailing_metadata()


def large_message(channel):
    body = b"x" * 3_000_000
    assert channel.unary_unary("/leno.Greeter/Unary")(body, timeout=DEADLINE) == b"hello " + body


def server_stream(channel):
    replies = list(channel.unary_stream("/leno.Greeter/ServerStream")(b"1000", timeout=DEADLINE))
    assert replies == [str(number).encode() for number in range(1000)]


def client_stream(channel):
    reply = channel.stream_unary("/leno.Greeter/ClientStream")((b"x" * 10 for _ in range(1000)), timeout=DEADLINE)
    assert reply == b"10000", reply


def chat(channel):
    """Each message is sent only after the answer to the one before it: nothing may be held back on the way."""
    messages = queue.Queue()
    replies = channel.stream_stream("/leno.Greeter/Chat")(iter(messages.get, None), timeout=DEADLINE)
    for number in range(50):
        messages.put(str(number).encode())
        assert next(replies) == f"echo {number}".encode()
    messages.put(None)
    assert list(replies) == []


def fail(channel):
    try:
        channel.unary_unary("/leno.Greeter/Fail")(b"", timeout=DEADLINE)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "not today", error
        assert ("x-trailer", "yes") in tuple(error.trailing_metadata()), error
        return
    raise AssertionError("a call that fails must fail")


def unknown_method(channel):
    try:
        channel.unary_unary("/leno.Greeter/Nothing")(b"", timeout=DEADLINE)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
        return
    raise AssertionError("there is no such method")


def main(address, authority):
    with grpc.insecure_channel(address, options=(("grpc.default_authority", authority),)) as channel:
        for test in (unary, large_message, server_stream, client_stream, chat, fail, unknown_method):
            test(channel)
            print(f"{test.__name__}: ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
