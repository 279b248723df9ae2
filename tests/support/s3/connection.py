"""One HTTP/1.1 connection of the test S3 server: requests in, paced or broken bodies out."""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

_CHUNK = 1 << 18
_PACE_SECONDS = 0.004


class Request(NamedTuple):
    method: str
    path: str
    """Without its first slash, unquoted."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(slots=True)
class Response:
    status: str
    headers: dict[str, str] = field(default_factory=dict)
    body: memoryview = field(default_factory=lambda: memoryview(b""))
    delay: float = 0.0
    rate: float = 0.0
    """Bytes per second of the body; 0 sets no bound."""
    stop: int = -1
    """Bytes of the body after which the connection breaks; -1: never."""
    is_reset: bool = False
    """It breaks by a reset, not by its end."""
    has_body: bool = True
    """False: the length is said but no body follows, as of a HEAD."""


Answer = Callable[[Request], Response]
Sent = Callable[[Request, int], None]


class Connection(asyncio.Protocol):
    """Requests of one connection, one after another.

    Args:
        open_ones: where connections are noted while they are open.
        is_out: whether the server went out while the connection was being accepted.
        answer: called with each whole request.
        sent: called with it and the bytes of its body when they are sent or the connection broke.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        open_ones: set["Connection"],
        answer: Answer,
        sent: Sent,
        is_out: Callable[[], bool] = lambda: False,
    ) -> None:
        self._open_ones = open_ones
        self._answer = answer
        self._sent = sent
        self._is_out = is_out
        self._buffer = bytearray()
        self._head: tuple[bytes, dict[str, str]] | None = None
        self._now: tuple[Request, Response] | None = None
        self._began = 0.0
        self._done = 0
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_CHUNK)
        self._open_ones.add(self)
        if self._is_out():
            self.reset()

    def connection_lost(self, error: Exception | None) -> None:
        self._open_ones.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._finish()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._now is None:
            self._read()

    def reset(self) -> None:
        """Ends the connection by a reset: what lies in the client's buffers is lost to it."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _read(self) -> None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
            pairs = (line.decode("latin-1").partition(":") for line in lines)
            self._head = first, {name.lower(): value.strip() for name, _, value in pairs}
            del self._buffer[: end + 4]
            if self._head[1].get("expect", "").lower() == "100-continue":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        first, headers = self._head
        length = int(headers.get("content-length", 0))
        if len(self._buffer) < length:
            return
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._head = None
        method, target, _ = first.decode("latin-1").split(" ")
        path, _, words = target.partition("?")
        if "x-amz-decoded-content-length" in headers:
            body = unchunked(body)
        query = dict(parse_qsl(words, keep_blank_values=True)) if words else {}
        request = Request(method, unquote(path[1:]), query, headers, body)
        response = self._answer(request)
        self._now = request, response
        if response.delay > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(response.delay, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        if self._now is None:
            return
        _, response = self._now
        headers = {"Content-Length": str(len(response.body)), **response.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {response.status}\r\n{lines}\r\n".encode("latin-1")
        self._began, self._done = asyncio.get_running_loop().time(), 0
        size = len(response.body) if response.has_body else 0
        if size == 0 or (size <= _CHUNK and not response.rate and response.stop < 0):
            # One packet, not two: most requests of a test are small.
            self.transport.write(head + response.body if size else head)
            self._done = size
            self._finish()
            return
        self.transport.write(head)
        self._pump()

    def _pump(self) -> None:
        if self._now is None or self._is_paused:
            return
        _, response = self._now
        size = len(response.body) if response.stop < 0 else response.stop
        while self._done < size and not self._is_paused and not self.transport.is_closing():
            count = min(_CHUNK, size - self._done)
            if response.rate:
                count = min(count, max(1, int(response.rate * _PACE_SECONDS)))
                loop = asyncio.get_running_loop()
                wait = self._began + (self._done + count) / response.rate - loop.time()
                if wait > 0:
                    self._timer = loop.call_later(wait, self._pump)
                    return
            # Counted first: the write itself may pause, and so call back, this connection.
            start, self._done = self._done, self._done + count
            self.transport.write(response.body[start : self._done])
        if self._done >= size and not self._is_paused:
            self._end(response)

    def _end(self, response: Response) -> None:
        if response.stop < 0:
            self._finish()
        elif response.is_reset:
            self.reset()
        else:
            self.transport.close()

    def _finish(self) -> None:
        if self._now is None:
            return
        request, _ = self._now
        self._now = None
        self._sent(request, self._done)
        if self._buffer and not self.transport.is_closing():
            self._read()


def unchunked(body: bytes) -> bytes:
    """The content of an aws-chunked body: "<hex size>[;signature]", bytes, ..., 0, trailers."""
    parts, place = [], 0
    while True:
        end = body.index(b"\r\n", place)
        size = int(body[place:end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        place = end + 2 + size + 2
