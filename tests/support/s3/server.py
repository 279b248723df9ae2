"""The test S3 server: answers S3 requests with faults on one port, and is steered on another.

The control port answers the same requests without faults, and beside them
    POST /?faults    the body is JSON, fields of Faults to change
    POST /?outage=n  no connection is accepted or kept for n seconds
    GET  /?counts    what was asked for and sent so far, as JSON; "reset" begins anew
"""

import asyncio
import dataclasses
import json
import random
import re
from collections import Counter
from typing import Any
from xml.sax.saxutils import unescape

from support.ports import free_port

from .connection import Connection, Request, Response
from .faults import Dice, Fate, Faults
from .objects import Content, Objects, listing

HOST = "127.0.0.1"


class Server:
    """Serves `objects` from `open` on, for ever."""

    def __init__(self, objects: Objects, faults: Faults, *, seed: int, port: int = 0) -> None:
        self._objects = objects
        self._faults = faults
        self._uniform = random.Random(seed).random
        self._dice = Dice(self._uniform)
        self._port = port
        self._open_ones: set[Connection] = set()
        self._controls: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._forget()

    async def open(self) -> tuple[int, int]:
        """Starts to listen; the port for S3 and the port for control."""
        self._port = self._port or free_port()
        await self._listen()
        loop = asyncio.get_running_loop()
        control = await loop.create_server(
            lambda: Connection(self._controls, self._control, lambda *_: None), HOST, 0
        )
        return self._port, control.sockets[0].getsockname()[1]

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(
                self._open_ones, self._answer, self._sent, lambda: self._listener is None
            ),
            HOST,
            self._port,
            backlog=1024,
            reuse_address=True,
        )

    def _forget(self) -> None:
        self._requests: Counter[str] = Counter()
        self._befell: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._given: Counter[str] = Counter()
        self._in_flight = 0
        self._most_in_flight = 0

    def _control(self, request: Request) -> Response:
        if request.path:
            return self._plain(request)
        if "faults" in request.query:
            self._faults = dataclasses.replace(self._faults, **json.loads(request.body))
        elif "outage" in request.query:
            self._go_out(float(request.query["outage"]))
        elif "counts" in request.query:
            found = memoryview(json.dumps(self._counts()).encode())
            if request.query["counts"] == "reset":
                self._forget()
            return Response("200 OK", {"Content-Type": "application/json"}, found)
        return Response("200 OK")

    def _counts(self) -> dict[str, Any]:
        return {
            "requests": dict(self._requests),
            "faults": dict(self._befell),
            "objects": dict(self._asked),
            "bytes": dict(self._given),
            "in_flight": self._in_flight,
            "most_in_flight": self._most_in_flight,
        }

    def _go_out(self, seconds: float) -> None:
        assert self._listener is not None, "the server is out already"
        self._listener.close()
        self._listener = None
        for connection in list(self._open_ones):
            connection.reset()
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, lambda: self._tasks.append(loop.create_task(self._listen())))

    def _answer(self, request: Request) -> Response:
        """An S3 request on the port with faults, which befall reads of objects alone."""
        kind = _kind(request)
        self._requests[kind] += 1
        if kind != "get":
            return self._plain(request)
        fate = self._dice.fate(self._faults, self._in_flight)
        self._befell[fate.kind or "none"] += 1
        if fate.delay > self._faults.latency:
            self._befell["tail"] += 1
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        self._asked[request.path] += 1
        refusals = {"throttle": _THROTTLE, "error": _ERROR, "deny": _DENY}
        if fate.kind in refusals:
            return _refusal(*refusals[fate.kind], delay=fate.delay)
        response = self._plain(request, fate)
        response.delay, response.rate = fate.delay, self._faults.bandwidth
        if response.status.startswith("20"):
            self._spoil(response, fate)
        return response

    def _sent(self, request: Request, count: int) -> None:
        if _kind(request) == "get":
            self._in_flight = max(0, self._in_flight - 1)
            self._given[request.path] += count

    def _spoil(self, response: Response, fate: Fate) -> None:
        place = int(fate.place * len(response.body))
        if fate.kind in ("reset", "end"):
            response.stop, response.is_reset = place, fate.kind == "reset"
        elif fate.kind == "flip" and response.body:
            spoilt = bytearray(response.body)
            spoilt[place] ^= 1 << int(self._uniform() * 8)
            response.body = memoryview(spoilt)
        elif fate.kind == "slow":
            response.rate = self._faults.slow_bytes
        elif fate.kind == "retag":
            response.headers["ETag"] = '"0123456789abcdef0123456789abcdef"'

    def _plain(self, request: Request, fate: Fate | None = None) -> Response:
        """What an honest server answers, but for what `fate` does to lengths and conditions."""
        bucket, _, key = request.path.partition("/")
        if request.method == "POST" and "delete" in request.query:
            keys = re.findall(rb"<Key>.*?</Key>", request.body)
            for name in keys:
                self._objects.delete(f"{bucket}/{unescape(name[5:-6].decode())}")
            gone = b"".join(b"<Deleted>" + name + b"</Deleted>" for name in keys)
            return Response("200 OK", {}, memoryview(b"<DeleteResult>%b</DeleteResult>" % gone))
        if request.method == "PUT":
            if not key:
                return Response("200 OK")
            is_new = request.headers.get("if-none-match") == "*"
            if is_new and not self._faults.ignore_conditions and self._objects.get(request.path):
                return _refusal("412 Precondition Failed", "PreconditionFailed")
            tag = self._objects.put(request.path, request.body).tag
            return Response("200 OK", {"ETag": f'"{tag}"'})
        if request.method == "DELETE":
            self._objects.delete(request.path)
            return Response("204 No Content")
        if not key:
            has_any = bool(self._objects.names(bucket))
            body = listing(self._objects, bucket, request.query) if has_any else b""
            if not has_any:
                return _refusal("404 Not Found", "NoSuchBucket")
            kind = {"Content-Type": "application/xml"}
            return Response("200 OK", kind, memoryview(body), has_body=request.method != "HEAD")
        content = self._objects.get(request.path)
        if content is None:
            return _refusal("404 Not Found", "NoSuchKey", has_body=request.method != "HEAD")
        has_conditions = not self._faults.ignore_conditions and not (fate and fate.kind == "retag")
        refusal = _condition(request, content) if has_conditions else None
        return refusal or _content(request, content, fate)


