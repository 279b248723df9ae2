"""Our own S3 server with faults, in a process of its own.

    with s3_server(Faults(latency=0.03)) as server:
        server.put("bucket/key", b"..."); server.endpoint; server.set(throttle=0.1); server.counts()

By itself, for benchmarks: python tests/support/s3_server.py --folder FOLDER --latency 0.03
"""

import argparse
import asyncio
import contextlib
import dataclasses
import http.client
import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from support.s3.faults import Faults
from support.s3.objects import Folder, Memory
from support.s3.server import HOST, Server


class S3Server:
    """A running server, as its test sees it."""

    def __init__(self, port: int, control_port: int) -> None:
        self.endpoint = f"http://{HOST}:{port}"
        self._control = http.client.HTTPConnection(HOST, control_port, timeout=30)
        self._lock = threading.Lock()

    def put(self, name: str, body: bytes) -> None:
        """Writes the object "bucket/key"; not counted, no faults, even while the server is out."""
        self._ask("PUT", f"/{urllib.parse.quote(name)}", body)

    def delete(self, name: str) -> None:
        self._ask("DELETE", f"/{urllib.parse.quote(name)}")

    def set(self, **changes: Any) -> None:
        """Changes fields of the server's Faults from now on."""
        self._ask("POST", "/?faults", json.dumps(changes).encode())

    def outage(self, seconds: float) -> None:
        """Resets all connections and refuses new ones for so long; returns at once."""
        self._ask("POST", f"/?outage={seconds}")

    def counts(self, *, reset: bool = False) -> dict[str, Any]:
        """What was asked for since the start or the last reset.

        "requests" by kind (get, head, list, put), "faults" by kind ("none", "tail" beside the
        others), "objects" and "bytes" by "bucket/key", "in_flight", "most_in_flight".
        """
        found: dict[str, Any] = json.loads(
            self._ask("GET", "/?counts=reset" if reset else "/?counts")
        )
        return found

    def close(self) -> None:
        """Ends the connection by which the server is steered, not the server."""
        self._control.close()

    def _ask(self, method: str, target: str, body: bytes = b"") -> bytes:
        with self._lock:
            self._control.request(method, target, body)
            response = self._control.getresponse()
            content = response.read()
        assert response.status < 300, (response.status, content)
        return content


@contextlib.contextmanager
def s3_server(
    faults: Faults | None = None, *, folder: Path | None = None, seed: int = 0
) -> Iterator[S3Server]:
    """Runs a server until the end of the block; it ends with its parent, too."""
    words = [f"--{_flag(k)}={v}" for k, v in dataclasses.asdict(faults or Faults()).items()]
    words += [f"--seed={seed}", "--until-stdin-ends"]
    words += [f"--folder={folder}"] if folder else []
    with subprocess.Popen(
        [sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            ports = json.loads(process.stdout.readline())
            with contextlib.closing(S3Server(ports["port"], ports["control_port"])) as server:
                yield server
        finally:
            process.kill()


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="An S3 server on loopback with faults.")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--folder", type=Path, help="serves FOLDER/bucket/key; else from memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until-stdin-ends", action="store_true")
    for field in dataclasses.fields(Faults):
        kind = _truth if field.type is bool else field.type
        parser.add_argument(f"--{_flag(field.name)}", type=kind, default=field.default)
    return parser.parse_args()


def _truth(word: str) -> bool:
    return word.lower() in ("1", "true", "yes")


async def _serve(words: argparse.Namespace) -> None:
    faults = Faults(**{f.name: getattr(words, f.name) for f in dataclasses.fields(Faults)})
    objects = Folder(words.folder) if words.folder else Memory()
    server = Server(objects, faults, seed=words.seed, port=words.port)
    port, control_port = await server.open()
    print(json.dumps({"port": port, "control_port": control_port}), flush=True)
    ended = asyncio.Event()
    if words.until_stdin_ends:
        loop = asyncio.get_running_loop()

        def watch() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=watch, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(_parse()))
