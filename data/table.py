"""Objects and digests as columns, so that a list of a million of them opens in milliseconds.

Each object is made when it is asked for. Owns no file and no format.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, final, overload

import numpy as np
import numpy.typing as npt

from .errors import DataError
from .store import StoredObject

Numbers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
# Names of which nothing has to be looked at: no part begins with a dot, nor is empty.
_PLAIN = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*")
PACKINGS = ("", "gzip", "zstd", "bz2", "xz", "br", "snappy")


def inside(name: str, where: str) -> str:
    """A relative name that an index gives, without "." parts.

    Raises:
        DataError: it leaves the dataset's folder, or is an absolute path or a URL of its own.
    """
    if _PLAIN.fullmatch(name):
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    is_bad = (
        not parts
        or ".." in parts
        or name.startswith("/")
        or any(word in name for word in ("://", "::", "\\"))
        or any(letter < " " for letter in name)
    )
    if is_bad:
        raise DataError(
            f"{where}: found the name {name[:200]!r}, needed the relative name of an object inside "
            "the dataset's folder; lay the data out anew, or correct the index"
        )
    return "/".join(parts)


@final
class Strings(Sequence[str]):
    """Strings end to end in UTF-8; string i ends before byte ends[i]."""

    def __init__(self, content: Bytes, ends: Numbers) -> None:
        self.content = content
        self.ends = ends

    @classmethod
    def of(cls, items: Iterable[str]) -> "Strings":
        encoded = [item.encode() for item in items]
        ends = np.fromiter(accumulate(len(item) for item in encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = _place(index, len(self))
        start = int(self.ends[place - 1]) if place else 0
        return self.content[start : int(self.ends[place])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        content, start = self.content.tobytes(), 0
        for end in self.ends.tolist():
            yield content[start:end].decode()
            start = end


@final
class ObjectTable(Sequence[StoredObject]):
    """Objects below `url`, by columns of equal length; `packings` are places in PACKINGS."""

    def __init__(
        self,
        url: str,
        *,
        names: Strings,
        sizes: Numbers,
        tags: Strings,
        packings: Bytes,
        raw_sizes: Numbers,
    ) -> None:
        self.url = url
        self.names = names
        self.sizes = sizes
        self.tags = tags
        self.packings = packings
        self.raw_sizes = raw_sizes

    @classmethod
    def of(cls, objects: Sequence[StoredObject], url: str) -> "ObjectTable":
        """The columns of any objects below `url`; those of a table as they are.

        Raises:
            DataError: an object lies elsewhere, or is packed in an unknown way.
        """
        if isinstance(objects, ObjectTable) and objects.url == url:
            return objects
        for obj in objects:
            inside(relative(obj.url, url), url)
            if obj.packing not in PACKINGS:
                raise DataError(
                    f"{obj.url}: found the packing {obj.packing!r}, needed one of "
                    f"{', '.join(PACKINGS[1:])}; pack it anew"
                )
        size = len(objects)
        return cls(
            url,
            names=Strings.of(relative(obj.url, url) for obj in objects),
            sizes=np.fromiter((obj.size for obj in objects), np.int64, size),
            tags=Strings.of(obj.tag for obj in objects),
            packings=np.fromiter((PACKINGS.index(o.packing) for o in objects), np.uint8, size),
            raw_sizes=np.fromiter((obj.raw_size for obj in objects), np.int64, size),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> StoredObject: ...
    @overload
    def __getitem__(self, index: slice) -> list[StoredObject]: ...
    def __getitem__(self, index: int | slice) -> StoredObject | list[StoredObject]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = _place(index, len(self))
        return self._object(
            self.names[place],
            int(self.sizes[place]),
            self.tags[place],
            int(self.packings[place]),
            int(self.raw_sizes[place]),
        )

    def __iter__(self) -> Iterator[StoredObject]:
        columns = (self.sizes, self.packings, self.raw_sizes)
        sizes, packings, raw_sizes = (column.tolist() for column in columns)
        rows = zip(self.names, sizes, self.tags, packings, raw_sizes, strict=True)
        return (self._object(*row) for row in rows)

    def _object(self, name: str, size: int, tag: str, packing: int, raw: int) -> StoredObject:
        # Each name is looked at when it is used: a lock may come from anywhere.
        url = join(self.url, inside(name, self.url))
        return StoredObject(url, size, tag, PACKINGS[packing], raw)

    @property
    def identity(self) -> list[npt.NDArray[Any]]:
        """The columns that are equal in copies of the dataset: all but where they lie and tags."""
        names = (self.names.content, self.names.ends)
        return [*names, self.sizes, self.packings, self.raw_bytes]

    @property
    def raw_bytes(self) -> Numbers:
        """Unpacked bytes of each."""
        found: Numbers = np.where(self.packings > 0, self.raw_sizes, self.sizes)
        return found


def raw_bytes(objects: Sequence[StoredObject]) -> Numbers:
    """Unpacked bytes of each object; of a table's without making them."""
    if isinstance(objects, ObjectTable):
        return objects.raw_bytes
    return np.array([obj.raw_bytes for obj in objects], dtype=np.int64)


@final
class DigestTable(Mapping[str, str]):
    """Digests by the objects' relative names; those without one are left out."""

    def __init__(self, names: Strings, digests: Strings) -> None:
        self._names = names
        self._digests = digests

    @classmethod
    def column(cls, digests: Mapping[str, str], names: Strings) -> Strings:
        """One digest for each of `names`, empty where there is none."""
        if isinstance(digests, DigestTable) and digests._names is names:
            return digests._digests
        return Strings.of(digests.get(name, "") for name in names)

    @cached_property
    def _found(self) -> dict[str, str]:
        pairs = zip(self._names, self._digests, strict=True)
        return {name: digest for name, digest in pairs if digest}

    def __getitem__(self, name: str) -> str:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def join(url: str, name: str) -> str:
    """The URL of an object by its name below `url`."""
    return f"{url.rstrip('/')}/{name}"


def relative(url: str, folder: str) -> str:
    """The name of an object below the URL `folder`.

    Raises:
        DataError: it does not lie there.
    """
    start = folder.rstrip("/") + "/"
    if not url.startswith(start):
        raise DataError(
            f"{url}: found an object outside of {folder}, needed every object of a dataset below "
            "its URL; give the URL of the folder that holds them all"
        )
    return url.removeprefix(start)


def _place(index: int, size: int) -> int:
    if not -size <= index < size:
        raise IndexError(f"found index {index}, needed one below {size}")
    return index % size
