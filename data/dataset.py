"""What is known of a dataset once it was surveyed: its objects, what each holds, how to read them.

Knows no format and no store; `sources` make one of these of a URL, and readers of one of these.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from .store import StoredObject
from .table import DigestTable, ObjectTable, relative


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The objects of one dataset in order, and everything its reader needs beside their bytes."""

    format: str
    """The name of the reader, a value of DataFormat."""
    url: str
    """The folder that holds all objects: each object's URL is this one, "/" and its name."""
    objects: Sequence[StoredObject]
    counts: npt.NDArray[np.int64]
    """Samples in each object; tokens where the objects are arrays of tokens."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the reader must know, as JSON: columns, encodings, dtypes."""
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Indexes too large for JSON, e.g. where each sample of a tar begins."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Digests of whole objects as their writer recorded them: "<algorithm>:<hexadecimal>" by URL
    relative to `url`. Empty where it recorded none."""

    extent_bytes: int = 0
    """The size of extents that `extent_digests` were made for; 0 where there are none."""
    extent_overlap: int = 0
    """Bytes that each of these extents goes beyond the next one's start."""
    extent_digests: npt.NDArray[np.uint8] | None = None
    """(extents, 16) xxh3-128, or (extents, 32) SHA-256, of each extent's bytes as the store holds
    them, in the objects' order;
    a packed object is one extent. No part of the dataset's own digest."""

    @property
    def digest(self) -> str:
        """xxh3-128 over everything but where the objects lie and their tags: copies are equal."""
        table = ObjectTable.of(self.objects, self.url)
        recorded = DigestTable.column(self.digests, table.names)
        state = xxhash.xxh3_128(json.dumps([self.format, self.facts], sort_keys=True).encode())
        whole = [*table.identity, recorded.content, recorded.ends]
        columns = {f"object {place}": column for place, column in enumerate(whole)}
        for name, array in sorted({**self.arrays, **columns, "counts": self.counts}.items()):
            state.update(f"{name} {array.dtype.str} {array.shape};".encode())
            state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return state.hexdigest()

    @property
    def token_bytes(self) -> int:
        """Bytes of a token, where objects are arrays of tokens from `arrays["heads"]` on; else
        0."""
        is_tokens = "dtype" in self.facts and "heads" in self.arrays
        return int(np.dtype(self.facts["dtype"]).itemsize) if is_tokens else 0

    def name(self, obj: StoredObject) -> str:
        """The object's URL relative to the dataset's."""
        return relative(obj.url, self.url)
