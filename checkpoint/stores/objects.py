"""An object store as a place: names, whole objects, order of removal. How bytes travel is a wire's.

Small objects are created by one conditional request, larger ones by parts.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import final

from ..config import PlaceConfig
from .errors import Patience, TransientError, taken
from .names import check_name
from .pace import Pace, Piece, parts, split_single
from .scratch import Scratch
from .store import Reads, Source
from .wire import Wire

# Of one request; large tensors are cut by it, small ones travel together.
_UNIT_BYTES = 8 * 2**20
_logger = logging.getLogger(__name__)


@final
class ObjectStore:
    """Objects below `prefix` of a bucket or file system, through any wire.

    Args:
        url: how people name the place, without secrets and without a slash at its end.
        prefix: of keys, without a slash at its end; may be empty.
    """

    def __init__(self, wire: Wire, url: str, prefix: str, config: PlaceConfig) -> None:
        self.wire = wire
        self._url = url
        self._prefix = f"{prefix}/" if prefix else ""
        self._part_bytes = config.part_bytes
        self._pace = Pace(config.write_bytes_per_second)
        self._patience = Patience(config.retry_seconds)
        self._scratch = Scratch()

    @property
    def reads(self) -> Reads:
        return Reads(threads=self.wire.connections, unit_bytes=_UNIT_BYTES, run_bytes=_UNIT_BYTES)

    def address(self, name: str = "") -> str:
        return f"{self._url}/{'/'.join(check_name(name, self._url))}" if name else self._url

    def list(self) -> dict[str, float]:
        found = self._names(self._patience.ask(lambda: self.wire.scan(self._prefix)))
        begun = self._names(self._patience.ask(lambda: self.wire.pending(self._prefix)))
        for name, seconds in begun.items():
            folder = f"{name.partition('/')[0]}/"
            found[folder] = max(seconds, found.get(folder, seconds))
        return found

    def size(self, name: str) -> int:
        key = self._key(name)
        return self._patience.ask(lambda: self.wire.size(key))

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Source]:
        yield partial(self._read, self._key(name))

    def create(self, name: str, pieces: Iterable[Piece]) -> None:
        key = self._key(name)
        first, several = split_single(parts(pieces, self._part_bytes))
        if several is None:
            self._pace.take(len(first))
            self._put(name, key, first)
            return
        if self._exists(key):
            raise taken(self.address(name))
        try:
            self.wire.upload(key, self._paced(several))
        except BaseException:
            with contextlib.suppress(OSError):  # what is left then is collected with the debris
                self.wire.abort(key)
            raise

    def remove(self, folder: str, *, first: str) -> None:
        top = f"{self._key(folder)}/"
        head = f"{top}{first}"
        keys = self._patience.ask(lambda: self.wire.scan(top))
        if head in keys:
            self._patience.ask(lambda: self.wire.delete([head]))
        self._patience.ask(lambda: self.wire.abort(top))
        if rest := sorted(keys.keys() - {head}):
            self._patience.ask(lambda: self.wire.delete(rest))

    def free_bytes(self) -> int | None:
        return None

    def _read(self, key: str, start: int, *buffers: memoryview) -> int:
        if len(buffers) == 1:
            return self._fill(key, start, buffers[0])
        # One request for all of them.
        data = self._scratch.take(sum(map(len, buffers)))
        count = self._fill(key, start, data)
        data = data[:count]
        for buffer in buffers:
            part, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(part)] = part
        return count

    def _fill(self, key: str, start: int, buffer: memoryview) -> int:
        step = self._part_bytes

        def read(offset: int) -> int:
            part = buffer[offset : offset + step]
            return self._patience.ask(lambda: self.wire.read(key, start + offset, part))

        offsets = range(0, len(buffer), step)
        if len(offsets) < 2 or self.wire.connections < 2:
            return _whole(map(read, offsets), step)
        with ThreadPoolExecutor(self.wire.connections, "keepstep-read") as pool:
            return _whole(pool.map(read, offsets), step)

    def _put(self, name: str, key: str, data: Piece) -> None:
        is_repeated = False

        def put() -> None:
            nonlocal is_repeated
            try:
                self.wire.put(key, data)
            except TransientError:
                is_repeated = True
                raise
            except FileExistsError:
                # The answer to our own put may have been lost on its way.
                if not (is_repeated and self._holds(key, data)):
                    raise

        self._patience.ask(put)

    def _holds(self, key: str, data: Piece) -> bool:
        if self.wire.size(key) != len(data):
            return False
        found = bytearray(len(data))
        count = self.wire.read(key, 0, memoryview(found))
        return count == len(data) and bytes(found) == bytes(data)

    def _exists(self, key: str) -> bool:
        try:
            self._patience.ask(lambda: self.wire.size(key))
        except FileNotFoundError:
            return False
        return True

    def _paced(self, found: Iterator[Piece]) -> Iterator[Piece]:
        for part in found:
            self._pace.take(len(part))
            yield part

    def _names(self, keys: dict[str, float]) -> dict[str, float]:
        """Names of the form `folder/file` by key; what else lies there is not ours."""
        names = {key.removeprefix(self._prefix): seconds for key, seconds in keys.items()}
        return {
            name: seconds
            for name, seconds in names.items()
            if len(parts := name.split("/")) == 2 and all(parts)
        }

    def _key(self, name: str) -> str:
        return self._prefix + "/".join(check_name(name, self._url))


def _whole(counts: Iterable[int], step: int) -> int:
    """Bytes in a row: what lies behind a range that came short does not count."""
    total = 0
    for count in counts:
        total += count
        if count < step:
            break
    return total
