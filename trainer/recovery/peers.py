"""Copies of a rank's snapshots in the memory of another node, so that a node that is lost takes no
state with it. Guardian to guardian, over connections of their own, behind the loop's back.

Every so many steps each rank sets the same snapshot aside, its mark, and sends it to its peer,
which keeps it. Both have room for two, so that one is whole at any moment. Who takes them up, and
puts them together with what else is left, is `salvage`.

    header   4 bytes of length, then JSON: rank, step, lengths of what follows, and its HMAC-SHA256
    body     the slot's plan, image and tail
    answer   1 byte: + where it is kept
"""

import contextlib
import hashlib
import hmac
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from ...checkpoint.errors import CorruptError
from ...checkpoint.slots import Sealed, SlotFile, newest

_HEADER_BYTES = 2**16
_LOOK_SECONDS = 0.01
_ANSWER_SECONDS = 60.0
_AGAIN_SECONDS = 1.0
_KEPT = b"+"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What comes before a copy."""

    rank: int
    step: int
    plan: int
    data: int
    tail: int

    def encode(self, token: bytes) -> bytes:
        """As it travels; only who knows the token can make it."""
        body = json.dumps(asdict(self)).encode()
        signed = json.dumps({"header": body.decode(), "mac": _mac(token, body)}).encode()
        return struct.pack("<I", len(signed)) + signed

    @classmethod
    def decode(cls, signed: bytes, token: bytes) -> "Header":
        """Raises PermissionError where it is not of somebody who knows the token."""
        record = json.loads(signed)
        if not hmac.compare_digest(record["mac"], _mac(token, record["header"].encode())):
            raise PermissionError("a peer's header is not signed with this job's token")
        return cls(**json.loads(record["header"]))


@final
class Pair:
    """Two named slots that take turns: what is written never was the newest whole one.

    Raises:
        OSError: they cannot be made, or another job has them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self.slots = [SlotFile.named(path) for path in paths]
        if not all(slot.lock() for slot in self.slots):
            self.close()
            raise BlockingIOError(f"{paths[0]}: another job has it")

    @property
    def older(self) -> SlotFile:
        """The one to write next."""
        return min(self.slots, key=lambda slot: slot.step)

    def forget(self) -> None:
        """Nobody will want what they hold."""
        for path in self._paths:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Safe twice."""
        for slot in self.slots:
            slot.close()


def set_aside(source: SlotFile, target: SlotFile) -> Sealed | None:
    """Copies a sealed slot; None where its writer came in between, and nothing is sealed then."""
    sealed = source.read()
    if sealed is None:
        return None
    start, stop = sealed.data
    target.unseal()
    target.prepare(sealed.plan, stop - start)
    # Read and not mapped: a writer that makes the file shorter must not end this process.
    is_whole = source.read_into(start, target.map()) == stop - start
    if not is_whole or source.read() != sealed:
        return None
    target.seal(sealed.step, sealed.tail)
    return sealed


@final
class Keeper(threading.Thread):
    """Takes in what other ranks send, each into a pair of slots of its own.

    Args:
        make: the pair for a rank.
    """

    def __init__(self, host: str, token: bytes, make: Callable[[int], Pair]) -> None:
        super().__init__(name="keepstep-keeper", daemon=True)
        self._token, self._make = token, make
        self._pairs: dict[int, Pair] = {}
        self._lock = threading.Lock()
        self._server = socket.create_server((host, 0))
        self.address = (host, int(self._server.getsockname()[1]))

    def run(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Takes in nothing more; safe twice."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def forget(self) -> None:
        """The job is over, and nobody will want what was kept."""
        with self._lock:
            for pair in self._pairs.values():
                pair.forget()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while (head := _receive(connection, 4)) is not None:
                    (length,) = struct.unpack("<I", head)
                    if length > _HEADER_BYTES:
                        raise PermissionError(f"a header of {length} bytes")
                    header = Header.decode(_need(connection, length), self._token)
                    self._keep(connection, header)
                    connection.sendall(_KEPT)
            except (OSError, ValueError, KeyError, TypeError, CorruptError) as error:
                _logger.warning("A peer's copy is not kept: %s", error)

    def _keep(self, connection: socket.socket, header: Header) -> None:
        plan = _need(connection, header.plan)
        with self._lock:
            pair = self._pairs.get(header.rank) or self._make(header.rank)
            self._pairs[header.rank] = pair
        slot = pair.older
        slot.unseal()
        slot.prepare(plan, header.data)  # ENOSPC: not enough memory to keep it
        _receive_into(connection, slot.map())
        slot.seal(header.step, _need(connection, header.tail))
        try:
            found = newest([slot])
            if not found:
                raise ValueError(f"what came for step {header.step} is no snapshot")
            found[0].prove()
        except (CorruptError, ValueError):
            slot.unseal()
            raise


@final
class Sender(threading.Thread):
    """Sets marks of this rank and sends them to its peer.

    Args:
        every: steps between two marks.
        peer: (host, port) of its keeper.
        tell: told of each copy that is kept (step, bytes, seconds), or why none is, once.
    """

    def __init__(
        self,
        slots: Sequence[SlotFile],
        marks: Pair,
        peer: tuple[str, int],
        *,
        rank: int,
        every: int,
        token: bytes,
        tell: Callable[[int, int, float, str], None],
    ) -> None:
        super().__init__(name="keepstep-sender", daemon=True)
        self._slots, self._marks = list(slots), marks
        self._rank, self._every, self._token = rank, every, token
        self._peer, self._tell = peer, tell
        self._connection: socket.socket | None = None
        self._over = threading.Event()
        self._marked = -1
        self._has_failed = False

    def close(self) -> None:
        """Ends after the copy under way."""
        self._over.set()

    def run(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            steps = [slot.step for slot in self._slots]
            if max(steps) < self._marked:  # the run went back
                self._marked = -1
            for slot, step in zip(self._slots, steps, strict=True):
                # The same steps on all ranks, whenever each of them looks.
                if step > self._marked and step % self._every == 0:
                    self._mark_and_send(slot)
        self._disconnect()

    def _mark_and_send(self, source: SlotFile) -> None:
        mark, begun = self._marks.older, time.monotonic()
        try:
            sealed = set_aside(source, mark)
            if sealed is None:
                return
            self._marked = sealed.step
            self._send(mark, sealed)
        except (OSError, ValueError) as error:
            self._disconnect()
            if not self._has_failed:
                self._tell(self._marked, 0, 0.0, f"{type(error).__name__}: {error}")
            self._has_failed = True
            self._over.wait(_AGAIN_SECONDS)
            return
        self._has_failed = False
        size = sealed.data[1] - sealed.data[0]
        self._tell(sealed.step, size, round(time.monotonic() - begun, 4), "")

    def _send(self, mark: SlotFile, sealed: Sealed) -> None:
        if self._connection is None:
            self._connection = socket.create_connection(self._peer, timeout=_ANSWER_SECONDS)
        header = Header(
            rank=self._rank,
            step=sealed.step,
            plan=len(sealed.plan),
            data=sealed.data[1] - sealed.data[0],
            tail=len(sealed.tail),
        )
        for part in (header.encode(self._token), sealed.plan, mark.map(), sealed.tail):
            self._connection.sendall(part)
        if _need(self._connection, 1) != _KEPT:
            raise ConnectionError("the peer did not keep the copy")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def peer_of(rank: int, *, size: int, node_size: int, copies: Sequence[Sequence[int]]) -> int | None:
    """The rank on the next node that keeps this one's marks. None where one node is all there is,
    or where a rank of another node holds the same boxes anyway. Nodes are of one size."""
    node = rank // node_size
    twins = next(group for group in copies if rank in group)
    if size <= node_size or any(twin // node_size != node for twin in twins):
        return None
    return (rank + node_size) % size


def address_towards(host: str, port: int) -> str:
    """This machine's own address, as who listens at that one sees it; nothing is sent."""
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def _mac(token: bytes, body: bytes) -> str:
    return hmac.new(token, body, hashlib.sha256).hexdigest()


def _receive(connection: socket.socket, count: int) -> bytes | None:
    """So many bytes; None where the other end has closed before the first."""
    first = connection.recv(count)
    if not first:
        return None
    return first + (_need(connection, count - len(first)) if len(first) < count else b"")


def _need(connection: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    _receive_into(connection, memoryview(data))
    return bytes(data)


def _receive_into(connection: socket.socket, buffer: memoryview) -> None:
    position = 0
    while position < len(buffer):
        count = connection.recv_into(buffer[position:])
        if not count:
            raise ConnectionError(f"ended {len(buffer) - position} bytes short")
        position += count
