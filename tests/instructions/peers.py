"""The peers of the counted proxy: agent, upstream and authorization server."""

import http.server
import json
import socket
import ssl
import threading
from pathlib import Path

from harness.cases import Failed

TOKEN = "t" * 216  # as long as a short JWT
LIFETIME = 86400  # no token is renewed during a run
ANSWER = json.dumps({"events": [{"id": number, "title": "weekly review"} for number in range(9)]}).ljust(375).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER
PATH = "/v1/events"
# As many fields as a simple HTTP library sends.
FIELDS = {"user-agent": "instructions/1", "accept": "*/*", "accept-encoding": "gzip, deflate"}
TIMEOUT = 300


class Http1Agent:
    """An agent with one keep-alive connection."""

    def __init__(self, port: int, host: str, headers: dict[str, str]):
        self.socket = _connect(port)
        fields = "".join(f"{name}: {value}\r\n" for name, value in (FIELDS | headers).items())
        self.request = f"GET {PATH} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n".encode()

    def send(self):
        self.socket.sendall(self.request)

    def receive(self) -> int:
        """Reads one response and returns its status."""
        head, _, body = _until(self.socket, b"\r\n\r\n").partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        while len(body) < length:
            body += _some(self.socket)
        return int(lines[0].split()[1])


class Http2Agent:
    """An agent with one cleartext HTTP/2 connection (RFC 9113 §3.3) and one stream at a time."""

    DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
    ACK = END_STREAM = 1
    END_HEADERS = 4
    STATUS_200 = 0x88  # the indexed field `:status: 200` (RFC 7541 appendix A)

    def __init__(self, port: int, host: str, headers: dict[str, str]):
        self.socket, self.stream, self.buffer, self.taken = _connect(port), -1, b"", 0
        # In the static table GET and http are the fields 2 and 6, and `:path` and `:authority` are
        # the names 4 and 1.
        self.block = b"\x82\x86\x04" + _string(PATH) + b"\x01" + _string(host)
        for name, value in (FIELDS | headers).items():
            self.block += b"\x00" + _string(name) + _string(value)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(self.SETTINGS, 0, 0, b""))

    def send(self):
        self.stream += 2
        self.socket.sendall(_frame(self.HEADERS, self.END_STREAM | self.END_HEADERS, self.stream, self.block))

    def receive(self) -> int:
        status = 0
        while True:
            kind, flags, stream, payload = self._frame()
            if kind in (self.RST_STREAM, self.GOAWAY):
                raise Failed(f"the proxy sent a frame of type {kind}: {payload!r}")
            if kind in (self.SETTINGS, self.PING) and not flags & self.ACK:
                self.socket.sendall(_frame(kind, self.ACK, 0, payload if kind == self.PING else b""))
            if kind == self.HEADERS:
                status = 200 if payload[0] == self.STATUS_200 else 0
            if kind == self.DATA:
                self._release(len(payload))
            if stream == self.stream and flags & self.END_STREAM and kind in (self.HEADERS, self.DATA):
                return status

    def _release(self, count: int):
        """Updates the connection's window every 32 KiB, as a library would."""
        self.taken += count
        if self.taken > 32768:
            self.socket.sendall(_frame(self.WINDOW_UPDATE, 0, 0, self.taken.to_bytes(4, "big")))
            self.taken = 0

    def _frame(self) -> tuple[int, int, int, bytes]:
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            self.buffer += _some(self.socket)
        end = 9 + int.from_bytes(self.buffer[:3], "big")
        frame, self.buffer = self.buffer[:end], self.buffer[end:]
        return frame[3], frame[4], int.from_bytes(frame[5:9], "big"), frame[9:]


class Upstream:
    """An HTTP/1.1 API that accepts the proxy's only connection at the first request."""

    def __init__(self, tls: ssl.SSLContext | None = None):
        self.listener, self.tls = socket.create_server(("127.0.0.1", 0)), tls
        self.listener.settimeout(TIMEOUT)
        self.port = self.listener.getsockname()[1]
        self.connection: socket.socket | None = None

    def receive(self) -> str:
        """Reads one request, which has no body, and returns its head."""
        if self.connection is None:
            self.connection, _ = self.listener.accept()
            self.connection.settimeout(TIMEOUT)
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        return _until(self.connection, b"\r\n\r\n").decode()

    def answer(self):
        self.connection.sendall(RESPONSE)

    def disconnect(self):
        """Closes the connection, so that another proxy can connect."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class AuthorizationServer:
    """Issues the same token to every client, and publishes `jwks`."""

    def __init__(self, jwks: dict):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _AuthorizationHandler)
        self.server.jwks = jwks
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class _AuthorizationHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self._reply(self.server.jwks)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        issued = {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
        self._reply(issued | {"access_token": TOKEN, "token_type": "Bearer", "expires_in": LIFETIME})

    def _reply(self, document: dict):
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def mutual_tls(directory: Path, name: str) -> ssl.SSLContext:
    """Returns the context of a server with the SVID `name` that requires SVIDs of its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(directory / f"{name}.pem", directory / f"{name}.key")
    context.load_verify_locations(directory / "bundle.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _connect(port: int) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def _some(connected: socket.socket) -> bytes:
    data = connected.recv(65536)
    if not data:
        raise Failed("the proxy closed the connection")
    return data


def _until(connected: socket.socket, end: bytes) -> bytes:
    data = _some(connected)
    while end not in data:
        data += _some(connected)
    return data


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _string(text: str) -> bytes:
    """Encodes an HPACK string literal (RFC 7541 §5.2) without Huffman coding.

    The length is an integer with a 7-bit prefix (RFC 7541 §5.1).
    """
    data, length = text.encode(), len(text.encode())
    if length < 127:
        return bytes([length]) + data
    encoded, length = [127], length - 127
    while length >= 128:
        encoded.append(length % 128 + 128)
        length //= 128
    return bytes([*encoded, length]) + data