def _kind(request: Request) -> str:
    has_key = bool(request.path.partition("/")[2])
    return request.method.lower() if has_key or request.method != "GET" else "list"


def _condition(request: Request, content: Content) -> Response | None:
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted != "*" and content.tag not in _tags(wanted):
        return _refusal("412 Precondition Failed", "PreconditionFailed")
    unwanted = request.headers.get("if-none-match")
    if unwanted is not None and content.tag in _tags(unwanted):
        return Response("304 Not Modified", {"ETag": f'"{content.tag}"'}, has_body=False)
    return None


def _tags(header: str) -> list[str]:
    return [tag.strip().strip('"') for tag in header.split(",")]


def _content(request: Request, content: Content, fate: Fate | None) -> Response:
    total = len(content.body)
    headers = {
        "ETag": f'"{content.tag}"',
        "Last-Modified": content.modified,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    wanted = request.headers.get("range", "").removeprefix("bytes=")
    start, stop = _range(wanted, total)
    if wanted and start >= total:
        return _refusal("416 Requested Range Not Satisfiable", "InvalidRange")
    if fate and fate.kind == "short":
        stop = start + int(fate.place * (stop - start))
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{max(start, stop - 1)}/{total}"
    return Response(
        "206 Partial Content" if wanted else "200 OK",
        headers,
        content.body[start:stop],
        has_body=request.method != "HEAD",
    )


def _range(wanted: str, total: int) -> tuple[int, int]:
    """[start, stop) of "first-last", "first-" or "-count"."""
    if not wanted:
        return 0, total
    first, _, last = wanted.partition("-")
    if not first:
        return max(0, total - int(last)), total
    return int(first), min(total, int(last) + 1) if last else total


_THROTTLE = ("503 Slow Down", "SlowDown")
_ERROR = ("500 Internal Server Error", "InternalError")
_DENY = ("403 Forbidden", "AccessDenied")


def _refusal(status: str, code: str, *, delay: float = 0.0, has_body: bool = True) -> Response:
    text = f"<Error><Code>{code}</Code><Message>{status}</Message></Error>".encode()
    kind = {"Content-Type": "application/xml"}
    return Response(status, kind, memoryview(text), delay=delay, has_body=has_body)
