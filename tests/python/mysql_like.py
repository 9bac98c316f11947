"""What MySQL's client/server protocol begins with: the server speaks first, and the client waits for it.

    mysql_like.py serve PORT                 on IPv4 and IPv6, until it is ended
    mysql_like.py ask USER HOST PORT TIMES   as a user, by number; prints a JSON object: what was heard, and the seconds
                                             to the greeting, each time

The server sends the handshake packet of protocol version 10, takes any user, and answers COM_PING and COM_QUIT. The
client sends nothing before the greeting has come, as no client of MySQL does.
"""

import encodings.idna  # Who has become somebody else may not be able to read where Python is.
import json
import os
import socket
import socketserver
import struct
import sys
import time

VERSION = b"8.0.36-leno-test"
# CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION, CLIENT_PLUGIN_AUTH: all that a handshake needs.
CAPABILITIES = 0x0200 | 0x8000 | 0x0008_0000
OK = b"\x00\x00\x00\x02\x00\x00\x00"
QUIT, PING = b"\x01", b"\x0e"
PATIENCE = 30


def packet(number, payload):
    return struct.pack("<I", len(payload))[:3] + bytes([number]) + payload


def read_exactly(stream, length):
    data = stream.read(length)
    if len(data) != length:
        raise EOFError(f"{len(data)} of {length} bytes, then the connection ended")
    return data


def read_packet(stream):
    head = read_exactly(stream, 4)
    length = int.from_bytes(head[:3], "little")
    return head[3], read_exactly(stream, length)


def handshake():
    salt = bytes(range(1, 21))
    return (
        b"\x0a" + VERSION + b"\x00"
        + struct.pack("<I", 42) + salt[:8] + b"\x00"
        + struct.pack("<H", CAPABILITIES & 0xFFFF) + b"\xff" + struct.pack("<H", 2)
        + struct.pack("<H", CAPABILITIES >> 16) + bytes([len(salt) + 1]) + bytes(10)
        + salt[8:] + b"\x00" + b"mysql_native_password\x00"
    )


class Session(socketserver.StreamRequestHandler):
    timeout = PATIENCE

    def handle(self):
        try:
            self.wfile.write(packet(0, handshake()))
            number, _ = read_packet(self.rfile)
            self.wfile.write(packet(number + 1, OK))
            while True:
                number, command = read_packet(self.rfile)
                if command == QUIT:
                    return
                if command != PING:
                    raise ValueError(f"what is {command!r}?")
                self.wfile.write(packet(number + 1, OK))
        except (EOFError, OSError):
            return


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def ask(host, port):
    """Greeting, login, ping, quit. Returns the server's version and the seconds to the greeting."""
    begun = time.monotonic()
    with socket.create_connection((host, port), timeout=PATIENCE) as connection:
        stream = connection.makefile("rwb")
        number, greeting = read_packet(stream)
        took = time.monotonic() - begun
        assert (number, greeting[0]) == (0, 10), (number, greeting)
        version = greeting[1:].split(b"\x00")[0]
        login = struct.pack("<IIB", CAPABILITIES, 1 << 24, 0xFF) + bytes(23)
        login += b"app\x00" + b"\x00" + b"mysql_native_password\x00"
        for number, command in [(1, login), (0, PING)]:
            stream.write(packet(number, command))
            stream.flush()
            answer = read_packet(stream)
            assert answer == (number + 1, OK), answer
        stream.write(packet(0, QUIT))
        stream.flush()
        return version.decode(), took


def become(user):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def main():
    match sys.argv[1:]:
        case ["serve", port]:
            Server(("::", int(port)), Session).serve_forever()
        case ["ask", user, host, port, times]:
            become(int(user))
            heard = [ask(host, int(port)) for _ in range(int(times))]
            versions = sorted({version for version, _ in heard})
            print(json.dumps({"versions": versions, "seconds": [took for _, took in heard]}))
        case _:
            sys.exit(__doc__)


main()
