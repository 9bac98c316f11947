"""A service that answers every other request with 503: python3 flaky.py PORT"""
import http.server
import itertools
import sys


class Flaky(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    numbers = itertools.count()

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        attempt = self.headers.get("x-envoy-attempt-count")
        status = 503 if next(self.numbers) % 2 == 0 else 200
        body = f"flaky says {status} to attempt {attempt}\n".encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Flaky).serve_forever()
