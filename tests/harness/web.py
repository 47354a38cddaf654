"""The base of the suites' small HTTP servers."""

import http.server
import json
import sys
import threading

from harness.parts import Run


class Server(http.server.ThreadingHTTPServer):
    """Serves on a free port, in a thread of its own, until the run ends."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, run: Run, handler, host: str = "127.0.0.1"):
        super().__init__((host, 0), handler)
        self.port = self.server_address[1]
        self.url = f"http://{host}:{self.port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()
        run.closers.callback(self.server_close)
        run.closers.callback(self.shutdown)

    def handle_error(self, request, client_address):
        """Ignores clients that disconnect before their answer, as a stopped proxy does."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # With Nagle's algorithm a response body waits until the head is acknowledged.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def reply(self, status: int, value, headers: dict | None = None):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
