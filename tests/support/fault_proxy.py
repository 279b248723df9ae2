"""A proxy before a real server: what befalls each request is the test's to say, in its process.

with fault_proxy(endpoint) as proxy:
    proxy.decide = lambda request: "503" if request.number < 3 else ""
"""

import contextlib
import http.client
import socket
import socketserver
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

_REFUSALS = {
    "503": (503, "SlowDown"),
    "500": (500, "InternalError"),
    "403": (403, "AccessDenied"),
    "507": (507, "InsufficientStorage"),
}


class Seen(NamedTuple):
    """One request: how many came before it, and what it asks for."""

    number: int
    method: str
    target: str


class FaultProxy:
    """`decide` answers "" to pass a request on, a status of _REFUSALS, "cut" to break the
    connection unasked, or "lost" to pass it on and break the connection before the answer."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urllib.parse.urlsplit(upstream).netloc
        self.endpoint = ""
        self.decide: Callable[[Seen], str] = lambda request: ""
        self.seen: list[Seen] = []
        self._lock = threading.Lock()

    def note(self, method: str, target: str) -> str:
        with self._lock:
            self.seen.append(Seen(len(self.seen), method, target))
            return self.decide(self.seen[-1])

    def forget(self) -> None:
        """Counts requests from 0 again, and passes all on."""
        with self._lock:
            self.seen, self.decide = [], lambda request: ""


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Runs a proxy until the end of the block, on threads of this process."""
    proxy, links = FaultProxy(upstream), list[socket.socket]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fate = proxy.note(self.command, self.path)
            if fate in _REFUSALS:
                status, code = _REFUSALS[fate]
                text = f"<Error><Code>{code}</Code></Error>".encode()
                self._answer(status, [("Content-Length", str(len(text)))], text)
                return
            answer = None if fate == "cut" else self._pass_on(body)
            if fate in ("cut", "lost") or answer is None:
                self.close_connection = True
                return
            self._answer(*answer)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

        def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            with contextlib.closing(http.client.HTTPConnection(proxy.upstream, timeout=60)) as link:
                link.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect"):
                        link.putheader(name, value)
                link.endheaders(body or None)
                answer = link.getresponse()
                content = answer.read()
                skipped = ("transfer-encoding", "connection", "content-length")
                kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in skipped]
                length = answer.getheader("Content-Length") or str(len(content))
                return answer.status, [*kept, ("Content-Length", length)], content

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client left first
                super().handle()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 64

        def get_request(self) -> tuple[socket.socket, Any]:
            link, address = super().get_request()
            links.append(link)
            return link, address

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
            _shut(links)


def _shut(links: list[socket.socket]) -> None:
    """Ends the threads of connections that clients keep open, so that a later test may fork."""
    for link in links:
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)
