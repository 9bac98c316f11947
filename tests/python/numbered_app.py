"""An app that writes down the number of each request that it answers, and ends as apps should.

Usage: numbered_app.py PORT FILE

On SIGTERM it takes no more connections, ends what is under way, tells each connection with its last answer that it was
the last, and exits.
"""

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, book = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
lock, under_way, ending = threading.Condition(), 0, threading.Event()


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # One segment for head and body.
    wbufsize = -1

    def do_GET(self):
        global under_way
        with lock:
            under_way += 1
            # Before the answer: whoever has one finds its number here.
            print(self.headers.get("x-number", ""), file=book)
        name = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(name)))
        if ending.is_set():
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(name)
        self.wfile.flush()
        with lock:
            under_way -= 1
            lock.notify_all()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", port), App)


def end(*_):
    ending.set()
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, end)
server.serve_forever(poll_interval=0.05)
server.server_close()
with lock:
    lock.wait_for(lambda: under_way == 0, timeout=30)
