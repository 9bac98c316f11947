"""A gRPC client without a proxy: xds_client.py ROUNDS TARGET...

A target is HOST[:PORT]/METHOD[,KEY=VALUE...]. In each round every target is called once, all at the same time, and a line
is written for each: `call TARGET ok REPLY` or `call TARGET error STATUS DETAILS`. 0 rounds: until it is killed.
"""

import itertools
import sys
import time

import grpc

DEADLINE = 10


class Target:
    def __init__(self, written):
        self.written = written
        address, _, rest = written.partition("/")
        method, *pairs = rest.split(",")
        self.metadata = tuple(tuple(pair.split("=", 1)) for pair in pairs)
        self.call = grpc.insecure_channel(f"xds:///{address}").unary_unary(f"/leno.Greeter/{method}")

    def start(self):
        return self.call.future(b"x", timeout=DEADLINE, metadata=self.metadata)


def outcome(call):
    try:
        return f"ok {call.result().decode()}"
    except grpc.RpcError as error:
        return f"error {error.code().name} {' '.join(error.details().split())}"


def main(rounds, written):
    targets = [Target(target) for target in written]
    for _ in range(rounds) if rounds else itertools.count():
        calls = [(target, target.start()) for target in targets]
        for target, call in calls:
            print(f"call {target.written} {outcome(call)}", flush=True)
        if not rounds:
            time.sleep(0.005)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
