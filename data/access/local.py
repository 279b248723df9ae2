"""Objects that are files of this machine: mapped where they lie, nothing copied or fetched."""

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import final

import numpy as np
import numpy.typing as npt

from ..errors import ChangedError, CorruptDataError, MissingError
from ..store import StoredObject
from .access import Bytes, NextUse, Ranges
from .gather import gather
from .packing import unpack


@final
class LocalAccess:
    """Maps each file at its first use. Files that are packed as a whole are unpacked to memory,
    and the newest `unpacked_files` of them are kept."""

    def __init__(self, objects: Sequence[StoredObject], *, unpacked_files: int = 8) -> None:
        self.objects = objects
        self._unpacked_files = unpacked_files
        self._mapped: dict[int, Bytes] = {}
        self._unpacked: dict[int, Bytes] = {}
        self._lock = Lock()

    def read(self, ranges: Ranges) -> list[memoryview]:
        return [
            self._content(place)[start:stop].data
            for place, start, stop in zip(*(x.tolist() for x in ranges), strict=True)
        ]

    def gather(self, ranges: Ranges, width: int) -> Bytes:
        sizes = ranges.stops - ranges.starts
        if (sizes == width).all():
            places, which = np.unique(ranges.objects, return_inverse=True)
            views = [self._content(place).data for place in places.tolist()]
            return gather(views, which, ranges.starts, width)
        rows = np.zeros((len(sizes), width), dtype=np.uint8)
        for row, found in zip(rows, self.read(ranges), strict=True):
            row[: len(found)] = np.frombuffer(found, np.uint8)
        return rows

    def want(self, ranges: Ranges, due: npt.NDArray[np.float64]) -> None:
        """The kernel reads ahead by itself; there is nothing to fetch."""

    def follow(self, next_use: NextUse) -> None:
        """Nothing is kept that the kernel does not keep."""

    @property
    def ahead_bytes(self) -> int:
        """None: what is told ahead helps nobody here."""
        return 0

    @property
    def is_full(self) -> bool:
        return False

    @property
    def waited(self) -> Mapping[str, float]:
        return {}

    @property
    def outage(self) -> str | None:
        return None

    @property
    def counts(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        """Forgets the maps; each is unmapped when its last view is gone."""
        with self._lock:
            self._mapped.clear()
            self._unpacked.clear()

    def _content(self, place: int) -> Bytes:
        found = self._mapped.get(place)
        if found is not None:
            return found
        obj = self.objects[place]
        with self._lock:
            if not obj.packing:
                if place not in self._mapped:
                    self._mapped[place] = _map(obj)
                return self._mapped[place]
            content = self._unpacked.pop(place, None)
            if content is None:
                content = np.frombuffer(unpack(_map(obj).data, obj), dtype=np.uint8)
            self._unpacked[place] = content
            while len(self._unpacked) > self._unpacked_files:
                del self._unpacked[next(iter(self._unpacked))]
            return content


def _map(obj: StoredObject) -> Bytes:
    path = Path(obj.url.removeprefix("file://"))
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            if size != obj.size:
                raise ChangedError(obj.url, f"{size} bytes", f"{obj.size} bytes")
            if size == 0:
                return np.empty(0, dtype=np.uint8)
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise MissingError(obj.url, "found no such file, needed it; restore it", "404") from error
    except OSError as error:
        raise CorruptDataError(
            path, f"no readable file ({error.strerror})", f"{obj.size} bytes"
        ) from error
    return np.frombuffer(mapped, dtype=np.uint8)
